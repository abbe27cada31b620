//! Forwarding: pick, connect, attempt, judge, and again where the rule allows it.
//!
//! What a try needs to be repeated is in [`Tries`]; what it means that one failed is decided in one place, `failed`.

use std::rc::Rc;
use std::time::Instant;

use undermesh_core::cluster::{Availability, UpstreamProtocol};
use undermesh_core::edits::Edits;
use undermesh_core::route::{self, Facts, Route, TryOutcome};
use undermesh_core::view::ResponseView;

use crate::exchange::{AttemptError, ClientGone, Exchange, Judge, Limit, Limits, Verdict};
use crate::flags::ResponseFlags;
use crate::live::{ConnectError, EndpointPool, Permit, StreamSlot, permit};
use crate::local::{self, Local};
use crate::metrics::Counter;
use crate::outlet::Bound;
use crate::pool::Upstream;
use crate::request::{HttpPath, Plan};

impl HttpPath {
    /// Forwards, with retries.
    pub(crate) async fn forward<X: Exchange>(&self, plan: &mut Plan, bound: Rc<Bound>, exchange: &mut X) {
        let cluster = bound.cluster.clone();
        let record = &mut plan.record;
        record.towards(bound.clone(), None);
        match &cluster.availability {
            Availability::Known => {}
            Availability::Missing(_) => return self.answer(record, &local::NO_CLUSTER, exchange).await,
            Availability::Refused(_) => return self.answer(record, &local::CLUSTER_REFUSED, exchange).await,
        }
        let outlet = record.outlet().clone();
        let route = record.decision.route.and_then(|index| outlet.http().route(index));
        let limits = Limits {
            per_try: route.and_then(|route| route.retries.per_try_timeout),
            route: route.and_then(|route| route.timeout),
        };
        let pool = &cluster.policy.connection_pool;
        let Some(_active) = permit(&bound.neighbour.gauges, |gauges| &gauges.requests, pool.max_requests)
        else {
            return self.answer(record, &local::OVERFLOW, exchange).await;
        };
        let mut tries = Tries { left: route.map_or(0, |route| route.retries.attempts), ..Tries::default() };
        loop {
            let outcome = self.attempt(plan, &bound, route, limits, &mut tries, exchange).await;
            let record = &mut plan.record;
            match outcome {
                Attempt::Relay(_busy) => {
                    let transfer = exchange.relay(limits).await;
                    return plan.record.finish(transfer);
                }
                Attempt::ClientGone => return,
                Attempt::Stale => {}
                Attempt::Retry => {
                    self.worker.shard.count(Counter::Retries);
                    if self.back_off(route, &mut tries, limits, exchange).await.is_err() {
                        return;
                    }
                }
                Attempt::Failed(failure) => {
                    if tries.made > 1 && tries.is_exhausted {
                        record.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                    }
                    return self.answer(record, &failure, exchange).await;
                }
            }
        }
    }

