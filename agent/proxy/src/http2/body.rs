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
enum Source {
    Data,
    Trailers,
    Ended { at: Instant, trailers: Option<HeaderMap> },
    Failed(BodyError),
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct RequestBody {
    recv: RecvStream,
    source: Source,
    /// Most that is kept for a retry, bytes, with [`CHUNK_OVERHEAD`].
    replay_bytes: usize,
    kept: VecDeque<Bytes>,
    /// Cost of `kept`.
    cost: usize,
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
    /// The body of a request whose head came at `now`.
    pub(super) fn new(recv: RecvStream, replay_bytes: usize, now: Instant) -> Self {
        let source =
            if recv.is_end_stream() { Source::Ended { at: now, trailers: None } } else { Source::Data };
        Self {
            recv,
            source,
            replay_bytes,
            kept: VecDeque::new(),
            cost: 0,
            ahead: 0,
            is_whole: true,
            received: 0,
            released: 0,
            sent: 0,
            chunk: 0,
            offset: 0,
        }
    }

    /// Whether it can be sent from its first byte.
    pub(super) fn is_replayable(&self) -> bool {
        self.is_whole
    }

    /// When its end was received.
    pub(super) fn ended_at(&self) -> Option<Instant> {
        match self.source {
            Source::Ended { at, .. } => Some(at),
            _ => None,
        }
    }

    /// Whether it broke its framing.
    pub(super) fn is_malformed(&self) -> bool {
        matches!(self.source, Source::Failed(BodyError::Malformed))
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Whether there is neither a byte nor a trailer, and will be none.
    pub(super) fn is_empty(&self) -> bool {
        self.received == 0 && matches!(self.source, Source::Ended { trailers: None, .. })
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
            match self.source {
                Source::Failed(error) => return Poll::Ready(error),
                Source::Ended { .. } => return Poll::Pending,
                Source::Data if self.ahead >= READ_AHEAD => return Poll::Pending,
                Source::Data => match ready!(self.recv.poll_data(cx)) {
                    Some(Ok(data)) => self.push(data),
                    Some(Err(error)) => self.source = Source::Failed(failure(&error)),
                    None => self.source = Source::Trailers,
                },
                Source::Trailers => match ready!(self.recv.poll_trailers(cx)) {
                    Ok(trailers) => {
                        let at = tokio::time::Instant::now().into_std();
                        self.source = Source::Ended { at, trailers };
                    }
                    Err(error) => self.source = Source::Failed(failure(&error)),
                },
            }
        }
    }

    /// What comes next at the cursor.
    pub(super) fn next(&self) -> Next {
        if let Some(chunk) = self.kept.get(self.chunk) {
            let is_last = self.chunk + 1 == self.kept.len()
                && matches!(self.source, Source::Ended { trailers: None, .. });
            return Next::Data(chunk.slice(self.offset..), is_last);
        }
        match &self.source {
            Source::Ended { trailers, .. } => Next::End(trailers.clone()),
            _ => Next::NotYet,
        }
    }

    /// Moves the cursor by `count` bytes, no more than `next` showed, which an upstream took.
    pub(super) fn advance(&mut self, count: usize) {
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

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.received += data.len() as u64;
        self.cost += cost_of(&data);
        self.ahead += cost_of(&data);
        self.kept.push_back(data);
    }
}

/// See [`RequestBody::next`].
#[derive(Debug)]
pub(super) enum Next {
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
