//! Who of many writes: the holder of a Lease. Pure; the clock is the caller's.
//!
//! As in client-go, nobody compares the times of two machines: a lease counts as given up when its record has not changed for
//! as long as it was to last, by the watch of the one that looks.

use std::time::{Duration, Instant};

/// For how long a lease is held without being renewed.
pub(super) const DURATION: Duration = Duration::from_secs(30);
/// How often it is renewed, and looked at.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// What a lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Who holds it; empty: nobody.
    pub(super) holder: String,
    /// Changes with each renewal.
    pub(super) version: String,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// There is none: make one.
    Create,
    /// It is ours: renew it.
    Renew,
    /// Nobody renews it, or nobody holds it: take it.
    TakeOver,
    /// Somebody else's.
    Wait,
}

/// One that would like to write.
#[derive(Debug)]
pub(super) struct Candidate {
    identity: String,
    /// The record as it was last seen to change, and when.
    seen: Option<(Record, Instant)>,
}

impl Candidate {
    /// Under a name that no other candidate has.
    pub(super) fn new(identity: impl Into<String>) -> Self {
        Self { identity: identity.into(), seen: None }
    }

    /// Its name.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// What to do, the lease being `record`.
    pub(super) fn step(&mut self, record: Option<&Record>, now: Instant) -> Step {
        let Some(record) = record else {
            self.seen = None;
            return Step::Create;
        };
        let since = match &self.seen {
            Some((seen, since)) if seen == record => *since,
            _ => {
                self.seen = Some((record.clone(), now));
                now
            }
        };
        if record.holder == self.identity {
            Step::Renew
        } else if record.holder.is_empty() || now.saturating_duration_since(since) >= DURATION {
            Step::TakeOver
        } else {
            Step::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(holder: &str, version: &str) -> Record {
        Record { holder: holder.into(), version: version.into() }
    }

    #[test]
    fn a_lease_that_is_renewed_stays_with_its_holder_and_one_that_is_not_is_taken() {
        let mut b = Candidate::new("b");
        let start = Instant::now();
        assert_eq!(b.step(Some(&held("a", "1")), start), Step::Wait);
        let almost = start + DURATION - Duration::from_millis(1);
        assert_eq!(b.step(Some(&held("a", "1")), almost), Step::Wait);
        // A renewal counts from when it is seen.
        assert_eq!(b.step(Some(&held("a", "2")), almost), Step::Wait);
        assert_eq!(b.step(Some(&held("a", "2")), start + DURATION), Step::Wait);
        assert_eq!(b.step(Some(&held("a", "2")), almost + DURATION), Step::TakeOver);
        assert_eq!(b.step(Some(&held("b", "3")), almost + DURATION), Step::Renew);
    }

    #[test]
    fn one_that_nobody_holds_is_taken_at_once_and_one_that_is_not_there_is_made() {
        let mut b = Candidate::new("b");
        let now = Instant::now();
        assert_eq!(b.step(None, now), Step::Create);
        assert_eq!(b.step(Some(&held("", "1")), now), Step::TakeOver);
        assert_eq!(b.step(Some(&held("a", "2")), now), Step::Wait);
    }
}
