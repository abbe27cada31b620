//! `Sidecar` as written. Here it limits what a client pod sees; binds and capture modes mean nothing without sidecars.

use serde::Deserialize;

use super::connection_pool::ConnectionPoolSettings;
use super::gateway::{Port, ServerTlsSettings};
use super::meta::Kinded;
use super::service_entry::WorkloadSelector;
use super::virtual_service::Destination;

/// The spec of a Sidecar.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sidecar {
    /// Absent: all workloads of the namespace.
    pub workload_selector: Option<WorkloadSelector>,
    /// Listeners towards the pod.
    pub ingress: Vec<IstioIngressListener>,
    /// What the pod may reach.
    pub egress: Vec<IstioEgressListener>,
    /// Limits towards the pod.
    pub inbound_connection_pool: Option<ConnectionPoolSettings>,
    /// Destinations nobody knows.
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
}

impl Kinded for Sidecar {
    const KIND: &'static str = "Sidecar";
}

/// A listener towards the pod.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IstioIngressListener {
    /// Required.
    pub port: Option<Port>,
    /// Address to listen on.
    pub bind: String,
    /// How traffic comes.
    pub capture_mode: CaptureMode,
    /// Where it goes.
    pub default_endpoint: String,
    /// Certificates.
    pub tls: Option<ServerTlsSettings>,
    /// Limits.
    pub connection_pool: Option<ConnectionPoolSettings>,
}

/// A set of reachable hosts, of one port or all.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IstioEgressListener {
    /// Absent: all other ports.
    pub port: Option<Port>,
    /// Address to listen on.
    pub bind: String,
    /// How traffic comes.
    pub capture_mode: CaptureMode,
    /// `namespace/dnsName`.
    pub hosts: Vec<String>,
}

/// `CaptureMode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaptureMode {
    /// As the environment does.
    #[default]
    Default,
    /// By redirection.
    Iptables,
    /// Not at all.
    None,
}

/// What happens to destinations nobody knows.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutboundTrafficPolicy {
    /// Absent in a Sidecar: `RegistryOnly`, protobuf's first.
    pub mode: Option<OutboundTrafficPolicyMode>,
    /// Never implemented in the open.
    pub egress_proxy: Option<Destination>,
}

/// `OutboundTrafficPolicy.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundTrafficPolicyMode {
    /// Refused.
    RegistryOnly,
    /// Passed through.
    #[default]
    AllowAny,
    /// Mesh-wide only: passed through, by the name in Host or SNI.
    AllowAnyDynamicDns,
}
