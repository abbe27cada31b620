//! An HTTP/1.1 client's exchange with an HTTP/2 upstream: a stream of a shared connection in the place of a lease.
//!
//! The client's body is taken out of its chunks and sent as far as both windows let it; the response is written as
//! HTTP/1.1, with its length if that is known and in chunks if not, trailers and all, so that gRPC gets through. An upgrade
//! cannot be carried (it would take extended CONNECT): the upstream sees an ordinary request and answers it.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::{HeaderName, HeaderValue};
use http::{Request, response};
use undermesh_core::view::ResponseView;

use super::bridge::{self, Outgoing};
use super::client::append_chunk;
use super::exchange::{Fate, Http1Exchange};
use super::framing::{Framing, PieceKind};
use super::io::ClientIo;
use super::relay::{Client, ROUNDS};
use crate::exchange::{AttemptError, End, Judge, Limits, RequestPath, Transfer, Verdict, grpc_status};

pub(super) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// Bytes around a chunk's content.
const CHUNK_OVERHEAD: usize = 12;

/// The HTTP/2 half of an exchange, boxed: most connections never need one.
pub(super) struct Http2Side {
    head: Request<()>,
    /// How the client frames its body, from its start.
    framing: Framing,
    stream: Option<Stream>,
}

impl Http2Side {
    pub(super) fn new(head: Request<()>, framing: Framing) -> Self {
        Self { head, framing, stream: None }
    }

    /// Whether a stream carries the request.
    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }
}

/// One attempt. Dropping it resets the stream, unless both sides have ended.
struct Stream {
    send: SendStream<Bytes>,
    is_sending: bool,
    /// Takes the client's body out of its framing.
    decoder: Framing,
    trailer_lines: Vec<u8>,
    response: ResponseFuture,
    receive: Option<RecvStream>,
    outgoing: Outgoing,
    /// Content that the download pipe had no room for yet.
    pending: Bytes,
    is_ended: bool,
    /// Of the response's trailers.
    grpc_status: Option<u32>,
}

/// The head of a response, as `core` sees it.
struct View<'p>(&'p response::Parts);

impl ResponseView for View<'_> {
    fn status(&self) -> u16 {
        self.0.status.as_u16()
    }

    fn header_lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0.headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

/// What polling the response's stream brought.
enum Down {
    Moved,
    Waits,
    Cut,
}

