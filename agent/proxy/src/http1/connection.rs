//! A client's connection: head → plan → run → next, until somebody ends it.

use std::future::poll_fn;
use std::rc::Rc;

use super::Settings;
use super::exchange::Http1Exchange;
use super::io::ClientIo;
use super::receive::Next;
use crate::buffer::BufferPool;
use crate::exchange::RequestPath;

/// Serves one client's connection until it ends. `initial`: bytes that were read from it before, if any.
///
/// Drain: once [`RequestPath::is_draining`], the current response says `connection: close` and is the last one; a
/// connection that waits for a request ends when its task is woken, for whatever reason.
pub fn serve<S: ClientIo, P: RequestPath>(
    io: S,
    path: Rc<P>,
    settings: Rc<Settings>,
    buffers: Rc<BufferPool>,
    initial: &[u8],
) -> impl Future<Output = ()> + use<S, P> {
    let mut exchange = Http1Exchange::new(io, Rc::clone(&path), settings, buffers);
    let is_too_much = !exchange.upload.pipe.feed(initial);
    async move {
        if is_too_much {
            return;
        }
        loop {
            let mut next = poll_fn(|context| exchange.poll_request(context)).await;
            match &mut next {
                Next::Request(plan) => path.run(plan, &mut exchange).await,
                Next::Refused(refusal) => Box::pin(exchange.refuse(*refusal)).await,
                Next::Closed => return,
            }
            drop(next);
            if !exchange.finish().await {
                break;
            }
        }
        exchange.close().await;
    }
}
