//! Priorities: nearer endpoints first, the next ones when those do not suffice.
//!
//! The arithmetic is Envoy's (`LoadBalancerBase`): a priority keeps as much of the load as 1.4 times its healthy share, the
//! rest goes to the next. With a panic threshold, a priority that has too few healthy endpoints uses all it has, once all
//! priorities together cannot carry the load. Who belongs to which priority is settled when the cluster is made
//! (`snapshot::locality`); only the counting is done here, and only while something is ejected.

use std::ops::Range;

use super::zones::Zones;

/// More than locality rules make of sensible settings; what lies beyond joins the last.
pub(crate) const MAX_LEVELS: usize = 64;
/// Envoy: `overprovisioning_factor`, in per cent.
const OVERPROVISIONING: u64 = 140;

/// Priorities of a cluster, from the highest. Each has endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Levels {
    pub(crate) levels: Box<[Level]>,
    /// Istio: `outlierDetection.minHealthPercent`; 0: no panic.
    pub(crate) panic_percent: u32,
    /// How the first level's groups share its load if not by their weights. Istio: `zoneAwareLbSetting`.
    pub(crate) zones: Option<Zones>,
}

/// One priority: a run of the cluster's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) range: Range<usize>,
    /// Localities that share the load by their own weights; none: all endpoints are equal.
    pub(crate) groups: Box<[Group]>,
    pub(crate) is_even: bool,
}

/// The endpoints of one locality in a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) range: Range<usize>,
    /// Relative.
    pub(crate) weight: u32,
    pub(crate) is_even: bool,
}

/// Endpoints of a level or group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) healthy: usize,
    pub(super) all: usize,
}

impl Count {
    /// Of the load that it could carry, in per cent.
    fn capacity(self) -> u64 {
        (OVERPROVISIONING * self.healthy as u64).checked_div(self.all as u64).map_or(0, |it| it.min(100))
    }

    /// What is left of a locality's weight, in units of 1/1000. Envoy: `effectiveLocalityWeight`.
    pub(super) fn weight(self, weight: u32) -> u64 {
        let health = (OVERPROVISIONING * 10 * self.healthy as u64).checked_div(self.all as u64);
        u64::from(weight) * health.map_or(0, |it| it.min(1000))
    }

    fn is_in_panic(self, percent: u32) -> bool {
        (self.healthy as u64) * 100 < u64::from(percent) * self.all as u64
    }
}

/// What each level gets, in per cent, and which ones use all their endpoints, healthy or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loads {
    percent: [u8; MAX_LEVELS],
    panics: u64,
}

impl Loads {
    /// `excluded` levels (a bit each) are left out as long as others are available.
    pub(super) fn new(counts: &[Count], panic_percent: u32, excluded: u64) -> Self {
        let mut loads = Self { percent: [0; MAX_LEVELS], panics: 0 };
        let total = capacity(counts, 0);
        if total < 100 && panic_percent > 0 {
            for (level, _) in counts.iter().enumerate().filter(|(_, it)| it.is_in_panic(panic_percent)) {
                loads.panics |= 1 << level;
            }
            if (0..counts.len()).all(|level| loads.panics(level)) {
                let all: usize = counts.iter().map(|count| count.all).sum();
                loads
                    .share(counts.iter().map(|count| (count.all * 100).checked_div(all).unwrap_or(0) as u64));
                return loads;
            }
        }
        let excluded = if capacity(counts, excluded) == 0 { 0 } else { excluded };
        let total = capacity(counts, excluded);
        loads.share(counts.iter().enumerate().map(|(level, count)| {
            if excluded & (1 << level) != 0 {
                0
            } else {
                (count.capacity() * 100).checked_div(total).unwrap_or(0)
            }
        }));
        loads
    }

    /// Each level takes what it wants while there is something left; what rounding leaves goes to the first that takes any.
    fn share(&mut self, wanted: impl Iterator<Item = u64>) {
        let (mut left, mut first) = (100, None);
        for (level, (percent, wanted)) in self.percent.iter_mut().zip(wanted).enumerate() {
            let taken = wanted.min(left);
            *percent = taken as u8;
            left -= taken;
            if wanted > 0 && first.is_none() {
                first = Some(level);
            }
        }
        // Nobody takes any: it will fail at the first.
        if let Some(percent) = self.percent.get_mut(first.unwrap_or(0)) {
            *percent += left as u8;
        }
    }

    /// The level for a draw.
    pub(super) fn level(&self, draw: u64) -> usize {
        let mut left = (draw % 100) as u8;
        for (level, &percent) in self.percent.iter().enumerate() {
            if left < percent {
                return level;
            }
            left -= percent;
        }
        0
    }

    pub(super) fn panics(&self, level: usize) -> bool {
        self.panics & (1 << level) != 0
    }
}

