//! The connections of one worker to one endpoint, in use and idle.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use undermesh_core::policy::ConnectionPool;

use super::shared::{Shared, Stream, Terms};
use super::waiters::Waiters;
use super::{ConnectError, Neighbour};
use crate::http2;
use crate::metrics::{Counter, SeriesCache};
use crate::pool::{Home, Lease};
use crate::proxy_protocol::Preamble;

/// Connections to one endpoint.
pub(crate) struct EndpointPool {
    pub address: SocketAddr,
    /// Requests in progress on this worker: what LEAST_REQUEST looks at.
    pub active: Cell<u32>,
    pub series: SeriesCache,
    neighbour: Rc<Neighbour>,
    /// What each connection begins with.
    preamble: Option<Preamble>,
    /// Whether nothing is kept any more.
    is_closed: Cell<bool>,
    /// Connections of this worker, in use or idle.
    pub(super) connections: Cell<u32>,
    pub(super) waiting: Waiters,
    /// Youngest last.
    idle: RefCell<VecDeque<Idle>>,
    /// HTTP/2 connections; one, unless it is full.
    http2: tokio::sync::Mutex<Vec<Shared>>,
    /// How many HTTP/2 connections could not be made, and why the last one could not.
    http2_failures: Cell<(u32, Option<ConnectError>)>,
    /// `maxRequestsPerConnection` as of the newest request.
    max_requests: Cell<u32>,
    /// `http.idleTimeout` as of the newest request.
    idle_timeout: Cell<Option<Duration>>,
    /// `tcp.maxConnectionDuration` as of the newest request.
    max_age: Cell<Option<Duration>>,
}

struct Idle {
    io: TcpStream,
    served: u32,
    since: Instant,
    connection: Rc<Connection>,
}

/// What is known of an HTTP/1.1 connection, as long as it lives.
struct Connection {
    me: Weak<Self>,
    opened: Instant,
    /// Our end of it.
    local: Option<SocketAddr>,
    /// Its pool, while it is leased: in the pool it would keep the pool alive.
    pool: RefCell<Option<Rc<EndpointPool>>>,
}

impl Connection {
    fn new(local: Option<SocketAddr>) -> Rc<Self> {
        let opened = Instant::now();
        Rc::new_cyclic(|me| Self { me: me.clone(), opened, local, pool: RefCell::default() })
    }

    /// Hands the socket out.
    fn lease(self: &Rc<Self>, io: TcpStream, served: u32, pool: &Rc<EndpointPool>) -> Leased {
        *self.pool.borrow_mut() = Some(pool.clone());
        Leased { lease: Lease::new(io, served, self.clone()), local: self.local }
    }
}

impl Home for Connection {
    fn give_back(&self, io: TcpStream, served: u32) {
        let pool = self.pool.borrow_mut().take();
        if let (Some(pool), Some(me)) = (pool, self.me.upgrade()) {
            pool.keep(Idle { io, served, since: Instant::now(), connection: me });
        }
    }

    fn gone(&self) {
        if let Some(pool) = self.pool.borrow_mut().take() {
            pool.gone();
        }
    }
}

/// An HTTP/1.1 connection for one exchange.
pub(crate) struct Leased {
    pub lease: Lease,
    /// Our end of the connection.
    pub local: Option<SocketAddr>,
}

impl EndpointPool {
    pub(super) fn new(
        neighbour: &Rc<Neighbour>,
        address: SocketAddr,
        preamble: Option<Preamble>,
    ) -> Rc<Self> {
        Rc::new(Self {
            address,
            active: Cell::default(),
            series: SeriesCache::default(),
            neighbour: neighbour.clone(),
            preamble,
            is_closed: Cell::new(false),
            connections: Cell::default(),
            waiting: Waiters::default(),
            idle: RefCell::default(),
            http2: tokio::sync::Mutex::default(),
            http2_failures: Cell::default(),
            max_requests: Cell::new(u32::MAX),
            idle_timeout: Cell::new(None),
            max_age: Cell::new(None),
        })
    }

    /// Another pool of the same endpoint; its connections begin with `preamble`, and [`Self::close`] ends it.
    pub(crate) fn private(&self, preamble: Preamble) -> Rc<Self> {
        self.neighbour.private_endpoint(self.address, preamble)
    }

