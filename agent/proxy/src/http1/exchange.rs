//! One request and its response, on a client's connection that speaks HTTP/1.1.
//!
//! One value lives as long as the connection and is used for one exchange after the other. Both directions are driven by
//! the connection's own task: each wait is one poll function (receive.rs, relay.rs, answer.rs).
//!
//! The request stays in its block until the response begins, so trying again is a reset of the send cursor.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use super::Settings;
use super::alarm::{Alarm, now};
use super::header::push_number;
use super::io::ClientIo;
use super::message::Message;
use super::request::ATTEMPT_TAIL;
use super::response::Asked;
use super::tee::UploadTee;
use super::to_http2::Http2Side;
use crate::buffer::{BlockSize, BufferPool};
use crate::exchange::{
    AttemptError, ClientGone, End, Exchange, Judge, Limits, LocalReply, RequestPath, Stage, Transfer, Verdict,
};
use crate::pool::{Lease, Upstream};

/// What becomes of the client's connection after the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The next request may follow.
    KeepAlive,
    /// It ends in order, after the response.
    Close,
    /// It ends at once: the client is gone, or a message broke off whose framing shows that.
    Abort,
    /// As [`Fate::Abort`], by a reset: a plain end would look like the end of the message.
    Reset,
}

/// See the module's text.
pub(super) struct Http1Exchange<S, P> {
    pub(super) client: S,
    pub(super) path: Rc<P>,
    pub(super) settings: Rc<Settings>,
    pub(super) alarm: Alarm,
    pub(super) upload: Message,
    pub(super) download: Message,
    pub(super) upstream: Option<Lease>,
    pub(super) http2: Option<Box<Http2Side>>,
    /// While a request that is mirrored is being read.
    pub(super) tee: Option<Box<UploadTee>>,
    /// When the request had been received whole.
    pub(super) ended: Option<Instant>,
    /// When the current attempt began; only kept if it has a limit of its own.
    pub(super) attempt_started: Option<Instant>,
    /// Since when the connection waits for a request, or for the rest of its head.
    pub(super) waiting: Option<Instant>,
    pub(super) waits_for_rest: bool,
    pub(super) stage: Stage,
    pub(super) asked: Asked,
    pub(super) expects_continue: bool,
    pub(super) fate: Fate,
    /// The client said that this request is its last.
    pub(super) is_last: bool,
    /// The client's body broke its framing.
    pub(super) is_malformed: bool,
    /// Bytes of this attempt's response have come.
    pub(super) upstream_spoke: bool,
    /// The upstream takes no more bytes; what it has to say may still be there to read.
    pub(super) upstream_is_deaf: bool,
    pub(super) upstream_keeps_alive: bool,
    pub(super) is_tunnel: bool,
    /// The first bytes of a message wait for the other connections' turn, see `relay.rs`.
    pub(super) gives_way: bool,
    /// The client got a response, as far as it could be given one.
    pub(super) is_answered: bool,
    /// The staged head: its length, the attempt's number at its end, and how many digits that has.
    pub(super) head_length: u32,
    pub(super) number: u32,
}

impl<S: ClientIo, P: RequestPath> Http1Exchange<S, P> {
    pub(super) fn new(client: S, path: Rc<P>, settings: Rc<Settings>, buffers: Rc<BufferPool>) -> Self {
        Self {
            client,
            path,
            settings,
            alarm: Alarm::default(),
            upload: Message::new(Rc::clone(&buffers), BlockSize::Small),
            download: Message::new(buffers, BlockSize::Large),
            upstream: None,
            http2: None,
            tee: None,
            ended: None,
            attempt_started: None,
            waiting: None,
            waits_for_rest: false,
            stage: Stage::Answer,
            asked: Asked::default(),
            expects_continue: false,
            fate: Fate::KeepAlive,
            is_last: false,
            is_malformed: false,
            upstream_spoke: false,
            upstream_is_deaf: false,
            upstream_keeps_alive: false,
            is_tunnel: false,
            gives_way: false,
            is_answered: false,
            head_length: 0,
            number: 1,
        }
    }

    /// Makes the connection end after this exchange, if nothing worse was decided before.
    pub(super) fn close_after(&mut self) {
        if self.fate == Fate::KeepAlive {
            self.fate = Fate::Close;
        }
    }

