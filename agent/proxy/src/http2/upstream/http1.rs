//! A leased HTTP/1.1 connection, for the length of one attempt. The bytes are `http1::client`'s; this paces them.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Request};

use super::{Head, Truncated};
use crate::buffer::BufferPool;
use crate::exchange::AttemptError;
use crate::http1::client;
use crate::http2::body::{Next, Source};
use crate::pool::Lease;

/// One request on a connection of its own. Dropping it closes the connection.
pub(crate) struct Http1Stream {
    stream: client::Http1Stream,
    /// The request's end has not been handed over, and the upstream still takes it.
    is_sending: bool,
}

impl Http1Stream {
    /// Stages `head`. `is_whole`: no body follows.
    ///
    /// # Errors
    /// The head cannot be sent.
    pub(in crate::http2) fn open(
        lease: Lease,
        buffers: &Rc<BufferPool>,
        head: &Request<()>,
        is_whole: bool,
    ) -> Result<Self, AttemptError> {
        let stream = client::Http1Stream::open(lease, buffers, head, is_whole)?;
        Ok(Self { stream, is_sending: !is_whole })
    }

    /// As `Http2Stream::poll_send`; also what was staged before goes out here.
    pub(in crate::http2) fn poll_send(&mut self, cx: &mut Context<'_>, body: &mut impl Source) -> bool {
        let mut moved = false;
        while self.is_sending {
            let next = body.next();
            if matches!(next, Next::NotYet) {
                break;
            }
            match self.stream.poll_room(cx) {
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) => {
                    self.is_sending = false;
                    break;
                }
                Poll::Pending => break,
            }
            match next {
                Next::Data(data, _) => {
                    let count = self.stream.push(&data);
                    body.advance(count);
                    moved = true;
                }
                Next::End(trailers) => {
                    // Without room for it, what is staged must go out first; the next round sees if anybody still wants it.
                    if self.stream.end(trailers.as_ref()) {
                        self.is_sending = false;
                    } else if self.stream.poll_flush(cx).is_pending() {
                        break;
                    }
                }
                Next::NotYet => break,
            }
        }
        // Whether it is all out matters only to `finish`.
        let _ = self.stream.poll_flush(cx);
        moved
    }

    /// The next head of the response. Not to be called after a final one.
    pub(in crate::http2) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, AttemptError>> {
        Poll::Ready(Ok(match ready!(self.stream.poll_head(cx))? {
            client::Head::Informational(head) => Head::Informational(head),
            client::Head::Final(head) => Head::Final(head.into_parts().0),
        }))
    }

    /// Whether nothing follows what has been read of the response.
    pub(in crate::http2) fn is_ended(&self) -> bool {
        self.stream.is_ended()
    }

    /// The next bytes of the response's body; `None` at its end.
    pub(in crate::http2) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Truncated>>> {
        self.stream.poll_data(cx).map_err(|client::Truncated| Truncated)
    }

    /// The trailers, after the body's end.
    pub(in crate::http2) fn trailers(&mut self) -> Option<HeaderMap> {
        self.stream.take_trailers()
    }

    /// Gives the connection back if both messages ended cleanly.
    pub(in crate::http2) fn finish(self) {
        self.stream.finish();
    }
}
