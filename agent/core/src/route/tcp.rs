//! Opaque TCP and TLS passed through: one decision per connection.

use std::net::IpAddr;
use std::sync::Arc;

use rand_core::RngCore;

use super::table::{RuleRef, WeightedDestination};
use crate::host::{Cidr, HostKey};

/// Where connections go that carry no HTTP we look into.
#[derive(Debug, Clone)]
pub struct TcpTable {
    /// Tried in order.
    pub routes: Vec<TcpRoute>,
    /// When none applies.
    pub otherwise: TcpAction,
    /// A route looks at the SNI, so the ClientHello has to be read first.
    pub needs_sni: bool,
}

/// When no route of a [`TcpTable`] applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TcpAction {
    /// To the dialled address, unchanged.
    Passthrough,
    /// The connection is closed.
    Reject,
}

/// A rule for connections.
#[derive(Debug, Clone)]
pub struct TcpRoute {
    /// Server names it is for; empty: all, also none.
    pub sni: Vec<HostKey>,
    /// Dialled addresses it is for; empty: all.
    pub subnets: Vec<Cidr>,
    /// The rule it comes from; `None`: the plain service.
    pub rule: Option<Arc<RuleRef>>,
    /// By weight.
    pub destinations: Arc<[WeightedDestination]>,
    /// Sum of the weights.
    pub total_weight: u64,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpDecision {
    /// To a destination of a route.
    Forward {
        /// Position in [`TcpTable::routes`].
        route: u16,
        /// Position in [`TcpRoute::destinations`].
        destination: u16,
    },
    /// To the dialled address, unchanged.
    Passthrough,
    /// Close it.
    Reject,
}

impl TcpTable {
    /// A table without routes.
    pub fn empty(otherwise: TcpAction) -> Self {
        Self { routes: Vec::new(), otherwise, needs_sni: false }
    }

    /// The route and destination of a [`TcpDecision::Forward`].
    pub fn forward(&self, decision: TcpDecision) -> Option<(&TcpRoute, &WeightedDestination)> {
        let TcpDecision::Forward { route, destination } = decision else { return None };
        let route = self.routes.get(usize::from(route))?;
        Some((route, route.destinations.get(usize::from(destination))?))
    }
}

/// Decides about a connection to `dialled`, with the SNI if it is TLS and [`TcpTable::needs_sni`]. Of the routes for its
/// address the one with the most specific name counts (as Envoy picks filter chains), then the first.
pub fn decide_tcp(
    table: &TcpTable,
    dialled: IpAddr,
    sni: Option<&str>,
    rng: &mut impl RngCore,
) -> TcpDecision {
    let mut best: Option<(Option<&HostKey>, u16, &TcpRoute)> = None;
    for (index, route) in (0u16..).zip(&table.routes) {
        if !(route.subnets.is_empty() || route.subnets.iter().any(|subnet| subnet.contains(dialled))) {
            continue;
        }
        let name = match sni.and_then(|sni| route.sni.iter().filter(|key| key.matches(sni)).min()) {
            Some(name) => Some(name),
            None if route.sni.is_empty() => None,
            None => continue,
        };
        let is_better = match (&best, name) {
            (None, _) => true,
            (Some((None, ..)), name) => name.is_some(),
            (Some((Some(other), ..)), Some(name)) => name < *other,
            (Some((Some(_), ..)), None) => false,
        };
        if is_better {
            best = Some((name, index, route));
        }
    }
    match (best, table.otherwise) {
        (Some((_, index, route)), _) => match draw(route, rng) {
            Some(destination) => TcpDecision::Forward { route: index, destination },
            None => TcpDecision::Reject,
        },
        (None, TcpAction::Passthrough) => TcpDecision::Passthrough,
        (None, TcpAction::Reject) => TcpDecision::Reject,
    }
}

fn draw(route: &TcpRoute, rng: &mut impl RngCore) -> Option<u16> {
    if route.destinations.len() == 1 {
        return Some(0);
    }
    if route.total_weight == 0 {
        return None;
    }
    let mut left = rng.next_u64() % route.total_weight;
    for (index, destination) in (0u16..).zip(&*route.destinations) {
        let weight = u64::from(destination.weight);
        if left < weight {
            return Some(index);
        }
        left -= weight;
    }
    None
}
