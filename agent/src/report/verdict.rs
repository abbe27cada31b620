//! From all remarks to one verdict on each object. Pure.

use std::collections::BTreeMap;

use undermesh_core::api::meta::Key;
use undermesh_core::diagnostic::{Code, Diagnostic, Severity};

/// The type of the condition that says it.
pub(super) const CONDITION: &str = "undermesh.io/InForce";

/// Bytes of a message: more nobody reads, and objects must stay small.
const MAX_MESSAGE: usize = 1024;

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    /// Such as `VirtualService`.
    pub(super) kind: String,
    /// Namespace and name.
    pub(super) key: Key,
}

/// What there is to tell the author of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whether it is in force as it is written.
    pub(super) holds: bool,
    /// One word, in CamelCase.
    pub(super) reason: &'static str,
    /// Each remark, the worst first.
    pub(super) message: String,
}

impl Verdict {
    /// Nothing is to be said.
    pub(super) fn good() -> Self {
        Self { holds: true, reason: "InForce", message: String::new() }
    }
}

/// The verdict on each object that an error or warning is about. Remarks that name no object are nobody's here.
pub(super) fn verdicts(diagnostics: &[Diagnostic]) -> BTreeMap<Subject, Verdict> {
    let mut by_subject: BTreeMap<Subject, Vec<&Diagnostic>> = BTreeMap::new();
    for said in diagnostics.iter().filter(|it| it.severity != Severity::Info && !it.name.is_empty()) {
        let key = Key::new(said.namespace.as_str(), said.name.as_str());
        by_subject.entry(Subject { kind: said.kind.clone(), key }).or_default().push(said);
    }
    by_subject.into_iter().map(|(subject, said)| (subject, verdict(said))).collect()
}

fn verdict(mut said: Vec<&Diagnostic>) -> Verdict {
    said.sort_by_key(|it| (it.severity, it.code == Code::Refused));
    let is_out = said.iter().any(|it| it.is_error() && it.code != Code::Refused);
    let is_refused = said.iter().any(|it| it.is_error());
    let reason = match (is_out, is_refused) {
        // An older version may be: the remark says so.
        (true, _) => "NotInForce",
        (false, true) => "PartlyRefused",
        (false, false) => "InForceWithWarnings",
    };
    Verdict { holds: !is_refused, reason, message: message(&said) }
}

fn message(said: &[&Diagnostic]) -> String {
    let mut text = String::new();
    for (index, it) in said.iter().enumerate() {
        let hint = if it.hint.is_empty() { String::new() } else { format!(" ({})", it.hint) };
        let place = if it.field.is_empty() { String::new() } else { format!("{}: ", it.field) };
        let line = format!("{place}{}{hint} [{}]", it.message, it.code.as_str());
        if !text.is_empty() && text.len() + line.len() + 40 > MAX_MESSAGE {
            text += &format!("; and {} more", said.len() - index);
            break;
        }
        if !text.is_empty() {
            text += "; ";
        }
        text += line.get(..line.floor_char_boundary(MAX_MESSAGE)).unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(severity: Severity, code: Code, name: &str, message: &str) -> Diagnostic {
        Diagnostic {
            kind: "VirtualService".into(),
            namespace: "default".into(),
            name: name.into(),
            field: "spec.http[0]".into(),
            file: None,
            ..Diagnostic::of_file(severity, code, "", None, message)
        }
    }

    fn of(diagnostics: &[Diagnostic]) -> Vec<(String, bool, &'static str, String)> {
        verdicts(diagnostics)
            .into_iter()
            .map(|(subject, it)| (subject.key.name.to_string(), it.holds, it.reason, it.message))
            .collect()
    }

    #[test]
    fn the_worst_decides_and_comes_first() {
        let all = [
            said(Severity::Warning, Code::UnknownSubset, "a", "no subset"),
            said(Severity::Error, Code::WrongType, "a", "no number"),
            said(Severity::Error, Code::Refused, "b", "no TLS"),
            said(Severity::Warning, Code::UnknownSubset, "c", "no subset"),
            said(Severity::Info, Code::OnlyPort, "d", "nothing"),
        ];
        let have = of(&all);
        let short: Vec<_> =
            have.iter().map(|(name, holds, reason, _)| (name.as_str(), *holds, *reason)).collect();
        assert_eq!(
            short,
            [("a", false, "NotInForce"), ("b", false, "PartlyRefused"), ("c", true, "InForceWithWarnings")]
        );
        assert!(have[0].3.starts_with("spec.http[0]: no number ["), "{}", have[0].3);
        assert!(have[0].3.contains("; spec.http[0]: no subset ["), "{}", have[0].3);
    }

    #[test]
    fn messages_end_and_say_how_much_is_left_out() {
        let all: Vec<_> = (0..99)
            .map(|n| said(Severity::Warning, Code::UnknownSubset, "a", &format!("{n} {}", "ä".repeat(40))))
            .collect();
        let message = &of(&all)[0].3;
        assert!(message.len() <= MAX_MESSAGE && message.ends_with(" more"), "{message}");
        let long = said(Severity::Warning, Code::UnknownSubset, "a", &"ä".repeat(2000));
        assert!(of(&[long])[0].3.len() <= MAX_MESSAGE);
    }

    #[test]
    fn a_remark_about_no_object_is_nobodys() {
        let file = Diagnostic::of_file(Severity::Error, Code::Syntax, "a.yaml", Some(1), "broken");
        assert_eq!(of(&[file]), []);
    }
}
