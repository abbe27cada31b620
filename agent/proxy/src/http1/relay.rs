//! Both directions of an exchange at once, as poll functions: the hot path.
//!
//! Each round writes what may be written and reads what there is, until nothing moves; only then it waits. So the request
//! goes up while the response comes down, an early answer is seen, and so is a client that leaves.

use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::exchange::{Fate, Http1Exchange};
use super::framing::Framing;
use super::header::Slots;
use super::io::ClientIo;
use super::response::ResponseHead;
use crate::buffer::Fill;
use crate::exchange::{AttemptError, ClientGone, End, Judge, Limit, Limits, RequestPath, Transfer, Verdict};
use crate::pool::Lease;

/// Rounds within one poll, after which other connections of the worker get their turn.
pub(super) const ROUNDS: usize = 32;
/// The same while a mirrored request is read: its copies need their turns to keep up with it.
const MIRRORED_ROUNDS: usize = 2;

/// What a look at the client's socket brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    /// Bytes came.
    Moved,
    /// Nothing for now.
    Waits,
    /// It ended its side. As in Envoy that ends the exchange, even if it could still read.
    Gone,
}

impl<S: ClientIo, P: RequestPath> Http1Exchange<S, P> {
    /// Sends the request and waits for the head of a response that `judge` has an opinion on.
    pub(super) fn poll_attempt(
        &mut self,
        context: &mut Context<'_>,
        limits: &Limits,
        judge: &mut impl Judge,
    ) -> Poll<Result<Verdict, AttemptError>> {
        if self.gives_way(context) {
            return Poll::Pending;
        }
        for _ in 0..self.rounds() {
            self.advance_upload();
            if self.is_malformed {
                return Poll::Ready(Err(AttemptError::ClientProtocol));
            }
            if let Some(verdict) = self.take_response(judge).transpose() {
                return Poll::Ready(verdict);
            }
            let mut has_moved = self.poll_send(context);
            match self.download.pipe.poll_flush(context, &mut self.client) {
                Poll::Ready(Ok(count)) => has_moved |= count > 0,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(AttemptError::ClientGone)),
                Poll::Pending => {}
            }
            if has_moved {
                continue;
            }
            match self.poll_upstream(context) {
                Poll::Ready(Ok(Fill::Bytes(_))) => {
                    self.upstream_spoke = true;
                    continue;
                }
                Poll::Ready(Ok(Fill::Eof) | Err(_)) => return Poll::Ready(Err(self.upstream_failed())),
                Poll::Ready(Ok(Fill::Full)) | Poll::Pending => {}
            }
            match self.poll_client(context) {
                Client::Moved => continue,
                Client::Gone => return Poll::Ready(Err(AttemptError::ClientGone)),
                Client::Waits => {}
            }
            return match self.poll_limits(context, limits, true) {
                Poll::Ready(limit) => Poll::Ready(Err(AttemptError::Timeout(limit))),
                Poll::Pending => Poll::Pending,
            };
        }
        self.yield_turn(context)
    }

    /// Relays the response and the rest of the request.
    pub(super) fn poll_relay(&mut self, context: &mut Context<'_>, limits: &Limits) -> Poll<End> {
        if self.gives_way(context) {
            return Poll::Pending;
        }
        for _ in 0..self.rounds() {
            if !self.download.is_done() {
                self.advance_upload();
                if self.is_malformed {
                    return Poll::Ready(End::ClientProtocol);
                }
                if self.download.advance().is_err() {
                    return Poll::Ready(End::UpstreamReset);
                }
            }
            if self.download.is_done() {
                self.settle_upstream();
            }
            let mut has_moved = self.poll_send(context);
            match self.download.pipe.poll_flush(context, &mut self.client) {
                Poll::Ready(Ok(count)) => has_moved |= count > 0,
                Poll::Ready(Err(_)) => return Poll::Ready(End::ClientGone),
                Poll::Pending => {}
            }
            if self.download.is_done() && self.download.pipe.is_flushed() {
                return Poll::Ready(End::Complete);
            }
            if has_moved {
                continue;
            }
            if !self.download.is_done() {
                match self.poll_upstream(context) {
                    Poll::Ready(Ok(Fill::Bytes(_))) => continue,
                    Poll::Ready(Ok(Fill::Eof)) if self.download.end_of_stream() => continue,
                    Poll::Ready(Ok(Fill::Eof) | Err(_)) => return Poll::Ready(End::UpstreamReset),
                    Poll::Ready(Ok(Fill::Full)) | Poll::Pending => {}
                }
                match self.poll_client(context) {
                    Client::Moved => continue,
                    Client::Gone => return Poll::Ready(End::ClientGone),
                    Client::Waits => {}
                }
            }
            if self.download.is_done() {
                // Envoy: the limit ends with the upstream's message. How fast the client takes it is the client's affair.
                return Poll::Pending;
            }
            return self.poll_limits(context, limits, false).map(|_| End::Timeout);
        }
        self.yield_turn(context)
    }

    /// Rounds of this poll.
    pub(super) fn rounds(&self) -> usize {
        if self.tee.is_some() { MIRRORED_ROUNDS } else { ROUNDS }
    }

    /// The turn is over, with more to do.
    pub(super) fn yield_turn<T>(&self, context: &mut Context<'_>) -> Poll<T> {
        if self.tee.is_some() {
            // Sockets are looked at too before the next turn, those of the mirrors among them; a plain wake may come first
            // many times over. Always pending.
            let _ = pin!(tokio::task::yield_now()).poll(context);
        } else {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Before the first bytes of a message are sent, once: whatever else is ready on this worker goes first. So a burst of
    /// messages is read in one go and sent in another, and a receiver that was woken by the first finds the next ones too.
    /// Sent one by one, each may find it asleep again, and waking somebody on another CPU is dear (an interrupt there, on a
    /// virtual machine an exit here too). Alone on the worker it is the next to run, and nothing is lost but that poll.
    fn gives_way(&mut self, context: &Context<'_>) -> bool {
        let gives_way = std::mem::take(&mut self.gives_way);
        if gives_way {
            context.waker().wake_by_ref();
        }
        gives_way
    }

    /// Waits, but notices when the client leaves.
    pub(super) fn poll_pause(
        &mut self,
        context: &mut Context<'_>,
        until: Instant,
    ) -> Poll<Result<(), ClientGone>> {
        for _ in 0..ROUNDS {
            if !self.is_malformed {
                self.advance_upload();
            }
            match self.poll_client(context) {
                Client::Moved => {}
                Client::Gone => {
                    self.fate = Fate::Abort;
                    return Poll::Ready(Err(ClientGone));
                }
                Client::Waits => return self.alarm.poll(context, until).map(Ok),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Settles the accounts after [`Self::poll_relay`].
    pub(super) fn finish_relay(&mut self, end: End) -> Transfer {
        if end != End::Complete {
            self.upstream = None;
            // Without a length or chunks, only a reset tells the client that something is missing.
            let is_open_ended = self.download.framing() == Framing::Close && end != End::ClientGone;
            self.fate = if is_open_ended { Fate::Reset } else { Fate::Abort };
        }
        // Approved but unsent bytes are all content but for the head, which goes first.
        let unsent = if end == End::Complete { 0 } else { self.download.pipe.out().len() as u64 };
        let sent = self.download.content().saturating_sub(unsent);
        Transfer { received: self.upload.content(), sent, end, grpc_status: None }
    }

    /// Parses, judges and rewrites the head of a response. Interim ones go straight to the client.
    fn take_response(&mut self, judge: &mut impl Judge) -> Result<Option<Verdict>, AttemptError> {
        while self.download.may_hold_head() {
            let pool = Rc::clone(self.download.pipe.pool());
            let taken = pool.with_scratch(|scratch| {
                let mut slots = Slots::new();
                let parsed = ResponseHead::parse(self.download.pipe.raw(), &mut slots, self.asked);
                let head = match parsed {
                    Ok(Some(head)) => head,
                    Ok(None) => {
                        self.download.head_is_partial();
                        return Ok(Some(None));
                    }
                    Err(_) => return Err(AttemptError::UpstreamProtocol),
                };
                let length = head.len();
                let (is_interim, framing) = (head.is_interim(), head.framing());
                let is_replayable = self.upload.pipe.is_pinned();
                let verdict = if is_interim {
                    Verdict::Relay
                } else {
                    judge.judge(&head, is_replayable, &mut scratch.edits)
                };
                if !is_interim {
                    self.upstream_keeps_alive = head.keeps_alive();
                }
                if verdict == Verdict::Retry {
                    self.drop_response(length, framing);
                    return Ok(Some(Some(verdict)));
                }
                if !is_interim {
                    let is_last = framing == Framing::Close || self.path.is_draining();
                    if is_last && self.fate == Fate::KeepAlive {
                        self.fate = Fate::Close;
                    }
                }
                head.write(&scratch.edits, self.fate == Fate::Close, &mut scratch.head);
                let is_tunnel = head.is_switch();
                if !self.download.pipe.replace_head(length, &scratch.head) {
                    return Err(AttemptError::UpstreamProtocol);
                }
                self.download.begin_body(if is_interim { Framing::None } else { framing });
                if !is_interim {
                    // From here on it will not be sent again.
                    self.upload.pipe.unpin();
                }
                self.is_tunnel = is_tunnel;
                Ok(if is_interim { None } else { Some(Some(verdict)) })
            })?;
            if let Some(verdict) = taken {
                return Ok(verdict);
            }
        }
        Ok(None)
    }

    /// A response that nobody gets. The upstream is kept only if all of it is here already: reading on might take long.
    fn drop_response(&mut self, head: usize, mut framing: Framing) {
        let rest = self.download.pipe.raw().get(head..).unwrap_or_default();
        let is_whole = framing.advance(rest).is_ok_and(|advance| advance.done && advance.used == rest.len());
        self.download.pipe.discard_raw();
        let was_sent = self.upload.is_done() && self.upload.pipe.is_flushed() && !self.upstream_is_deaf;
        match self.upstream.take() {
            Some(lease) if is_whole && was_sent && self.upstream_keeps_alive => lease.release(),
            _ => {}
        }
        self.upload.pipe.rewind();
    }

    /// The response is whole: the upstream goes back to its pool, if both messages ended cleanly.
    fn settle_upstream(&mut self) {
        let Some(lease) = self.upstream.take() else { return };
        let was_sent = self.upload.is_done() && self.upload.pipe.is_flushed() && !self.upstream_is_deaf;
        // Bytes beyond the message answer no question of ours: such a connection cannot be trusted with another one.
        let has_surplus = self.download.pipe.has_raw();
        self.download.pipe.discard_raw();
        if was_sent && !has_surplus && self.upstream_keeps_alive {
            lease.release();
        } else if !was_sent {
            // An early answer. The rest of the request has nowhere to go; the connection ends, with a linger.
            self.close_after();
        }
        self.upload.abandon();
    }

    /// Writes of the request what there is. Whether anything moved.
    fn poll_send(&mut self, context: &mut Context<'_>) -> bool {
        let Some(io) = self.upstream.as_mut().filter(|_| !self.upstream_is_deaf).and_then(Lease::io) else {
            return false;
        };
        match self.upload.pipe.poll_flush(context, io) {
            Poll::Ready(Ok(count)) => count > 0,
            Poll::Ready(Err(_)) => {
                // It may have answered before it closed: reading goes on.
                self.upstream_is_deaf = true;
                true
            }
            Poll::Pending => false,
        }
    }

    fn poll_upstream(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<Fill>> {
        match self.upstream.as_mut().and_then(Lease::io) {
            Some(io) => self.download.pipe.poll_fill(context, io, false),
            None => Poll::Ready(Ok(Fill::Eof)),
        }
    }

    pub(super) fn poll_client(&mut self, context: &mut Context<'_>) -> Client {
        let has_upstream = self.upstream.is_some() || self.http2.as_ref().is_some_and(|side| side.is_open());
        let may_unpin = !self.upload.is_done() && has_upstream;
        match self.upload.pipe.poll_fill(context, &mut self.client, may_unpin) {
            Poll::Ready(Ok(Fill::Bytes(_))) => Client::Moved,
            Poll::Ready(Ok(Fill::Full)) | Poll::Pending => Client::Waits,
            Poll::Ready(Ok(Fill::Eof) | Err(_)) => Client::Gone,
        }
    }

    fn upstream_failed(&self) -> AttemptError {
        match &self.upstream {
            _ if self.download.pipe.has_raw() => AttemptError::UpstreamProtocol,
            Some(lease) => {
                AttemptError::Reset { reused: lease.is_reused() && !self.upstream_spoke, refused: false }
            }
            None => AttemptError::Reset { reused: false, refused: false },
        }
    }

    pub(super) fn poll_limits(
        &mut self,
        context: &mut Context<'_>,
        limits: &Limits,
        waits_for_head: bool,
    ) -> Poll<Limit> {
        let Some(ended) = self.ended else { return Poll::Pending };
        let route = limits.route.and_then(|limit| ended.checked_add(limit));
        let per_try = limits.per_try.filter(|_| waits_for_head).and_then(|limit| {
            let started = self.attempt_started.map_or(ended, |started| started.max(ended));
            started.checked_add(limit)
        });
        let (deadline, limit) = match (per_try, route) {
            (Some(per_try), Some(route)) if per_try < route => (per_try, Limit::PerTry),
            (_, Some(route)) => (route, Limit::Route),
            (Some(per_try), None) => (per_try, Limit::PerTry),
            (None, None) => return Poll::Pending,
        };
        self.alarm.poll(context, deadline).map(|()| limit)
    }

    /// Writes everything that waits for the client.
    pub(super) fn poll_flush_client(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        while !self.download.pipe.is_flushed() {
            match self.download.pipe.poll_flush(context, &mut self.client) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => {
                    self.fate = Fate::Abort;
                    return Poll::Ready(Err(End::ClientGone));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}
