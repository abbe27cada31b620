//! The observer that writes down what was tried, in words.

use crate::host::HostKey;
use crate::route::{Event, HostChoice, NoHost, Observer, Outcome, Route};

/// Lines for people.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) lines: Vec<String>,
    /// The virtual host that was found, and where in the lines its rules are.
    found: Option<(usize, String)>,
}

impl Trace {
    pub(super) fn push(&mut self, line: impl Into<String>) {
        self.lines.push(line.into());
    }

    /// Puts what there is to say about the host that was found before what was tried of its rules.
    pub(super) fn tell_of_host(&mut self, account: impl FnOnce(&HostKey) -> Vec<String>) {
        let Some((at, name)) = self.found.take() else { return };
        let lines = account(&HostKey::parse(&name));
        self.lines.splice(at..at, lines);
    }
}

impl Observer for Trace {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Host { authority, host: Some(host), choice: _ } => {
                self.push(format!("host {authority:?} is served by the rules of {}", host.name));
                self.found = Some((self.lines.len(), host.name.to_string()));
            }
            Event::Host { authority, host: None, choice } => {
                let what = match choice {
                    HostChoice::None(NoHost::NotFound) => "no such host here: 404",
                    HostChoice::None(NoHost::Passthrough) => "no such service: passed through (ALLOW_ANY)",
                    HostChoice::None(NoHost::BadGateway) => "no such service: 502 (REGISTRY_ONLY)",
                    HostChoice::Found => "found",
                };
                self.push(format!("host {authority:?}: {what}"));
            }
            Event::Unmatched { route, condition, value } => {
                let had = match value {
                    Some(value) => format!("the request has {:?}", String::from_utf8_lossy(value)),
                    None => "the request has none".to_owned(),
                };
                self.push(format!("{}: {condition} does not hold, {had}", name(route)));
            }
            Event::Matched { route } => {
                let conditions: Vec<_> = route.matches.conditions.iter().map(ToString::to_string).collect();
                self.push(match conditions.as_slice() {
                    [] => format!("{}: matches", name(route)),
                    conditions => format!("{}: matches, by {}", name(route), conditions.join(" and ")),
                });
            }
            Event::NoRoute => self.push("no route matches: 404"),
            Event::Outcome(Outcome::HttpsRedirect) => self.push("the Gateway's server redirects to https"),
            Event::Outcome(_) => {}
        }
    }
}

fn name(route: &Route) -> String {
    match &route.rule {
        None => "the service's default route".to_owned(),
        Some(rule) => match rule.match_index {
            None => rule.to_string(),
            Some(entry) => format!("{rule} match {entry}"),
        },
    }
}
