//! The blocks of a policy laid over one another, and what they come to with Istio's defaults.
//!
//! Blocks replace one another whole and never merge field by field (Istio: `MergeTrafficPolicy`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::destination_rules::SourcedPolicy;
use crate::api::connection_pool::{ConnectionPoolSettings, H2UpgradePolicy, RetryBudget};
use crate::api::destination_rule::{
    ClientTlsMode, ClientTlsSettings, OutlierDetection, ProxyProtocol, ProxyProtocolVersion, TrafficPolicy,
    TunnelSettings,
};
use crate::api::duration;
use crate::api::load_balancer::{ConsistentHashLb, LoadBalancerSettings, SimpleLb};
use crate::cluster::UpstreamProtocol;
use crate::inventory::Protocol;
use crate::policy::{
    self, Balancer, ConnectionPool, ConsistentHash, HashCookie, HashKey, HashTable, Policy, PolicyOrigin,
    TcpKeepalive, Warmup,
};

/// The blocks of a policy, each from one place.
#[derive(Default)]
pub(super) struct Blocks<'a> {
    load_balancer: Option<&'a LoadBalancerSettings>,
    connection_pool: Option<&'a ConnectionPoolSettings>,
    outlier_detection: Option<&'a OutlierDetection>,
    tls: Option<&'a ClientTlsSettings>,
    tunnel: Option<&'a TunnelSettings>,
    proxy_protocol: Option<&'a ProxyProtocol>,
    retry_budget: Option<&'a RetryBudget>,
    origins: BTreeMap<&'static str, PolicyOrigin>,
}

