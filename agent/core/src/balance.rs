//! Picking an endpoint.
//!
//! ```text
//!   Spread::pick   level (spill-over, panic) ─ group (locality weights, zones) ─ balancer ─ again, if tried before
//! ```
//!
//! Pure: what is live (requests in flight, ejections, ages) is asked for, the cursor and the rng belong to the caller. What
//! depends on the configuration alone is worked out once, in a [`Spread`]; a cluster that has no localities, weights, hash
//! keys or warm-up to heed goes straight to its balancer. Nothing here allocates, but for the first key of a hash table.

pub(crate) mod consistent_hash;
pub(crate) mod hash_key;
mod least_request;
pub(crate) mod levels;
mod maglev;
mod random;
mod ring_hash;
mod round_robin;
mod share;
mod warmup;
mod xxhash;
pub(crate) mod zones;

use std::ops::Range;
use std::time::Duration;

use rand_core::RngCore;

use crate::cluster::{Cluster, Endpoint};
use crate::policy::{Balancer, Policy, Warmup};
pub use consistent_hash::Unmade;
use consistent_hash::{Hashing, Tables};
pub use hash_key::Hashed;
use levels::{Count, Level, Levels, Loads, MAX_LEVELS, excluded};
pub(crate) use ring_hash::MAX_SIZE as MAX_RING;

/// How often a pick is repeated to avoid an endpoint tried before (Envoy: `host_selection_retry_max_attempts`, Istio: 5).
const RETRY_PICKS: u32 = 5;

/// What the caller knows about the endpoints of a cluster, by their position.
pub trait Live {
    /// Requests in flight there.
    fn active(&self, endpoint: usize) -> u32;
    /// Whether it may be used: not ejected.
    fn is_available(&self, endpoint: usize) -> bool;
    /// Whether all may be used. `false` costs counting, so the question is worth answering.
    fn are_all_available(&self) -> bool {
        false
    }
    /// Whether some endpoint may be in its warm-up window. Asked only of clusters with a warm-up.
    fn is_warming(&self) -> bool {
        false
    }
    /// How long the endpoint has been known.
    fn age(&self, _endpoint: usize) -> Duration {
        Duration::MAX
    }
}

/// What one pick goes by, beside the cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    /// The hash of the request's key, if it has one.
    pub hash: Option<u64>,
    /// The endpoints that this request was sent to before, in order.
    pub tried: &'a [usize],
    /// Prefer endpoints not tried yet (`retryIgnorePreviousHosts`).
    pub avoids_tried: bool,
    /// Leave the localities tried so far (`retryRemoteLocalities`).
    pub leaves_tried: bool,
}

/// Where the turns of a cluster are; kept by the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    turn: u32,
    /// Of localities.
    group: u32,
}

impl Cursor {
    /// At a place in the round; a random one for each client, as in Envoy, or they would all begin with the same endpoint.
    pub fn starting_at(place: u64) -> Self {
        Self { turn: place as u32, group: (place >> 32) as u32 }
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

/// Picks the endpoint for one try.
pub fn pick(
    cluster: &Cluster,
    ask: &Ask<'_>,
    live: &impl Live,
    cursor: &mut Cursor,
    rng: &mut impl RngCore,
) -> Result<usize, NoEndpoint> {
    cluster.spread.pick(&cluster.endpoints, ask, live, cursor, rng)
}

/// How requests spread over the endpoints of a cluster: all that does not change while it lives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spread {
    balancer: Balancer,
    warmup: Option<Warmup>,
    /// All endpoints weigh the same.
    is_even: bool,
    levels: Option<Box<Levels>>,
    /// One for each level, or one.
    tables: Box<[Hashing]>,
}

impl Spread {
    /// For endpoints without preference among them (resolved names).
    pub fn flat(policy: &Policy, endpoints: &[Endpoint]) -> Self {
        Self::new(policy, endpoints, None, &Tables::default())
    }

