//! Live state of one client pod towards one cluster: connections, their limits, requests in progress.
//!
//! ```text
//! Caller ─ Neighbour (a cluster, by key; survives snapshots) ─ EndpointPool (an address) ─ idle connections
//!                     └ Gauges, shared by the workers: the limits of connectionPool
//! ```
//!
//! Pools belong to a worker, so taking a connection is no more than a pop; limits are counted across workers, as Envoy
//! does. As in Envoy, a worker without any connection to a cluster may open one even at the limit: the others' idle
//! connections are out of its reach.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use socket2::{Domain, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use undermesh_core::policy::{ConnectionPool, RetryBudget};
use undermesh_core::retry_budget::Window;

use crate::http2;
use crate::inlet::Sockets;
use crate::metrics::{Counter, SeriesCache, Shard};
use crate::pool::{Home, Lease};

/// What the limits of a cluster are counted with.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub connections: AtomicU32,
    pub pending: AtomicU32,
    pub requests: AtomicU32,
    pub retries: AtomicU32,
    /// Requests that wait before a retry: they count among `requests` and are at no endpoint.
    pub backing_off: AtomicU32,
    /// Mirrored requests.
    pub copies: AtomicU32,
    /// Requests of `retryBudget.budgetInterval`, if a budget asks for it.
    window: Mutex<Option<Arc<Window>>>,
}

impl Gauges {
    /// Counts requests over the budget's interval, if it has one.
    pub(crate) fn window(&self, budget: &RetryBudget, now: Instant) -> Option<Arc<Window>> {
        let mut window = self.window.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !window.as_ref().is_some_and(|window| window.is_of(budget.budget_interval)) {
            *window = Window::new(budget.budget_interval, now).map(Arc::new);
        }
        window.clone()
    }
}

/// One unit of a gauge, given back on drop.
pub(crate) struct Permit {
    gauges: Arc<Gauges>,
    gauge: fn(&Gauges) -> &AtomicU32,
}

impl Drop for Permit {
    fn drop(&mut self) {
        (self.gauge)(&self.gauges).fetch_sub(1, Ordering::Relaxed);
    }
}

/// `None` when `gauge` has met `limit`.
pub(crate) fn permit(gauges: &Arc<Gauges>, gauge: fn(&Gauges) -> &AtomicU32, limit: u32) -> Option<Permit> {
    if gauge(gauges).fetch_add(1, Ordering::Relaxed) >= limit {
        gauge(gauges).fetch_sub(1, Ordering::Relaxed);
        return None;
    }
    Some(Permit { gauges: gauges.clone(), gauge })
}

/// Why no connection could be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectError {
    /// A limit of `connectionPool` was met: 503, flag UO.
    #[error("connection pool overflow")]
    Overflow,
    /// Refused, unreachable, reset: 503, flag UF.
    #[error("connecting failed: {0}")]
    Failed(io::ErrorKind),
    /// `tcp.connectTimeout` passed: 503, flag UF.
    #[error("connecting timed out")]
    TimedOut,
}

/// One worker's state of a client towards a cluster.
pub(crate) struct Neighbour {
    pub gauges: Arc<Gauges>,
    /// Round robin's position.
    pub cursor: Cell<u32>,
    /// Series of requests that got no endpoint.
    pub series: SeriesCache,
    sockets: Arc<dyn Sockets>,
    shard: Rc<Shard>,
    endpoints: RefCell<HashMap<SocketAddr, Rc<EndpointPool>>>,
    /// Connections of this worker, in use or idle.
    connections: Cell<u32>,
    waiting: RefCell<VecDeque<oneshot::Sender<()>>>,
}

impl Neighbour {
    pub(crate) fn new(gauges: Arc<Gauges>, sockets: Arc<dyn Sockets>, shard: Rc<Shard>) -> Rc<Self> {
        Rc::new(Self {
            gauges,
            cursor: Cell::default(),
            series: SeriesCache::default(),
            sockets,
            shard,
            endpoints: RefCell::default(),
            connections: Cell::default(),
            waiting: RefCell::default(),
        })
    }

