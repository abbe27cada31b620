//! The upstream side of an exchange alone: a request that came over HTTP/2 goes to an HTTP/1.1 upstream, and its response
//! comes back as `http` types. The same rules hold for what the upstream sends as on the hot path.
//!
//! ```text
//!   open ─▶ { poll_room ─▶ push }* ─▶ end ─▶ poll_flush until done      while   poll_head ─▶ poll_data* ─▶ take_trailers
//! ```

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};

use super::bridge::{self, Outgoing};
use super::framing::{Framing, PieceKind};
use super::header::Slots;
use super::message::Message;
use super::response::{Asked, ResponseHead};
use crate::buffer::{BlockSize, BufferPool, Fill, Pipe};
use crate::exchange::AttemptError;
use crate::pool::Lease;

/// Bytes around a chunk's content: up to eight digits and two line ends.
const CHUNK_OVERHEAD: usize = 12;

/// A head that the upstream sent.
#[derive(Debug)]
pub enum Head {
    /// 1xx: more heads follow.
    Informational(Response<()>),
    /// The response.
    Final(Response<()>),
}

/// The upstream's message ended early or broke its framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("upstream's message was cut")]
pub struct Truncated;

/// One request on a leased connection. Dropping it closes the connection; [`Http1Stream::finish`] gives it back.
pub struct Http1Stream {
    lease: Lease,
    send: Pipe,
    receive: Message,
    asked: Asked,
    outgoing: Outgoing,
    /// The request's end was put into `send`.
    is_ended: bool,
    /// The upstream takes no more bytes; it may have answered before.
    is_deaf: bool,
    keeps_alive: bool,
    has_spoken: bool,
    trailer_lines: Vec<u8>,
}

impl Http1Stream {
    /// Stages `head` (with its `x-envoy-attempt-count`) for the connection. `is_empty`: neither body nor trailers follow.
    ///
    /// # Errors
    /// The head is larger than a large block; it was not sent.
    pub fn open(
        lease: Lease,
        buffers: &Rc<BufferPool>,
        head: &Request<()>,
        is_empty: bool,
    ) -> Result<Self, AttemptError> {
        let mut send = Pipe::new(Rc::clone(buffers), BlockSize::Small);
        let outgoing = buffers.with_scratch(|scratch| {
            let outgoing = bridge::write_request(head, is_empty, &mut scratch.head);
            let length = scratch.head.len();
            let fits = send.feed(&scratch.head);
            send.approve(length);
            fits.then_some(outgoing)
        });
        let Some(outgoing) = outgoing else { return Err(AttemptError::UpstreamProtocol) };
        Ok(Self {
            lease,
            send,
            receive: Message::new(Rc::clone(buffers), BlockSize::Large),
            asked: Asked { head: *head.method() == Method::HEAD, upgrade: false },
            outgoing,
            is_ended: is_empty,
            is_deaf: false,
            keeps_alive: false,
            has_spoken: false,
            trailer_lines: Vec::new(),
        })
    }

    /// How many bytes [`Http1Stream::push`] would take now; `None` once the upstream takes no more.
    pub fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<Option<usize>> {
        let mut room = self.send.room();
        if room <= CHUNK_OVERHEAD {
            let _ = self.poll_flush(context);
            room = self.send.room();
        }
        match room.saturating_sub(CHUNK_OVERHEAD) {
            _ if self.is_deaf => Poll::Ready(None),
            0 => Poll::Pending,
            room => Poll::Ready(Some(room)),
        }
    }

    /// Takes bytes of the request's body; how many.
    pub fn push(&mut self, data: &[u8]) -> usize {
        let count = data.len().min(self.send.room().saturating_sub(CHUNK_OVERHEAD));
        let data = data.get(..count).unwrap_or_default();
        if self.is_ended || count == 0 {
            return 0;
        }
        if self.outgoing == Outgoing::Chunked {
            append_chunk(&mut self.send, data);
        } else {
            self.send.append(data);
        }
        count
    }

    /// Ends the request. `false`: its trailers are larger than a large block, so that it cannot be ended; the upstream
    /// takes no more then.
    pub fn end(&mut self, trailers: Option<&HeaderMap>) -> bool {
        if self.is_ended || self.outgoing != Outgoing::Chunked {
            self.is_ended = true;
            return true;
        }
        let pool = Rc::clone(self.send.pool());
        self.is_ended = pool.with_scratch(|scratch| {
            bridge::write_trailers(trailers, &mut scratch.head);
            // Past what is waiting: it is the last thing to be sent, so nothing is gained by waiting for room.
            let fits = self.send.feed(&scratch.head);
            self.send.approve(scratch.head.len());
            fits
        });
        self.is_deaf |= !self.is_ended;
        self.is_ended
    }

