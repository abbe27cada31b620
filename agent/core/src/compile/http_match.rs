//! HTTPMatchRequest: what the client settles, and what each request has to meet.

use super::virtual_service::entry_gateways;
use crate::api::http_match::HttpMatchRequest;
use crate::api::string_match::{Condition as Written, StringMatch};
use crate::route::{Condition, RegexError, RouteMatch, StringCondition, Subject};
use crate::snapshot::StaticMatch;

/// A match entry, compiled.
pub(super) struct CompiledMatch {
    pub(super) statics: StaticMatch,
    pub(super) matches: RouteMatch,
    pub(super) is_catch_all: bool,
    /// Fields whose expression cannot be used, below the entry; the entry then never matches.
    pub(super) broken: Vec<(String, RegexError)>,
}

/// The entry of a rule without any.
pub(super) fn all() -> CompiledMatch {
    CompiledMatch {
        statics: StaticMatch::default(),
        matches: RouteMatch::default(),
        is_catch_all: true,
        broken: Vec::new(),
    }
}

/// `namespace` completes gateway names.
pub(super) fn compile(entry: &HttpMatchRequest, namespace: &str) -> CompiledMatch {
    let mut conditions = Conditions::default();
    if let Some(uri) = &entry.uri {
        conditions.push(Subject::Path, uri, "uri", false, entry.ignore_uri_case);
    }
    for (field, subject, written) in [
        ("method", Subject::Method, &entry.method),
        ("scheme", Subject::Scheme, &entry.scheme),
        ("authority", Subject::Authority, &entry.authority),
    ] {
        if let Some(written) = written {
            conditions.push(subject, written, field, false, false);
        }
    }
    for (negated, field, headers) in
        [(false, "headers", &entry.headers), (true, "withoutHeaders", &entry.without_headers)]
    {
        for (name, written) in headers {
            let mut field = field.to_owned();
            crate::api::origin::push_key(&mut field, name);
            conditions.push(header(name), written, &field, negated, false);
        }
    }
    for (name, written) in &entry.query_params {
        let mut field = "queryParams".to_owned();
        crate::api::origin::push_key(&mut field, name);
        conditions.push(Subject::Query(name.as_str().into()), written, &field, false, false);
    }
    let is_catch_all = match &*conditions.all {
        [] => true,
        // Istio: `isCatchAllRoute`.
        [Condition { subject: Subject::Path, test, .. }] => match test {
            StringCondition::Prefix(prefix) => &**prefix == "/",
            StringCondition::Regex { text, .. } => &**text == ".*",
            _ => false,
        },
        _ => false,
    };
    CompiledMatch {
        statics: StaticMatch {
            port: entry.port.map(|port| u16::try_from(port).unwrap_or(0)),
            source_labels: entry.source_labels.clone(),
            source_namespace: entry.source_namespace.clone(),
            gateways: entry_gateways(&entry.gateways, namespace),
        },
        matches: RouteMatch { conditions: conditions.all },
        is_catch_all,
        broken: conditions.broken,
    }
}

/// What a key of `headers` is about: a pseudo header, a claim, or a header.
fn header(name: &str) -> Subject {
    let lower = name.to_ascii_lowercase();
    match &*lower {
        ":path" => Subject::Target,
        ":method" => Subject::Method,
        ":scheme" => Subject::Scheme,
        ":authority" | "host" => Subject::Authority,
        _ if lower.starts_with("@request.auth.claims") => Subject::Claim(name.into()),
        _ => Subject::Header(lower.into()),
    }
}

#[derive(Default)]
struct Conditions {
    all: Vec<Condition>,
    broken: Vec<(String, RegexError)>,
}

impl Conditions {
    fn push(
        &mut self,
        subject: Subject,
        written: &StringMatch,
        field: &str,
        negated: bool,
        ignore_case: bool,
    ) {
        let test = match (written.condition(), ignore_case) {
            (Written::Present, _) => StringCondition::Present,
            (Written::Exact(text), false) => StringCondition::Exact(text.into()),
            (Written::Exact(text), true) => StringCondition::ExactIgnoreCase(text.into()),
            (Written::Prefix(text), false) => StringCondition::Prefix(text.into()),
            (Written::Prefix(text), true) => StringCondition::PrefixIgnoreCase(text.into()),
            // Not RE2; Istio takes it for presence.
            (Written::Regex("*"), _)
                if matches!(subject, Subject::Header(_) | Subject::Query(_) | Subject::Claim(_)) =>
            {
                StringCondition::Present
            }
            (Written::Regex(text), _) => match StringCondition::regex(text) {
                Ok(test) => test,
                Err(error) => {
                    self.broken.push((field.to_owned(), error));
                    self.all.push(Condition {
                        subject: Subject::Broken(field.into()),
                        test: StringCondition::Present,
                        negated,
                    });
                    return;
                }
            },
        };
        self.all.push(Condition { subject, test, negated });
    }
}