impl<'a> Blocks<'a> {
    /// Lays a policy over: each block it has replaces the one below; an entry for the port replaces all four it can have, also
    /// by nothing.
    pub(super) fn overlay(&mut self, sourced: &'a SourcedPolicy, port: u16) {
        let policy = &sourced.policy;
        let from = |block| PolicyOrigin {
            block,
            from: sourced.from.clone(),
            file: sourced.file.clone(),
            line: sourced.lines.get(block).copied(),
        };
        macro_rules! over {
            ($($field:ident $block:literal),*) => {
                $(if let Some(block) = &policy.$field {
                    self.$field = Some(block);
                    self.origins.insert($block, from($block));
                })*
            };
        }
        over!(load_balancer "loadBalancer", connection_pool "connectionPool", outlier_detection "outlierDetection",
              tls "tls", tunnel "tunnel", proxy_protocol "proxyProtocol", retry_budget "retryBudget");
        let own = policy
            .port_level_settings
            .iter()
            .find(|it| it.port.as_ref().is_some_and(|it| it.number == u32::from(port)));
        if let Some(own) = own {
            let from = |block: &'static str| PolicyOrigin {
                from: format!("{} port {port}", sourced.from).into(),
                line: sourced.lines.get(&format!("{port}/{block}")).copied(),
                ..from(block)
            };
            macro_rules! replace {
                ($($field:ident $block:literal),*) => {
                    $(self.$field = own.$field.as_ref();
                    match &own.$field {
                        Some(_) => { self.origins.insert($block, from($block)); }
                        None => { self.origins.remove($block); }
                    })*
                };
            }
            replace!(load_balancer "loadBalancer", connection_pool "connectionPool", outlier_detection "outlierDetection",
                     tls "tls");
        }
    }

    pub(super) fn lacks_mesh_defaults(&self) -> bool {
        self.connection_pool.is_none() || self.outlier_detection.is_none()
    }

    /// MeshConfig `defaultTrafficPolicy`.
    pub(super) fn fill(&mut self, policy: &'a TrafficPolicy, origin: &PolicyOrigin) {
        if let (None, Some(pool)) = (self.connection_pool, &policy.connection_pool) {
            self.connection_pool = Some(pool);
            self.origins.insert("connectionPool", PolicyOrigin { block: "connectionPool", ..origin.clone() });
        }
        if let (None, Some(detection)) = (self.outlier_detection, &policy.outlier_detection) {
            self.outlier_detection = Some(detection);
            self.origins
                .insert("outlierDetection", PolicyOrigin { block: "outlierDetection", ..origin.clone() });
        }
    }

    pub(super) fn load_balancer(&self) -> Option<&'a LoadBalancerSettings> {
        self.load_balancer
    }

    pub(super) fn balancer(&self) -> Balancer {
        // Whatever `simple` says (admission keeps them apart).
        match self.load_balancer.and_then(|settings| settings.consistent_hash.as_ref()) {
            Some(hash) if hash.maglev.is_some() => return Balancer::Maglev,
            Some(_) => return Balancer::RingHash,
            None => {}
        }
        match self.load_balancer.and_then(|settings| settings.simple) {
            Some(SimpleLb::RoundRobin) => Balancer::RoundRobin,
            Some(SimpleLb::Random) => Balancer::Random,
            Some(SimpleLb::Passthrough) => Balancer::Passthrough,
            Some(SimpleLb::LeastConn | SimpleLb::LeastRequest | SimpleLb::Unspecified) | None => {
                Balancer::LeastRequest
            }
        }
    }

    /// What would be wrong to leave out: such a cluster gets no traffic at all.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        if self.tls.is_some_and(|tls| tls.mode != ClientTlsMode::Disable) {
            Some(
                "the DestinationRule asks for TLS, which is not originated here yet; nothing is sent in clear text",
            )
        } else if self.tunnel.is_some() {
            Some(
                "the DestinationRule asks for a tunnel, which is not built here yet; nothing is sent around it",
            )
        } else {
            None
        }
    }

    pub(super) fn protocol(&self, port: Protocol, mesh_upgrades: bool) -> (UpstreamProtocol, bool) {
        let http = self.connection_pool.and_then(|pool| pool.http.as_ref());
        let upgrade = match http.map(|http| http.h2_upgrade_policy).unwrap_or_default() {
            H2UpgradePolicy::Upgrade => true,
            H2UpgradePolicy::DoNotUpgrade => false,
            H2UpgradePolicy::Default => mesh_upgrades,
        };
        // An undeclared port speaks whatever its clients speak.
        let as_client = http.is_some_and(|http| http.use_client_protocol) || port == Protocol::Auto;
        let is_http2 = port.is_http2() || upgrade && port == Protocol::Http;
        (if is_http2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 }, as_client)
    }

    pub(super) fn policy(self, balancer: Balancer, connect_timeout: Duration) -> Policy {
        Policy {
            balancer,
            consistent_hash: self
                .load_balancer
                .and_then(|settings| settings.consistent_hash.as_ref())
                .map(|hash| Arc::new(consistent_hash(hash))),
            warmup: self
                .load_balancer
                .and_then(warmup)
                .filter(|_| matches!(balancer, Balancer::RoundRobin | Balancer::LeastRequest)),
            connection_pool: connection_pool(self.connection_pool, connect_timeout),
            outlier_detection: self.outlier_detection.map(outlier_detection),
            retry_budget: self.retry_budget.map(|budget| policy::RetryBudget {
                percent: budget.percent.unwrap_or(20.0),
                min_retry_concurrency: if budget.min_retry_concurrency == 0 {
                    3
                } else {
                    budget.min_retry_concurrency
                },
                budget_interval: budget.budget_interval.map(duration::Duration::get).unwrap_or_default(),
            }),
            proxy_protocol: self.proxy_protocol.map(|block| match block.version {
                ProxyProtocolVersion::V1 => policy::ProxyProtocol::V1,
                ProxyProtocolVersion::V2 => policy::ProxyProtocol::V2,
            }),
            origins: self.origins.into_values().collect(),
        }
    }
}

/// 0 means default everywhere; there is no way to say zero.
fn limit(value: i32) -> u32 {
    u32::try_from(value).ok().filter(|&value| value > 0).unwrap_or(u32::MAX)
}

/// 0 switches an idle time-out off.
fn idle(value: Option<duration::Duration>, default: Option<Duration>) -> Option<Duration> {
    value.map_or(default, |value| Some(value.get()).filter(|value| !value.is_zero()))
}

