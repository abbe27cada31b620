//! What came of a group of requests: at its clients, at the upstreams, between them; and how to tell it to a reader.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::Value;

use crate::client::Outcome;
use crate::mesh::Logs;
use crate::topology::Topology;
use crate::upstream::Seen;

/// What came of a group.
pub(crate) struct Group<'a> {
    pub(crate) topology: &'a Topology,
    pub(crate) config: &'a [Value],
    pub(crate) dialled: SocketAddr,
    pub(crate) outcomes: &'a [Outcome],
    /// What upstreams saw.
    pub(crate) seen: Vec<Seen>,
    /// Connections that upstreams accepted.
    pub(crate) opened: usize,
    /// Connections that the proxies tried.
    pub(crate) connects: usize,
    /// Of the proxies that were on the way.
    pub(crate) logs: Logs,
    /// The share of `vary_header`'s values that another endpoint answered than before.
    pub(crate) moved: f64,
}

impl Group<'_> {
    /// What the upstream that answered saw.
    pub(crate) fn seen_of(&self, outcome: &Outcome) -> Option<&Seen> {
        if let Some(number) = outcome.record() {
            return self.seen.iter().find(|it| it.number == number);
        }
        let endpoint = outcome.endpoint.as_ref()?;
        let found = |it: &&Seen| it.upstream.id == *endpoint && it.body == outcome.payload;
        self.seen.iter().find(found)
    }

    /// For whoever has to find out what went wrong.
    pub(crate) fn describe(&self) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for outcome in self.outcomes {
            let mut text = match (outcome.status, &outcome.error) {
                (Some(status), None) => status.to_string(),
                (_, error) => {
                    format!("{} {}", outcome.connection.name(), error.as_deref().unwrap_or_default())
                }
            };
            if let Some(status) = outcome.grpc_status {
                let _ = write!(text, " grpc-status {status}");
            }
            match self.seen_of(outcome) {
                Some(seen) => text.push_str(&format!(" from {} {}", seen.upstream.id, seen.local)),
                None if outcome.status.is_some() => {
                    let _ = write!(text, " from no upstream, {:?}", outcome.body);
                }
                None => {}
            }
            *counts.entry(text).or_default() += 1;
        }
        let mut text =
            counts.iter().map(|(what, count)| format!("{count}x {what}")).collect::<Vec<_>>().join("; ");
        let upstreams: Vec<_> = self
            .seen
            .iter()
            .take(4)
            .map(|it| {
                format!("{} {} {} {} {:?}", it.upstream.id, it.protocol, it.method, it.path, it.headers)
            })
            .collect();
        let _ = write!(
            text,
            "\n    upstreams saw {} requests on {} connections of {} tried: {}",
            self.seen.len(),
            self.opened,
            self.connects,
            upstreams.join("; ")
        );
        if let Some(first) = self.outcomes.first() {
            let _ = write!(text, "\n    first response after {:?}: {:?}", first.duration, first.headers);
        }
        let short = self.logs.lines().take(3).map(|it| {
            format!(
                "{} {} {} {} {} {}",
                it["response_code"],
                it["response_flags"],
                it["response_code_details"],
                it["upstream_cluster"],
                it["route_name"],
                it["rule"]
            )
        });
        let _ = write!(text, "\n    log: {}", short.collect::<Vec<_>>().join("; "));
        text
    }
}

/// How it ended, in words.
pub(crate) fn ended(outcome: &Outcome) -> String {
    match (&outcome.error, outcome.status) {
        (Some(error), _) => format!("{} ({error})", outcome.connection.name()),
        (None, Some(status)) => format!("status {status}, {:?}", outcome.body),
        (None, None) => outcome.connection.name().to_owned(),
    }
}