/// What levels that are not excluded can carry, in per cent.
pub(super) fn capacity(counts: &[Count], excluded: u64) -> u64 {
    let usable = counts.iter().enumerate().filter(|(level, _)| excluded & (1 << level) == 0);
    usable.map(|(_, count)| count.capacity()).sum::<u64>().min(100)
}

/// The levels that a retry leaves out (`retryRemoteLocalities`; Envoy: `previous_priorities` with an update frequency of 2):
/// those of the endpoints tried so far, looked at again after every second try; all are taken back once none is left.
/// `tried`: the levels of the tries, in order.
pub(super) fn excluded(counts: &[Count], tried: impl Iterator<Item = usize>) -> u64 {
    let (mut excluded, mut pending, mut tries) = (0u64, 0u64, 0u32);
    for level in tried {
        pending |= 1 << level.min(MAX_LEVELS - 1);
        tries += 1;
        if tries.is_multiple_of(2) {
            excluded |= pending;
            if capacity(counts, excluded) == 0 {
                (excluded, pending, tries) = (0, 0, 0);
            }
        }
    }
    excluded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(usize, usize)]) -> Vec<Count> {
        pairs.iter().map(|&(healthy, all)| Count { healthy, all }).collect()
    }

    fn percent(pairs: &[(usize, usize)], panic_percent: u32) -> (Vec<u8>, Vec<bool>) {
        let loads = Loads::new(&counts(pairs), panic_percent, 0);
        let panics = (0..pairs.len()).map(|level| loads.panics(level)).collect();
        (loads.percent.iter().copied().take(pairs.len()).collect(), panics)
    }

    #[test]
    fn what_a_level_cannot_carry_goes_to_the_next() {
        // The examples of Envoy's documentation on priority levels, and its limits.
        for (pairs, want) in [
            (&[(10, 10), (10, 10)][..], &[100, 0][..]),
            (&[(72, 100), (100, 100)], &[100, 0]),
            (&[(71, 100), (100, 100)], &[99, 1]),
            (&[(50, 100), (100, 100)], &[70, 30]),
            (&[(25, 100), (100, 100)], &[35, 65]),
            (&[(0, 100), (100, 100)], &[0, 100]),
            // 25 % and 25 %: each carries 35 of 70.
            (&[(25, 100), (25, 100)], &[50, 50]),
            (&[(25, 100), (0, 100), (25, 100)], &[50, 0, 50]),
            // What rounding leaves goes to the first.
            (&[(5, 100), (5, 100), (5, 100)], &[34, 33, 33]),
            (&[(1, 2), (0, 1), (3, 3)], &[70, 0, 30]),
        ] {
            assert_eq!(percent(pairs, 0).0, want, "{pairs:?}");
        }
    }

    #[test]
    fn without_a_threshold_there_is_no_panic_and_with_one_there_is() {
        let none = percent(&[(0, 4)], 0);
        assert_eq!(none, (vec![100], vec![false]));
        for (pairs, threshold, want) in [
            (&[(1, 4)][..], 50, &[true][..]),
            (&[(2, 4)], 50, &[false]),
            // As long as the levels carry the load together, none panics.
            (&[(1, 4), (4, 4)], 50, &[false, false]),
            (&[(1, 4), (2, 4)], 50, &[false, false]),
            (&[(1, 10), (3, 5)], 50, &[true, false]),
        ] {
            assert_eq!(percent(pairs, threshold).1, want, "{pairs:?}");
        }
    }

    #[test]
    fn when_all_panic_the_load_goes_by_size() {
        assert_eq!(percent(&[(0, 3), (0, 1)], 50), (vec![75, 25], vec![true, true]));
        assert_eq!(percent(&[(1, 10), (0, 2)], 50), (vec![84, 16], vec![true, true]));
    }

    #[test]
    fn a_draw_finds_its_level() {
        let loads = Loads::new(&counts(&[(25, 100), (100, 100)]), 0, 0);
        let mut seen = [0; 2];
        for draw in 0..100 {
            seen[loads.level(draw)] += 1;
        }
        assert_eq!(seen, [35, 65]);
    }

    #[test]
    fn after_two_tries_others_are_tried() {
        let healthy = counts(&[(2, 2), (2, 2), (2, 2)]);
        for (tried, want) in [
            (&[0][..], 0b000),
            (&[0, 0], 0b001),
            (&[0, 0, 1], 0b001),
            (&[0, 0, 1, 1], 0b011),
            // All have been tried: from the start again.
            (&[0, 0, 1, 1, 2, 2], 0b000),
            (&[0, 0, 1, 1, 2, 2, 0, 0], 0b001),
        ] {
            assert_eq!(excluded(&healthy, tried.iter().copied()), want, "{tried:?}");
        }
        // There is nobody else.
        assert_eq!(excluded(&counts(&[(2, 2), (0, 2)]), [0, 0].into_iter()), 0);
        let loads = Loads::new(&healthy, 0, 0b001);
        assert_eq!(loads.percent[..3], [0, 100, 0]);
    }
}
