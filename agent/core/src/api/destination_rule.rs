//! `DestinationRule` as written: subsets of a service, and the policy for traffic that goes to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::connection_pool::{ConnectionPoolSettings, RetryBudget};
use super::duration::Duration;
use super::load_balancer::LoadBalancerSettings;
use super::meta::Kinded;
use super::virtual_service::PortSelector;

/// The spec of a DestinationRule.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationRule {
    /// The service: FQDN, short name or wildcard.
    pub host: String,
    /// Policy for all of the service.
    #[serde(deserialize_with = "shared")]
    pub traffic_policy: Option<Arc<TrafficPolicy>>,
    /// Named groups of endpoints.
    pub subsets: Vec<Subset>,
    /// As [`VirtualService::export_to`](super::virtual_service::VirtualService::export_to).
    pub export_to: Vec<String>,
    /// Only clients of this namespace with these labels.
    pub workload_selector: Option<PolicySelector>,
}

impl Kinded for DestinationRule {
    const KIND: &'static str = "DestinationRule";
}

/// What the snapshot keeps of a rule is the rule's own part. (serde has this as a feature, for all of the workspace.)
fn shared<'de, D: Deserializer<'de>, T: Deserialize<'de>>(reader: D) -> Result<Option<Arc<T>>, D::Error> {
    Ok(Option::<T>::deserialize(reader)?.map(Arc::new))
}

/// `istio.type.v1beta1.WorkloadSelector`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicySelector {
    /// All must be present.
    pub match_labels: BTreeMap<String, String>,
}

/// A named group of endpoints.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// A DNS label.
    pub name: String,
    /// Endpoints that carry all of these.
    pub labels: BTreeMap<String, String>,
    /// Blocks replace those of the rule.
    #[serde(deserialize_with = "shared")]
    pub traffic_policy: Option<Arc<TrafficPolicy>>,
}

/// Policy blocks. An absent block is inherited.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficPolicy {
    /// How to pick an endpoint.
    pub load_balancer: Option<LoadBalancerSettings>,
    /// Limits and time-outs.
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// When to stop using an endpoint.
    pub outlier_detection: Option<OutlierDetection>,
    /// TLS towards the service.
    pub tls: Option<ClientTlsSettings>,
    /// Policy of single ports, in place of the blocks above.
    pub port_level_settings: Vec<PortTrafficPolicy>,
    /// Wrap TCP in HTTP CONNECT or POST.
    pub tunnel: Option<TunnelSettings>,
    /// Send the PROXY protocol.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Cap on concurrent retries.
    pub retry_budget: Option<RetryBudget>,
}

/// Policy of one port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortTrafficPolicy {
    /// The service port; required.
    pub port: Option<PortSelector>,
    /// As [`TrafficPolicy::load_balancer`].
    pub load_balancer: Option<LoadBalancerSettings>,
    /// As [`TrafficPolicy::connection_pool`].
    pub connection_pool: Option<ConnectionPoolSettings>,
    /// As [`TrafficPolicy::outlier_detection`].
    pub outlier_detection: Option<OutlierDetection>,
    /// As [`TrafficPolicy::tls`].
    pub tls: Option<ClientTlsSettings>,
}

/// When an endpoint is taken out of use, and for how long.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Deprecated, without effect.
    pub consecutive_errors: i32,
    /// Split local failures from answers.
    pub split_external_local_origin_errors: bool,
    /// Default 5 when split.
    pub consecutive_local_origin_failures: Option<u32>,
    /// 502, 503 and 504 only; off by default.
    pub consecutive_gateway_errors: Option<u32>,
    /// Default 5; 0 switches it off.
    #[serde(rename = "consecutive5xxErrors")]
    pub consecutive_5xx_errors: Option<u32>,
    /// Default 10 s.
    pub interval: Option<Duration>,
    /// Default 30 s.
    pub base_ejection_time: Option<Duration>,
    /// 0 to 100; 0 means the default, 10.
    pub max_ejection_percent: i32,
    /// Panic threshold, 0 to 100; 0 means no panic.
    pub min_health_percent: i32,
    /// Replaces the set of statuses that count as errors.
    pub outlier_detection_http_error_codes: Vec<u32>,
}

/// `ClientTLSSettings`: TLS towards the service.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientTlsSettings {
    /// Default DISABLE.
    pub mode: ClientTlsMode,
    /// Path of the client certificate.
    pub client_certificate: String,
    /// Path of its key.
    pub private_key: String,
    /// Path of the CA bundle.
    pub ca_certificates: String,
    /// Path of the revocation list.
    pub ca_crl: String,
    /// A secret in place of the paths.
    pub credential_name: String,
    /// Names accepted in the server's certificate.
    pub subject_alt_names: Vec<String>,
    /// SNI to send.
    pub sni: String,
    /// Do not check the server's certificate.
    pub insecure_skip_verify: Option<bool>,
}

/// `ClientTLSSettings.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    /// No TLS.
    #[default]
    Disable,
    /// Originate TLS.
    Simple,
    /// Originate TLS with a client certificate.
    Mutual,
    /// Istio's mutual TLS.
    IstioMutual,
}

/// Wrap TCP in HTTP.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TunnelSettings {
    /// `CONNECT` (default) or `POST`.
    pub protocol: String,
    /// The host behind the proxy.
    pub target_host: String,
    /// Its port.
    pub target_port: u32,
}

/// Send the PROXY protocol.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyProtocol {
    /// Default V1.
    pub version: ProxyProtocolVersion,
}

/// `ProxyProtocol.version`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ProxyProtocolVersion {
    /// Text.
    #[default]
    V1,
    /// Binary.
    V2,
}
