//! The server side: one connection of a client, one task for each of its streams.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use undermesh_core::edits::Edits;

use super::exchange::Http2Exchange;
use super::head::{Refusal, RequestHead};
use super::reset_guard::{PREMATURE, ResetGuard};
use super::rewind::Rewind;
use super::settings::ServerSettings;
use crate::buffer::BufferPool;
use crate::exchange::{RequestMeta, RequestPath};

/// Streams of a connection that has ended all see it at once; this only bounds what should not happen.
const GRACE: Duration = Duration::from_secs(1);

/// Why a client's connection ended, if not in order.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket failed, or the client broke the protocol.
    #[error("client connection failed: {0}")]
    Connection(#[from] h2::Error),
    /// No whole preface in time.
    #[error("client sent no http/2 preface within {0:?}")]
    HandshakeTimeout(Duration),
    /// It kept resetting the streams it had just opened.
    #[error("client reset too many streams")]
    TooManyResets,
    /// It still had streams open, or did not answer, when the time to drain was over.
    #[error("client held on to the connection {0:?} after goaway")]
    DrainTimeout(Duration),
}

/// Serves HTTP/2 by prior knowledge on `io` until the connection ends.
///
/// `prefix` is what was read of it before. Once `drain` says true, or [`RequestPath::is_draining`] is seen to do so at the
/// begin or end of a stream, the client gets GOAWAY and the streams it opened are finished. Must run on a `LocalSet` or a
/// local runtime; `buffers` are the worker's, for HTTP/1.1 upstreams. Dropping the future ends the connection and drops the streams' tasks.
///
/// # Errors
/// The connection did not end in order; its streams have been told.
pub async fn serve<IO, P>(
    io: IO,
    prefix: &[u8],
    path: Rc<P>,
    settings: Rc<ServerSettings>,
    buffers: Rc<BufferPool>,
    mut drain: watch::Receiver<bool>,
) -> Result<(), ServeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    P: RequestPath + 'static,
{
    let handshake = builder(&settings).handshake::<_, Bytes>(Rewind::new(Bytes::copy_from_slice(prefix), io));
    let mut connection = timeout(settings.handshake_timeout, handshake)
        .await
        .map_err(|_| ServeError::HandshakeTimeout(settings.handshake_timeout))??;

    let mut streams = JoinSet::new();
    let mut guard = ResetGuard::default();
    let mut is_draining = false;
    // Only one of them runs: until GOAWAY the clock of an idle connection, after it that of the drain.
    let mut clock = pin!(sleep_until(Instant::now() + settings.idle_timeout));

    let result = loop {
        if !is_draining && (path.is_draining() || *drain.borrow()) {
            is_draining = true;
            connection.graceful_shutdown();
            clock.as_mut().reset(Instant::now() + settings.drain_timeout);
        }
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    streams.spawn_local(stream(path.clone(), request, respond, settings.clone(), buffers.clone()));
                }
                Some(Err(error)) => break Err(error.into()),
                None => break Ok(()),
            },
            Some(ended) = streams.join_next() => {
                // A task that panicked has dropped its handles, and so reset its stream.
                if guard.is_exceeded_by(ended.unwrap_or(false)) {
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    // Says so, if the client still reads.
                    let _ = timeout(GRACE, poll_fn(|cx| connection.poll_closed(cx))).await;
                    break Err(ServeError::TooManyResets);
                }
                if !is_draining && streams.is_empty() {
                    clock.as_mut().reset(Instant::now() + settings.idle_timeout);
                }
            },
            // An end of the sender is no reason to drain: then only the request path tells.
            Ok(()) = drain.changed(), if !is_draining => {}
            () = clock.as_mut(), if is_draining || streams.is_empty() => {
                if is_draining {
                    break Err(ServeError::DrainTimeout(settings.drain_timeout));
                }
                is_draining = true;
                connection.graceful_shutdown();
                clock.as_mut().reset(Instant::now() + settings.drain_timeout);
            },
        }
    };
    drop(connection);
    // Let them record how they ended.
    let _ = timeout(GRACE, async { while streams.join_next().await.is_some() {} }).await;
    result
}

fn builder(settings: &ServerSettings) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    // Heads somewhat beyond the limit come through, to be refused where it is logged and counted. What is larger still,
    // `h2` answers with 431 by itself; what is larger by far ends the connection.
    let decoded = u32::try_from(settings.max_head_bytes).unwrap_or(u32::MAX).saturating_mul(2);
    builder
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_header_list_size(decoded)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_send_buffer_size(settings.send_buffer);
    // Against rapid reset, `h2`'s own defaults hold: 20 streams reset before they were accepted, 1024 reset by us for errors
    // of the client; `ResetGuard` adds what they leave.
    builder
}

/// Serves one stream. Whether the client gave it up early (see [`ResetGuard`]).
async fn stream<P: RequestPath>(
    path: Rc<P>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    settings: Rc<ServerSettings>,
    buffers: Rc<BufferPool>,
) -> bool {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let mut head = match RequestHead::check(parts, &settings) {
        Ok(head) => head,
        Err(Refusal { status, why }) => {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
            // Fails only when the client is gone already.
            let _ = respond.send_response(response, true);
            path.refused(status, why, 0);
            return false;
        }
    };
    let mut edits = Edits::default();
    let meta = RequestMeta { upgrade: None, has_body: !body.is_end_stream() };
    // The stage is not needed: heads are cheap to keep here, so they are made when an attempt is.
    let (mut plan, _stage) = path.plan(&head, &meta, &mut edits);
    head.apply(&edits);
    drop(edits);
    let mut tee = P::take_tee(&mut plan);
    if let Some(tee) = &mut tee {
        tee.begin(&head.attempt(1));
    }

    let mut exchange = Http2Exchange::new(head, body, respond, settings.replay_bytes, tee, buffers);
    let reply = exchange.reply();
    tokio::select! {
        // First, so that an exchange that is at work sees the reset itself and can say how far it came.
        biased;
        () = path.run(&mut plan, &mut exchange) => {}
        // While the path waits for something else (a connection, say).
        () = poll_fn(|cx| reply.borrow_mut().poll_gone(cx)) => {}
    }
    let (was_answered, is_gone) = poll_fn(|cx| {
        let mut reply = reply.borrow_mut();
        Poll::Ready((reply.has_begun(), reply.poll_gone(cx).is_ready()))
    })
    .await;
    is_gone && !was_answered && started.elapsed() < PREMATURE
}
