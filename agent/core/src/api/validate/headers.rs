//! Rules for header names, values and operations.

use std::collections::BTreeMap;

use super::{Checker, header_value};
use crate::api::http_route::{HeaderOperations, Headers, HttpRewrite};
use crate::diagnostic::Code;

/// RFC 9110 token: what a header name, and a method, is made of.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// What a condition may be about though it is no header.
const PSEUDO_HEADERS: [&str; 5] = [":method", ":scheme", ":authority", ":path", ":status"];

/// The name of a header that a condition is about.
pub(super) fn matched_name(check: &mut Checker<'_>, name: &str) {
    if name.is_empty() {
        check.error(Code::InvalidHeaderName, "header name cannot be empty");
    } else if !(is_token(name) || PSEUDO_HEADERS.contains(&name)) {
        check.error(Code::InvalidHeaderName, format!("header name {name} is not a valid header name"));
    }
}

/// Whether setting this header means rewriting the Host.
fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

/// Header operations of a route or destination.
pub(super) fn operations(check: &mut Checker<'_>, headers: Option<&Headers>) {
    let Some(headers) = headers else { return };
    check.field("headers", |check| {
        if let Some(request) = &headers.request {
            check.field("request", |check| direction(check, request, true));
        }
        if let Some(response) = &headers.response {
            check.field("response", |check| direction(check, response, false));
        }
    });
}

fn direction(check: &mut Checker<'_>, operations: &HeaderOperations, is_request: bool) {
    check.field("set", |check| values(check, &operations.set, is_request));
    check.field("add", |check| values(check, &operations.add, is_request));
    check.items("remove", &operations.remove, |check, name| operated_name(check, name, false));
}

fn values(check: &mut Checker<'_>, values: &BTreeMap<String, String>, may_be_authority: bool) {
    for (name, value) in values {
        check.key(name, |check| {
            operated_name(check, name, may_be_authority);
            if value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
                check.error(
                    Code::InvalidHeaderValue,
                    format!("header value configuration {value:?} is invalid"),
                );
                check.hint("control characters cannot be sent");
            }
            if let Some(error) = header_value::error(value) {
                let message =
                    format!("header value configuration: invalid header configuration. {error} in {value:?}");
                check.error(Code::InvalidHeaderValue, message);
                check.hint("write %% for a %");
            }
        });
    }
}

fn operated_name(check: &mut Checker<'_>, name: &str, may_be_authority: bool) {
    if name.is_empty() {
        check.error(Code::InvalidHeaderName, "header name cannot be empty");
    } else if may_be_authority && is_authority(name) {
        // The one that may.
    } else if name.eq_ignore_ascii_case("host") {
        check.error(Code::InvalidHeaderName, format!("invalid header {name:?}: cannot set Host header"));
    } else if name.starts_with(':') {
        check.error(
            Code::InvalidHeaderName,
            format!("invalid header {name:?}: header cannot have \":\" prefix"),
        );
    } else if !is_token(name) {
        check.error(Code::InvalidHeaderName, format!("header name {name} is not a valid header name"));
    }
}

/// Only one thing may rewrite the Host of a route.
pub(super) fn one_authority(
    check: &mut Checker<'_>,
    rewrite: Option<&HttpRewrite>,
    headers: Option<&Headers>,
) {
    let rewritten =
        rewrite.map(|rewrite| rewrite.authority.as_str()).filter(|authority| !authority.is_empty());
    let request = headers.and_then(|headers| headers.request.as_ref());
    let operations = request.into_iter().flat_map(|request| request.set.iter().chain(&request.add));
    let set = operations.filter(|(name, _)| is_authority(name)).map(|(_, value)| value.as_str());
    let all: Vec<&str> = rewritten.into_iter().chain(set).collect();
    if let [first, second, ..] = all.as_slice() {
        check.error(
            Code::ConflictingActions,
            format!(
                "authority header cannot be set multiple times: have {first:?}, attempting to set {second:?}"
            ),
        );
    }
}
