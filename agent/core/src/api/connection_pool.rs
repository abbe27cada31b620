//! `ConnectionPoolSettings` and `RetryBudget` as written: limits and time-outs. 0 means default everywhere.

use serde::Deserialize;

use super::duration::Duration;

/// Limits and time-outs towards a service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionPoolSettings {
    /// For all protocols.
    pub tcp: Option<TcpSettings>,
    /// For HTTP.
    pub http: Option<HttpSettings>,
}

/// `ConnectionPoolSettings.TCPSettings`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpSettings {
    /// Open connections; 0 means 2^32-1.
    pub max_connections: i32,
    /// Default 10 s.
    pub connect_timeout: Option<Duration>,
    /// Set only if given.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Age at which a connection is closed.
    pub max_connection_duration: Option<Duration>,
    /// Default 1 h; 0 s switches it off.
    pub idle_timeout: Option<Duration>,
}

/// `SO_KEEPALIVE` settings.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpKeepalive {
    /// Unanswered probes before the connection is dead.
    pub probes: u32,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
}

/// `ConnectionPoolSettings.HTTPSettings`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpSettings {
    /// Requests waiting for a connection, both HTTP versions; 0 means 2^32-1.
    pub http1_max_pending_requests: i32,
    /// Active requests, both HTTP versions; 0 means 2^32-1.
    pub http2_max_requests: i32,
    /// 0 means no limit, 1 no keep-alive.
    pub max_requests_per_connection: i32,
    /// Concurrent retries; 0 means 2^32-1.
    pub max_retries: i32,
    /// Default 1 h; 0 s switches it off.
    pub idle_timeout: Option<Duration>,
    /// Whether to speak HTTP/2 upstream.
    pub h2_upgrade_policy: H2UpgradePolicy,
    /// Speak the client's version upstream.
    pub use_client_protocol: bool,
    /// Per HTTP/2 connection; 0 means 2^31-1.
    pub max_concurrent_streams: i32,
    /// PING frames.
    #[serde(rename = "http2KeepAlive")]
    pub http2_keep_alive: Option<Http2KeepAlive>,
}

/// `HTTPSettings.h2UpgradePolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    /// The mesh's setting.
    #[default]
    Default,
    /// HTTP/1.1.
    DoNotUpgrade,
    /// HTTP/2.
    Upgrade,
}

/// HTTP/2 PING; both are required.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Http2KeepAlive {
    /// Between PINGs.
    pub interval: Option<Duration>,
    /// Wait for the answer.
    pub timeout: Option<Duration>,
}

/// Cap on concurrent retries, relative to active requests.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudget {
    /// Default 20.
    pub percent: Option<f64>,
    /// Default 3.
    pub min_retry_concurrency: u32,
    /// Window over which requests are counted; default 0.
    pub budget_interval: Option<Duration>,
}
