//! Retry budget: how many retries a cluster may have at once, relative to its requests (Istio: `retryBudget`; Envoy:
//! `RetryBudgetImpl`). It takes the place of `connectionPool.http.maxRetries`.
//!
//! Requests are those in progress or, with a `budgetInterval`, those begun within it. The latter are counted in ten slots
//! that each hold their own time, so that any worker counts without a lock and none has to tidy up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::policy::RetryBudget;

impl RetryBudget {
    /// How many retries may be in progress when so many requests are.
    pub fn allows(&self, requests: u64) -> u32 {
        // The cast rounds down and stops at the ends, as wanted.
        let share = (self.percent / 100.0 * requests as f64) as u32;
        share.max(self.min_retry_concurrency)
    }
}

const SLOTS: u32 = 10;

/// Requests of the last `budgetInterval`, give or take a tenth.
#[derive(Debug)]
pub struct Window {
    start: Instant,
    slot: Duration,
    /// The slot's number since the start in the upper half, its requests in the lower.
    slots: [AtomicU64; SLOTS as usize],
}

impl Window {
    /// `None` without an interval.
    pub fn new(interval: Duration, now: Instant) -> Option<Self> {
        let slot = interval / SLOTS;
        (!slot.is_zero()).then(|| Self { start: now, slot, slots: Default::default() })
    }

    /// Whether it counts over `interval`.
    pub fn is_of(&self, interval: Duration) -> bool {
        self.slot == interval / SLOTS
    }

    /// Counts a request.
    pub fn count(&self, now: Instant) {
        let number = self.number(now);
        let Some(slot) = self.slots.get((number % SLOTS) as usize) else { return };
        let grown = |value: u64| {
            let (of, count) = split(value);
            // A slot of an earlier round starts anew.
            let count = if of == number { count.saturating_add(1) } else { 1 };
            Some(u64::from(number) << 32 | u64::from(count))
        };
        // `grown` never declines.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
    }

    /// The requests of the interval that ends `now`.
    pub fn requests(&self, now: Instant) -> u64 {
        let number = self.number(now);
        let counted = |slot: &AtomicU64| {
            let (of, count) = split(slot.load(Ordering::Relaxed));
            if number.wrapping_sub(of) < SLOTS { u64::from(count) } else { 0 }
        };
        self.slots.iter().map(counted).sum()
    }

    /// Begins again after 2^32 slots: five days of the shortest ones.
    fn number(&self, now: Instant) -> u32 {
        (now.saturating_duration_since(self.start).as_nanos() / self.slot.as_nanos().max(1)) as u32
    }
}

fn split(value: u64) -> (u32, u32) {
    ((value >> 32) as u32, value as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_share_of_the_requests_rounded_down_but_never_less_than_its_minimum() {
        for (percent, minimum, requests, want) in [
            (20.0, 3, 0, 3),
            (20.0, 3, 15, 3),
            (20.0, 3, 19, 3),
            (20.0, 3, 20, 4),
            (20.0, 3, 24, 4),
            (0.0, 1, 1000, 1),
            (100.0, 1, 7, 7),
            (0.5, 0, 199, 0),
            (0.5, 0, 200, 1),
        ] {
            let budget =
                RetryBudget { percent, min_retry_concurrency: minimum, budget_interval: Duration::ZERO };
            assert_eq!(budget.allows(requests), want, "{percent} % of {requests}, at least {minimum}");
        }
    }

    #[test]
    fn a_window_counts_its_interval_and_no_more() {
        let start = Instant::now();
        let window = Window::new(Duration::from_secs(10), start).unwrap();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for second in 0..10 {
            window.count(at(second));
            assert_eq!(window.requests(at(second)), second + 1);
        }
        assert_eq!(window.requests(at(10)), 9, "the first has left");
        assert_eq!(window.requests(at(18)), 1);
        assert_eq!(window.requests(at(19)), 0);
        window.count(at(35));
        assert_eq!(window.requests(at(35)), 1, "a slot of an earlier round starts anew");
        assert_eq!(window.requests(at(500)), 0);
    }

    #[test]
    fn a_window_that_lasts_longer_than_its_slots_have_numbers_still_forgets() {
        let start = Instant::now();
        let window = Window::new(Duration::from_millis(1), start).unwrap();
        let later = start + Duration::from_millis(1 << 32) / 10;
        for number in 0..40u32 {
            let at = later + Duration::from_millis(1) * number;
            window.count(at);
            assert_eq!(window.requests(at), 1, "{number}");
        }
    }

    #[test]
    fn without_an_interval_there_is_no_window() {
        assert!(Window::new(Duration::ZERO, Instant::now()).is_none());
        assert!(
            Window::new(Duration::from_secs(1), Instant::now())
                .is_some_and(|it| it.is_of(Duration::from_secs(1)))
        );
    }
}
