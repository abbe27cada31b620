//! Rules that can never apply, and conditions that never decide: warnings.
//!
//! A condition is taken to be covered by an earlier one if the earlier asks for nothing that it does not ask for too: the same
//! text, a text that begins with the earlier's prefix, a header or parameter that the earlier only wants to be there. That says
//! nothing of expressions (but `.*`), and what it says is true.

use super::Checker;
use crate::api::http_match::HttpMatchRequest;
use crate::api::string_match::{Condition, StringMatch};
use crate::api::virtual_service::VirtualService;
use crate::diagnostic::Code;

/// Comparisons per object: the check is quadratic, and thousands of rules are common where it says least.
const MAX_COMPARISONS: usize = 1_000_000;

pub(super) fn check(check: &mut Checker<'_>, spec: &VirtualService) {
    http(check, spec);
    plain(check, "tls", spec.tls.iter().map(|route| route.matches.as_slice()));
    plain(check, "tcp", spec.tcp.iter().map(|route| route.matches.as_slice()));
}

/// How diagnostics name a rule or condition.
fn label(name: &str, index: usize) -> String {
    if name.is_empty() { format!("#{index}") } else { format!("{name:?}") }
}

fn unused(check: &mut Checker<'_>, field: &str, rule: &str, reason: &str) {
    check.warn_at(field, Code::Unreachable, format!("virtualService rule {rule} not used ({reason})"));
}

fn http(check: &mut Checker<'_>, spec: &VirtualService) {
    let mut earlier: Vec<(usize, &HttpMatchRequest)> = Vec::new();
    let mut has_catch_all = false;
    let mut comparisons = 0;
    for (index, route) in spec.http.iter().enumerate() {
        let field = format!("http[{index}]");
        let rule = label(&route.name, index);
        if has_catch_all {
            let reason = if route.matches.is_empty() {
                "only the last rule can have no matches"
            } else {
                "route without matches defined before"
            };
            unused(check, &field, &rule, reason);
            continue;
        }
        if route.matches.is_empty() {
            has_catch_all = true;
            continue;
        }
        let mut covered = 0;
        for (at, condition) in route.matches.iter().enumerate() {
            comparisons += earlier.len();
            if comparisons > MAX_COMPARISONS {
                return;
            }
            if let Some((by, _)) =
                earlier.iter().find(|(_, before)| covers(before, condition, &spec.gateways))
            {
                covered += 1;
                let by = label(spec.http.get(*by).map_or("", |route| &route.name), *by);
                let which = label(&condition.name, at);
                let message = format!(
                    "virtualService rule {rule} match {which} is not used (duplicate/overlapping match in rule {by})"
                );
                check.warn_at(&format!("{field}.match[{at}]"), Code::OverlappingMatch, message);
            } else {
                earlier.push((index, condition));
            }
        }
        if covered == route.matches.len() {
            unused(check, &field, &rule, "all matches used by prior rules");
        }
    }
}

/// Whether every request that fits `b` fits `a`, as far as can be told easily. `gateways`: the object's.
fn covers(a: &HttpMatchRequest, b: &HttpMatchRequest, gateways: &[String]) -> bool {
    covers_path(a, b)
        && covers_text(a.scheme.as_ref(), b.scheme.as_ref())
        && covers_text(a.method.as_ref(), b.method.as_ref())
        && covers_text(a.authority.as_ref(), b.authority.as_ref())
        && a.headers.iter().all(|(name, condition)| covers_entry(condition, b.headers.get(name)))
        && a.query_params.iter().all(|(name, condition)| covers_entry(condition, b.query_params.get(name)))
        && a.without_headers.iter().all(|(name, condition)| b.without_headers.get(name) == Some(condition))
        && a.source_labels.iter().all(|(name, value)| b.source_labels.get(name) == Some(value))
        && (a.port.unwrap_or(0) == 0 || a.port == b.port)
        && (a.source_namespace.is_empty() || a.source_namespace == b.source_namespace)
        && covers_gateways(a, b, gateways)
}

/// A list replaces the object's, so an absent one is the wider one only for gateways of the object. The labels of clients count
/// only where there is no list.
fn covers_gateways(a: &HttpMatchRequest, b: &HttpMatchRequest, gateways: &[String]) -> bool {
    let asks_for_client = !a.source_labels.is_empty() || !a.source_namespace.is_empty();
    a.gateways == b.gateways
        || (a.gateways.is_empty()
            && !asks_for_client
            && b.gateways.iter().all(|gateway| gateways.contains(gateway)))
}

fn covers_text(a: Option<&StringMatch>, b: Option<&StringMatch>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return a.is_none() };
    a == b || begins_with(a.condition(), b.condition())
}

/// Of a header or parameter. Any line of a header may fit, so a line that fits `b` is one that fits `a`.
fn covers_entry(a: &StringMatch, b: Option<&StringMatch>) -> bool {
    let Some(b) = b else { return false };
    a == b || a.condition() == Condition::Present || begins_with(a.condition(), b.condition())
}

fn begins_with(a: Condition<'_>, b: Condition<'_>) -> bool {
    match (a, b) {
        (Condition::Prefix(prefix), Condition::Exact(text) | Condition::Prefix(text)) => {
            text.starts_with(prefix)
        }
        _ => false,
    }
}

fn covers_path(a: &HttpMatchRequest, b: &HttpMatchRequest) -> bool {
    let Some(uri) = &a.uri else { return true };
    if a.ignore_uri_case == b.ignore_uri_case && a.uri == b.uri {
        return true;
    }
    let prefix = match uri.condition() {
        Condition::Prefix(prefix) => prefix,
        Condition::Regex(".*") => "",
        _ => return false,
    };
    // Case would have to be folded as Envoy does; say nothing.
    if a.ignore_uri_case || b.ignore_uri_case {
        return false;
    }
    match b.uri.as_ref().map(StringMatch::condition) {
        Some(Condition::Exact(path) | Condition::Prefix(path)) => path.starts_with(prefix),
        // Every path begins with a slash.
        _ => matches!(prefix, "" | "/"),
    }
}

/// TLS and TCP rules: only equal conditions are recognised.
fn plain<'a, T: PartialEq + 'a>(check: &mut Checker<'_>, list: &str, rules: impl Iterator<Item = &'a [T]>) {
    let mut earlier: Vec<(usize, &T)> = Vec::new();
    let mut has_catch_all = false;
    let mut comparisons = 0;
    for (index, conditions) in rules.enumerate() {
        let field = format!("{list}[{index}]");
        let rule = label("", index);
        if has_catch_all {
            let reason = if conditions.is_empty() {
                "only the last rule can have no matches"
            } else {
                "route without matches defined before"
            };
            unused(check, &field, &rule, reason);
            continue;
        }
        if conditions.is_empty() {
            has_catch_all = true;
            continue;
        }
        let mut covered = 0;
        for (at, condition) in conditions.iter().enumerate() {
            comparisons += earlier.len();
            if comparisons > MAX_COMPARISONS {
                return;
            }
            if let Some((by, _)) = earlier.iter().find(|(_, before)| *before == condition) {
                covered += 1;
                let message = format!(
                    "virtualService rule {rule} match #{at} is not used (duplicate/overlapping match in rule #{by})"
                );
                check.warn_at(&format!("{field}.match[{at}]"), Code::OverlappingMatch, message);
            } else {
                earlier.push((index, condition));
            }
        }
        if covered == conditions.len() {
            unused(check, &field, &rule, "all matches used by prior rules");
        }
    }
}
