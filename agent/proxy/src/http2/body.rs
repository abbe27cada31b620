//! The body of a request on its way from the client: read ahead a little, and kept from its start while it is small enough
//! to be sent again.
//!
//! ```text
//!   0        start          sent            received            (offsets in the body)
//!   ├─ gone ──┼── kept ──────┼── read ahead ──┤ ← client's window ends here + stream_window
//! ```
//!
//! WINDOW_UPDATE is sent for what an upstream took, not for what was read: a slow upstream slows its client down, and a
//! stream never holds more than its window. The read-ahead exists so that the end of a request is seen, and time limits
//! start (`exchange::Limits`), also when the upstream does not take it.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;

use crate::mirror::Tee;

/// Bytes read before the upstream took them.
const READ_AHEAD: usize = 64 * 1024;
/// What keeping one chunk costs beyond its bytes, so that a body of tiny DATA frames is not free.
const CHUNK_OVERHEAD: usize = 64;

/// Why a body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyError {
    /// The client reset the stream or its connection ended.
    ClientGone,
    /// The body broke its framing (`content-length`).
    Malformed,
}

#[derive(Debug)]
enum State {
    Data,
    Trailers,
    Ended { at: Instant, trailers: Option<HeaderMap> },
    Failed(BodyError),
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct RequestBody {
    recv: RecvStream,
    state: State,
    /// Most that is kept for a retry, bytes, with [`CHUNK_OVERHEAD`].
    replay_bytes: usize,
    kept: VecDeque<Bytes>,
    /// Cost of `kept`.
    cost: usize,
    /// For the copies of a mirrored request; gone at the body's end.
    tee: Option<Tee>,
    /// Cost of that part of `kept` which no cursor has passed.
    ahead: usize,
    /// Whether the first byte is still in `kept`.
    is_whole: bool,
    received: u64,
    /// Up to here the client was given its window back.
    released: u64,
    // The cursor of the current attempt.
    sent: u64,
    chunk: usize,
    offset: usize,
}

impl RequestBody {
    /// The body of a request whose head came at `now`; `tee` was given the head.
    pub(super) fn new(recv: RecvStream, replay_bytes: usize, tee: Option<Tee>, now: Instant) -> Self {
        let mut body = Self {
            recv,
            state: State::Data,
            replay_bytes,
            tee,
            kept: VecDeque::new(),
            cost: 0,
            ahead: 0,
            is_whole: true,
            received: 0,
            released: 0,
            sent: 0,
            chunk: 0,
            offset: 0,
        };
        if body.recv.is_end_stream() {
            body.end(None, now);
        }
        body
    }

    /// Whether it can be sent from its first byte.
    pub(super) fn is_replayable(&self) -> bool {
        self.is_whole
    }

    /// When its end was received.
    pub(super) fn ended_at(&self) -> Option<Instant> {
        match self.state {
            State::Ended { at, .. } => Some(at),
            _ => None,
        }
    }

    /// Lets an end that was received before count as received at `now`.
    pub(super) fn end_again(&mut self, now: Instant) {
        if let State::Ended { at, .. } = &mut self.state {
            *at = now;
        }
    }

    /// Whether it broke its framing.
    pub(super) fn is_malformed(&self) -> bool {
        matches!(self.state, State::Failed(BodyError::Malformed))
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Whether there is neither a byte nor a trailer, and will be none.
    pub(super) fn is_empty(&self) -> bool {
        self.received == 0 && matches!(self.state, State::Ended { trailers: None, .. })
    }

    /// Starts over, for another attempt. Only of use while [`RequestBody::is_replayable`].
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
        self.chunk = 0;
        self.offset = 0;
        self.ahead = self.cost;
    }

    /// Reads ahead. Ready with an error once the body failed, else pending: there is nothing to wait for here.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        loop {
            match self.state {
                State::Failed(error) => return Poll::Ready(error),
                State::Ended { .. } => return Poll::Pending,
                State::Data if self.ahead >= READ_AHEAD => return Poll::Pending,
                State::Data => match ready!(self.recv.poll_data(cx)) {
                    Some(Ok(data)) => self.push(data),
                    Some(Err(error)) => self.fail(&error),
                    None => self.state = State::Trailers,
                },
                State::Trailers => match ready!(self.recv.poll_trailers(cx)) {
                    Ok(trailers) => {
                        self.end(trailers, tokio::time::Instant::now().into_std());
                    }
                    Err(error) => self.fail(&error),
                },
            }
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>, at: Instant) {
        if let Some(tee) = self.tee.take() {
            tee.end(trailers.as_ref());
        }
        self.state = State::Ended { at, trailers };
    }

    fn fail(&mut self, error: &h2::Error) {
        // The copies are cancelled by it.
        self.tee = None;
        self.state = State::Failed(failure(error));
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.received += data.len() as u64;
        if let Some(tee) = &mut self.tee {
            tee.data(&data);
        }
        self.cost += cost_of(&data);
        self.ahead += cost_of(&data);
        self.kept.push_back(data);
    }
}

/// A body as an attempt sends it.
pub(crate) trait Source {
    /// What comes next at the cursor.
    fn next(&self) -> Next;

    /// Moves the cursor by `count` bytes, no more than `next` showed, which an upstream took.
    fn advance(&mut self, count: usize);
}

impl Source for RequestBody {
    fn next(&self) -> Next {
        if let Some(chunk) = self.kept.get(self.chunk) {
            let is_last = self.chunk + 1 == self.kept.len()
                && matches!(self.state, State::Ended { trailers: None, .. });
            return Next::Data(chunk.slice(self.offset..), is_last);
        }
        match &self.state {
            State::Ended { trailers, .. } => Next::End(trailers.clone()),
            _ => Next::NotYet,
        }
    }

    fn advance(&mut self, count: usize) {
        let Some(chunk) = self.kept.get(self.chunk) else { return };
        self.sent += count as u64;
        self.offset += count;
        if self.offset >= chunk.len() {
            self.ahead -= cost_of(chunk);
            self.chunk += 1;
            self.offset = 0;
        }
        if self.sent > self.released {
            // At most one chunk, and so one frame, in size. Fails only when the stream is gone, which shows elsewhere.
            let _ = self.recv.flow_control().release_capacity((self.sent - self.released) as usize);
            self.released = self.sent;
        }
        while self.cost > self.replay_bytes && self.chunk > 0 {
            let Some(gone) = self.kept.pop_front() else { break };
            self.cost -= cost_of(&gone);
            self.chunk -= 1;
            self.is_whole = false;
        }
    }
}

/// See [`Source::next`].
#[derive(Debug)]
pub(crate) enum Next {
    /// Bytes, and whether the body ends with them.
    Data(Bytes, bool),
    /// The end, with trailers if there are any.
    End(Option<HeaderMap>),
    /// More has to come from the client.
    NotYet,
}

fn cost_of(chunk: &Bytes) -> usize {
    chunk.len() + CHUNK_OVERHEAD
}

fn failure(error: &h2::Error) -> BodyError {
    // Our own side resets a stream only for what its peer did wrong; connection errors are not about this body.
    if error.is_reset() && error.is_library() { BodyError::Malformed } else { BodyError::ClientGone }
}
