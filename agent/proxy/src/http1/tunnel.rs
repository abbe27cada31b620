//! After a 101: bytes both ways until both sides have ended theirs. Half-closes are passed on.
//!
//! No time limit holds here: in the mesh a stream's idle timeout is off, and a route's timeout does not cut an established
//! upgrade (Envoy).

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use super::exchange::{Fate, Http1Exchange};
use super::framing::Framing;
use super::io::ClientIo;
use super::message::Message;
use super::relay::ROUNDS;
use crate::buffer::Fill;
use crate::exchange::{End, RequestPath, Transfer};
use crate::pool::Lease;

/// Which side of a copy failed.
enum Failed {
    Reader,
    Writer,
}

/// What a direction is at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Copying,
    /// The reader ended; the writer is told once everything is out.
    Ending,
    Ended,
}

impl<S: ClientIo, P: RequestPath> Http1Exchange<S, P> {
    pub(super) async fn tunnel(&mut self) -> Transfer {
        // Bytes beyond the request's head are the tunnel's now, and so are those after the 101.
        self.upload.pipe.unpin();
        self.upload.begin_body(Framing::Close);
        self.download.begin_body(Framing::Close);
        self.fate = Fate::Abort;
        let mut lease = self.upstream.take();
        let (mut up, mut down) = (Phase::Copying, Phase::Copying);
        let end = match lease.as_mut().and_then(Lease::io) {
            None => End::UpstreamReset,
            Some(upstream) => {
                poll_fn(|context| {
                    match poll_copy(context, &mut self.client, upstream, &mut self.upload, &mut up) {
                        Ok(()) => {}
                        Err(Failed::Reader) => return Poll::Ready(End::ClientGone),
                        Err(Failed::Writer) => return Poll::Ready(End::UpstreamReset),
                    }
                    match poll_copy(context, upstream, &mut self.client, &mut self.download, &mut down) {
                        Ok(()) => {}
                        Err(Failed::Reader) => return Poll::Ready(End::UpstreamReset),
                        Err(Failed::Writer) => return Poll::Ready(End::ClientGone),
                    }
                    if up == Phase::Ended && down == Phase::Ended {
                        return Poll::Ready(End::Complete);
                    }
                    Poll::Pending
                })
                .await
            }
        };
        if end != End::Complete {
            // No end of stream may be invented for the side that is still there.
            self.fate = Fate::Reset;
            if let Some(io) = lease.as_mut().and_then(Lease::io) {
                io.reset_on_close();
            }
        }
        Transfer { received: self.upload.content(), sent: self.download.content(), end, grpc_status: None }
    }
}

fn poll_copy<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    context: &mut Context<'_>,
    from: &mut R,
    to: &mut W,
    message: &mut Message,
    phase: &mut Phase,
) -> Result<(), Failed> {
    for _ in 0..ROUNDS {
        // Framing until close cannot be broken.
        let _ = message.advance();
        match message.pipe.poll_flush(context, to) {
            Poll::Ready(Ok(0)) => {}
            Poll::Ready(Ok(_)) => continue,
            Poll::Ready(Err(_)) => return Err(Failed::Writer),
            Poll::Pending => return Ok(()),
        }
        match *phase {
            Phase::Ended => return Ok(()),
            Phase::Ending => {
                match Pin::new(&mut *to).poll_shutdown(context) {
                    // The peer may have closed its side first.
                    Poll::Ready(_) => *phase = Phase::Ended,
                    Poll::Pending => {}
                }
                return Ok(());
            }
            Phase::Copying => match message.pipe.poll_fill(context, from, false) {
                Poll::Ready(Ok(Fill::Bytes(_))) => {}
                Poll::Ready(Ok(Fill::Eof)) => *phase = Phase::Ending,
                Poll::Ready(Err(_)) => return Err(Failed::Reader),
                Poll::Ready(Ok(Fill::Full)) | Poll::Pending => return Ok(()),
            },
        }
    }
    context.waker().wake_by_ref();
    Ok(())
}
