//! Remarks about the configuration as `status` and the metrics show them.

use std::collections::BTreeMap;

use undermesh_core::diagnostic::{Code, Diagnostic, Severity};

/// Lines of `status` at most; the rest is counted.
const MAX_LINES: usize = 20;

/// Kinds that a label may have. Objects of other kinds are counted together: anybody can invent one.
const KINDS: [&str; 17] = [
    "AuthorizationPolicy",
    "ConfigMap",
    "DestinationRule",
    "EndpointSlice",
    "EnvoyFilter",
    "Gateway",
    "MeshConfig",
    "Namespace",
    "Node",
    "PeerAuthentication",
    "Pod",
    "RequestAuthentication",
    "Service",
    "ServiceEntry",
    "Sidecar",
    "VirtualService",
    "WorkloadEntry",
];

/// What is refused, as a person reads it: file and line, object, field, reason.
pub(super) fn refused(all: &[Diagnostic]) -> Vec<String> {
    let mut lines: Vec<String> =
        all.iter().filter(|it| it.code == Code::Refused).map(ToString::to_string).collect();
    let more = lines.len().saturating_sub(MAX_LINES);
    lines.truncate(MAX_LINES);
    if more > 0 {
        lines.push(format!("and {more} more: see undermesh diagnostics"));
    }
    lines
}

/// Labels and number of each group. A severity without remarks has a row too, so that its absence means something.
pub(super) fn rows(all: &[Diagnostic]) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<(Severity, &str, &str), u64> = BTreeMap::new();
    for it in all {
        let kind = match KINDS.iter().find(|kind| **kind == it.kind) {
            Some(kind) => kind,
            None if it.kind.is_empty() => "",
            None => "other",
        };
        *counts.entry((it.severity, kind, it.code.as_str())).or_default() += 1;
    }
    for severity in [Severity::Error, Severity::Warning, Severity::Info] {
        if !counts.keys().any(|(other, ..)| *other == severity) {
            counts.insert((severity, "", ""), 0);
        }
    }
    let labels = |(severity, kind, code): (Severity, &str, &str)| {
        format!("{{severity=\"{severity}\",kind=\"{kind}\",code=\"{code}\"}}")
    };
    counts.into_iter().map(|(key, count)| (labels(key), count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(severity: Severity, code: Code, kind: &str) -> Diagnostic {
        Diagnostic { kind: kind.into(), ..Diagnostic::of_file(severity, code, "a.yaml", Some(3), "no") }
    }

    #[test]
    fn labels_are_bounded_and_every_severity_has_a_row() {
        let all = [
            about(Severity::Error, Code::Refused, "DestinationRule"),
            about(Severity::Error, Code::Refused, "DestinationRule"),
            about(Severity::Warning, Code::UnknownKind, "Banana"),
            about(Severity::Warning, Code::UnknownKind, "Cherry"),
        ];
        let want = [
            ("{severity=\"error\",kind=\"DestinationRule\",code=\"UM0402\"}", 2),
            ("{severity=\"warning\",kind=\"other\",code=\"UM0008\"}", 2),
            ("{severity=\"info\",kind=\"\",code=\"\"}", 0),
        ];
        assert_eq!(rows(&all), want.map(|(labels, count)| (labels.to_owned(), count)));
    }

    #[test]
    fn status_names_what_is_refused_with_file_and_line_and_not_without_end() {
        assert_eq!(refused(&[about(Severity::Warning, Code::NotEnforced, "Gateway")]), Vec::<String>::new());
        let one = about(Severity::Error, Code::Refused, "Gateway");
        assert_eq!(refused(std::slice::from_ref(&one)), ["a.yaml:3: error[UM0402] Gateway: no"]);
        let many = vec![one; 25];
        assert_eq!(refused(&many).last().map(String::as_str), Some("and 5 more: see undermesh diagnostics"));
    }
}