    /// Prepares for an attempt. `false`: the upstream is not of the kind the request was staged for.
    fn begin_attempt(&mut self, lease: Lease, number: u32, limits: &Limits) -> bool {
        self.download.give_up();
        self.upload.pipe.rewind();
        self.upstream = Some(lease);
        self.gives_way = true;
        (self.upstream_spoke, self.upstream_is_deaf, self.upstream_keeps_alive) = (false, false, false);
        self.attempt_started = limits.per_try.map(|_| now());
        self.stage == Stage::Http1 && self.number_attempt(number)
    }

    /// Writes the attempt's number into the staged head.
    fn number_attempt(&mut self, number: u32) -> bool {
        if number == self.number {
            return true;
        }
        let pool = Rc::clone(self.upload.pipe.pool());
        pool.with_scratch(|scratch| {
            push_number(&mut scratch.head, u64::from(self.number));
            let old_digits = scratch.head.len();
            scratch.head.clear();
            push_number(&mut scratch.head, u64::from(number));
            let stop = (self.head_length as usize).saturating_sub(ATTEMPT_TAIL);
            let is_written =
                self.upload.pipe.replace_kept(stop.saturating_sub(old_digits)..stop, &scratch.head);
            if is_written {
                self.head_length = (stop - old_digits + scratch.head.len() + ATTEMPT_TAIL) as u32;
                self.number = number;
            }
            is_written
        })
    }

    /// Gives up the upstream after an attempt that brought nothing.
    pub(super) fn end_attempt(&mut self, error: AttemptError) -> AttemptError {
        self.upstream = None;
        self.download.give_up();
        self.upload.pipe.rewind();
        match error {
            AttemptError::ClientGone => self.fate = Fate::Abort,
            AttemptError::ClientProtocol => self.close_after(),
            _ => {}
        }
        error
    }
}

impl<S: ClientIo, P: RequestPath> Exchange for Http1Exchange<S, P> {
    fn is_replayable(&self) -> bool {
        self.upload.pipe.is_pinned()
    }

    fn request_ended(&self) -> Option<Instant> {
        self.ended
    }

    fn restart_limits(&mut self) {
        self.ended = self.ended.map(|_| now());
    }

    async fn pause(&mut self, until: Instant) -> Result<(), ClientGone> {
        poll_fn(|context| self.poll_pause(context, until)).await
    }

    async fn attempt(
        &mut self,
        upstream: Upstream,
        number: u32,
        limits: Limits,
        judge: &mut impl Judge,
    ) -> Result<Verdict, AttemptError> {
        let lease = match upstream {
            Upstream::Http1(lease) => lease,
            Upstream::Http2(handle) => {
                return Box::pin(self.attempt_http2(handle, number, &limits, judge)).await;
            }
        };
        if !self.begin_attempt(lease, number, &limits) {
            return Err(self.end_attempt(AttemptError::UpstreamProtocol));
        }
        match poll_fn(|context| self.poll_attempt(context, &limits, judge)).await {
            Ok(verdict) => Ok(verdict),
            Err(error) => Err(self.end_attempt(error)),
        }
    }

    async fn relay(&mut self, limits: Limits) -> Transfer {
        self.is_answered = true;
        if self.is_tunnel {
            return Box::pin(self.tunnel()).await;
        }
        if self.http2.is_some() {
            return Box::pin(self.relay_http2(&limits)).await;
        }
        self.gives_way = true;
        let end = poll_fn(|context| self.poll_relay(context, &limits)).await;
        self.finish_relay(end)
    }

    async fn answer(&mut self, reply: &LocalReply<'_>) -> Transfer {
        self.begin_answer(reply);
        self.is_answered = true;
        let mut rest = if self.asked.head { &[] } else { reply.body };
        let end = poll_fn(|context| {
            while !rest.is_empty() {
                let count = self.download.pipe.append(rest);
                rest = &rest[count..];
                if count == 0 {
                    match self.poll_flush_client(context) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(end)) => return Poll::Ready(end),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            }
            self.poll_flush_client(context).map(|flushed| flushed.map_or_else(|end| end, |()| End::Complete))
        })
        .await;
        let content = if self.asked.head { 0 } else { reply.body.len() - rest.len() };
        Transfer { received: self.upload.content(), sent: content as u64, end, grpc_status: None }
    }
}
