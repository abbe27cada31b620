//! Live state of one client pod towards one cluster: connections, their limits, requests in progress.
//!
//! ```text
//! Caller ─ Neighbour (a cluster, by key; survives snapshots) ─ EndpointPool (an address) ─ idle connections
//!                     └ Gauges, shared by the workers: the limits of connectionPool
//! ```
//!
//! Pools belong to a worker, so taking a connection is no more than a pop; limits are counted across workers, as Envoy
//! does. As in Envoy, a worker without any connection to an endpoint may open one even at the limit: connections to others, or
//! of other workers, might never come to an end.

mod endpoint;
mod gauges;
mod shared;
mod waiters;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use socket2::{Domain, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};
use undermesh_core::balance::Cursor;
use undermesh_core::policy::ConnectionPool;

use crate::inlet::Sockets;
use crate::metrics::{Counter, SeriesCache, Shard};
use crate::proxy_protocol::Preamble;

pub(crate) use endpoint::{EndpointPool, Opened};
pub(crate) use gauges::{Gauges, Permit, permit};
pub(crate) use shared::StreamSlot;

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
    /// Whose turn it is.
    pub cursor: Cell<Cursor>,
    /// Series of requests that got no endpoint.
    pub series: SeriesCache,
    sockets: Arc<dyn Sockets>,
    shard: Rc<Shard>,
    endpoints: RefCell<HashMap<SocketAddr, Rc<EndpointPool>>>,
    /// Pools for one client connection each.
    private: RefCell<Vec<Weak<EndpointPool>>>,
}

impl Neighbour {
    pub(crate) fn new(gauges: Arc<Gauges>, sockets: Arc<dyn Sockets>, shard: Rc<Shard>) -> Rc<Self> {
        Rc::new(Self {
            gauges,
            // Clients that ask seldom, and workers, must not all begin with the first endpoint.
            cursor: Cell::new(Cursor::starting_at(RandomState::new().build_hasher().finish())),
            series: SeriesCache::default(),
            sockets,
            shard,
            endpoints: RefCell::default(),
            private: RefCell::default(),
        })
    }

    /// The pool of an endpoint.
    pub(crate) fn endpoint(self: &Rc<Self>, address: SocketAddr) -> Rc<EndpointPool> {
        let mut endpoints = self.endpoints.borrow_mut();
        endpoints.entry(address).or_insert_with(|| EndpointPool::new(self, address, None)).clone()
    }

    /// A further pool of an endpoint, whose connections begin with `preamble`. Who asked for it closes it.
    fn private_endpoint(self: &Rc<Self>, address: SocketAddr, preamble: Preamble) -> Rc<EndpointPool> {
        let pool = EndpointPool::new(self, address, Some(preamble));
        self.private.borrow_mut().push(Rc::downgrade(&pool));
        pool
    }

    fn pools(&self) -> Vec<Rc<EndpointPool>> {
        let endpoints = self.endpoints.borrow();
        endpoints.values().cloned().chain(self.private.borrow().iter().filter_map(Weak::upgrade)).collect()
    }

    /// Closes connections that are idle for too long, or that the endpoint closed; forgets endpoints that nobody uses.
    /// Answers whether anything is left.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        for pool in self.pools() {
            pool.sweep(now);
        }
        self.private.borrow_mut().retain(|pool| pool.strong_count() > 0);
        // Two references: the map's, and the pool's own in nobody's hands.
        self.endpoints.borrow_mut().retain(|_, pool| Rc::strong_count(pool) > 1 || pool.is_in_use());
        !self.endpoints.borrow().is_empty()
    }

    /// As [`Self::try_admit`] for opaque connections, for which the limit is one in every case (Envoy: its TCP proxy asks
    /// before it asks the pool).
    fn try_admit_opaque(&self, pool: &EndpointPool, limits: &ConnectionPool) -> bool {
        let before = self.gauges.connections.fetch_add(1, Ordering::Relaxed);
        if before >= limits.max_connections {
            self.gauges.connections.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        pool.connections.set(pool.connections.get() + 1);
        true
    }

    /// Takes a place among those who wait for a connection.
    fn wait(&self, limits: &ConnectionPool) -> Result<Permit, ConnectError> {
        permit(&self.gauges, |gauges| &gauges.pending, limits.max_pending_requests)
            .ok_or(ConnectError::Overflow)
    }

    /// Breaks the reference cycle of its pools.
    pub(crate) fn clear(&self) {
        self.endpoints.borrow_mut().clear();
    }

    /// Takes the place of one connection for `pool`, if there is one: the limit is not met, another endpoint's idle
    /// connection gives way, or the pool has none at all.
    fn try_admit(&self, pool: &EndpointPool, limits: &ConnectionPool) -> bool {
        loop {
            let before = self.gauges.connections.fetch_add(1, Ordering::Relaxed);
            if before < limits.max_connections {
                break;
            }
            self.gauges.connections.fetch_sub(1, Ordering::Relaxed);
            if self.close_one_idle() {
                continue;
            }
            if pool.connections.get() > 0 {
                return false;
            }
            self.gauges.connections.fetch_add(1, Ordering::Relaxed);
            break;
        }
        pool.connections.set(pool.connections.get() + 1);
        true
    }

    /// Another endpoint's idle connection gives way when the limit is met.
    fn close_one_idle(&self) -> bool {
        let oldest = self
            .pools()
            .into_iter()
            .filter_map(|pool| pool.oldest_idle().map(|since| (since, pool)))
            .min_by_key(|(since, _)| *since);
        oldest.is_some_and(|(_, pool)| pool.close_oldest())
    }

    /// There is room for one more connection: for who waits at the endpoint that has lost one, else for who waits at another.
    fn connection_gone(&self, pool: &EndpointPool) {
        pool.connections.set(pool.connections.get().saturating_sub(1));
        self.gauges.connections.fetch_sub(1, Ordering::Relaxed);
        if !pool.waiting.wake_one() {
            // Stops at the first that had anybody to wake.
            let woken = self.endpoints.borrow().values().any(|other| other.waiting.wake_one());
            if !woken && self.gauges.pending.load(Ordering::Relaxed) > 0 {
                let private = self.private.borrow();
                let _ = private.iter().filter_map(Weak::upgrade).any(|other| other.waiting.wake_one());
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
