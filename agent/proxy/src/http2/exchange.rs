//! One HTTP/2 request and the way back to its client: what the request path acts on.
//!
//! Each operation is one poll loop over everything that can happen at that stage: bytes from the client, room at the
//! upstream, a head, bytes from the upstream, room at the client, the client's reset, a time limit. All of it happens in
//! the stream's own task, so there are no channels and no locks between the two halves of a call, and dropping the
//! exchange resets whatever is still open on either side.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode, response};
use undermesh_core::edits::Edits;

use super::body::{BodyError, RequestBody};
use super::deadline::Deadline;
use super::head::{self, RequestHead, ResponseHead};
use super::reply::{Closed, Reply, SharedReply};
use super::upstream::{Attempt, Head, Truncated, not_sent};
use crate::buffer::BufferPool;
use crate::exchange::{
    AttemptError, ClientGone, End, Exchange, Judge, Limits, LocalReply, Transfer, Verdict, grpc_status,
};
use crate::mirror::Tee;
use crate::pool::Upstream;

/// See the module's text.
pub struct Http2Exchange {
    head: RequestHead,
    body: RequestBody,
    reply: SharedReply,
    upstream: Option<Attempt>,
    /// The head that was judged worth relaying, with its edits applied.
    response: Option<response::Parts>,
    /// Where an HTTP/1.1 upstream's blocks come from.
    buffers: Rc<BufferPool>,
    /// Scratch of the judge.
    edits: Edits,
    /// Bytes of the response's body sent so far.
    sent: u64,
    /// Of the response's trailers.
    grpc_status: Option<u32>,
}

impl Http2Exchange {
    pub(super) fn new(
        head: RequestHead,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        replay_bytes: usize,
        tee: Option<Tee>,
        buffers: Rc<BufferPool>,
    ) -> Self {
        let now = tokio::time::Instant::now().into_std();
        Self {
            head,
            body: RequestBody::new(body, replay_bytes, tee, now),
            reply: Rc::new(RefCell::new(Reply::Waiting(respond))),
            upstream: None,
            response: None,
            buffers,
            edits: Edits::default(),
            sent: 0,
            grpc_status: None,
        }
    }

    /// A second hold on the way back, to watch the client by.
    pub(super) fn reply(&self) -> SharedReply {
        self.reply.clone()
    }

    /// Moves the request on. Ready only if its body failed.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        loop {
            let filled = self.body.poll_fill(cx);
            let moved = self.upstream.as_mut().is_some_and(|upstream| upstream.poll_send(cx, &mut self.body));
            match filled {
                Poll::Ready(error) => return Poll::Ready(error),
                // What moved made room to read ahead.
                Poll::Pending if moved => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Moves the request on. Ready if the client ended it.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        if let Poll::Ready(error) = self.poll_request(cx) {
            return Poll::Ready(error);
        }
        self.reply.borrow_mut().poll_gone(cx).map(|()| BodyError::ClientGone)
    }

    /// What can end an attempt from this side, or from the clock's.
    fn poll_trouble(&mut self, cx: &mut Context<'_>, deadline: &mut Deadline) -> Poll<AttemptError> {
        if let Poll::Ready(error) = self.poll_client(cx) {
            return Poll::Ready(match error {
                BodyError::ClientGone => AttemptError::ClientGone,
                BodyError::Malformed => AttemptError::ClientProtocol,
            });
        }
        deadline.poll(cx, self.body.ended_at()).map(AttemptError::Timeout)
    }

    /// Sends the head.
    async fn open(
        &mut self,
        mut upstream: Upstream,
        number: u32,
        deadline: &mut Deadline,
    ) -> Result<Attempt, AttemptError> {
        if let Upstream::Http2(handle) = &mut upstream {
            poll_fn(|cx| match handle.poll_ready(cx) {
                Poll::Ready(ready) => Poll::Ready(ready.map_err(|error| not_sent(&error))),
                Poll::Pending => self.poll_trouble(cx, deadline).map(Err),
            })
            .await?;
        }
        Attempt::open(upstream, &self.buffers, self.head.attempt(number), self.body.is_empty())
    }