    /// Closes what waits to be used again, now and from now on.
    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        while self.close_oldest() {}
        // Whoever holds the lock is opening a connection, and will not keep it.
        if let Ok(mut shared) = self.http2.try_lock() {
            shared.clear();
        }
    }

    /// An idle HTTP/1.1 connection, if there is one: what most requests get, without waiting for anything.
    pub(crate) fn idle_http1(self: &Rc<Self>, limits: &ConnectionPool) -> Option<Leased> {
        self.follow(limits);
        let idle = self.take_idle()?;
        self.neighbour.shard.count(Counter::UpstreamReused);
        Some(idle.connection.lease(idle.io, idle.served, self))
    }

    /// An HTTP/1.1 connection: an idle one unless `fresh`, else a new one. Who finds no idle one is pending until it has one
    /// (Envoy: also while it connects).
    pub(crate) async fn http1(
        self: &Rc<Self>,
        limits: &ConnectionPool,
        fresh: bool,
    ) -> Result<Leased, ConnectError> {
        let mut pending = None;
        loop {
            if !fresh && let Some(leased) = self.idle_http1(limits) {
                return Ok(leased);
            }
            if pending.is_none() {
                pending = Some(self.neighbour.wait(limits)?);
            }
            if self.neighbour.try_admit(self, limits) {
                let io = self.open(limits).await?;
                return Ok(Connection::new(io.local_addr().ok()).lease(io, 0, self));
            }
            self.waiting.turn().await;
        }
    }

    /// A connection for opaque bytes; counted until the guard goes.
    pub(crate) async fn tcp(
        self: &Rc<Self>,
        limits: &ConnectionPool,
    ) -> Result<(TcpStream, Opened), ConnectError> {
        // Opaque connections do not queue: over the limit they are closed (semantics 3.2).
        if !self.neighbour.try_admit_opaque(self, limits) {
            return Err(ConnectError::Overflow);
        }
        let io = self.open(limits).await?;
        Ok((io, Opened(Some(self.clone()))))
    }

    /// A stream of a shared HTTP/2 connection. Another connection is opened when all have as many streams as the endpoint
    /// allows at once, or have carried what each may: streams must not queue behind calls that last, unless the limit of
    /// connections is met.
    pub(crate) async fn http2(self: &Rc<Self>, limits: &ConnectionPool) -> Result<Stream, ConnectError> {
        self.follow(limits);
        let terms = Terms {
            streams: limits.max_concurrent_streams,
            requests: limits.max_requests_per_connection,
            age: limits.max_connection_duration,
        };
        let mut pending = None;
        loop {
            if let Ok(mut shared) = self.http2.try_lock()
                && let Some(stream) = self.join(&mut shared, &terms)
            {
                return Ok(stream);
            }
            if pending.is_none() {
                pending = Some(self.neighbour.wait(limits)?);
            }
            {
                let (failures, _) = self.http2_failures.get();
                // Held while a connection is opened, so that requests that come together open one.
                let mut shared = self.http2.lock().await;
                if let Some(stream) = self.join(&mut shared, &terms) {
                    return Ok(stream);
                }
                // Who waited for a connection that could not be made fails with it (Envoy): each trying again by itself, one
                // after the other, would wait for a silent endpoint once for each that came before.
                match self.http2_failures.get() {
                    (now, Some(error)) if now != failures => return Err(error),
                    _ => {}
                }
                if self.neighbour.try_admit(self, limits) {
                    let mut one = self.open_http2(limits).await.inspect_err(|error| {
                        self.http2_failures.set((failures.wrapping_add(1), Some(*error)));
                    })?;
                    let stream = one.stream(self);
                    if !self.is_closed.get() {
                        shared.push(one);
                    }
                    return Ok(stream);
                }
            }
            self.waiting.turn().await;
        }
    }

    /// A stream of a connection that has room for it. Connections without a future are let go: they end with their streams.
    fn join(self: &Rc<Self>, shared: &mut Vec<Shared>, terms: &Terms) -> Option<Stream> {
        let now = Instant::now();
        shared.retain_mut(|one| one.has_future(terms, now));
        let stream = shared.iter_mut().find(|one| one.has_room(terms))?.stream(self);
        self.neighbour.shard.count(Counter::UpstreamReused);
        Some(stream)
    }

    async fn open_http2(self: &Rc<Self>, limits: &ConnectionPool) -> Result<Shared, ConnectError> {
        let io = self.open(limits).await?;
        let opened = Opened(Some(self.clone()));
        let local = io.local_addr().ok();
        let settings = http2::ClientSettings {
            keep_alive: limits
                .http2_keep_alive
                .map(|(interval, timeout)| http2::KeepAlive { interval, timeout }),
            ..http2::ClientSettings::default()
        };
        let (requests, driver) = http2::connect(io, &settings)
            .await
            .map_err(|_| ConnectError::Failed(io::ErrorKind::InvalidData))?;
        tokio::task::spawn_local(async move {
            // How it ended shows in the requests it carried.
            let _ = driver.await;
            drop(opened);
        });
        Ok(Shared::new(requests, local, Instant::now()))
    }

    /// The newest request's limits hold for the connections there are.
    fn follow(&self, limits: &ConnectionPool) {
        self.max_requests.set(limits.max_requests_per_connection);
        self.idle_timeout.set(limits.http_idle_timeout);
        self.max_age.set(limits.max_connection_duration);
    }

    /// Connects, once admitted: the connection counts until `gone`, also when this future is dropped while it connects.
    async fn open(self: &Rc<Self>, limits: &ConnectionPool) -> Result<TcpStream, ConnectError> {
        let opening = Opened(Some(self.clone()));
        let mut io = self.neighbour.connect(self.address, limits).await?;
        if let Some(preamble) = &self.preamble {
            let bytes = preamble.bytes(io.local_addr().ok(), self.address);
            io.write_all(&bytes).await.map_err(|error| ConnectError::Failed(error.kind()))?;
        }
        opening.pass_on();
        Ok(io)
    }

    fn take_idle(&self) -> Option<Idle> {
        loop {
            let idle = self.idle.borrow_mut().pop_back()?;
            if !is_quiet(&idle.io) {
                self.neighbour.shard.count(Counter::UpstreamStale);
            } else if self.max_age.get().is_none_or(|limit| idle.connection.opened.elapsed() < limit) {
                return Some(idle);
            }
            drop(idle);
            self.gone();
        }
    }

    pub(super) fn oldest_idle(&self) -> Option<Instant> {
        self.idle.borrow().front().map(|idle| idle.since)
    }

    pub(super) fn close_oldest(&self) -> bool {
        let closed = self.idle.borrow_mut().pop_front().is_some();
        if closed {
            self.gone();
        }
        closed
    }

    pub(super) fn is_in_use(&self) -> bool {
        !self.idle.borrow().is_empty() || self.active.get() > 0
    }

    pub(super) fn sweep(&self, now: Instant) {
        let idle_timeout = self.idle_timeout.get();
        let before = self.idle.borrow().len();
        self.idle.borrow_mut().retain(|idle| {
            let is_idle =
                idle_timeout.is_some_and(|limit| now.saturating_duration_since(idle.since) >= limit);
            !is_idle && !self.is_too_old(&idle.connection, now) && is_quiet(&idle.io)
        });
        for _ in self.idle.borrow().len()..before {
            self.gone();
        }
        // Whoever holds it opens a connection: then it is not idle here.
        if let Ok(mut shared) = self.http2.try_lock() {
            let terms = Terms { streams: 0, requests: self.max_requests.get(), age: self.max_age.get() };
            shared.retain_mut(|one| {
                one.has_future(&terms, now) && !idle_timeout.is_some_and(|limit| one.is_idle_for(limit, now))
            });
        }
    }

    /// Keeps a connection for the next request, if it may carry one.
    fn keep(&self, idle: Idle) {
        let is_spent =
            idle.served >= self.max_requests.get() || self.is_too_old(&idle.connection, idle.since);
        if is_spent || self.is_closed.get() {
            drop(idle);
            return self.gone();
        }
        self.idle.borrow_mut().push_back(idle);
        self.waiting.wake_one();
    }

    fn is_too_old(&self, connection: &Connection, now: Instant) -> bool {
        self.max_age.get().is_some_and(|limit| now.saturating_duration_since(connection.opened) >= limit)
    }

    fn gone(&self) {
        self.neighbour.connection_gone(self);
    }
}

/// A connection that counts against the limits until this goes.
pub(crate) struct Opened(Option<Rc<EndpointPool>>);

impl Opened {
    /// Somebody else counts the connection from now on.
    fn pass_on(mut self) {
        self.0 = None;
    }

    /// Keeps a connection that was made for opaque bytes for requests: HTTP turned out to be spoken.
    pub(crate) fn adopt(mut self, io: TcpStream) {
        if let Some(pool) = self.0.take() {
            let connection = Connection::new(io.local_addr().ok());
            pool.keep(Idle { io, served: 0, since: connection.opened, connection });
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(pool) = &self.0 {
            pool.gone();
        }
    }
}

/// An idle connection has nothing to say: bytes or an end of stream mean that it is of no use. Asks tokio's readiness, no
/// system call.
fn is_quiet(io: &TcpStream) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    io.poll_read_ready(&mut context).is_pending()
}
