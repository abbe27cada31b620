//! How long to wait after a failure: longer each time, and by chance, so that the agents of a thousand nodes do not all come
//! back in the moment in which an API server does.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
}

impl Pace {
    /// It works again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure.
    pub(super) fn after_failure(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let longest = FIRST.saturating_mul(1 << (self.failures - 1).min(16)).min(LONGEST);
        spread(longest, chance())
    }
}

/// A duration near this one: from half of it to all of it.
pub(super) fn jittered(longest: Duration) -> Duration {
    spread(longest, chance())
}

fn spread(longest: Duration, chance: f64) -> Duration {
    longest.mul_f64(0.5 + chance / 2.0)
}

/// From 0 to 1. The standard library's only source of chance.
fn chance() -> f64 {
    RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_begin_anew_after_a_success() {
        let mut pace = Pace::default();
        for longest in [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000].map(Duration::from_millis) {
            let wait = pace.after_failure();
            assert!(wait >= longest / 2 && wait <= longest, "{wait:?} of {longest:?}");
        }
        for _ in 0..100 {
            assert!(pace.after_failure() <= LONGEST);
        }
        pace.reset();
        assert!(pace.after_failure() <= FIRST);
    }

    #[test]
    fn chance_is_within_its_bounds_and_not_always_the_same() {
        let all: Vec<f64> = (0..32).map(|_| chance()).collect();
        assert!(all.iter().all(|chance| (0.0..=1.0).contains(chance)));
        assert!(all.iter().any(|chance| *chance != all[0]));
    }
}
