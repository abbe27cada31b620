//! Watching a decision being made: all that `explain` is.

use super::decide::Outcome;
use super::matching::Condition;
use super::table::{NoHost, Route, VirtualHost};

/// Told of each step of [`super::decide`]. `()` watches nothing and costs nothing.
pub trait Observer {
    /// A step was taken.
    fn event(&mut self, event: Event<'_>);

    /// Whether it has to be told of every route that does not match. If not, routes that cannot match are not looked at, and
    /// [`Event::Unmatched`] comes for those only that were.
    fn wants_unmatched(&self) -> bool {
        true
    }
}

impl Observer for () {
    fn event(&mut self, _: Event<'_>) {}

    fn wants_unmatched(&self) -> bool {
        false
    }
}

/// How a virtual host was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostChoice {
    /// By the Host of the request, or because the table has one that answers for all.
    Found,
    /// Not at all.
    None(NoHost),
}

/// A step of a decision.
#[derive(Debug)]
pub enum Event<'a> {
    /// The virtual host was chosen, or none.
    Host {
        /// The Host of the request.
        authority: &'a str,
        /// The host, if one was found.
        host: Option<&'a VirtualHost>,
        /// How.
        choice: HostChoice,
    },
    /// A condition of a route does not hold; the next route is tried.
    Unmatched {
        /// The route.
        route: &'a Route,
        /// The condition.
        condition: &'a Condition,
        /// What the request has in that place; `None`: nothing.
        value: Option<&'a [u8]>,
    },
    /// All conditions of a route hold.
    Matched {
        /// The route.
        route: &'a Route,
    },
    /// No route of the host matches: 404.
    NoRoute,
    /// What becomes of the request.
    Outcome(Outcome),
}