/// A size that is not given, or 0, is Envoy's default.
fn consistent_hash(settings: &ConsistentHashLb) -> ConsistentHash {
    let size = |size: u64, default| if size == 0 { default } else { size };
    let table = match (&settings.maglev, &settings.ring_hash) {
        (Some(maglev), _) => HashTable::Maglev { size: size(maglev.table_size, 65537) },
        (None, Some(ring)) => HashTable::Ring { minimum_size: size(ring.minimum_ring_size, 1024) },
        (None, None) => HashTable::Ring { minimum_size: size(settings.minimum_ring_size, 1024) },
    };
    let key = if let Some(name) = settings.http_header_name.as_ref().filter(|name| !name.is_empty()) {
        Some(HashKey::Header(name.to_ascii_lowercase().into()))
    } else if let Some(cookie) = &settings.http_cookie {
        let attributes =
            cookie.attributes.iter().map(|it| (it.name.as_str().into(), it.value.as_str().into()));
        Some(HashKey::Cookie(HashCookie {
            name: cookie.name.as_str().into(),
            ttl: cookie.ttl.map(duration::Duration::get),
            path: cookie.path.as_str().into(),
            attributes: attributes.collect(),
        }))
    } else if settings.use_source_ip == Some(true) {
        Some(HashKey::SourceIp)
    } else {
        let name = settings.http_query_parameter_name.as_ref().filter(|name| !name.is_empty());
        name.map(|name| HashKey::QueryParameter(name.as_str().into()))
    };
    ConsistentHash { key, table }
}

fn warmup(settings: &LoadBalancerSettings) -> Option<Warmup> {
    let written = settings.warmup.as_ref();
    let duration = written.map_or(settings.warmup_duration_secs, |it| it.duration)?.get();
    (!duration.is_zero()).then(|| Warmup {
        duration,
        minimum_percent: written.and_then(|it| it.minimum_percent).unwrap_or(10.0),
        aggression: written.and_then(|it| it.aggression).unwrap_or(1.0),
    })
}

fn connection_pool(settings: Option<&ConnectionPoolSettings>, connect_timeout: Duration) -> ConnectionPool {
    let mut pool = ConnectionPool { connect_timeout, ..ConnectionPool::default() };
    if let Some(tcp) = settings.and_then(|settings| settings.tcp.as_ref()) {
        pool.max_connections = limit(tcp.max_connections);
        pool.connect_timeout = tcp.connect_timeout.map_or(connect_timeout, duration::Duration::get);
        pool.tcp_idle_timeout = idle(tcp.idle_timeout, pool.tcp_idle_timeout);
        pool.max_connection_duration = idle(tcp.max_connection_duration, None);
        pool.tcp_keepalive = tcp.tcp_keepalive.as_ref().map(|keepalive| TcpKeepalive {
            probes: Some(keepalive.probes).filter(|&probes| probes > 0),
            time: keepalive.time.map(duration::Duration::get),
            interval: keepalive.interval.map(duration::Duration::get),
        });
    }
    if let Some(http) = settings.and_then(|settings| settings.http.as_ref()) {
        pool.max_pending_requests = limit(http.http1_max_pending_requests);
        pool.max_requests = limit(http.http2_max_requests);
        pool.max_requests_per_connection = limit(http.max_requests_per_connection);
        pool.max_retries = limit(http.max_retries);
        pool.http_idle_timeout = idle(http.idle_timeout, pool.http_idle_timeout);
        pool.max_concurrent_streams = limit(http.max_concurrent_streams).min(pool.max_concurrent_streams);
        pool.http2_keep_alive = http
            .http2_keep_alive
            .as_ref()
            .and_then(|keep_alive| Some((keep_alive.interval?.get(), keep_alive.timeout?.get())));
    }
    pool
}

fn outlier_detection(settings: &OutlierDetection) -> policy::OutlierDetection {
    let percent =
        |value: i32, default| u32::try_from(value).ok().filter(|&value| value > 0).unwrap_or(default);
    let split = settings.split_external_local_origin_errors;
    policy::OutlierDetection {
        consecutive_5xx: settings.consecutive_5xx_errors.unwrap_or(5),
        consecutive_gateway_errors: settings.consecutive_gateway_errors.unwrap_or(0),
        split_local_origin: split,
        // Istio passes on only what is above zero.
        consecutive_local_origin_failures: settings
            .consecutive_local_origin_failures
            .filter(|&failures| failures > 0)
            .unwrap_or(5),
        interval: settings.interval.map_or(Duration::from_secs(10), duration::Duration::get),
        base_ejection_time: settings
            .base_ejection_time
            .map_or(Duration::from_secs(30), duration::Duration::get),
        max_ejection_percent: percent(settings.max_ejection_percent, 10).min(100),
        min_health_percent: percent(settings.min_health_percent, 0).min(100),
        error_codes: settings
            .outlier_detection_http_error_codes
            .iter()
            .filter_map(|&code| u16::try_from(code).ok())
            .collect(),
    }
}
