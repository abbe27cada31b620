//! Warm-up: an endpoint that has just come gets little at first and its whole share at the end of a window (Envoy: slow start).

use std::time::Duration;

use crate::policy::Warmup;

/// One whole share.
pub(super) const WHOLE: u64 = 1 << 10;

/// What an endpoint of this age weighs, of [`WHOLE`]: `max(minimum, (age / duration)^(1 / aggression))`.
pub(super) fn factor(warmup: &Warmup, age: Duration) -> u64 {
    if age >= warmup.duration {
        return WHOLE;
    }
    // Envoy counts an age below a millisecond as one.
    let time = age.max(Duration::from_millis(1)).as_secs_f64() / warmup.duration.as_secs_f64();
    let share = time.powf(1.0 / warmup.aggression).max(warmup.minimum_percent / 100.0).min(1.0);
    ((share * WHOLE as f64) as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_the_minimum_to_all() {
        let warmup = |minimum_percent, aggression| Warmup {
            duration: Duration::from_secs(100),
            minimum_percent,
            aggression,
        };
        for (warmup, seconds, want) in [
            (warmup(10.0, 1.0), 0, 0.1),
            (warmup(10.0, 1.0), 5, 0.1),
            (warmup(10.0, 1.0), 50, 0.5),
            (warmup(10.0, 1.0), 99, 0.99),
            (warmup(10.0, 1.0), 100, 1.0),
            (warmup(10.0, 1.0), 5000, 1.0),
            (warmup(0.0, 1.0), 0, 0.0),
            (warmup(50.0, 1.0), 25, 0.5),
            // Larger: more of it sooner.
            (warmup(10.0, 2.0), 25, 0.5),
            (warmup(100.0, 1.0), 0, 1.0),
        ] {
            let got = factor(&warmup, Duration::from_secs(seconds)) as f64 / WHOLE as f64;
            assert!((got - want).abs() < 0.002, "{warmup:?} at {seconds} s: {got}, want {want}");
        }
    }
}