    /// For `endpoints` in the order that `levels` speak of.
    pub(crate) fn new(
        policy: &Policy,
        endpoints: &[Endpoint],
        levels: Option<Levels>,
        tables: &Tables,
    ) -> Self {
        let mut spread = Self {
            balancer: policy.balancer,
            warmup: policy.warmup,
            is_even: are_even(endpoints),
            levels: levels.map(Box::new),
            tables: Box::default(),
        };
        if let Some(hash) = policy.consistent_hash.as_ref().filter(|_| !endpoints.is_empty()) {
            let table = |range: Range<usize>, level: Option<&Level>| {
                let run = endpoints.get(range.clone()).unwrap_or_default();
                let shares = share::of_level(run, range.start, level);
                tables.of(hash.table, run.iter().map(|it| it.address).zip(shares).collect())
            };
            spread.tables = match &spread.levels {
                Some(levels) => levels.levels.iter().map(|it| table(it.range.clone(), Some(it))).collect(),
                None => Box::from([table(0..endpoints.len(), None)]),
            };
        }
        spread
    }

    /// Picks one of `endpoints`, those that this was made for.
    pub fn pick(
        &self,
        endpoints: &[Endpoint],
        ask: &Ask<'_>,
        live: &impl Live,
        cursor: &mut Cursor,
        rng: &mut impl RngCore,
    ) -> Result<usize, NoEndpoint> {
        if endpoints.is_empty() {
            return Err(NoEndpoint::Empty);
        }
        // Without a key, hashing is random: one draw for all attempts, as they step on from it.
        let hash = if self.tables.is_empty() { 0 } else { ask.hash.unwrap_or_else(|| rng.next_u64()) };
        let mut choice = self.once(endpoints, ask, hash, 0, live, cursor, rng)?;
        for attempt in 1..=RETRY_PICKS {
            if !ask.avoids_tried || !ask.tried.contains(&choice) {
                break;
            }
            choice = self.once(endpoints, ask, hash, attempt, live, cursor, rng)?;
        }
        Ok(choice)
    }

    #[expect(clippy::too_many_arguments, reason = "one step of pick, which has them all")]
    fn once(
        &self,
        endpoints: &[Endpoint],
        ask: &Ask<'_>,
        hash: u64,
        attempt: u32,
        live: &impl Live,
        cursor: &mut Cursor,
        rng: &mut impl RngCore,
    ) -> Result<usize, NoEndpoint> {
        let warmup = self.warmup.as_ref().filter(|_| live.is_warming());
        let mut run = Run { endpoints, first: 0, is_even: self.is_even, takes_all: false, warmup, live };
        let mut table = 0;
        if let Some(levels) = &self.levels {
            let draw = if self.tables.is_empty() { None } else { Some(hash) };
            let (level, takes_all) = levels.level(ask, draw, live, rng);
            let Some(chosen) = levels.levels.get(level) else { return Err(NoEndpoint::AllUnavailable) };
            table = level;
            run.takes_all = takes_all;
            let group =
                if self.tables.is_empty() { levels.group(level, chosen, &run, cursor, rng) } else { None };
            match group.and_then(|group| chosen.groups.get(group)) {
                Some(group) => run.narrow(group.range.clone(), group.is_even),
                None => run.narrow(chosen.range.clone(), chosen.is_even),
            }
            if run.len() == 0 {
                return Err(NoEndpoint::AllUnavailable);
            }
        }
        let index = match (self.balancer, self.tables.get(table)) {
            (Balancer::RingHash | Balancer::Maglev, Some(table)) => table.pick(&run, hash, attempt),
            (Balancer::RoundRobin, _) => {
                let turn = cursor.turn;
                cursor.turn = turn.wrapping_add(1);
                round_robin::pick(&run, turn)
            }
            (Balancer::LeastRequest, _) => least_request::pick(&run, rng),
            (Balancer::Random | Balancer::Passthrough | Balancer::RingHash | Balancer::Maglev, _) => {
                random::pick(&run, rng)
            }
        };
        index.map(|index| run.first + index)
    }
}

impl Levels {
    /// The level to use, and whether it uses all its endpoints, healthy or not.
    fn level(
        &self,
        ask: &Ask<'_>,
        draw: Option<u64>,
        live: &impl Live,
        rng: &mut impl RngCore,
    ) -> (usize, bool) {
        let leaves = ask.leaves_tried && ask.tried.len() >= 2;
        let all_available = live.are_all_available();
        if all_available && !leaves {
            return (0, false);
        }
        let mut counts = [Count::default(); MAX_LEVELS];
        let count = |range: &Range<usize>| {
            let all = range.len();
            let healthy = if all_available {
                all
            } else {
                range.clone().filter(|&index| live.is_available(index)).count()
            };
            Count { healthy, all }
        };
        for (counted, level) in counts.iter_mut().zip(&self.levels) {
            *counted = count(&level.range);
        }
        let counts = counts.get(..self.levels.len()).unwrap_or(&counts);
        let excluded = if leaves {
            let of = |endpoint: &usize| self.levels.iter().position(|level| level.range.contains(endpoint));
            excluded(counts, ask.tried.iter().filter_map(of))
        } else {
            0
        };
        let loads = Loads::new(counts, self.panic_percent, excluded);
        let level = loads.level(draw.unwrap_or_else(|| rng.next_u64()));
        (level, loads.panics(level))
    }

