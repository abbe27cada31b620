//! The way back to the client of one stream.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, Response};

use super::upstream::poll_capacity;

/// What a stream's task and its exchange both need: the one to see the client leave while the request path waits for
/// something else, the other to answer. Both live in the same task, whose waker is the only one that `h2` remembers.
pub(super) type SharedReply = Rc<RefCell<Reply>>;

/// The client's stream is closed for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;

/// See the module's text.
#[derive(Debug)]
pub(super) enum Reply {
    /// No final head has been sent.
    Waiting(SendResponse<Bytes>),
    /// The head has been sent.
    Begun(SendStream<Bytes>),
}

impl Reply {
    pub(super) fn has_begun(&self) -> bool {
        matches!(self, Self::Begun(_))
    }

    /// Ready when the client reset the stream, or its connection ended.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Waiting(respond) => respond.poll_reset(cx).map(drop),
            Self::Begun(send) => send.poll_reset(cx).map(drop),
        }
    }

    /// Passes on a 1xx head. One that cannot be sent is lost, as it may be (RFC 9110 section 15.2).
    pub(super) fn inform(&mut self, head: Response<()>) {
        if let Self::Waiting(respond) = self {
            let _ = respond.send_informational(head);
        }
    }

    /// Sends the final head. `is_whole`: nothing follows.
    pub(super) fn begin(&mut self, head: Response<()>, is_whole: bool) -> Result<(), Closed> {
        let Self::Waiting(respond) = self else { return Err(Closed) };
        *self = Self::Begun(respond.send_response(head, is_whole).map_err(|_| Closed)?);
        Ok(())
    }

    /// Sends from the front of `data` what the client's window lets out; ready with the count. `is_last`: the response
    /// ends with `data`.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
        is_last: bool,
    ) -> Poll<Result<usize, Closed>> {
        let Self::Begun(send) = self else { return Poll::Ready(Err(Closed)) };
        let Some(capacity) = ready!(poll_capacity(send, cx, data.len())) else {
            return Poll::Ready(Err(Closed));
        };
        let part = data.split_to(capacity.min(data.len()));
        let length = part.len();
        let sent = send.send_data(part, is_last && data.is_empty());
        Poll::Ready(sent.map(|()| length).map_err(|_| Closed))
    }

    /// Ends the response.
    pub(super) fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Closed> {
        let Self::Begun(send) = self else { return Err(Closed) };
        match trailers {
            Some(trailers) => send.send_trailers(trailers),
            None => send.send_data(Bytes::new(), true),
        }
        .map_err(|_| Closed)
    }

    /// Tells the client that the response it got is not whole. What is still queued for it is dropped.
    pub(super) fn abort(&mut self) {
        // Not NO_ERROR or CANCEL: gRPC clients would report success at worst, a cancellation by the caller at best.
        match self {
            Self::Waiting(respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Self::Begun(send) => send.send_reset(Reason::INTERNAL_ERROR),
        }
    }
}