    /// Waits for the final head, sending the request meanwhile.
    fn poll_response_head(
        &mut self,
        cx: &mut Context<'_>,
        deadline: &mut Deadline,
    ) -> Poll<Result<response::Parts, AttemptError>> {
        if let Poll::Ready(error) = self.poll_trouble(cx, deadline) {
            return Poll::Ready(Err(error));
        }
        loop {
            let Some(upstream) = &mut self.upstream else {
                return Poll::Ready(Err(AttemptError::Reset { reused: false, refused: false }));
            };
            match ready!(upstream.poll_head(cx)) {
                Ok(Head::Informational(head)) => self.reply.borrow_mut().inform(head),
                Ok(Head::Final(parts)) => return Poll::Ready(Ok(parts)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Moves the response on; `chunk` holds what the client has not taken yet. Ready at its end.
    fn poll_response_body(&mut self, cx: &mut Context<'_>, chunk: &mut Bytes) -> Poll<End> {
        let Some(upstream) = &mut self.upstream else { return Poll::Ready(End::UpstreamReset) };
        let mut reply = self.reply.borrow_mut();
        loop {
            while !chunk.is_empty() {
                let is_last = upstream.is_ended();
                match ready!(reply.poll_send(cx, chunk, is_last)) {
                    Ok(count) => {
                        self.sent += count as u64;
                        upstream.release(count);
                    }
                    Err(Closed) => return Poll::Ready(End::ClientGone),
                }
                if is_last && chunk.is_empty() {
                    return Poll::Ready(End::Complete);
                }
            }
            match ready!(upstream.poll_data(cx)) {
                Some(Ok(data)) => *chunk = data,
                Some(Err(Truncated)) => return Poll::Ready(End::UpstreamReset),
                None => {
                    let Ok(trailers) = ready!(upstream.poll_trailers(cx)) else {
                        return Poll::Ready(End::UpstreamReset);
                    };
                    self.grpc_status = trailers.as_ref().and_then(grpc_status);
                    let ended = reply.end(trailers);
                    return Poll::Ready(if ended.is_ok() { End::Complete } else { End::ClientGone });
                }
            }
        }
    }

    fn transfer(&self, end: End) -> Transfer {
        Transfer { received: self.body.received(), sent: self.sent, end, grpc_status: self.grpc_status }
    }
}

impl Exchange for Http2Exchange {
    fn is_replayable(&self) -> bool {
        self.body.is_replayable()
    }

    fn request_ended(&self) -> Option<Instant> {
        self.body.ended_at()
    }

    fn restart_limits(&mut self) {
        self.body.end_again(tokio::time::Instant::now().into_std());
    }

    async fn pause(&mut self, until: Instant) -> Result<(), ClientGone> {
        let mut sleep = Box::pin(tokio::time::sleep_until(until.into()));
        poll_fn(|cx| {
            // Read on, so that the end of the request is seen; a body that fails for another reason shows later.
            let body = self.poll_request(cx);
            let is_gone = matches!(body, Poll::Ready(BodyError::ClientGone))
                || self.reply.borrow_mut().poll_gone(cx).is_ready() && body.is_pending();
            if is_gone {
                return Poll::Ready(Err(ClientGone));
            }
            sleep.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    async fn attempt(
        &mut self,
        upstream: Upstream,
        number: u32,
        limits: Limits,
        judge: &mut impl Judge,
    ) -> Result<Verdict, AttemptError> {
        self.upstream = None;
        self.response = None;
        self.body.rewind();
        let mut deadline = Deadline::new(limits);
        self.upstream = Some(self.open(upstream, number, &mut deadline).await?);
        let answer = poll_fn(|cx| self.poll_response_head(cx, &mut deadline)).await;
        let mut parts = match answer {
            Ok(parts) => parts,
            Err(error) => {
                self.upstream = None;
                return Err(error);
            }
        };
        self.edits.clear();
        let verdict = judge.judge(&ResponseHead(&parts), self.body.is_replayable(), &mut self.edits);
        match verdict {
            Verdict::Relay => {
                head::apply(&mut parts.headers, &self.edits);
                self.response = Some(parts);
            }
            Verdict::Retry => self.upstream = None,
        }
        Ok(verdict)
    }

    async fn relay(&mut self, limits: Limits) -> Transfer {
        let (Some(parts), Some(upstream)) = (self.response.take(), &self.upstream) else {
            // No attempt was judged worth relaying: there is nothing to send.
            self.reply.borrow_mut().abort();
            return self.transfer(End::UpstreamReset);
        };
        let is_whole = upstream.is_ended();
        let begun = self.reply.borrow_mut().begin(Response::from_parts(parts, ()), is_whole);
        let end = match begun {
            Err(Closed) => End::ClientGone,
            Ok(()) if is_whole => End::Complete,
            Ok(()) => {
                let mut deadline = Deadline::new(Limits { per_try: None, ..limits });
                let mut chunk = Bytes::new();
                poll_fn(|cx| {
                    if let Poll::Ready(error) = self.poll_client(cx) {
                        return Poll::Ready(match error {
                            BodyError::ClientGone => End::ClientGone,
                            BodyError::Malformed => End::ClientProtocol,
                        });
                    }
                    if let Poll::Ready(end) = self.poll_response_body(cx, &mut chunk) {
                        return Poll::Ready(end);
                    }
                    // Envoy: the limit ends with the upstream's message. How fast the client takes it is its own affair. (What
                    // `h2` holds unread of an HTTP/2 upstream still counts as not come.)
                    match &self.upstream {
                        Some(upstream) if upstream.is_ended() => Poll::Pending,
                        _ => deadline.poll(cx, self.body.ended_at()).map(|_| End::Timeout),
                    }
                })
                .await
            }
        };
        if matches!(end, End::UpstreamReset | End::Timeout) {
            self.reply.borrow_mut().abort();
        }
        if let (Some(upstream), End::Complete) = (self.upstream.take(), end) {
            upstream.finish();
        }
        self.transfer(end)
    }

    async fn answer(&mut self, reply: &LocalReply<'_>) -> Transfer {
        self.upstream = None;
        let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if !reply.body.is_empty() {
            if !reply.edits.drops(b"content-type") {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            if !reply.edits.drops(b"content-length") {
                headers.insert(CONTENT_LENGTH, reply.body.len().into());
            }
        }
        head::append(headers, reply.edits);
        let has_body = !reply.body.is_empty()
            && self.head.method() != Method::HEAD
            && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let begun = self.reply.borrow_mut().begin(response, !has_body);
        let end = match begun {
            // `h2` has reset the stream for it by itself.
            Err(Closed) if self.body.is_malformed() => End::ClientProtocol,
            Err(Closed) => End::ClientGone,
            Ok(()) if !has_body => End::Complete,
            Ok(()) => {
                let mut data = Bytes::copy_from_slice(reply.body);
                poll_fn(|cx| {
                    let mut reply = self.reply.borrow_mut();
                    while !data.is_empty() {
                        match ready!(reply.poll_send(cx, &mut data, true)) {
                            Ok(count) => self.sent += count as u64,
                            Err(Closed) => return Poll::Ready(End::ClientGone),
                        }
                    }
                    Poll::Ready(End::Complete)
                })
                .await
            }
        };
        self.transfer(end)
    }
}