    /// One try: pick, connect, send, wait for a head.
    async fn attempt<X: Exchange>(
        &self,
        plan: &mut Plan,
        bound: &Rc<Bound>,
        route: Option<&Route>,
        limits: Limits,
        tries: &mut Tries,
        exchange: &mut X,
    ) -> Attempt {
        let endpoint = match tries.same_endpoint.take() {
            Some(endpoint) => Some(endpoint),
            None => {
                let avoid: &[usize] = match route {
                    Some(route) if route.retries.ignore_previous_hosts => &tries.endpoints,
                    _ => &[],
                };
                bound.pick(avoid, &mut *self.worker.rng.borrow_mut())
            }
        };
        let Some(endpoint) = endpoint else {
            return Attempt::Failed(local::NO_HEALTHY_UPSTREAM);
        };
        let Some(pool) = bound.pools.get(endpoint).cloned() else {
            return Attempt::Failed(local::NO_HEALTHY_UPSTREAM);
        };
        plan.record.towards(bound.clone(), Some(endpoint));
        if !tries.is_stale_repeat {
            tries.made += 1;
        }
        // In a cluster of one there is nobody else to send a retry to, and nothing to remember.
        if tries.left > 0 && bound.pools.len() > 1 {
            tries.endpoints.push(endpoint);
        }
        let settings = &bound.cluster.policy.connection_pool;
        let fresh = std::mem::take(&mut tries.is_stale_repeat);
        let mut busy = Busy::new(pool.clone());
        let connected = match plan.upstream {
            UpstreamProtocol::Http1 => pool.http1(settings, fresh).await.map(Upstream::Http1),
            UpstreamProtocol::Http2 => pool.http2(settings).await.map(|(requests, slot)| {
                busy.slot = Some(slot);
                Upstream::Http2(requests)
            }),
        };
        let upstream = match connected {
            Ok(upstream) => upstream,
            Err(error) => {
                let (local, outcome) = match error {
                    ConnectError::Overflow => return Attempt::Failed(local::OVERFLOW),
                    ConnectError::Failed(_) => (local::CONNECT_FAILED, TryOutcome::ConnectFailure),
                    ConnectError::TimedOut => (local::CONNECT_TIMED_OUT, TryOutcome::ConnectFailure),
                };
                return self.failed(bound, route, tries, exchange, local, outcome);
            }
        };
        let sent = Instant::now();
        let may_retry = tries.left > 0;
        let mut judge = Response { facts: self.facts(), plan, route, may_retry, sent, wanted_retry: false };
        let result = exchange.attempt(upstream, tries.made, limits, &mut judge).await;
        let wanted_retry = judge.wanted_retry;
        let (local, outcome) = match result {
            Ok(Verdict::Relay) => {
                if wanted_retry && tries.made > 1 {
                    plan.record.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                }
                return Attempt::Relay(busy);
            }
            Ok(Verdict::Retry) => {
                return self.take_retry(bound, tries).map_or(
                    // The budget is spent, and the response is gone: say what it was.
                    Attempt::Failed(local::OVERFLOW),
                    |()| Attempt::Retry,
                );
            }
            Err(AttemptError::ClientGone) => return Attempt::ClientGone,
            Err(AttemptError::ClientProtocol) => return Attempt::Failed(local::BAD_REQUEST),
            Err(AttemptError::Reset { reused: true, .. })
                if !tries.was_stale && plan.is_idempotent && exchange.is_replayable() =>
            {
                self.worker.shard.count(Counter::UpstreamStale);
                // Once: a second failure, on a new connection, is the endpoint's.
                tries.was_stale = true;
                tries.is_stale_repeat = true;
                tries.same_endpoint = Some(endpoint);
                return Attempt::Stale;
            }
            Err(AttemptError::Reset { refused: true, .. }) => {
                (local::REFUSED_STREAM, TryOutcome::RefusedStream)
            }
            Err(AttemptError::Reset { .. }) => (local::RESET, TryOutcome::Reset { request_sent: true }),
            Err(AttemptError::UpstreamProtocol) => {
                (local::UPSTREAM_PROTOCOL, TryOutcome::Reset { request_sent: true })
            }
            Err(AttemptError::Timeout(Limit::Route)) => return Attempt::Failed(local::TIMED_OUT),
            Err(AttemptError::Timeout(Limit::PerTry)) => {
                (local::PER_TRY_TIMED_OUT, TryOutcome::PerTryTimeout)
            }
        };
        self.failed(bound, route, tries, exchange, local, outcome)
    }

    /// What a failed try means: another one, or the answer.
    fn failed<X: Exchange>(
        &self,
        bound: &Rc<Bound>,
        route: Option<&Route>,
        tries: &mut Tries,
        exchange: &X,
        local: Local,
        outcome: TryOutcome,
    ) -> Attempt {
        let retriable = route.is_some_and(|route| route.retries.should_retry(&outcome));
        if !retriable {
            return Attempt::Failed(local);
        }
        if tries.left == 0 {
            tries.is_exhausted = true;
            return Attempt::Failed(local);
        }
        if exchange.is_replayable() && self.take_retry(bound, tries).is_some() {
            return Attempt::Retry;
        }
        Attempt::Failed(local)
    }