    /// Sends what was taken. Ready once all of it is out, or nobody wants it.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.send.is_flushed() && !self.is_deaf {
            let Some(io) = self.lease.io() else { break };
            match self.send.poll_flush(context, io) {
                Poll::Ready(Ok(_)) => {}
                // It may have answered before it closed: reading goes on.
                Poll::Ready(Err(_)) => self.is_deaf = true,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    /// The next head of the response. Not to be called after a final one.
    pub fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Head, AttemptError>> {
        loop {
            if self.receive.may_hold_head()
                && let Some(head) = self.take_head().transpose()
            {
                return Poll::Ready(head);
            }
            match self.poll_receive(context) {
                Poll::Ready(Ok(Fill::Bytes(_))) => self.has_spoken = true,
                Poll::Ready(Ok(Fill::Full)) => return Poll::Ready(Err(AttemptError::UpstreamProtocol)),
                Poll::Ready(Ok(Fill::Eof) | Err(_)) => {
                    return Poll::Ready(Err(if self.receive.pipe.has_raw() {
                        AttemptError::UpstreamProtocol
                    } else {
                        let reused = self.lease.is_reused() && !self.has_spoken;
                        AttemptError::Reset { reused, refused: false }
                    }));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The next bytes of the response's body; `None` at its end.
    pub fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Truncated>>> {
        loop {
            let trailers = &mut self.trailer_lines;
            let piece = self.receive.take_piece(|kind, bytes| match kind {
                PieceKind::Content => Some(Bytes::copy_from_slice(bytes)),
                PieceKind::Trailers => {
                    trailers.extend_from_slice(bytes);
                    None
                }
                PieceKind::Framing | PieceKind::End => None,
            });
            match piece {
                Ok(Some(Some(data))) if !data.is_empty() => return Poll::Ready(Some(Ok(data))),
                Ok(Some(_)) => continue,
                Ok(None) if self.receive.is_done() => return Poll::Ready(None),
                Ok(None) => {}
                Err(_) => return Poll::Ready(Some(Err(Truncated))),
            }
            match self.poll_receive(context) {
                Poll::Ready(Ok(Fill::Bytes(_))) => {}
                Poll::Ready(Ok(Fill::Eof)) if self.receive.end_of_stream() => {}
                Poll::Ready(_) => return Poll::Ready(Some(Err(Truncated))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether nothing follows what has been read of the response: its body's end was seen, and there are no trailers.
    pub fn is_ended(&self) -> bool {
        self.receive.is_done() && self.trailer_lines.is_empty()
    }

    /// The trailers, after the body's end.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        bridge::read_trailers(&std::mem::take(&mut self.trailer_lines))
    }

    /// Gives the connection back if both messages ended cleanly, else closes it.
    pub fn finish(self) {
        let was_sent = self.is_ended && self.send.is_flushed() && !self.is_deaf;
        let was_answered = self.receive.is_done() && !self.receive.pipe.has_raw();
        if was_sent && was_answered && self.keeps_alive {
            self.lease.release();
        }
    }

    fn take_head(&mut self) -> Result<Option<Head>, AttemptError> {
        let mut slots = Slots::new();
        let parsed = ResponseHead::parse(self.receive.pipe.raw(), &mut slots, self.asked);
        let head = match parsed {
            Ok(Some(head)) => head,
            Ok(None) => {
                self.receive.head_is_partial();
                return Ok(None);
            }
            Err(error) => {
                tracing::debug!(%error, "upstream sent no valid response");
                return Err(AttemptError::UpstreamProtocol);
            }
        };
        let response = bridge::response_to_http2(&head);
        let (length, is_interim, framing) = (head.len(), head.is_interim(), head.framing());
        self.keeps_alive = head.keeps_alive();
        self.receive.pipe.consume(length);
        self.receive.begin_body(if is_interim { Framing::None } else { framing });
        Ok(Some(if is_interim { Head::Informational(response) } else { Head::Final(response) }))
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Fill>> {
        match self.lease.io() {
            Some(io) => self.receive.pipe.poll_fill(context, io, false),
            None => Poll::Ready(Ok(Fill::Eof)),
        }
    }
}

/// Adds a chunk, for which there must be room.
pub(super) fn append_chunk(pipe: &mut Pipe, data: &[u8]) {
    let mut size = [0; 10];
    let mut at = size.len() - 2;
    size[at..].copy_from_slice(b"\r\n");
    let mut rest = data.len();
    while rest > 0 && at > 0 {
        at -= 1;
        size[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    pipe.append(&size[at..]);
    pipe.append(data);
    pipe.append(b"\r\n");
}
