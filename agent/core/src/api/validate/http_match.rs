//! Rules for the conditions of an HTTP rule.

use std::collections::BTreeMap;

use super::{Checker, headers, values};
use crate::api::http_match::HttpMatchRequest;
use crate::api::names::is_dns_label;
use crate::api::string_match::StringMatch;
use crate::diagnostic::Code;

/// What kind of rule the conditions belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RouteKind {
    /// Neither of the following.
    Independent,
    /// It names a delegate.
    Root,
    /// It is in a delegate.
    Delegate,
}

/// `gateways`: those of the VirtualService.
pub(super) fn check(
    check: &mut Checker<'_>,
    condition: &HttpMatchRequest,
    kind: RouteKind,
    gateways: &[String],
) {
    if kind != RouteKind::Independent {
        no_regex(check, condition);
    }
    check.field("uri", |check| values::string_match(check, condition.uri.as_ref(), "uri"));
    check.field("scheme", |check| values::string_match(check, condition.scheme.as_ref(), "scheme"));
    check.field("method", |check| values::string_match(check, condition.method.as_ref(), "method"));
    check.field("authority", |check| values::string_match(check, condition.authority.as_ref(), "authority"));
    let gateways = if condition.gateways.is_empty() { gateways } else { &condition.gateways };
    check.field("headers", |check| by_name(check, &condition.headers, "headers", gateways));
    check.field("withoutHeaders", |check| {
        by_name(check, &condition.without_headers, "withoutHeaders", gateways);
    });
    check.field("queryParams", |check| {
        for (name, condition) in &condition.query_params {
            check.key(name, |check| values::string_match(check, Some(condition), "queryParams"));
        }
    });
    if let Some(port) = condition.port.filter(|&port| port != 0) {
        check.field("port", |check| values::port(check, port));
    }
    check.field("sourceLabels", |check| values::labels(check, &condition.source_labels));
    values::gateway_names(check, &condition.gateways);
    if !condition.source_namespace.is_empty() && !is_dns_label(&condition.source_namespace) {
        let message = format!("sourceNamespace match {} is invalid", condition.source_namespace);
        check.error_at("sourceNamespace", Code::InvalidMatch, message);
    }
}

fn by_name(
    check: &mut Checker<'_>,
    conditions: &BTreeMap<String, StringMatch>,
    place: &str,
    gateways: &[String],
) {
    for (name, condition) in conditions {
        check.key(name, |check| {
            if name.starts_with("@request.auth.claims") {
                if gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh") {
                    let message =
                        format!("JWT claim based routing (key: {name}) is only supported for gateway, not for the mesh");
                    check.error(Code::InvalidMatch, message);
                }
            } else {
                headers::matched_name(check, name);
            }
            // Not RE2, but Istio's way to say "absent".
            if place == "withoutHeaders" && condition.regex.as_deref() == Some("*") {
                return;
            }
            values::string_match(check, Some(condition), place);
        });
    }
}

/// Conditions of a root and of its delegate are merged, which cannot be done with expressions.
fn no_regex(check: &mut Checker<'_>, condition: &HttpMatchRequest) {
    let single = [
        ("uri", "url", &condition.uri),
        ("scheme", "scheme", &condition.scheme),
        ("method", "method", &condition.method),
        ("authority", "authority", &condition.authority),
    ];
    for (field, word, value) in single {
        if value.as_ref().is_some_and(|value| value.regex.is_some()) {
            let message = format!("{word} match does not support regex match for delegating");
            check.error_at(field, Code::InvalidDelegate, message);
        }
    }
    let maps = [
        ("headers", "header match", &condition.headers),
        ("queryParams", "query param match", &condition.query_params),
        ("withoutHeaders", "withoutHeaders match", &condition.without_headers),
    ];
    for (field, words, map) in maps {
        for name in map.iter().filter(|(_, value)| value.regex.is_some()).map(|(name, _)| name) {
            let message = format!("{words} {name} does not support regex match for delegating");
            check.field(field, |check| check.key(name, |check| check.error(Code::InvalidDelegate, message)));
        }
    }
}
