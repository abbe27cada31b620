//! The end of a client's connection.
//!
//! Closing a socket whose peer still sends makes the kernel answer with a reset, and a reset may overtake the response. So
//! after an early answer our side is ended first, and what still comes is read away for a moment.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::alarm::now;
use super::exchange::{Fate, Http1Exchange};
use super::io::ClientIo;
use super::relay::ROUNDS;
use crate::buffer::Fill;
use crate::exchange::RequestPath;

impl<S: ClientIo, P: RequestPath> Http1Exchange<S, P> {
    /// Ends the connection as its fate demands.
    pub(super) async fn close(&mut self) {
        match self.fate {
            Fate::Abort => {}
            Fate::Reset => self.client.reset_on_close(),
            Fate::KeepAlive | Fate::Close => {
                // A client that did not ask for the end may be sending its next request just now.
                let may_still_send = !self.is_last
                    || self.is_malformed
                    || !self.upload.is_done()
                    || self.upload.pipe.has_raw();
                if may_still_send {
                    Box::pin(self.linger()).await;
                } else if !self.client.closes_by_drop() {
                    // The peer may be gone already.
                    let _ = poll_fn(|context| Pin::new(&mut self.client).poll_shutdown(context)).await;
                }
            }
        }
    }

    async fn linger(&mut self) {
        let Some(deadline) = now().checked_add(self.settings.linger) else { return };
        let mut is_shut = false;
        poll_fn(|context| {
            if !is_shut {
                match Pin::new(&mut self.client).poll_shutdown(context) {
                    Poll::Ready(Ok(())) => is_shut = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            self.poll_linger(context, deadline)
        })
        .await;
    }

    fn poll_linger(&mut self, context: &mut Context<'_>, deadline: std::time::Instant) -> Poll<()> {
        for _ in 0..ROUNDS {
            self.upload.give_up();
            self.upload.abandon();
            match self.upload.pipe.poll_fill(context, &mut self.client, false) {
                Poll::Ready(Ok(Fill::Bytes(_))) => {}
                Poll::Ready(Ok(Fill::Eof | Fill::Full) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => return self.alarm.poll(context, deadline),
            }
        }
        // Time is looked at here too: a client that never stops sending keeps the socket readable for ever.
        if now() >= deadline {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