    /// Takes one retry from the request's and the cluster's budget.
    fn take_retry(&self, bound: &Bound, tries: &mut Tries) -> Option<()> {
        let max = bound.cluster.policy.connection_pool.max_retries;
        if tries.permit.is_none() {
            tries.permit = permit(&bound.neighbour.gauges, |gauges| &gauges.retries, max);
        }
        if tries.permit.is_none() {
            self.worker.shard.count(Counter::RetriesOverflowed);
            return None;
        }
        tries.left = tries.left.checked_sub(1)?;
        Some(())
    }

    async fn back_off<X: Exchange>(
        &self,
        route: Option<&Route>,
        tries: &mut Tries,
        limits: Limits,
        exchange: &mut X,
    ) -> Result<(), ClientGone> {
        let Some(route) = route else { return Ok(()) };
        let wait = route.retries.back_off.delay(tries.made, &mut *self.worker.rng.borrow_mut());
        let mut until = Instant::now() + wait;
        if let (Some(limit), Some(ended)) = (limits.route, exchange.request_ended()) {
            until = until.min(ended + limit);
        }
        exchange.pause(until).await
    }
}

/// How a try ended.
enum Attempt {
    /// There is a response for the client; the endpoint is busy with it until its end.
    Relay(Busy),
    /// Try again after a back-off.
    Retry,
    /// A pooled connection was stale: try again at once, on a new one; it does not count.
    Stale,
    /// Answer with this.
    Failed(Local),
    /// Nobody is left to answer.
    ClientGone,
}

#[derive(Default)]
struct Tries {
    /// Attempts made.
    made: u32,
    /// Retries left.
    left: u32,
    /// A retry was due and none was left.
    is_exhausted: bool,
    /// The endpoints tried.
    endpoints: Vec<usize>,
    is_stale_repeat: bool,
    was_stale: bool,
    same_endpoint: Option<usize>,
    /// One unit of the cluster's concurrent retries.
    permit: Option<Permit>,
}

/// Counts a request as in progress at an endpoint, and on its HTTP/2 connection.
struct Busy {
    pool: Rc<EndpointPool>,
    slot: Option<StreamSlot>,
}

impl Busy {
    fn new(pool: Rc<EndpointPool>) -> Self {
        pool.active.set(pool.active.get() + 1);
        Self { pool, slot: None }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.pool.active.set(self.pool.active.get().saturating_sub(1));
    }
}

/// Judges response heads.
struct Response<'a> {
    facts: Facts<'a>,
    plan: &'a mut Plan,
    route: Option<&'a Route>,
    may_retry: bool,
    sent: Instant,
    /// The policy would have tried again.
    wanted_retry: bool,
}

impl Judge for Response<'_> {
    fn judge(&mut self, head: &impl ResponseView, is_replayable: bool, edits: &mut Edits) -> Verdict {
        let grpc_status = head.header("grpc-status").and_then(number);
        let outcome = TryOutcome::response(head);
        self.wanted_retry = self.route.is_some_and(|route| route.retries.should_retry(&outcome));
        if self.wanted_retry && self.may_retry && is_replayable {
            return Verdict::Retry;
        }
        let record = &mut self.plan.record;
        record.status = head.status();
        record.grpc_status = grpc_status;
        record.details = "via_upstream";
        let time = self.sent.elapsed();
        record.upstream_time = Some(time);
        let outlet = record.outlet();
        route::response_edits(outlet.http(), &record.decision, Some(head), &self.facts, edits);
        if head.header("x-envoy-upstream-service-time").is_none() {
            let mut text = itoa(time.as_millis() as u64);
            edits.add("x-envoy-upstream-service-time", text.digits());
        }
        Verdict::Relay
    }
}

/// Decimal digits on the stack.
struct Digits {
    bytes: [u8; 20],
    start: usize,
}

impl Digits {
    fn digits(&mut self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

fn itoa(mut value: u64) -> Digits {
    let mut digits = Digits { bytes: [0; 20], start: 20 };
    loop {
        digits.start -= 1;
        digits.bytes[digits.start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return digits;
        }
    }
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
