//! The part of Istio's `MeshConfig` that we read: ConfigMap `istio` in `istio-system`, key `mesh`.
//!
//! A setting that is not here is no error, as most of MeshConfig is about sidecars and istiod: it is a warning
//! (`UnreadMeshSetting`).

use serde::Deserialize;

use super::destination_rule::TrafficPolicy;
use super::duration::Duration;
use super::http_route::HttpRetry;
use super::load_balancer::{LocalityLbSetting, ZoneAwareLbSetting};
use super::meta::Kinded;
use super::sidecar::OutboundTrafficPolicy;

/// Mesh-wide settings, as written. The getters give Istio's defaults.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    /// Default `istio-system`.
    pub root_namespace: String,
    /// Default `cluster.local`.
    pub trust_domain: String,
    /// Default ALLOW_ANY.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    /// For objects without `exportTo`; empty means `*`.
    pub default_service_export_to: Vec<String>,
    /// For objects without `exportTo`; empty means `*`.
    pub default_virtual_service_export_to: Vec<String>,
    /// For objects without `exportTo`; empty means `*`.
    pub default_destination_rule_export_to: Vec<String>,
    /// Absent: enabled, by locality.
    pub locality_lb_setting: Option<LocalityLbSetting>,
    /// In place of `locality_lb_setting`.
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    /// Default 10 s.
    pub connect_timeout: Option<Duration>,
    /// For rules without `retries`.
    pub default_http_retry_policy: Option<HttpRetry>,
    /// Fills missing connectionPool and outlierDetection blocks.
    pub default_traffic_policy: Option<TrafficPolicy>,
    /// How paths are normalised before matching.
    pub path_normalization: Option<ProxyPathNormalization>,
    /// Trust in proxies before a gateway. Istio's place is `defaultConfig.gatewayTopology`, which wins over this one.
    pub gateway_topology: Option<Topology>,
    /// Of ProxyConfig only `gatewayTopology` is read.
    pub default_config: Option<ProxyConfig>,
    /// HTTP/2 upstream by default.
    pub h2_upgrade_policy: MeshH2UpgradePolicy,
    /// Default true.
    pub enable_auto_mtls: Option<bool>,
}

impl Kinded for MeshConfig {
    const KIND: &'static str = "ConfigMap";
}

impl MeshConfig {
    /// The namespace whose rules hold for all.
    pub fn root_namespace(&self) -> &str {
        if self.root_namespace.is_empty() { "istio-system" } else { &self.root_namespace }
    }

    /// The trust domain of identities.
    pub fn trust_domain(&self) -> &str {
        if self.trust_domain.is_empty() { "cluster.local" } else { &self.trust_domain }
    }

    /// How long a connect may take.
    pub fn connect_timeout(&self) -> std::time::Duration {
        self.connect_timeout.map_or(std::time::Duration::from_secs(10), Duration::get)
    }

    /// The settings for proxies in front of a gateway.
    pub fn gateway_topology(&self) -> Option<&Topology> {
        self.default_config
            .as_ref()
            .and_then(|config| config.gateway_topology.as_ref())
            .or(self.gateway_topology.as_ref())
    }
}

/// `MeshConfig.ProxyPathNormalization`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyPathNormalization {
    /// Default BASE.
    pub normalization: NormalizationType,
}

/// `ProxyPathNormalization.normalization`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NormalizationType {
    /// As `Base`.
    #[default]
    Default,
    /// Paths as received.
    None,
    /// RFC 3986, and `\` to `/`.
    Base,
    /// And `//` to `/`.
    MergeSlashes,
    /// And `%2F`, `%5C` to `/`.
    DecodeAndMergeSlashes,
}

/// `ProxyConfig`, of which sidecars are the subject.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    /// Trust in proxies before a gateway.
    pub gateway_topology: Option<Topology>,
}

/// `Topology`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Topology {
    /// The client is the address N-th from the right in x-forwarded-for.
    pub num_trusted_proxies: u32,
    /// What happens to x-forwarded-client-cert.
    pub forward_client_cert_details: ForwardClientCertDetails,
    /// Whether connections begin with the PROXY protocol.
    pub proxy_protocol: Option<ProxyProtocolConfiguration>,
}

/// `ForwardClientCertDetails`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCertDetails {
    /// As `Sanitize`.
    #[default]
    Undefined,
    /// Remove.
    Sanitize,
    /// Keep if the connection is mutual TLS.
    ForwardOnly,
    /// Keep and append if the connection is mutual TLS.
    AppendForward,
    /// Replace.
    SanitizeSet,
    /// Keep.
    AlwaysForwardOnly,
}

/// An empty message: its presence is the switch.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyProtocolConfiguration {}

/// `MeshConfig.h2UpgradePolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MeshH2UpgradePolicy {
    /// HTTP/1.1.
    #[default]
    DoNotUpgrade,
    /// HTTP/2.
    Upgrade,
}
