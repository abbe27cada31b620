//! Sending one copy: pick, connect, send, read the answer away. Whatever goes wrong, only a counter tells, and outlier
//! detection, which learns of copies as of requests (in Envoy the same router sends both).

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::HeaderValue;
use http::header::CONTENT_TYPE;
use undermesh_core::balance::Ask;
use undermesh_core::cluster::{Availability, Discovery, UpstreamProtocol};
use undermesh_core::outlier::Sign;

use super::Target;
use super::copy::{Copy, Loss};
use crate::forward::Busy;
use crate::http2::{Attempt, Head};
use crate::live::{ConnectError, permit};
use crate::metrics::Counter;
use crate::pool::Upstream;
use crate::proxy_protocol::OfOurs;
use crate::worker::Worker;

/// Copies under way at a time from one client to one cluster, all workers together; the limits of the mirror's
/// `connectionPool` count besides.
pub(crate) const MAX_COPIES: u32 = 1024;

/// Sends a copy. `limit` runs from the end of the request, which may take as long as its client likes.
pub(super) async fn send(worker: Rc<Worker>, target: Target, copy: Copy, limit: Duration) {
    let overdue = async {
        poll_fn(|cx| copy.poll_ended(cx)).await;
        tokio::time::sleep(limit).await;
    };
    let asked = Cell::new(None);
    let result = tokio::select! {
        biased;
        // First: it is this one that keeps the waker of the copy, for all three.
        loss = poll_fn(|cx| copy.poll_lost(cx)) => match loss {
            Loss::Cancelled => Counter::MirrorCancelled,
            Loss::Behind => Counter::MirrorOverflowed,
            Loss::Unsendable => Counter::MirrorFailed,
        },
        answered = deliver(&worker, &target, &copy, &asked) => match answered {
            Ok(()) => Counter::MirrorAnswered,
            Err(Unsent::Overflow) => Counter::MirrorOverflowed,
            Err(Unsent::Failed) => Counter::MirrorFailed,
        },
        () = overdue => {
            if let Some(endpoint) = asked.get() {
                target.bound.report(&worker.shard, endpoint, Sign::TimedOut);
            }
            Counter::MirrorFailed
        }
    };
    worker.shard.count(result);
}

/// Why a copy was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsent {
    /// A limit was met.
    Overflow,
    Failed,
}

/// `asked`: the endpoint whose answer is waited for.
async fn deliver(
    worker: &Worker,
    target: &Target,
    copy: &Copy,
    asked: &Cell<Option<usize>>,
) -> Result<(), Unsent> {
    let bound = &target.bound;
    // A copy has no address that it dialled: it must not go where its request went (Envoy finds no host for it either).
    let is_elsewhere = !matches!(bound.cluster.discovery, Discovery::OriginalDestination);
    if bound.cluster.availability != Availability::Known || !is_elsewhere {
        return Err(Unsent::Failed);
    }
    let pool = &bound.cluster.policy.connection_pool;
    let gauges = &bound.neighbour.gauges;
    let _copy = permit(gauges, |gauges| &gauges.copies, MAX_COPIES).ok_or(Unsent::Overflow)?;
    let _active = permit(gauges, |gauges| &gauges.requests, pool.max_requests).ok_or(Unsent::Overflow)?;
    if bound.is_unprepared() {
        bound.prepare().await;
    }
    let ask = Ask { hash: target.hash, ..Ask::default() };
    let index = bound.pick(&ask, &mut *worker.rng.borrow_mut()).ok_or(Unsent::Failed)?;
    let endpoint = bound.pools.get(index).ok_or(Unsent::Failed)?;
    let report = |sign| bound.report(&worker.shard, index, sign);
    let mut busy = Busy::new(endpoint.clone());
    let own = bound.cluster.policy.proxy_protocol.map(|version| OfOurs::new(endpoint, version));
    let endpoint = own.as_ref().map_or(endpoint, OfOurs::pool);
    let connected = match target.protocol {
        UpstreamProtocol::Http1 => {
            endpoint.http1(pool, false).await.map(|leased| Upstream::Http1(leased.lease))
        }
        UpstreamProtocol::Http2 => endpoint.http2(pool).await.map(|stream| {
            busy.slot = Some(stream.slot);
            Upstream::Http2(stream.requests)
        }),
    };
    let mut upstream = match connected {
        Ok(upstream) => upstream,
        Err(ConnectError::Overflow) => return Err(Unsent::Overflow),
        Err(error) => {
            report(if matches!(error, ConnectError::TimedOut) { Sign::TimedOut } else { Sign::Failed });
            return Err(Unsent::Failed);
        }
    };
    report(Sign::Connected);
    asked.set(Some(index));
    if let Upstream::Http2(requests) = &mut upstream {
        poll_fn(|cx| requests.poll_ready(cx)).await.map_err(|_| Unsent::Failed)?;
    }
    let head = copy.take_head().ok_or(Unsent::Failed)?;
    let attempt = Attempt::open(upstream, &worker.buffers, head, copy.is_empty());
    let mut attempt = attempt.map_err(|_| Unsent::Failed)?;
    let sign = poll_fn(|cx| poll_head(cx, &mut attempt, copy)).await;
    asked.set(None);
    report(sign);
    if sign == Sign::Failed {
        return Err(Unsent::Failed);
    }
    poll_fn(|cx| poll_away(cx, &mut attempt, copy)).await.inspect_err(|_| report(Sign::Failed))?;
    attempt.finish();
    Ok(())
}

/// Sends what there is, and waits for the head of the answer.
fn poll_head(cx: &mut Context<'_>, attempt: &mut Attempt, mut copy: &Copy) -> Poll<Sign> {
    attempt.poll_send(cx, &mut copy);
    loop {
        match ready!(attempt.poll_head(cx)) {
            Ok(Head::Informational(_)) => {}
            Ok(Head::Final(head)) => {
                let is_grpc = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
                let is_grpc = is_grpc.is_some_and(|kind| kind.starts_with(b"application/grpc"));
                let status = head.headers.get("grpc-status").filter(|_| is_grpc);
                let grpc_status = status.and_then(|status| status.to_str().ok()?.parse().ok());
                return Poll::Ready(Sign::Answered { status: head.status.as_u16(), grpc_status });
            }
            Err(_) => return Poll::Ready(Sign::Failed),
        }
    }
}

/// Sends the rest, and reads the answer away.
fn poll_away(cx: &mut Context<'_>, attempt: &mut Attempt, mut copy: &Copy) -> Poll<Result<(), Unsent>> {
    loop {
        attempt.poll_send(cx, &mut copy);
        match ready!(attempt.poll_data(cx)) {
            Some(Ok(data)) => attempt.release(data.len()),
            Some(Err(_)) => return Poll::Ready(Err(Unsent::Failed)),
            None => {
                let ended = ready!(attempt.poll_trailers(cx));
                return Poll::Ready(ended.map(drop).map_err(|_| Unsent::Failed));
            }
        }
    }
}
