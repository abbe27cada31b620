//! From a decision to the heads that go on: what changes in the request, in the response, and what we answer ourselves.

use super::decide::{Decision, Outcome};
use super::format::{Context, Facts, Request, Response};
use super::headers;
use super::table::{Action, HttpTable, Route};
use crate::edits::Edits;
use crate::view::{RequestView, ResponseView};

/// Fills `edits` (handed in empty) with the changes to a forwarded request: header operations, then Host, then path.
/// `x-envoy-original-path` goes with a changed path. Any other outcome than [`Outcome::Forward`] changes nothing.
pub fn request_edits(
    table: &HttpTable,
    decision: &Decision,
    request: &impl RequestView,
    facts: &Facts<'_>,
    edits: &mut Edits,
) {
    let Outcome::Forward { destination } = decision.outcome else { return };
    let Some(route) = decision.route.and_then(|index| table.route(index)) else { return };
    let context = Context { facts, route_name: route_name(route) };
    headers::apply(route, Some(destination), |headers| &headers.request, &Request(request), &context, edits);
    let leg = route.destinations.get(usize::from(destination));
    let authority = route
        .rewrite
        .authority
        .as_deref()
        .or(route.headers.request.authority.as_deref())
        .or_else(|| leg.and_then(|leg| leg.headers.request.authority.as_deref()));
    if let Some(authority) = authority {
        edits.set_authority(authority);
    }
    if let Some(path) = &route.rewrite.path {
        let target = request.target();
        let mut scratch = edits.take_scratch();
        path.write(target, &mut scratch);
        match std::str::from_utf8(&scratch) {
            Ok(new) if new != target => {
                edits.set_target(new);
                edits.set("x-envoy-original-path", target.as_bytes());
            }
            // An expression that cuts a character in two leaves the path as it was.
            Ok(_) | Err(_) => {}
        }
        edits.give_scratch(scratch);
    }
}

/// Fills `edits` (handed in empty) with the changes to a response: the header operations of the destination and the rule.
/// `response` is `None` for an answer of our own (abort, direct response, redirect), to which they apply as well.
pub fn response_edits<R: ResponseView>(
    table: &HttpTable,
    decision: &Decision,
    response: Option<&R>,
    facts: &Facts<'_>,
    edits: &mut Edits,
) {
    let Some(route) = decision.route.and_then(|index| table.route(index)) else { return };
    let destination = match decision.outcome {
        Outcome::Forward { destination } => Some(destination),
        _ => None,
    };
    let context = Context { facts, route_name: route_name(route) };
    headers::apply(route, destination, |headers| &headers.response, &Response(response), &context, edits);
}

/// Appends the Location of [`Outcome::Redirect`] and [`Outcome::HttpsRedirect`]; gives the status. `None` for other outcomes.
pub fn redirect(
    table: &HttpTable,
    decision: &Decision,
    request: &impl RequestView,
    location: &mut Vec<u8>,
) -> Option<u16> {
    if decision.outcome == Outcome::HttpsRedirect {
        location.extend_from_slice(b"https://");
        location.extend_from_slice(request.authority().as_bytes());
        location.extend_from_slice(request.target().as_bytes());
        return Some(301);
    }
    match &table.route(decision.route?)?.action {
        Action::Redirect(redirect) => {
            redirect.write(request, location);
            Some(redirect.code)
        }
        _ => None,
    }
}

/// Status and body of [`Outcome::DirectResponse`]. `None` for other outcomes.
pub fn direct_response<'a>(table: &'a HttpTable, decision: &Decision) -> Option<(u16, &'a [u8])> {
    match &table.route(decision.route?)?.action {
        Action::DirectResponse(response) => Some((response.status, &response.body)),
        _ => None,
    }
}

fn route_name(route: &Route) -> &str {
    route.rule.as_ref().map_or("default", |rule| &rule.route_name)
}
