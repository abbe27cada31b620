//! The shares that endpoints can expect, all of them healthy and equally busy: for `explain`, and for hash tables.

use super::levels::{Count, Level};
use super::{Ask, Cursor, Live, Spread};
use crate::cluster::Endpoint;
use rand_core::RngCore;

/// Shares of the endpoints of one level (`first` is the position of its first) that sum up to 1: by weight, or by weight
/// within groups that have weights of their own.
pub(super) fn of_level(endpoints: &[Endpoint], first: usize, level: Option<&Level>) -> Vec<f64> {
    match level {
        Some(level) if level.groups.len() > 1 => {
            let total: f64 = level.groups.iter().map(|group| f64::from(group.weight)).sum();
            let of_groups: Vec<_> = level.groups.iter().map(|it| f64::from(it.weight) / total).collect();
            by_groups(endpoints, first, level, &of_groups)
        }
        _ => by_weight(endpoints, 1.0),
    }
}

fn by_weight(endpoints: &[Endpoint], all: f64) -> Vec<f64> {
    let weight = |endpoint: &Endpoint| f64::from(endpoint.weight.max(1));
    let total: f64 = endpoints.iter().map(weight).sum();
    endpoints.iter().map(|endpoint| all * weight(endpoint) / total).collect()
}

fn by_groups(endpoints: &[Endpoint], first: usize, level: &Level, of_groups: &[f64]) -> Vec<f64> {
    let mut shares = Vec::with_capacity(endpoints.len());
    for (group, &share) in level.groups.iter().zip(of_groups) {
        let range = group.range.start.saturating_sub(first)..group.range.end.saturating_sub(first);
        shares.extend(by_weight(endpoints.get(range).unwrap_or_default(), share));
    }
    shares
}

/// Everyone is well and idle.
struct Ideal;

impl Live for Ideal {
    fn active(&self, _: usize) -> u32 {
        0
    }

    fn is_available(&self, _: usize) -> bool {
        true
    }

    fn are_all_available(&self) -> bool {
        true
    }
}

impl Spread {
    /// The share of each of `endpoints`; with the hash of a key, all of it is the one endpoint's.
    pub(crate) fn shares(&self, endpoints: &[Endpoint], hash: Option<u64>) -> Vec<f64> {
        let mut shares = vec![0.0; endpoints.len()];
        if hash.is_some() && !self.tables.is_empty() {
            let ask = Ask { hash, ..Ask::default() };
            let chosen = self.pick(endpoints, &ask, &Ideal, &mut Cursor::default(), &mut NoChance);
            if let Some(share) = chosen.ok().and_then(|index| shares.get_mut(index)) {
                *share = 1.0;
            }
            return shares;
        }
        let Some((levels, first)) = self.levels.as_ref().and_then(|it| Some((it, it.levels.first()?))) else {
            return by_weight(endpoints, 1.0);
        };
        let run = endpoints.get(first.range.clone()).unwrap_or_default();
        let counts =
            first.groups.iter().map(|group| Count { healthy: group.range.len(), all: group.range.len() });
        let of_level = match &levels.zones {
            None => of_level(run, first.range.start, Some(first)),
            Some(zones) => match zones.shares(counts) {
                Some(shares) => by_groups(run, first.range.start, first, &shares),
                None => by_weight(run, 1.0),
            },
        };
        for (share, of_level) in shares.iter_mut().skip(first.range.start).zip(of_level) {
            *share = of_level;
        }
        shares
    }

    /// The priority of an endpoint, if there is more than one: 0 gets the requests while it can.
    pub(crate) fn priority(&self, endpoint: usize) -> Option<usize> {
        let levels = &self.levels.as_ref()?.levels;
        levels.iter().position(|level| level.range.contains(&endpoint)).filter(|_| levels.len() > 1)
    }
}

/// With a key nothing is drawn.
struct NoChance;

impl RngCore for NoChance {
    fn next_u32(&mut self) -> u32 {
        0
    }

    fn next_u64(&mut self) -> u64 {
        0
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}