    /// The pool of an endpoint.
    pub(crate) fn endpoint(self: &Rc<Self>, address: SocketAddr) -> Rc<EndpointPool> {
        let mut endpoints = self.endpoints.borrow_mut();
        let pool = endpoints.entry(address).or_insert_with(|| {
            Rc::new(EndpointPool {
                address,
                active: Cell::default(),
                series: SeriesCache::default(),
                neighbour: self.clone(),
                idle: RefCell::default(),
                http2: tokio::sync::Mutex::default(),
                max_requests: Cell::new(u32::MAX),
                idle_timeout: Cell::new(None),
            })
        });
        pool.clone()
    }

    /// Closes connections that are idle for too long, or that the endpoint closed; forgets endpoints that nobody uses.
    /// Answers whether anything is left.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        let pools: Vec<_> = self.endpoints.borrow().values().cloned().collect();
        for pool in pools {
            pool.sweep(now);
        }
        // Two references: the map's, and the pool's own in nobody's hands.
        self.endpoints.borrow_mut().retain(|_, pool| Rc::strong_count(pool) > 1 || pool.is_in_use());
        !self.endpoints.borrow().is_empty()
    }

    /// Breaks the reference cycle of its pools.
    pub(crate) fn clear(&self) {
        self.endpoints.borrow_mut().clear();
    }

    /// Takes the place of one connection, if there is one: the limit is not met, this worker has none at all, or another
    /// endpoint's idle connection gives way.
    fn try_admit(&self, limits: &ConnectionPool) -> bool {
        loop {
            let before = self.gauges.connections.fetch_add(1, Ordering::Relaxed);
            if before < limits.max_connections || self.connections.get() == 0 {
                self.connections.set(self.connections.get() + 1);
                return true;
            }
            self.gauges.connections.fetch_sub(1, Ordering::Relaxed);
            if !self.close_one_idle() {
                return false;
            }
        }
    }

    /// Waits until a connection was given back or closed. `pending` keeps the place in the count of those who wait.
    async fn turn(&self, pending: &mut Option<Permit>, limits: &ConnectionPool) -> Result<(), ConnectError> {
        if pending.is_none() {
            let permit = permit(&self.gauges, |gauges| &gauges.pending, limits.max_pending_requests);
            *pending = Some(permit.ok_or(ConnectError::Overflow)?);
        }
        let (turn, wait) = oneshot::channel();
        self.waiting.borrow_mut().push_back(turn);
        // The sender is only dropped with the whole cluster.
        wait.await.map_err(|_| ConnectError::Overflow)
    }

    /// Another endpoint's idle connection gives way when the limit is met.
    fn close_one_idle(&self) -> bool {
        let pools: Vec<_> = self.endpoints.borrow().values().cloned().collect();
        let oldest = pools
            .into_iter()
            .filter_map(|pool| pool.oldest_idle().map(|since| (since, pool)))
            .min_by_key(|(since, _)| *since);
        oldest.is_some_and(|(_, pool)| pool.close_oldest())
    }

    fn connection_gone(&self) {
        self.gauges.connections.fetch_sub(1, Ordering::Relaxed);
        self.connections.set(self.connections.get().saturating_sub(1));
        self.wake_one();
    }

    fn wake_one(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(turn) = waiting.pop_front() {
            // One that gave up meanwhile passes its turn on.
            if turn.send(()).is_ok() {
                break;
            }
        }
    }

    async fn connect(&self, address: SocketAddr, limits: &ConnectionPool) -> Result<TcpStream, ConnectError> {
        let failed = |error: io::Error| ConnectError::Failed(error.kind());
        let socket = self.sockets.stream(Domain::for_address(address)).map_err(failed)?;
        if let Some(keepalive) = &limits.tcp_keepalive {
            let mut settings = TcpKeepalive::new();
            if let Some(time) = keepalive.time {
                settings = settings.with_time(time);
            }
            if let Some(interval) = keepalive.interval {
                settings = settings.with_interval(interval);
            }
            if let Some(probes) = keepalive.probes {
                settings = settings.with_retries(probes);
            }
            socket.set_tcp_keepalive(&settings).map_err(failed)?;
        }
        socket.set_tcp_nodelay(true).map_err(failed)?;
        let connecting = TcpSocket::from_std_stream(socket.into()).connect(address);
        match tokio::time::timeout(limits.connect_timeout, connecting).await {
            Ok(Ok(io)) => {
                self.shard.count(Counter::UpstreamConnected);
                Ok(io)
            }
            Ok(Err(error)) => {
                self.shard.count(Counter::UpstreamFailed);
                Err(failed(error))
            }
            Err(_) => {
                self.shard.count(Counter::UpstreamTimedOut);
                Err(ConnectError::TimedOut)
            }
        }
    }
}

