//! Forwarding: pick, connect, attempt, judge, and again where the rule allows it.
//!
//! What a try needs to be repeated is in [`Tries`]; what it means that one failed is decided in one place, `failed`. Each try
//! is reported to outlier detection as Envoy's router does: connections, heads, resets and time-outs.

use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use undermesh_core::balance::Ask;
use undermesh_core::cluster::{Availability, UpstreamProtocol};
use undermesh_core::edits::Edits;
use undermesh_core::outlier::Sign;
use undermesh_core::route::{self, Facts, Route, TryOutcome};
use undermesh_core::view::ResponseView;

use crate::digits::Digits;
use crate::exchange::{AttemptError, End, Exchange, Judge, Limit, Limits, Verdict};
use crate::flags::ResponseFlags;
use crate::live::{ConnectError, EndpointPool, Permit, StreamSlot, permit};
use crate::local::{self, Local};
use crate::metrics::{Counter, Shard};
use crate::outlet::Bound;
use crate::pool::Upstream;
use crate::request::{HttpPath, Plan};
use crate::worker::Worker;

impl HttpPath {
    /// Forwards, with retries.
    pub(crate) async fn forward<X: Exchange>(&self, plan: &mut Plan, bound: Rc<Bound>, exchange: &mut X) {
        let bound = if bound.is_pending() {
            let outlet = plan.record.outlet().clone();
            Box::pin(self.caller.settled(&outlet, bound)).await
        } else {
            bound
        };
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
        let limits =
            Limits { per_try: route.and_then(|route| route.retries.per_try_timeout), route: plan.timeout };
        let pool = &cluster.policy.connection_pool;
        let Some(_active) = permit(&bound.neighbour.gauges, |gauges| &gauges.requests, pool.max_requests)
        else {
            return self.answer(record, &local::OVERFLOW, exchange).await;
        };
        if let Some(mirroring) = plan.mirroring.take().filter(|_| !bound.pools.is_empty()) {
            mirroring.start(&self.worker, limits.route);
        }
        let mut tries = Tries { left: route.map_or(0, |route| route.retries.attempts), ..Tries::default() };
        loop {
            let mut outcome = self.attempt(plan, &bound, route, limits, &mut tries, exchange).await;
            if matches!(outcome, Attempt::Retry) {
                self.worker.shard.count(Counter::Retries);
                match self.back_off(&bound, route, &tries, limits, exchange).await {
                    Ok(()) => continue,
                    Err(end) => outcome = end,
                }
            }
            match outcome {
                Attempt::Relay(_busy) => {
                    let transfer = exchange.relay(limits).await;
                    if transfer.end == End::UpstreamReset {
                        bound.report(&self.worker.shard, tries.endpoint, Sign::Failed);
                    }
                    return plan.record.finish(transfer);
                }
                Attempt::ClientGone => return,
                Attempt::Stale | Attempt::Retry => {}
                Attempt::Failed(failure) => return self.answer(&mut plan.record, &failure, exchange).await,
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
        if bound.is_unprepared()
            && let Err(end) = Box::pin(in_time(bound.prepare(), limits, exchange)).await
        {
            return end;
        }
        let endpoint = match tries.same_endpoint.take() {
            Some(endpoint) => Some(endpoint),
            None => {
                let policy = route.map(|route| &route.retries);
                let ask = Ask {
                    hash: plan.hashed.as_ref().map(|hashed| hashed.hash),
                    tried: &tries.endpoints,
                    avoids_tried: policy.is_some_and(|policy| {
                        let is_hashed = bound.cluster.policy.consistent_hash.is_some();
                        policy.ignore_previous_hosts.unwrap_or(!is_hashed)
                    }),
                    leaves_tried: policy.is_some_and(|policy| policy.remote_localities),
                };
                bound.pick(&ask, &mut *self.worker.rng.borrow_mut())
            }
        };
        let Some(endpoint) = endpoint else {
            return Attempt::Failed(local::NO_HEALTHY_UPSTREAM);
        };
        let Some(pool) = bound.pools.get(endpoint).cloned() else {
            return Attempt::Failed(local::NO_HEALTHY_UPSTREAM);
        };
        plan.record.towards(bound.clone(), Some(endpoint));
        tries.endpoint = endpoint;
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
        let pool = match bound.cluster.policy.proxy_protocol {
            Some(version) => {
                let source = self.caller.source_ip(self.peer, self.target);
                self.private.pool(&pool, version, source, self.peer)
            }
            None => pool,
        };
        let shard = &self.worker.shard;
        // In a block of their own, so that the future has no room for them while it waits for an answer.
        let upstream = {
            let idle = match plan.upstream {
                UpstreamProtocol::Http1 if !fresh => pool.idle_http1(settings),
                UpstreamProtocol::Http1 | UpstreamProtocol::Http2 => None,
            };
            let connected = match idle {
                Some(leased) => {
                    plan.record.upstream_local = leased.local;
                    Ok(Ok(Upstream::Http1(leased.lease)))
                }
                None => {
                    let connect = async {
                        Ok(match plan.upstream {
                            UpstreamProtocol::Http1 => {
                                let leased = pool.http1(settings, fresh).await?;
                                plan.record.upstream_local = leased.local;
                                Upstream::Http1(leased.lease)
                            }
                            UpstreamProtocol::Http2 => {
                                let stream = pool.http2(settings).await?;
                                plan.record.upstream_local = stream.local;
                                busy.slot = Some(stream.slot);
                                Upstream::Http2(stream.requests)
                            }
                        })
                    };
                    // Boxed: it is large, and its size would count for every idle connection.
                    Box::pin(in_time(connect, limits, exchange)).await
                }
            };
            match connected {
                Ok(Ok(upstream)) => upstream,
                Ok(Err(error)) => {
                    let (local, outcome, sign) = match error {
                        ConnectError::Overflow => return Attempt::Failed(local::OVERFLOW),
                        ConnectError::Failed(_) => {
                            (local::CONNECT_FAILED, TryOutcome::ConnectFailure, Sign::Failed)
                        }
                        ConnectError::TimedOut => {
                            (local::CONNECT_TIMED_OUT, TryOutcome::ConnectFailure, Sign::TimedOut)
                        }
                    };
                    bound.report(shard, endpoint, sign);
                    return self.failed(plan, bound, route, tries, exchange, local, outcome);
                }
                Err(end) => return end,
            }
        };
        let sent = Instant::now();
        bound.begin_try(sent);
        bound.report(shard, endpoint, Sign::Connected);
        let number = tries.made;
        let worker = &self.worker;
        let mut judge = Response { facts: self.facts(), worker, plan, bound, route, tries, sent };
        let result = exchange.attempt(upstream, number, limits, &mut judge).await;
        let (local, outcome, sign) = match result {
            Ok(Verdict::Relay) => return Attempt::Relay(busy),
            Ok(Verdict::Retry) => return Attempt::Retry,
            Err(AttemptError::ClientGone) => return Attempt::ClientGone,
            Err(AttemptError::ClientProtocol) => return Attempt::Failed(local::BAD_REQUEST),
            // What was refused was not looked at: it may go out again whatever it is.
            Err(AttemptError::Reset { reused: true, refused })
                if !tries.was_stale && (refused || plan.is_idempotent) && exchange.is_replayable() =>
            {
                self.worker.shard.count(Counter::UpstreamStale);
                // Once: a second failure, on a new connection, is the endpoint's.
                tries.was_stale = true;
                tries.is_stale_repeat = true;
                tries.same_endpoint = Some(endpoint);
                return Attempt::Stale;
            }
            Err(AttemptError::Reset { refused: true, .. }) => {
                (local::REFUSED_STREAM, TryOutcome::RefusedStream, Sign::Failed)
            }
            Err(AttemptError::Reset { .. }) => {
                (local::RESET, TryOutcome::Reset { request_sent: true }, Sign::Failed)
            }
            Err(AttemptError::UpstreamProtocol) => {
                (local::UPSTREAM_PROTOCOL, TryOutcome::Reset { request_sent: true }, Sign::Failed)
            }
            Err(AttemptError::Timeout(Limit::Route)) => {
                bound.report(shard, endpoint, Sign::TimedOut);
                return Attempt::Failed(local::TIMED_OUT);
            }
            Err(AttemptError::Timeout(Limit::PerTry)) => {
                (local::PER_TRY_TIMED_OUT, TryOutcome::PerTryTimeout, Sign::TimedOut)
            }
        };
        bound.report(shard, endpoint, sign);
        self.failed(plan, bound, route, tries, exchange, local, outcome)
    }

    /// What a failed try means: another one, or the answer.
    #[expect(clippy::too_many_arguments, reason = "a try's whole context, known in one place")]
    fn failed<X: Exchange>(
        &self,
        plan: &mut Plan,
        bound: &Bound,
        route: Option<&Route>,
        tries: &mut Tries,
        exchange: &X,
        local: Local,
        outcome: TryOutcome,
    ) -> Attempt {
        tries.permit = None;
        let wants_retry = route.is_some_and(|route| route.retries.should_retry(&outcome));
        if wants_retry && exchange.is_replayable() {
            match tries.take_retry(bound, &self.worker.shard) {
                Ok(()) => return Attempt::Retry,
                Err(why) => plan.record.flags.insert(why),
            }
        }
        Attempt::Failed(local)
    }

    async fn back_off<X: Exchange>(
        &self,
        bound: &Bound,
        route: Option<&Route>,
        tries: &Tries,
        limits: Limits,
        exchange: &mut X,
    ) -> Result<(), Attempt> {
        let Some(route) = route else { return Ok(()) };
        let wait = route.retries.back_off.delay(tries.made, &mut *self.worker.rng.borrow_mut());
        let _waiting = permit(&bound.neighbour.gauges, |gauges| &gauges.backing_off, u32::MAX);
        in_time(tokio::time::sleep(wait), limits, exchange).await
    }
}

/// How long the client is watched before it is asked again whether its request has ended.
const LONG: Duration = Duration::from_secs(3600);

/// What `work` comes to, unless the client leaves or the route's time is over first.
async fn in_time<X: Exchange, T>(
    work: impl Future<Output = T>,
    limits: Limits,
    exchange: &mut X,
) -> Result<T, Attempt> {
    let end = async {
        loop {
            let now = Instant::now();
            // The time begins with the request's end: until then it is over no earlier than if it began now.
            let until = match limits.route {
                Some(limit) => exchange.request_ended().unwrap_or(now).checked_add(limit),
                None => None,
            };
            let until = until.unwrap_or(now + LONG);
            if until <= now {
                return Attempt::Failed(local::TIMED_OUT);
            }
            if exchange.pause(until).await.is_err() {
                return Attempt::ClientGone;
            }
        }
    };
    tokio::select! {
        // A connection that is there already costs no look at the clock.
        biased;
        done = work => Ok(done),
        end = end => Err(end),
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
    /// Where the newest one went.
    endpoint: usize,
    /// The endpoints tried.
    endpoints: Vec<usize>,
    is_stale_repeat: bool,
    was_stale: bool,
    same_endpoint: Option<usize>,
    /// One unit of the cluster's concurrent retries: from the decision to try again until that try's outcome is known.
    permit: Option<Permit>,
}

impl Tries {
    /// Takes one retry from the request's and the cluster's budget, or says why there is none.
    fn take_retry(&mut self, bound: &Bound, shard: &Shard) -> Result<(), ResponseFlags> {
        let left = self.left.checked_sub(1).ok_or(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED)?;
        self.left = left;
        self.permit = permit(&bound.neighbour.gauges, |gauges| &gauges.retries, bound.retry_limit());
        if self.permit.is_none() {
            shard.count(Counter::RetriesOverflowed);
            return Err(ResponseFlags::UPSTREAM_OVERFLOW);
        }
        Ok(())
    }
}

/// Counts a request as in progress at an endpoint, and on its HTTP/2 connection.
pub(crate) struct Busy {
    pool: Rc<EndpointPool>,
    pub slot: Option<StreamSlot>,
}

impl Busy {
    pub(crate) fn new(pool: Rc<EndpointPool>) -> Self {
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
    worker: &'a Worker,
    plan: &'a mut Plan,
    bound: &'a Bound,
    route: Option<&'a Route>,
    tries: &'a mut Tries,
    sent: Instant,
}

impl Judge for Response<'_> {
    fn judge(&mut self, head: &impl ResponseView, is_replayable: bool, edits: &mut Edits) -> Verdict {
        let grpc_status = head.header("grpc-status").and_then(number);
        let record = &mut self.plan.record;
        let sign =
            Sign::Answered { status: head.status(), grpc_status: grpc_status.filter(|_| record.is_grpc) };
        self.bound.report(&self.worker.shard, self.tries.endpoint, sign);
        self.tries.permit = None;
        let outcome = TryOutcome::response(head);
        if is_replayable && self.route.is_some_and(|route| route.retries.should_retry(&outcome)) {
            match self.tries.take_retry(self.bound, &self.worker.shard) {
                Ok(()) => return Verdict::Retry,
                Err(why) => record.flags.insert(why),
            }
        }
        record.status = head.status();
        record.grpc_status = grpc_status;
        record.details = "via_upstream";
        let time = self.sent.elapsed();
        record.upstream_time = Some(time);
        let digits = Digits::of(time.as_millis() as u64);
        // What we measured counts, not what a proxy behind us did.
        match head.header(SERVICE_TIME) {
            None => edits.add(SERVICE_TIME, digits.as_bytes()),
            Some(_) => edits.set(SERVICE_TIME, digits.as_bytes()),
        }
        // RFC 9110 section 6.6.1: whoever passes a response on gives it a date.
        if head.header("date").is_none() && head.status() >= 200 {
            edits.add("date", &self.worker.date());
        }
        let outlet = record.outlet();
        route::response_edits(outlet.http(), &record.decision, Some(head), &self.facts, edits);
        record.add_cors(edits);
        if let Some(cookie) = self.plan.hashed.as_ref().and_then(|hashed| hashed.set_cookie.as_ref()) {
            edits.add("set-cookie", cookie.as_bytes());
        }
        Verdict::Relay
    }
}

const SERVICE_TIME: &str = "x-envoy-upstream-service-time";

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
