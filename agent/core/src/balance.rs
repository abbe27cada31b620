//! Picking an endpoint: round robin, random, least request.
//!
//! Pure: what is live (requests in flight, ejections, endpoints tried before) is asked for, the cursor and the rng belong to
//! the caller. Weights come from WorkloadEntries; Kubernetes endpoints all weigh 1, which is the quick path.

use rand_core::RngCore;

use crate::cluster::{Cluster, Endpoint};
use crate::policy::Balancer;

/// How often a pick is repeated to avoid an endpoint tried before (Envoy: `host_selection_retry_max_attempts`, Istio: 5).
const RETRY_PICKS: u32 = 5;

/// What the caller knows about the endpoints of a cluster, by their position.
pub trait Live {
    /// Requests in flight there.
    fn active(&self, endpoint: usize) -> u32;
    /// Whether it may be used: not ejected.
    fn is_available(&self, endpoint: usize) -> bool;
    /// Whether this request was sent there before (`retryIgnorePreviousHosts`).
    fn was_tried(&self, _endpoint: usize) -> bool {
        false
    }
}

/// No endpoint can serve the request: 503, flag UH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// The cluster has none.
    #[error("no endpoints")]
    Empty,
    /// All are ejected.
    #[error("no healthy endpoint")]
    AllUnavailable,
}

/// Picks the endpoint for one try. `cursor` is the cluster's turn, kept by the caller.
pub fn pick(
    cluster: &Cluster,
    live: &impl Live,
    cursor: &mut u32,
    rng: &mut impl RngCore,
) -> Result<usize, NoEndpoint> {
    pick_from(cluster.policy.balancer, &cluster.endpoints, live, cursor, rng)
}

/// As [`pick`], for endpoints from elsewhere (resolved names).
pub fn pick_from(
    balancer: Balancer,
    endpoints: &[Endpoint],
    live: &impl Live,
    cursor: &mut u32,
    rng: &mut impl RngCore,
) -> Result<usize, NoEndpoint> {
    if endpoints.is_empty() {
        return Err(NoEndpoint::Empty);
    }
    let equal = endpoints.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight));
    let mut choice = one(balancer, endpoints, equal, live, cursor, rng)?;
    let mut again = 0;
    while live.was_tried(choice) && again < RETRY_PICKS {
        choice = one(balancer, endpoints, equal, live, cursor, rng)?;
        again += 1;
    }
    Ok(choice)
}

fn one(
    balancer: Balancer,
    endpoints: &[Endpoint],
    equal: bool,
    live: &impl Live,
    cursor: &mut u32,
    rng: &mut impl RngCore,
) -> Result<usize, NoEndpoint> {
    let count = endpoints.len();
    match balancer {
        Balancer::RoundRobin => {
            let turn = *cursor;
            *cursor = cursor.wrapping_add(1);
            if !equal {
                return weighted_turn(endpoints, live, turn).ok_or(NoEndpoint::AllUnavailable);
            }
            let index = turn as usize % count;
            if live.is_available(index) {
                return Ok(index);
            }
            // The turns of one that is out go round among the rest.
            nth_available(count, live, turn as usize / count)
        }
        Balancer::Random | Balancer::Passthrough => {
            by_weight(endpoints, equal, live, rng, |_, endpoint| u64::from(endpoint.weight.max(1)))
        }
        Balancer::LeastRequest if equal => {
            let first = fair(count, live, rng)?;
            let second = fair(count, live, rng)?;
            Ok(if live.active(second) < live.active(first) { second } else { first })
        }
        // Envoy: with unequal weights the weight is divided by the requests in flight plus one.
        Balancer::LeastRequest => by_weight(endpoints, false, live, rng, |index, endpoint| {
            const SCALE: u64 = 1 << 16;
            (u64::from(endpoint.weight.max(1)) * SCALE / (u64::from(live.active(index)) + 1)).max(1)
        }),
    }
}

/// Of the available endpoints the one at `turn`, counted round and round.
fn nth_available(count: usize, live: &impl Live, turn: usize) -> Result<usize, NoEndpoint> {
    let available = || (0..count).filter(|&index| live.is_available(index));
    match available().count() {
        0 => Err(NoEndpoint::AllUnavailable),
        some => available().nth(turn % some).ok_or(NoEndpoint::AllUnavailable),
    }
}

fn by_weight(
    endpoints: &[Endpoint],
    equal: bool,
    live: &impl Live,
    rng: &mut impl RngCore,
    weight: impl Fn(usize, &Endpoint) -> u64,
) -> Result<usize, NoEndpoint> {
    if equal {
        return fair(endpoints.len(), live, rng);
    }
    let usable = || endpoints.iter().enumerate().filter(|(index, _)| live.is_available(*index));
    let total: u64 = usable().map(|(index, endpoint)| weight(index, endpoint)).sum();
    if total == 0 {
        return Err(NoEndpoint::AllUnavailable);
    }
    let mut left = rng.next_u64() % total;
    for (index, endpoint) in usable() {
        let weight = weight(index, endpoint);
        if left < weight {
            return Ok(index);
        }
        left -= weight;
    }
    Err(NoEndpoint::AllUnavailable)
}

/// A random available endpoint, all with the same chance: a few blind tries (most pools are healthy), then a count.
fn fair(count: usize, live: &impl Live, rng: &mut impl RngCore) -> Result<usize, NoEndpoint> {
    for _ in 0..3 {
        let index = below(rng, count);
        if live.is_available(index) {
            return Ok(index);
        }
    }
    nth_available(count, live, rng.next_u32() as usize)
}

/// Weighted round robin without state but the turn: turns walk a circle of as many places as the weights sum up to, in steps
/// that reach every place once per round and spread an endpoint's places out (about the golden ratio of the circle).
fn weighted_turn(endpoints: &[Endpoint], live: &impl Live, turn: u32) -> Option<usize> {
    let usable = || endpoints.iter().enumerate().filter(|(index, _)| live.is_available(*index));
    let total: u64 = usable().map(|(_, endpoint)| u64::from(endpoint.weight.max(1))).sum();
    if total == 0 {
        return None;
    }
    let mut stride = (total * 618 / 1000).max(1);
    while gcd(stride, total) != 1 {
        stride += 1;
    }
    let mut place = u64::try_from(u128::from(turn) * u128::from(stride) % u128::from(total)).unwrap_or(0);
    for (index, endpoint) in usable() {
        let weight = u64::from(endpoint.weight.max(1));
        if place < weight {
            return Some(index);
        }
        place -= weight;
    }
    None
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A number below `count`; the bias for counts far below 2^32 is of no account.
fn below(rng: &mut impl RngCore, count: usize) -> usize {
    ((u64::from(rng.next_u32()) * count as u64) >> 32) as usize
}

#[cfg(test)]
pub(crate) mod tests;
