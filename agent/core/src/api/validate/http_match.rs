//! Rules for the conditions of an HTTP rule.

use std::collections::BTreeMap;

use super::{Checker, headers, values};
use crate::api::http_match::HttpMatchRequest;
use crate::api::names::is_dns_label;
use crate::api::string_match::StringMatch;
use crate::diagnostic::Code;

/// `gateways`: those of the VirtualService.
pub(super) fn check(check: &mut Checker<'_>, condition: &HttpMatchRequest, gateways: &[String]) {
    check.field("uri", |check| values::string_match(check, condition.uri.as_ref(), "uri"));
    check.field("scheme", |check| values::string_match(check, condition.scheme.as_ref(), "scheme"));
    check.field("method", |check| values::string_match(check, condition.method.as_ref(), "method"));
    check.field("authority", |check| values::string_match(check, condition.authority.as_ref(), "authority"));
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
            if is_claim(name) {
                if gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh") {
                    let message = format!(
                        "JWT claim based routing (key: {name}) is only supported for gateway, found no gateways: [{}]",
                        gateways.join(" ")
                    );
                    check.error(Code::InvalidMatch, message);
                    check.hint("the object's gateways must be there, and mesh not among them");
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

/// `@request.auth.claims.a.b` and `@request.auth.claims[a][b]`: the claims of a verified token (Istio: `ToRoutingClaim`).
fn is_claim(name: &str) -> bool {
    const PREFIX: &str = "@request.auth.claims";
    let Some(rest) = name.get(PREFIX.len()..).filter(|_| name.to_ascii_lowercase().starts_with(PREFIX))
    else {
        return false;
    };
    let dotted = rest.len() > 1 && rest.starts_with('.');
    dotted || (rest.len() > 2 && rest.starts_with('[') && rest.ends_with(']'))
}
