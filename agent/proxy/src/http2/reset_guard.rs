//! Tells a rapid-reset attack (CVE-2023-44487) from a client that cancels now and then.
//!
//! The `h2` crate ends a connection whose streams are reset faster than they are accepted. A client that waits for a
//! stream to be accepted before it resets it gets past that, and each such stream may have cost an upstream request. So
//! the rule of Envoy's `overload.premature_reset_total_stream_count` is applied on top: once half of the streams have been
//! given up early, and there were enough of them to tell, the client is cut off.

use std::time::Duration;

/// Streams it takes to judge a client (Envoy's default).
const ENOUGH: u32 = 500;
/// A stream that lived longer was not a rapid one (Envoy's default).
pub(super) const PREMATURE: Duration = Duration::from_secs(1);

/// Counts the ended streams of one connection.
#[derive(Debug, Default)]
pub(super) struct ResetGuard {
    ended: u32,
    premature: u32,
}

impl ResetGuard {
    /// Counts a stream that ended; `premature` if the client reset it within [`PREMATURE`], before it got an answer.
    /// Whether the connection must be ended.
    pub(super) fn is_exceeded_by(&mut self, premature: bool) -> bool {
        self.ended = self.ended.saturating_add(1);
        self.premature = self.premature.saturating_add(u32::from(premature));
        // Below `ENOUGH`, as if the rest of them were still to end well.
        self.premature >= self.ended.max(ENOUGH).div_ceil(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_resets_every_stream_is_cut_off_at_half_of_enough() {
        let mut guard = ResetGuard::default();
        let tripped = (1..=1000).find(|_| guard.is_exceeded_by(true));
        assert_eq!(tripped, Some(250));
    }

    #[test]
    fn a_client_that_resets_every_second_stream_is_cut_off_when_there_were_enough() {
        let mut guard = ResetGuard::default();
        let tripped = (1..=1000).find(|number| guard.is_exceeded_by(number % 2 == 0));
        assert_eq!(tripped, Some(500));
    }

    #[test]
    fn a_client_that_resets_every_third_stream_may_go_on() {
        let mut guard = ResetGuard::default();
        assert!((0..100_000).all(|number| !guard.is_exceeded_by(number % 3 == 0)));
    }
}
