//! The decision about one request.

use std::time::Duration;

use rand_core::RngCore;

use super::index::PathIndex;
use super::matching;
use super::observer::{Event, HostChoice, Observer};
use super::table::{Abort, Action, HttpTable, Mirror, NoHost, Route, RouteIndex};
use crate::view::RequestView;

/// What becomes of a request. Small and `Copy`: indices into the table it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What happens, once a delay has passed and no abort was drawn.
    pub outcome: Outcome,
    /// The virtual host, if one answers for the request.
    pub host: Option<u16>,
    /// The route that matched.
    pub route: Option<RouteIndex>,
    /// Wait so long before anything else (flag DI). Not part of the route's timeout.
    pub delay: Option<Duration>,
    /// Answer with this in place of forwarding (flag FI).
    pub abort: Option<Abort>,
}

/// See [`Decision`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// To this destination of the route.
    Forward {
        /// Position in [`Route::destinations`](super::Route::destinations).
        destination: u16,
    },
    /// Answer with [`super::redirect`].
    Redirect,
    /// Answer 301 to https, same host and path: [`super::redirect`] too.
    HttpsRedirect,
    /// Answer with [`super::direct_response`].
    DirectResponse,
    /// A CORS preflight: answer 200 with an empty body and the lines of [`super::cors_edits`].
    Preflight,
    /// 404, flag NR, empty body: no host, or no route of the host.
    NoRoute,
    /// To the address the client dialled, unchanged and without policy.
    Passthrough,
    /// Answer with this status and an empty body: 502 (REGISTRY_ONLY and an unknown host), 500 (a route that cannot be carried
    /// out as written).
    Reject {
        /// HTTP status.
        status: u16,
    },
}

/// Decides about a request by the first route that matches. The same rng state gives the same decision.
pub fn decide(
    table: &HttpTable,
    request: &impl RequestView,
    rng: &mut impl RngCore,
    observer: &mut impl Observer,
) -> Decision {
    let decision = find(table, request, rng, observer);
    observer.event(Event::Outcome(decision.outcome));
    decision
}

fn find(
    table: &HttpTable,
    request: &impl RequestView,
    rng: &mut impl RngCore,
    observer: &mut impl Observer,
) -> Decision {
    let nothing = Decision { outcome: Outcome::NoRoute, host: None, route: None, delay: None, abort: None };
    let authority = request.authority();
    let index = match table.find(authority) {
        Ok(index) => index,
        Err(none) => {
            observer.event(Event::Host { authority, host: None, choice: HostChoice::None(none) });
            let outcome = match none {
                NoHost::NotFound => Outcome::NoRoute,
                NoHost::Passthrough => Outcome::Passthrough,
                NoHost::BadGateway => Outcome::Reject { status: 502 },
            };
            return Decision { outcome, ..nothing };
        }
    };
    let nothing = Decision { host: Some(index), ..nothing };
    let Some(host) = table.host(index) else { return nothing };
    observer.event(Event::Host { authority, host: Some(host), choice: HostChoice::Found });
    if host.https_redirect && request.scheme() != "https" {
        return Decision { outcome: Outcome::HttpsRedirect, ..nothing };
    }
    let Some((position, route)) = first_match(&host.routes, table.path_index(index), request, observer)
    else {
        observer.event(Event::NoRoute);
        return nothing;
    };
    observer.event(Event::Matched { route });
    let outcome = match &route.action {
        Action::Forward if route.cors.as_ref().is_some_and(|cors| cors.answers(request)) => {
            Outcome::Preflight
        }
        Action::Forward => match draw_destination(route, rng) {
            Some(destination) => Outcome::Forward { destination },
            // A rule without destinations is refused by compile; this is its last line of defence.
            None => Outcome::Reject { status: 500 },
        },
        Action::Redirect(_) => Outcome::Redirect,
        Action::DirectResponse(_) => Outcome::DirectResponse,
        Action::Refused(_) => Outcome::Reject { status: 500 },
    };
    let fault = &route.fault;
    Decision {
        outcome,
        host: Some(index),
        route: Some(RouteIndex { host: index, route: position }),
        delay: fault.delay.filter(|delay| delay.percent.draw(rng)).map(|delay| delay.delay),
        abort: fault.abort.filter(|abort| abort.percent.draw(rng)).map(|abort| abort.abort),
    }
}

fn first_match<'a>(
    routes: &'a [Route],
    index: Option<&PathIndex>,
    request: &impl RequestView,
    observer: &mut impl Observer,
) -> Option<(u16, &'a Route)> {
    let index = index.filter(|_| !observer.wants_unmatched());
    let mut matches = |route: &Route| {
        let unmet = route.matches.first_unmet(request, |condition, value| {
            observer.event(Event::Unmatched { route, condition, value });
        });
        unmet.is_none()
    };
    match index.and_then(|index| index.candidates(matching::path(request.target()))) {
        Some(mut candidates) => candidates.find_map(|position| {
            let route = routes.get(usize::from(position))?;
            matches(route).then_some((position, route))
        }),
        None => (0..=u16::MAX).zip(routes).find(|(_, route)| matches(route)),
    }
}

/// Draws which mirrors of the route get a copy of this request, each by its own share. None for an aborted request, or one
/// that is answered here: the router, which makes the copies in Envoy, never sees those. Call it once for each decision.
pub fn mirrors<'t>(
    table: &'t HttpTable,
    decision: &Decision,
    rng: &mut impl RngCore,
) -> impl Iterator<Item = &'t Mirror> {
    let is_forwarded = matches!(decision.outcome, Outcome::Forward { .. }) && decision.abort.is_none();
    let route = decision.route.filter(|_| is_forwarded).and_then(|index| table.route(index));
    let mirrors = route.map_or(&[][..], |route| &route.mirrors);
    mirrors.iter().filter(|mirror| mirror.percent.draw(rng))
}

/// Draws by weight (share = weight / sum). A single destination takes everything whatever its weight.
fn draw_destination(route: &Route, rng: &mut impl RngCore) -> Option<u16> {
    match &*route.destinations {
        [] => None,
        [_] => Some(0),
        several => {
            let mut left = rng.next_u64() % route.total_weight.max(1);
            for (index, destination) in (0u16..).zip(several) {
                let weight = u64::from(destination.weight);
                if left < weight {
                    return Some(index);
                }
                left -= weight;
            }
            None
        }
    }
}

#[cfg(test)]
mod tests;
