//! Policy of a cluster: a DestinationRule's blocks with Istio's defaults filled in, each with the place it came from.
//!
//! Blocks replace one another whole and never merge field by field (istio-semantics section 3; Istio's
//! `MergeSubsetTrafficPolicy`), so an origin per block says it all. Which blocks win is compile's business.

use std::sync::Arc;
use std::time::Duration;

pub use crate::balance::hash_key::{HashCookie, HashKey};

/// What applies to one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Istio: `loadBalancer`.
    pub balancer: Balancer,
    /// Istio: `loadBalancer.consistentHash`; with it the balancer is one of the two that hash.
    pub consistent_hash: Option<Arc<ConsistentHash>>,
    /// Istio: `loadBalancer.warmup`; only with the balancers that it is for.
    pub warmup: Option<Warmup>,
    /// Istio: `connectionPool`.
    pub connection_pool: ConnectionPool,
    /// Istio: `outlierDetection`; `None`: no endpoint is ever ejected.
    pub outlier_detection: Option<OutlierDetection>,
    /// Istio: `retryBudget`; in place of [`ConnectionPool::max_retries`].
    pub retry_budget: Option<RetryBudget>,
    /// Istio: `proxyProtocol`: what each new connection begins with.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Where the blocks came from; a block that is not listed has Istio's defaults.
    pub origins: Arc<[PolicyOrigin]>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            balancer: Balancer::default(),
            consistent_hash: None,
            warmup: None,
            connection_pool: ConnectionPool::default(),
            outlier_detection: None,
            retry_budget: None,
            proxy_protocol: None,
            origins: Arc::from([]),
        }
    }
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// The place a block was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyOrigin {
    /// `connectionPool`, `loadBalancer`, ...
    pub block: &'static str,
    /// `DestinationRule default/reviews subset v2 port 9080`.
    pub from: Arc<str>,
    /// File, if the rule was read from one.
    pub file: Option<Arc<str>>,
    /// Line in it.
    pub line: Option<u32>,
}

/// How an endpoint is picked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Balancer {
    /// In turn, by weight.
    RoundRobin,
    /// Any, by weight.
    Random,
    /// Istio's default: of two random ones the one with fewer requests; with unequal weights the busy weigh less.
    #[default]
    LeastRequest,
    /// The address the client dialled.
    Passthrough,
    /// By a key, on a ring.
    RingHash,
    /// By a key, in a table.
    Maglev,
}

impl Balancer {
    /// Istio's name for it; Envoy's for those that Istio has as `consistentHash`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "ROUND_ROBIN",
            Self::Random => "RANDOM",
            Self::LeastRequest => "LEAST_REQUEST",
            Self::Passthrough => "PASSTHROUGH",
            Self::RingHash => "RING_HASH",
            Self::Maglev => "MAGLEV",
        }
    }
}

/// The same key, the same endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsistentHash {
    /// What requests are told apart by; `None`: nothing was named, so chance decides.
    pub key: Option<HashKey>,
    /// How endpoints are found.
    pub table: HashTable,
}

/// The table of consistent hashing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashTable {
    /// Istio: `ringHash`.
    Ring {
        /// Places on the ring; default 1024.
        minimum_size: u64,
    },
    /// Istio: `maglev`.
    Maglev {
        /// A prime; default 65537.
        size: u64,
    },
}

/// How new endpoints come to their share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warmup {
    /// The window after an endpoint has become known.
    pub duration: Duration,
    /// Of its share, at least; default 10.
    pub minimum_percent: f64,
    /// 1: in a line; more: quicker at first.
    pub aggression: f64,
}

/// Limits and time-outs towards a cluster. "No limit" is `u32::MAX`, as in Envoy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionPool {
    /// Istio: `tcp.maxConnections`.
    pub max_connections: u32,
    /// Istio: `tcp.connectTimeout`; default 10 s (mesh `connectTimeout`).
    pub connect_timeout: Duration,
    /// Istio: `tcp.tcpKeepalive`; only if set.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Istio: `tcp.maxConnectionDuration`; default none.
    pub max_connection_duration: Option<Duration>,
    /// Istio: `tcp.idleTimeout`; default 1 h, `None` if switched off.
    pub tcp_idle_timeout: Option<Duration>,
    /// Istio: `http.http1MaxPendingRequests`: requests waiting for a connection, both HTTP versions.
    pub max_pending_requests: u32,
    /// Istio: `http.http2MaxRequests`: active requests, both HTTP versions.
    pub max_requests: u32,
    /// Istio: `http.maxRequestsPerConnection`; `u32::MAX` is no limit, 1 is no keep-alive.
    pub max_requests_per_connection: u32,
    /// Istio: `http.maxRetries`: concurrent retries.
    pub max_retries: u32,
    /// Istio: `http.idleTimeout`; default 1 h, `None` if switched off.
    pub http_idle_timeout: Option<Duration>,
    /// Istio: `http.maxConcurrentStreams` per HTTP/2 connection; default 2^31-1.
    pub max_concurrent_streams: u32,
    /// Istio: `http.http2KeepAlive`: (interval, timeout).
    pub http2_keep_alive: Option<(Duration, Duration)>,
}

const HOUR: Duration = Duration::from_secs(3600);

impl Default for ConnectionPool {
    fn default() -> Self {
        Self {
            max_connections: u32::MAX,
            connect_timeout: Duration::from_secs(10),
            tcp_keepalive: None,
            max_connection_duration: None,
            tcp_idle_timeout: Some(HOUR),
            max_pending_requests: u32::MAX,
            max_requests: u32::MAX,
            max_requests_per_connection: u32::MAX,
            max_retries: u32::MAX,
            http_idle_timeout: Some(HOUR),
            max_concurrent_streams: (1 << 31) - 1,
            http2_keep_alive: None,
        }
    }
}

/// `SO_KEEPALIVE` settings; `None` leaves the system's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Unanswered probes before the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
}

/// When an endpoint is taken out of use, and for how long.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierDetection {
    /// Default 5; 0 switches it off.
    pub consecutive_5xx: u32,
    /// 502, 503 and 504 only; 0 (default) switches it off.
    pub consecutive_gateway_errors: u32,
    /// Count local failures apart.
    pub split_local_origin: bool,
    /// Default 5 when split.
    pub consecutive_local_origin_failures: u32,
    /// Default 10 s.
    pub interval: Duration,
    /// Default 30 s.
    pub base_ejection_time: Duration,
    /// Per cent; default 10.
    pub max_ejection_percent: u32,
    /// Panic threshold in per cent; 0: no panic.
    pub min_health_percent: u32,
    /// In place of 5xx; empty: 5xx.
    pub error_codes: Arc<[u16]>,
}

/// Cap on concurrent retries, relative to active requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Default 20.
    pub percent: f64,
    /// Default 3.
    pub min_retry_concurrency: u32,
    /// Default 0.
    pub budget_interval: Duration,
}