/// Connections to one endpoint.
pub(crate) struct EndpointPool {
    pub address: SocketAddr,
    /// Requests in progress on this worker: what LEAST_REQUEST looks at.
    pub active: Cell<u32>,
    pub series: SeriesCache,
    neighbour: Rc<Neighbour>,
    /// Youngest last.
    idle: RefCell<VecDeque<Idle>>,
    /// HTTP/2 connections; one, unless it is full.
    http2: tokio::sync::Mutex<Vec<Shared>>,
    /// `maxRequestsPerConnection` as of the newest request.
    max_requests: Cell<u32>,
    /// `http.idleTimeout` as of the newest request.
    idle_timeout: Cell<Option<Duration>>,
}

struct Idle {
    io: TcpStream,
    served: u32,
    since: Instant,
}

/// An HTTP/2 connection that carries several requests.
struct Shared {
    requests: SendRequest<Bytes>,
    served: u32,
    active: Rc<Cell<u32>>,
}

impl Shared {
    fn is_open(&mut self) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        // Pending means that no stream is free just now: still a live connection.
        !matches!(self.requests.poll_ready(&mut context), std::task::Poll::Ready(Err(_)))
    }

    fn has_room(&self, max_streams: u32, max_requests: u32) -> bool {
        let allowed =
            u32::try_from(self.requests.current_max_send_streams()).unwrap_or(u32::MAX).min(max_streams);
        self.active.get() < allowed && self.served < max_requests
    }

    fn stream(&mut self) -> (SendRequest<Bytes>, StreamSlot) {
        self.served = self.served.saturating_add(1);
        self.active.set(self.active.get() + 1);
        (self.requests.clone(), StreamSlot(self.active.clone()))
    }
}