impl<S: ClientIo, P: RequestPath> Http1Exchange<S, P> {
    pub(super) async fn attempt_http2(
        &mut self,
        mut handle: SendRequest<Bytes>,
        number: u32,
        limits: &Limits,
        judge: &mut impl Judge,
    ) -> Result<Verdict, AttemptError> {
        self.download.give_up();
        self.upload.pipe.rewind();
        self.attempt_started = limits.per_try.map(|_| super::alarm::now());
        let opened = poll_fn(|context| match handle.poll_ready(context) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Ready(Err(_)) => Poll::Ready(Err(not_sent())),
            Poll::Pending => self.poll_trouble(context, limits).map(Err),
        })
        .await
        .and_then(|()| self.open_stream(&mut handle, number));
        let attempted = match opened {
            Ok(()) => poll_fn(|context| self.poll_attempt_http2(context, limits, judge)).await,
            Err(error) => Err(error),
        };
        attempted.map_err(|error| {
            self.drop_stream();
            self.end_attempt(error)
        })
    }

    fn open_stream(&mut self, handle: &mut SendRequest<Bytes>, number: u32) -> Result<(), AttemptError> {
        let Some(side) = &mut self.http2 else { return Err(AttemptError::UpstreamProtocol) };
        let mut request = Request::new(());
        *request.method_mut() = side.head.method().clone();
        *request.uri_mut() = side.head.uri().clone();
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = side.head.headers().clone();
        request.headers_mut().insert(ATTEMPT_COUNT, number.into());
        let is_empty = side.framing == Framing::None;
        let (response, send) = handle.send_request(request, is_empty).map_err(|_| not_sent())?;
        side.stream = Some(Stream {
            send,
            is_sending: !is_empty,
            decoder: side.framing,
            trailer_lines: Vec::new(),
            response,
            receive: None,
            outgoing: Outgoing::Empty,
            pending: Bytes::new(),
            is_ended: false,
            grpc_status: None,
        });
        if self.expects_continue && !self.upload.is_done() {
            // Nothing says that the upstream will: `Expect` ends here, so the client is told by us.
            self.expects_continue = false;
            self.download.pipe.append(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        Ok(())
    }

    /// Gives up the attempt's stream, if there is one.
    pub(super) fn drop_stream(&mut self) {
        if let Some(side) = &mut self.http2 {
            side.stream = None;
        }
    }

    fn poll_attempt_http2(
        &mut self,
        context: &mut Context<'_>,
        limits: &Limits,
        judge: &mut impl Judge,
    ) -> Poll<Result<Verdict, AttemptError>> {
        loop {
            if let Poll::Ready(error) = self.poll_trouble(context, limits) {
                return Poll::Ready(Err(error));
            }
            if let Poll::Ready(Err(_)) = self.poll_flush_client(context) {
                return Poll::Ready(Err(AttemptError::ClientGone));
            }
            let Some(stream) = self.http2.as_mut().and_then(|side| side.stream.as_mut()) else {
                return Poll::Ready(Err(AttemptError::UpstreamProtocol));
            };
            match stream.response.poll_informational(context) {
                Poll::Ready(Some(Ok(head))) => {
                    self.inform(&head.into_parts().0)?;
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(no_answer(&error))),
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
            let response = match Pin::new(&mut stream.response).poll(context) {
                Poll::Ready(Ok(response)) => response,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(no_answer(&error))),
                Poll::Pending => return Poll::Pending,
            };
            let (parts, receive) = response.into_parts();
            stream.receive = Some(receive);
            return Poll::Ready(self.judge_http2(&parts, judge));
        }
    }

    /// Passes an interim head on. 101 has no meaning in HTTP/2 (RFC 9113 section 8.6).
    fn inform(&mut self, parts: &response::Parts) -> Result<(), AttemptError> {
        if parts.status.as_u16() == 101 {
            return Err(AttemptError::UpstreamProtocol);
        }
        let pool = Rc::clone(self.download.pipe.pool());
        pool.with_scratch(|scratch| {
            bridge::write_response(parts, &scratch.edits, true, false, false, &mut scratch.head);
            // One that finds no room behind others is dispensable, as all of them are.
            if self.download.pipe.room() >= scratch.head.len() {
                self.download.pipe.append(&scratch.head);
            }
        });
        Ok(())
    }

    fn judge_http2(
        &mut self,
        parts: &response::Parts,
        judge: &mut impl Judge,
    ) -> Result<Verdict, AttemptError> {
        let pool = Rc::clone(self.download.pipe.pool());
        pool.with_scratch(|scratch| {
            let is_replayable = self.upload.pipe.is_pinned();
            let verdict = judge.judge(&View(parts), is_replayable, &mut scratch.edits);
            if verdict == Verdict::Retry {
                self.drop_stream();
                self.upload.pipe.rewind();
                return Ok(verdict);
            }
            if self.path.is_draining() {
                self.close_after();
            }
            let Some(stream) = self.http2.as_mut().and_then(|side| side.stream.as_mut()) else {
                return Err(AttemptError::UpstreamProtocol);
            };
            let is_empty = stream.receive.as_ref().is_none_or(RecvStream::is_end_stream);
            let close = self.fate == Fate::Close;
            stream.outgoing = bridge::write_response(
                parts,
                &scratch.edits,
                is_empty,
                self.asked.head,
                close,
                &mut scratch.head,
            );
            self.download.begin_body(Framing::None);
            let length = scratch.head.len();
            if !self.download.pipe.feed(&scratch.head) {
                return Err(AttemptError::UpstreamProtocol);
            }
            self.download.pipe.approve(length);
            self.upload.pipe.unpin();
            Ok(verdict)
        })
    }

    /// Relays the response and the rest of the request.
    pub(super) async fn relay_http2(&mut self, limits: &Limits) -> Transfer {
        let end = poll_fn(|context| self.poll_relay_http2(context, limits)).await;
        let was_sent = self.upload.is_done() && self.upload.pipe.is_flushed();
        let stream = self.http2.as_ref().and_then(|side| side.stream.as_ref());
        let grpc_status = stream.and_then(|stream| stream.grpc_status);
        self.drop_stream();
        if end == End::Complete {
            if !was_sent {
                self.close_after();
            }
            self.upload.abandon();
        } else {
            // The head gave a length or chunks, so a plain end shows that something is missing.
            self.fate = Fate::Abort;
        }
        let sent = self.download.content();
        Transfer { received: self.upload.content(), sent, end, grpc_status }
    }

    fn poll_relay_http2(&mut self, context: &mut Context<'_>, limits: &Limits) -> Poll<End> {
        for _ in 0..ROUNDS {
            match self.poll_down(context) {
                Down::Moved => {}
                Down::Cut => return Poll::Ready(End::UpstreamReset),
                Down::Waits => {
                    let is_ended = self.http2.as_ref().and_then(|side| side.stream.as_ref());
                    let is_ended = is_ended.is_none_or(|stream| stream.is_ended);
                    match self.poll_flush_client(context) {
                        Poll::Ready(Err(end)) => return Poll::Ready(end),
                        Poll::Ready(Ok(())) if is_ended => return Poll::Ready(End::Complete),
                        Poll::Ready(Ok(())) | Poll::Pending => {}
                    }
                    return match self.poll_trouble(context, &Limits { per_try: None, ..*limits }) {
                        Poll::Ready(AttemptError::Timeout(_)) => Poll::Ready(End::Timeout),
                        Poll::Ready(AttemptError::ClientProtocol) => Poll::Ready(End::ClientProtocol),
                        Poll::Ready(_) => Poll::Ready(End::ClientGone),
                        Poll::Pending => Poll::Pending,
                    };
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves the response from its stream into the download pipe, and from there to the client when it is full.
    fn poll_down(&mut self, context: &mut Context<'_>) -> Down {
        let Some(stream) = self.http2.as_mut().and_then(|side| side.stream.as_mut()) else {
            return Down::Cut;
        };
        if stream.is_ended {
            return Down::Waits;
        }
        if !stream.pending.is_empty() {
            let pipe = &mut self.download.pipe;
            if pipe.room() <= CHUNK_OVERHEAD {
                // A socket that fails here fails again when the pipe is flushed at last.
                let _ = pipe.poll_flush(context, &mut self.client);
            }
            let count = stream.pending.len().min(pipe.room().saturating_sub(CHUNK_OVERHEAD));
            if count == 0 {
                return Down::Waits;
            }
            match stream.outgoing {
                Outgoing::Chunked => append_chunk(pipe, &stream.pending[..count]),
                Outgoing::Plain => {
                    pipe.append(&stream.pending[..count]);
                }
                // A body where none may be: nobody gets it.
                Outgoing::Empty => {}
            }
            stream.pending.advance(count);
            self.download.add_content(count as u64);
            if let Some(receive) = &mut stream.receive {
                // Fails only when the stream is gone, which `poll_data` tells.
                let _ = receive.flow_control().release_capacity(count);
            }
            return Down::Moved;
        }
        let Some(receive) = &mut stream.receive else { return Down::Cut };
        match receive.poll_data(context) {
            Poll::Ready(Some(Ok(data))) => {
                stream.pending = data;
                return Down::Moved;
            }
            Poll::Ready(Some(Err(_))) => return Down::Cut,
            Poll::Ready(None) => {}
            Poll::Pending => return Down::Waits,
        }
        let trailers = match receive.poll_trailers(context) {
            Poll::Ready(Ok(trailers)) => trailers,
            Poll::Ready(Err(_)) => return Down::Cut,
            Poll::Pending => return Down::Waits,
        };
        stream.grpc_status = trailers.as_ref().and_then(grpc_status);
        if stream.outgoing == Outgoing::Chunked {
            let pool = Rc::clone(self.download.pipe.pool());
            let is_written = pool.with_scratch(|scratch| {
                bridge::write_trailers(trailers.as_ref(), &mut scratch.head);
                let length = scratch.head.len();
                let fits = self.download.pipe.feed(&scratch.head);
                self.download.pipe.approve(length);
                fits
            });
            if !is_written {
                return Down::Cut;
            }
        }
        stream.is_ended = true;
        Down::Moved
    }

    /// Moves the request on, and looks for what ends an attempt from the client's side or the clock's.
    fn poll_trouble(&mut self, context: &mut Context<'_>, limits: &Limits) -> Poll<AttemptError> {
        for _ in 0..self.rounds() {
            if !self.is_malformed {
                self.advance_upload();
            }
            if self.is_malformed {
                return Poll::Ready(AttemptError::ClientProtocol);
            }
            let has_sent = self.poll_up(context);
            match self.poll_client(context) {
                Client::Moved => {}
                Client::Gone => return Poll::Ready(AttemptError::ClientGone),
                Client::Waits if has_sent => {}
                Client::Waits => {
                    return self
                        .poll_limits(context, limits, limits.per_try.is_some())
                        .map(AttemptError::Timeout);
                }
            }
        }
        self.yield_turn(context)
    }

    /// Sends of the request what the windows let out. Whether anything moved.
    fn poll_up(&mut self, context: &mut Context<'_>) -> bool {
        let Some(stream) = self.http2.as_mut().and_then(|side| side.stream.as_mut()) else { return false };
        let mut has_moved = false;
        while stream.is_sending {
            let out = self.upload.pipe.out();
            if out.is_empty() && !(self.upload.is_done() && stream.decoder == Framing::Length(0)) {
                break;
            }
            // The bytes were scanned when they came: the decoder, which reads the same, cannot fail.
            let mut decoder = stream.decoder;
            let Ok(piece) = decoder.piece(out) else {
                stream.is_sending = false;
                break;
            };
            let bytes = out.get(..piece.used).unwrap_or_default();
            let sent = match piece.kind {
                PieceKind::Framing => Ok(()),
                PieceKind::Trailers => {
                    stream.trailer_lines.extend_from_slice(bytes);
                    Ok(())
                }
                PieceKind::End => {
                    stream.is_sending = false;
                    match bridge::read_trailers(&stream.trailer_lines) {
                        Some(trailers) => stream.send.send_trailers(trailers),
                        None => stream.send.send_data(Bytes::new(), true),
                    }
                }
                PieceKind::Content => {
                    let room = match poll_capacity(&mut stream.send, context, piece.used) {
                        Poll::Ready(Some(room)) => room.min(piece.used),
                        Poll::Ready(None) => {
                            stream.is_sending = false;
                            break;
                        }
                        Poll::Pending => break,
                    };
                    // Only as far as the windows let it.
                    let bytes = bytes.get(..room).unwrap_or_default();
                    let _ = stream.decoder.piece(bytes);
                    let sent = stream.send.send_data(Bytes::copy_from_slice(bytes), false);
                    self.upload.pipe.wrote(room);
                    has_moved |= room > 0;
                    stream.is_sending = sent.is_ok();
                    continue;
                }
            };
            stream.decoder = decoder;
            self.upload.pipe.wrote(piece.used);
            has_moved |= piece.used > 0;
            // The upstream closed the stream. Whether it answered before is seen on the other side.
            if sent.is_err() {
                stream.is_sending = false;
            }
        }
        has_moved
    }
}

/// How many of `wanted` bytes may be sent now; `None` once the peer takes no more.
fn poll_capacity(
    send: &mut SendStream<Bytes>,
    context: &mut Context<'_>,
    wanted: usize,
) -> Poll<Option<usize>> {
    send.reserve_capacity(wanted);
    match send.capacity() {
        // Only an increase is told.
        0 => send.poll_capacity(context).map(|capacity| capacity.and_then(Result::ok)),
        capacity => Poll::Ready(Some(capacity)),
    }
}

/// A connection that takes no more requests: this one never left.
fn not_sent() -> AttemptError {
    AttemptError::Reset { reused: true, refused: true }
}

fn no_answer(error: &h2::Error) -> AttemptError {
    tracing::debug!(%error, "upstream stream ended without a response");
    if error.is_library() {
        return AttemptError::UpstreamProtocol;
    }
    // `h2` ends with a remote GOAWAY only those streams that are above its last-stream-id.
    let refused = error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM));
    // Whether the connection was stale cannot be told: other streams may have been using it.
    AttemptError::Reset { reused: false, refused }
}