    /// The group of the level to use, if it has groups that do not simply count by their endpoints.
    fn group<L: Live>(
        &self,
        index: usize,
        level: &Level,
        cluster: &Run<'_, L>,
        cursor: &mut Cursor,
        rng: &mut impl RngCore,
    ) -> Option<usize> {
        if level.groups.len() < 2 || cluster.takes_all {
            return None;
        }
        let all_available = cluster.live.are_all_available();
        let counts = level.groups.iter().map(|group| {
            let all = group.range.len();
            let available = || group.range.clone().filter(|&it| cluster.live.is_available(it)).count();
            Count { healthy: if all_available { all } else { available() }, all }
        });
        if let Some(zones) = &self.zones {
            return if index == 0 { zones.group(counts, rng.next_u64(), rng.next_u64()) } else { None };
        }
        let weights =
            || level.groups.iter().zip(counts.clone()).map(|(group, count)| count.weight(group.weight));
        // Localities take turns, as in Envoy.
        let turn = cursor.group;
        cursor.group = turn.wrapping_add(1);
        let mut place = random::scaled(round_robin::spread(turn), weights().sum());
        weights().position(|weight| {
            let is_here = place < weight;
            place = place.saturating_sub(weight);
            is_here
        })
    }
}

/// The endpoints that one is picked from: a run of the cluster's. Positions are relative to its first.
struct Run<'a, L> {
    endpoints: &'a [Endpoint],
    first: usize,
    is_even: bool,
    /// Panic: those that are out count as well.
    takes_all: bool,
    /// If some endpoint may be in its window.
    warmup: Option<&'a Warmup>,
    live: &'a L,
}

impl<L: Live> Run<'_, L> {
    fn narrow(&mut self, range: Range<usize>, is_even: bool) {
        self.first = range.start;
        self.is_even = is_even;
        self.endpoints = self.endpoints.get(range).unwrap_or_default();
    }

    /// Never 0 when a balancer is asked.
    fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// All have the same chance.
    fn is_even(&self) -> bool {
        self.is_even && self.warmup.is_none()
    }

    fn is_warming(&self) -> bool {
        self.warmup.is_some()
    }

    fn is_available(&self, index: usize) -> bool {
        self.takes_all || self.live.is_available(self.first + index)
    }

    fn active(&self, index: usize) -> u32 {
        self.live.active(self.first + index)
    }

    /// Relative, at least 1.
    fn weight(&self, index: usize) -> u64 {
        let weight = self.endpoints.get(index).map_or(1, |it| u64::from(it.weight.max(1)));
        match self.warmup {
            None => weight,
            Some(warmup) => weight * warmup::factor(warmup, self.live.age(self.first + index)),
        }
    }

    fn available(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(|&index| self.is_available(index))
    }

    /// Of the available endpoints the one at `turn`, counted round and round.
    fn nth_available(&self, turn: usize) -> Result<usize, NoEndpoint> {
        match self.available().count() {
            0 => Err(NoEndpoint::AllUnavailable),
            some => self.available().nth(turn % some).ok_or(NoEndpoint::AllUnavailable),
        }
    }
}

/// Whether all weigh the same.
fn are_even(endpoints: &[Endpoint]) -> bool {
    endpoints.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight))
}

#[cfg(test)]
pub(crate) mod tests;