/// A request's place on an HTTP/2 connection.
pub(crate) struct StreamSlot(Rc<Cell<u32>>);

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl EndpointPool {
    /// An idle HTTP/1.1 connection, if there is one: what most requests get, without waiting for anything.
    pub(crate) fn idle_http1(self: &Rc<Self>, limits: &ConnectionPool) -> Option<Lease> {
        self.max_requests.set(limits.max_requests_per_connection);
        self.idle_timeout.set(limits.http_idle_timeout);
        let idle = self.take_idle()?;
        self.neighbour.shard.count(Counter::UpstreamReused);
        Some(Lease::new(idle.io, idle.served, self.clone()))
    }

    /// An HTTP/1.1 connection: an idle one unless `fresh`, else a new one.
    pub(crate) async fn http1(
        self: &Rc<Self>,
        limits: &ConnectionPool,
        fresh: bool,
    ) -> Result<Lease, ConnectError> {
        let mut pending = None;
        loop {
            if !fresh && let Some(lease) = self.idle_http1(limits) {
                return Ok(lease);
            }
            if self.neighbour.try_admit(limits) {
                let io = self.open(limits).await?;
                return Ok(Lease::new(io, 0, self.clone()));
            }
            self.neighbour.turn(&mut pending, limits).await?;
        }
    }

    /// A connection for opaque bytes; counted until the guard goes.
    pub(crate) async fn tcp(
        self: &Rc<Self>,
        limits: &ConnectionPool,
    ) -> Result<(TcpStream, Opened), ConnectError> {
        let neighbour = &self.neighbour;
        // Opaque connections do not queue: over the limit they are closed (semantics 3.2).
        if !neighbour.try_admit(limits) {
            return Err(ConnectError::Overflow);
        }
        let io = self.open(limits).await?;
        Ok((io, Opened(Some(self.clone()))))
    }

    /// A stream of a shared HTTP/2 connection. Another connection is opened when all have as many streams as the endpoint
    /// allows at once, or have carried what each may: streams must not queue behind calls that last.
    pub(crate) async fn http2(
        self: &Rc<Self>,
        limits: &ConnectionPool,
    ) -> Result<(SendRequest<Bytes>, StreamSlot), ConnectError> {
        // Held while a connection is opened, so that requests that come together open one.
        let mut shared = self.http2.lock().await;
        shared.retain_mut(Shared::is_open);
        let limit = limits.max_concurrent_streams;
        if let Some(one) =
            shared.iter_mut().find(|one| one.has_room(limit, limits.max_requests_per_connection))
        {
            self.neighbour.shard.count(Counter::UpstreamReused);
            return Ok(one.stream());
        }
        let mut pending = None;
        while !self.neighbour.try_admit(limits) {
            self.neighbour.turn(&mut pending, limits).await?;
        }
        drop(pending);
        let io = self.open(limits).await?;
        let opened = Opened(Some(self.clone()));
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
        let mut one = Shared { requests, served: 0, active: Rc::default() };
        let stream = one.stream();
        shared.push(one);
        Ok(stream)
    }

    /// Connects, once admitted: the connection counts until `gone`, also when this future is dropped while it connects.
    async fn open(self: &Rc<Self>, limits: &ConnectionPool) -> Result<TcpStream, ConnectError> {
        let opening = Opened(Some(self.clone()));
        let io = self.neighbour.connect(self.address, limits).await?;
        opening.pass_on();
        Ok(io)
    }

    fn take_idle(&self) -> Option<Idle> {
        loop {
            let idle = self.idle.borrow_mut().pop_back()?;
            if is_quiet(&idle.io) {
                return Some(idle);
            }
            self.neighbour.shard.count(Counter::UpstreamStale);
            drop(idle);
            self.gone();
        }
    }

    fn oldest_idle(&self) -> Option<Instant> {
        self.idle.borrow().front().map(|idle| idle.since)
    }

    fn close_oldest(&self) -> bool {
        let closed = self.idle.borrow_mut().pop_front().is_some();
        if closed {
            self.gone();
        }
        closed
    }

    fn is_in_use(&self) -> bool {
        !self.idle.borrow().is_empty() || self.active.get() > 0
    }

    fn sweep(&self, now: Instant) {
        let idle_timeout = self.idle_timeout.get();
        let before = self.idle.borrow().len();
        self.idle.borrow_mut().retain(|idle| {
            let is_old = idle_timeout.is_some_and(|limit| now.saturating_duration_since(idle.since) >= limit);
            !is_old && is_quiet(&idle.io)
        });
        for _ in self.idle.borrow().len()..before {
            self.gone();
        }
    }
}

impl Home for EndpointPool {
    fn give_back(&self, io: TcpStream, served: u32) {
        if served >= self.max_requests.get() {
            drop(io);
            return self.gone();
        }
        self.idle.borrow_mut().push_back(Idle { io, served, since: Instant::now() });
        self.neighbour.wake_one();
    }

    fn gone(&self) {
        self.neighbour.connection_gone();
    }
}

/// A connection that counts against the limits until this goes.
pub(crate) struct Opened(Option<Rc<EndpointPool>>);

impl Opened {
    /// Somebody else counts the connection from now on.
    pub(crate) fn pass_on(mut self) {
        self.0 = None;
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
