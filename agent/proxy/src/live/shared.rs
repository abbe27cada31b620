//! HTTP/2 connections to one endpoint, each shared by several requests.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;

use super::EndpointPool;

/// An HTTP/2 connection that carries several requests. Once this and the requests on it are gone, it closes.
pub(super) struct Shared {
    requests: SendRequest<Bytes>,
    served: u32,
    streams: Rc<Streams>,
    opened: Instant,
    local: Option<SocketAddr>,
}

/// What the requests on a connection say of it.
struct Streams {
    active: Cell<u32>,
    /// When the last one ended.
    idle_since: Cell<Instant>,
}

/// A place on a connection for one request.
pub(crate) struct Stream {
    pub requests: SendRequest<Bytes>,
    pub slot: StreamSlot,
    /// Our end of the connection.
    pub local: Option<SocketAddr>,
}

/// What a connection may be used for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub streams: u32,
    pub requests: u32,
    pub age: Option<Duration>,
}

impl Shared {
    pub(super) fn new(requests: SendRequest<Bytes>, local: Option<SocketAddr>, now: Instant) -> Self {
        let streams = Rc::new(Streams { active: Cell::default(), idle_since: Cell::new(now) });
        Self { requests, served: 0, streams, opened: now, local }
    }

    /// Whether further requests may follow at some time: it is alive, young enough, and has not carried all it may.
    pub(super) fn has_future(&mut self, terms: &Terms, now: Instant) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        // Pending means that no stream is free just now: still a live connection.
        let is_open = !matches!(self.requests.poll_ready(&mut context), std::task::Poll::Ready(Err(_)));
        let age = now.saturating_duration_since(self.opened);
        is_open && self.served < terms.requests && terms.age.is_none_or(|limit| age < limit)
    }

    /// Whether nothing has been on it for `limit`.
    pub(super) fn is_idle_for(&self, limit: Duration, now: Instant) -> bool {
        let idle = now.saturating_duration_since(self.streams.idle_since.get());
        self.streams.active.get() == 0 && idle >= limit
    }

    /// Whether another request may join now.
    pub(super) fn has_room(&self, terms: &Terms) -> bool {
        let allowed = u32::try_from(self.requests.current_max_send_streams()).unwrap_or(u32::MAX);
        self.streams.active.get() < allowed.min(terms.streams)
    }

    /// Takes the place of one more request.
    pub(super) fn stream(&mut self, pool: &Rc<EndpointPool>) -> Stream {
        self.served = self.served.saturating_add(1);
        self.streams.active.set(self.streams.active.get() + 1);
        let slot = StreamSlot { streams: self.streams.clone(), pool: pool.clone() };
        Stream { requests: self.requests.clone(), slot, local: self.local }
    }
}

/// A request's place on an HTTP/2 connection.
pub(crate) struct StreamSlot {
    streams: Rc<Streams>,
    pool: Rc<EndpointPool>,
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let active = self.streams.active.get().saturating_sub(1);
        self.streams.active.set(active);
        if active == 0 {
            self.streams.idle_since.set(Instant::now());
        }
        self.pool.waiting.wake_one();
    }
}
