//! The other end of one attempt, whatever the upstream speaks.

mod http1;
mod http2;

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, response};

use self::http1::Http1Stream;
use self::http2::Http2Stream;
pub(super) use self::http2::{not_sent, poll_capacity};
use super::body::Source;
use crate::buffer::BufferPool;
use crate::exchange::AttemptError;
use crate::pool::Upstream;

/// A head that an upstream sent.
#[derive(Debug)]
pub(crate) enum Head {
    /// 1xx: more heads follow.
    Informational(Response<()>),
    /// The response.
    Final(response::Parts),
}

/// The upstream's message ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Truncated;

/// A request on its way and the response to it. Dropped before its end, it resets the stream or closes the connection.
pub(crate) enum Attempt {
    Http1(Box<Http1Stream>),
    Http2(Http2Stream),
}

impl Attempt {
    /// Sends `head` to `upstream`, which is ready. `is_whole`: no body follows.
    ///
    /// # Errors
    /// Nothing was sent.
    pub(crate) fn open(
        upstream: Upstream,
        buffers: &Rc<BufferPool>,
        head: Request<()>,
        is_whole: bool,
    ) -> Result<Self, AttemptError> {
        Ok(match upstream {
            Upstream::Http1(lease) => {
                Self::Http1(Box::new(Http1Stream::open(lease, buffers, &head, is_whole)?))
            }
            Upstream::Http2(mut handle) => Self::Http2(Http2Stream::open(&mut handle, head, is_whole)?),
        })
    }

    /// Sends what `body` has and the upstream takes. Whether the body moved on.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, body: &mut impl Source) -> bool {
        match self {
            Self::Http1(stream) => stream.poll_send(cx, body),
            Self::Http2(stream) => stream.poll_send(cx, body),
        }
    }

    /// The next head of the response. Not to be called after a final one.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, AttemptError>> {
        match self {
            Self::Http1(stream) => stream.poll_head(cx),
            Self::Http2(stream) => stream.poll_head(cx),
        }
    }

    /// Whether nothing follows what has been read of the response.
    pub(crate) fn is_ended(&self) -> bool {
        match self {
            Self::Http1(stream) => stream.is_ended(),
            Self::Http2(stream) => stream.is_ended(),
        }
    }

    /// The next bytes of the response's body; `None` at its end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Truncated>>> {
        match self {
            Self::Http1(stream) => stream.poll_data(cx),
            Self::Http2(stream) => stream.poll_data(cx),
        }
    }

    /// The trailers, after the body's end.
    pub(crate) fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, Truncated>> {
        match self {
            Self::Http1(stream) => Poll::Ready(Ok(stream.trailers())),
            Self::Http2(stream) => stream.poll_trailers(cx),
        }
    }

    /// Tells the upstream that the client took `count` bytes. HTTP/1.1 needs no telling: what is not read is not sent.
    pub(crate) fn release(&mut self, count: usize) {
        if let Self::Http2(stream) = self {
            stream.release(count);
        }
    }

    /// Ends an attempt whose response was relayed to its end.
    pub(crate) fn finish(self) {
        if let Self::Http1(stream) = self {
            stream.finish();
        }
    }
}
