//! One stream of an upstream's HTTP/2 connection, for the length of one attempt.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request};

use super::{Head, Truncated};
use crate::exchange::AttemptError;
use crate::http2::body::{Next, Source};

/// An open stream. Dropping it before its end resets it with CANCEL.
#[derive(Debug)]
pub(crate) struct Http2Stream {
    send: SendStream<Bytes>,
    /// The request's end has not been sent, and the upstream still takes it.
    is_sending: bool,
    response: ResponseFuture,
    /// The response's body, once its head came.
    recv: Option<RecvStream>,
}

impl Http2Stream {
    /// Sends `head` on a handle that is ready. `is_whole`: no body follows.
    ///
    /// # Errors
    /// The connection takes no more requests; this one was not sent.
    pub(in crate::http2) fn open(
        handle: &mut SendRequest<Bytes>,
        head: Request<()>,
        is_whole: bool,
    ) -> Result<Self, AttemptError> {
        let (response, send) = handle.send_request(head, is_whole).map_err(|error| not_sent(&error))?;
        Ok(Self { send, is_sending: !is_whole, response, recv: None })
    }

    /// Sends what `body` has and the upstream's window lets out. Whether the body moved on.
    pub(in crate::http2) fn poll_send(&mut self, cx: &mut Context<'_>, body: &mut impl Source) -> bool {
        let mut moved = false;
        while self.is_sending {
            let sent = match body.next() {
                Next::NotYet => break,
                Next::End(None) => self.send.send_data(Bytes::new(), true).map(|()| true),
                Next::End(Some(trailers)) => self.send.send_trailers(trailers).map(|()| true),
                Next::Data(mut data, is_last) => {
                    let capacity = match poll_capacity(&mut self.send, cx, data.len()) {
                        Poll::Ready(Some(capacity)) => capacity,
                        Poll::Ready(None) => {
                            self.is_sending = false;
                            break;
                        }
                        Poll::Pending => break,
                    };
                    let part = data.split_to(capacity.min(data.len()));
                    let (length, is_end) = (part.len(), is_last && data.is_empty());
                    self.send.send_data(part, is_end).map(|()| {
                        body.advance(length);
                        moved = true;
                        is_end
                    })
                }
            };
            // An error means that the upstream closed the stream. Whether it answered before is seen on the other side.
            self.is_sending = matches!(sent, Ok(false));
        }
        moved
    }

    /// The next head of the response. Not to be called after a final one.
    pub(in crate::http2) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, AttemptError>> {
        match self.response.poll_informational(cx) {
            // A 101 has no meaning here (RFC 9113 section 8.6).
            Poll::Ready(Some(Ok(head))) if head.status() == 101 => {
                return Poll::Ready(Err(AttemptError::UpstreamProtocol));
            }
            Poll::Ready(Some(Ok(head))) => return Poll::Ready(Ok(Head::Informational(head))),
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(no_answer(&error))),
            Poll::Ready(None) => {}
            Poll::Pending => return Poll::Pending,
        }
        match ready!(Pin::new(&mut self.response).poll(cx)) {
            Ok(response) => {
                let (parts, recv) = response.into_parts();
                self.recv = Some(recv);
                Poll::Ready(Ok(Head::Final(parts)))
            }
            Err(error) => Poll::Ready(Err(no_answer(&error))),
        }
    }

    /// Whether nothing follows what has been read of the response.
    pub(in crate::http2) fn is_ended(&self) -> bool {
        self.recv.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    /// The next bytes of the response's body; `None` at its end.
    pub(in crate::http2) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Truncated>>> {
        match &mut self.recv {
            Some(recv) => recv.poll_data(cx).map_err(|_| Truncated),
            None => Poll::Ready(None),
        }
    }

    /// The trailers, after the body's end.
    pub(in crate::http2) fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, Truncated>> {
        match &mut self.recv {
            Some(recv) => recv.poll_trailers(cx).map_err(|_| Truncated),
            None => Poll::Ready(Ok(None)),
        }
    }

    /// Lets the upstream send `count` bytes more, which the client took.
    pub(in crate::http2) fn release(&mut self, count: usize) {
        if let Some(recv) = &mut self.recv {
            // Fails only when the stream is gone, which `poll_data` tells.
            let _ = recv.flow_control().release_capacity(count);
        }
    }
}

/// How many of `wanted` bytes may be sent now; `None` once the peer takes no more.
///
/// What `h2` gives out counts both windows and the queue of the stream, so that no more is queued than the settings say.
pub(in crate::http2) fn poll_capacity(
    send: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
    wanted: usize,
) -> Poll<Option<usize>> {
    send.reserve_capacity(wanted);
    match send.capacity() {
        0 => send.poll_capacity(cx).map(|capacity| capacity.and_then(Result::ok)),
        // Only an increase is told by `poll_capacity`.
        capacity => Poll::Ready(Some(capacity)),
    }
}

/// A connection that takes no more requests: this one never left.
pub(in crate::http2) fn not_sent(error: &h2::Error) -> AttemptError {
    tracing::debug!(%error, "upstream connection takes no more requests");
    AttemptError::Reset { reused: true, refused: true }
}

fn no_answer(error: &h2::Error) -> AttemptError {
    tracing::debug!(%error, "upstream stream ended without a response");
    if error.is_library() {
        return AttemptError::UpstreamProtocol;
    }
    // `h2` ends with a remote GOAWAY only those streams that are above its last-stream-id.
    let is_refused =
        error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM));
    // Whether the connection was stale cannot be told: other streams may have been using it.
    AttemptError::Reset { reused: false, refused: is_refused }
}
