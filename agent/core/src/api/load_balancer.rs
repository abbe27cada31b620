//! `LoadBalancerSettings` as written: how an endpoint is picked.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::duration::Duration;

/// How an endpoint is picked. `simple` and `consistent_hash` are a oneof.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerSettings {
    /// A plain algorithm.
    pub simple: Option<SimpleLb>,
    /// The same key, the same endpoint.
    pub consistent_hash: Option<ConsistentHashLb>,
    /// Replaces the mesh's setting whole.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// Exclusive with the former.
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    /// Deprecated form of `warmup.duration`.
    pub warmup_duration_secs: Option<Duration>,
    /// New endpoints get traffic slowly.
    pub warmup: Option<WarmupConfiguration>,
}

/// `LoadBalancerSettings.simple`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleLb {
    /// Istio's default, LEAST_REQUEST.
    #[default]
    Unspecified,
    /// Deprecated name of `LeastRequest`.
    LeastConn,
    /// Any.
    Random,
    /// The dialled address.
    Passthrough,
    /// In turn.
    RoundRobin,
    /// The less busy of two random ones.
    LeastRequest,
}

/// `ConsistentHashLB`. The keys are a oneof, the algorithms another.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsistentHashLb {
    /// Key: a request header.
    pub http_header_name: Option<String>,
    /// Key: a cookie.
    pub http_cookie: Option<HttpCookie>,
    /// Key: the client's address.
    pub use_source_ip: Option<bool>,
    /// Key: a query parameter.
    pub http_query_parameter_name: Option<String>,
    /// Algorithm: ring hash.
    pub ring_hash: Option<RingHash>,
    /// Algorithm: Maglev.
    pub maglev: Option<MagLev>,
    /// Deprecated form of `ring_hash.minimum_ring_size`.
    pub minimum_ring_size: u64,
}

/// A cookie as key.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpCookie {
    /// Required.
    pub name: String,
    /// Path of a generated cookie.
    pub path: String,
    /// With it a missing cookie is generated; 0 s: a session cookie.
    pub ttl: Option<Duration>,
    /// Further attributes of a generated cookie.
    pub attributes: Vec<CookieAttribute>,
}

/// `SameSite=Strict` and its like.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieAttribute {
    /// The attribute.
    pub name: String,
    /// Empty for a flag.
    pub value: String,
}

/// Ring hash.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RingHash {
    /// Default 1024.
    pub minimum_ring_size: u64,
}

/// Maglev.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MagLev {
    /// A prime below 5000011; default 65537.
    pub table_size: u64,
}

/// Locality preference.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LocalityLbSetting {
    /// Explicit shares.
    pub distribute: Vec<Distribute>,
    /// Region to region.
    pub failover: Vec<Failover>,
    /// Labels, in order.
    pub failover_priority: Vec<String>,
    /// Default true.
    pub enabled: Option<bool>,
}

/// Shares by locality of the client.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Distribute {
    /// `region/zone/subzone`, with `*`.
    pub from: String,
    /// Locality to per cent; the sum is 100.
    pub to: BTreeMap<String, u32>,
}

/// Where a region's traffic goes when the region is unhealthy.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Failover {
    /// A region.
    pub from: String,
    /// Another.
    pub to: String,
}

/// Zone-aware balancing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneAwareLbSetting {
    /// Default true.
    pub enabled: Option<bool>,
    /// Region to region.
    pub failover: Vec<Failover>,
    /// Labels, in order.
    pub failover_priority: Vec<String>,
    /// Default 6.
    pub min_cluster_size: Option<u64>,
}

/// New endpoints get traffic slowly.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WarmupConfiguration {
    /// Required.
    pub duration: Option<Duration>,
    /// Default 10.
    pub minimum_percent: Option<f64>,
    /// Default 1.
    pub aggression: Option<f64>,
}
