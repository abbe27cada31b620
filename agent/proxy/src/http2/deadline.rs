//! The time limits of one attempt.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

use crate::exchange::{Limit, Limits};

/// Runs from the end of the request (`Limits`), which may be later than the attempt's start.
#[derive(Debug)]
pub(super) struct Deadline {
    limits: Limits,
    /// When the attempt began.
    started: Instant,
    sleep: Option<(Pin<Box<Sleep>>, Limit)>,
}

impl Deadline {
    /// For an attempt that begins now.
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, started: tokio::time::Instant::now().into_std(), sleep: None }
    }

    /// Ready with the limit that passed. `ended`: when the request had been received whole.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, ended: Option<Instant>) -> Poll<Limit> {
        if self.sleep.is_none()
            && let Some(ended) = ended
            && let Some((at, limit)) = earliest(self.limits, self.started, ended)
        {
            self.sleep = Some((Box::pin(sleep_until(at.into())), limit));
        }
        match &mut self.sleep {
            Some((sleep, limit)) => sleep.as_mut().poll(cx).map(|()| *limit),
            None => Poll::Pending,
        }
    }
}

/// The limit that passes first; one too far away to be told is none.
fn earliest(limits: Limits, started: Instant, ended: Instant) -> Option<(Instant, Limit)> {
    let route = limits.route.and_then(|limit| ended.checked_add(limit)).map(|at| (at, Limit::Route));
    // A second attempt begins after the request ended, and has a time of its own.
    let per_try =
        limits.per_try.and_then(|limit| started.max(ended).checked_add(limit)).map(|at| (at, Limit::PerTry));
    match (route, per_try) {
        (Some(route), Some(per_try)) => Some(if per_try.0 < route.0 { per_try } else { route }),
        (route, per_try) => route.or(per_try),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn limits_run_from_the_end_of_the_request_and_a_try_from_its_own_start() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let limits = |per_try: Option<u64>, route: Option<u64>| Limits {
            per_try: per_try.map(Duration::from_secs),
            route: route.map(Duration::from_secs),
        };
        let cases = [
            ("none", limits(None, None), 0, 0, None),
            ("route", limits(None, Some(5)), 0, 2, Some((7, Limit::Route))),
            ("first try, slow upload", limits(Some(1), Some(5)), 0, 2, Some((3, Limit::PerTry))),
            ("later try", limits(Some(1), Some(5)), 3, 2, Some((4, Limit::PerTry))),
            ("last try, cut by the route", limits(Some(1), Some(5)), 7, 2, Some((7, Limit::Route))),
            ("the same moment", limits(Some(5), Some(5)), 2, 2, Some((7, Limit::Route))),
        ];
        for (name, limits, started, ended, want) in cases {
            let got = earliest(limits, after(started), after(ended));
            assert_eq!(got, want.map(|(at, limit)| (after(at), limit)), "{name}");
        }
    }

    #[test]
    fn a_limit_beyond_the_clock_is_none() {
        let limits = Limits { per_try: Some(Duration::MAX), route: Some(Duration::MAX) };
        assert_eq!(earliest(limits, Instant::now(), Instant::now()), None);
    }
}
