//! What routing has to know of Kubernetes: services, endpoints, pods, nodes, namespaces.
//!
//! Our own plain types, so that nothing in `core` depends on a Kubernetes library, and a folder of files looks the same as
//! an API server (DESIGN D10). They are made from the JSON of the objects by [`crate::api::parse`].
//!
//! Of services, endpoints and pods there are tens of thousands, and most of their texts are those of many others: such a text is
//! an `Arc<str>`, which [`crate::pool`] shares.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::api::meta::{Key, Kinded, Labels};

pub use addresses::Addresses;
pub use pod_uid::{NotAUid, PodUid};
pub use protocol::Protocol;

mod addresses;
mod pod_uid;
mod protocol;

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// How it is published.
    pub service_type: ServiceType,
    /// All families; empty for headless and ExternalName services.
    pub cluster_ips: Addresses,
    /// `clusterIP: None`: clients dial the endpoints themselves.
    pub headless: bool,
    /// TCP, UDP and SCTP ports in the order written.
    pub ports: Box<[ServicePort]>,
    /// Labels of its pods; empty: endpoints are managed by somebody else.
    pub selector: Labels,
    /// The target of an ExternalName service.
    pub external_name: Option<String>,
    /// `spec.trafficDistribution`, or Istio's annotation `networking.istio.io/traffic-distribution`.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Endpoints count although they are not ready.
    pub publish_not_ready_addresses: bool,
    /// `internalTrafficPolicy: Local`: only endpoints of the client's node.
    pub internal_traffic_is_local: bool,
}

impl Kinded for Service {
    const KIND: &'static str = "Service";
}

/// `Service.spec.type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ServiceType {
    /// In the cluster only.
    #[default]
    ClusterIp,
    /// And on each node.
    NodePort,
    /// And by a load balancer.
    LoadBalancer,
    /// An alias of a DNS name.
    ExternalName,
}

/// `Service.spec.trafficDistribution`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrafficDistribution {
    /// `PreferClose`, `PreferSameZone`: same network, region, zone first.
    PreferSameZone,
    /// `PreferSameNode`: and same subzone, node.
    PreferSameNode,
    /// No preference, stated.
    Any,
}

impl TrafficDistribution {
    /// What Istio's annotation says, which ServiceEntries can have too, else the Service's field.
    pub fn of(annotations: &BTreeMap<String, String>, field: Option<&str>) -> Option<Self> {
        let annotation = annotations.get("networking.istio.io/traffic-distribution").map(String::as_str);
        match annotation.or(field)? {
            "PreferClose" | "PreferSameZone" => Some(Self::PreferSameZone),
            "PreferSameNode" => Some(Self::PreferSameNode),
            "Any" => Some(Self::Any),
            // Kubernetes: an implementation ignores values it does not know.
            _ => None,
        }
    }
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty if the service has one port only.
    pub name: Arc<str>,
    /// The port clients dial.
    pub number: u16,
    /// The port the endpoints listen on.
    pub target_port: TargetPort,
    /// TCP, UDP or SCTP.
    pub transport: Transport,
    /// `appProtocol` as written.
    pub app_protocol: Option<Arc<str>>,
}

impl ServicePort {
    /// What is spoken on this port.
    pub fn protocol(&self) -> Protocol {
        match self.transport {
            Transport::Tcp => Protocol::of_port(&self.name, self.app_protocol.as_deref(), self.number),
            Transport::Udp | Transport::Sctp => Protocol::Udp,
        }
    }
}

/// Where a service port leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// This port.
    Number(u16),
    /// The container port of this name, which pods may number differently.
    Name(Arc<str>),
}

/// The transport of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP: never ours.
    Udp,
    /// SCTP: never ours.
    Sctp,
}

/// An EndpointSlice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The Service it belongs to (label `kubernetes.io/service-name`), in the same namespace; empty: nobody's.
    pub service: Arc<str>,
    /// Addresses with their state.
    pub endpoints: Box<[Endpoint]>,
    /// Ports that all of the endpoints have.
    pub ports: Arc<[EndpointPort]>,
}

impl Kinded for EndpointSlice {
    const KIND: &'static str = "EndpointSlice";
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Interchangeable; Kubernetes writes one.
    pub addresses: Addresses,
    /// Absent in Kubernetes means true.
    pub is_ready: bool,
    /// Ready, but for termination. Absent means as `is_ready`.
    pub is_serving: bool,
    /// Shutting down.
    pub is_terminating: bool,
    /// The pod's `hostname`, for `<hostname>.<service>` names.
    pub hostname: Arc<str>,
    /// The node it runs on.
    pub node: Arc<str>,
    /// `topology.kubernetes.io/zone` of the node.
    pub zone: Arc<str>,
    /// The pod, if `targetRef` names one.
    pub pod: Option<Key>,
}

/// A port of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct EndpointPort {
    /// The service port's name.
    pub name: Arc<str>,
    /// The number to dial; absent: all ports.
    pub number: Option<u16>,
    /// TCP, UDP or SCTP.
    pub transport: Transport,
}

/// A Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// All families; empty until it has a network.
    pub ips: Addresses,
    /// The node it runs on; empty until scheduled.
    pub node: Arc<str>,
    /// Default `default`.
    pub service_account: Arc<str>,
    /// It shares the node's network namespace.
    pub is_host_network: bool,
    /// Life cycle.
    pub phase: PodPhase,
    /// Condition `Ready`. A pod without any status condition (a manifest in a folder) is ready.
    pub is_ready: bool,
    /// It has a deletion timestamp.
    pub is_terminating: bool,
    /// `spec.hostname`.
    pub hostname: Arc<str>,
    /// Declared ports of all containers, sidecar containers too.
    pub ports: Arc<[ContainerPort]>,
    /// What its cgroup is named by; `None` if the manifest has none, or one that is none of Kubernetes'.
    pub uid: Option<PodUid>,
    /// It brings a proxy of its own: a container or init container [`ISTIO_PROXY`].
    pub has_sidecar: bool,
}

/// The name of the container that Istio injects.
pub const ISTIO_PROXY: &str = "istio-proxy";

impl Kinded for Pod {
    const KIND: &'static str = "Pod";
}

impl Pod {
    /// The number of the declared port `name`.
    pub fn port_named(&self, name: &str, transport: Transport) -> Option<u16> {
        self.ports
            .iter()
            .find(|port| *port.name == *name && port.transport == transport)
            .map(|port| port.number)
    }
}

/// `Pod.status.phase`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum PodPhase {
    /// Not all containers run yet.
    Pending,
    /// Runs. Also a manifest that does not say.
    #[default]
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// The node does not answer.
    Unknown,
}

/// A declared port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ContainerPort {
    /// May be empty.
    pub name: Arc<str>,
    /// The number.
    pub number: u16,
    /// TCP, UDP or SCTP.
    pub transport: Transport,
}

/// A Node: where things are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// `topology.kubernetes.io/region`.
    pub region: String,
    /// `topology.kubernetes.io/zone`.
    pub zone: String,
    /// `topology.istio.io/subzone`.
    pub subzone: String,
    /// Internal and external addresses.
    pub addresses: Vec<IpAddr>,
}

impl Kinded for Node {
    const KIND: &'static str = "Node";
}

/// A Namespace; its labels are in the metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    /// It has a deletion timestamp.
    pub is_terminating: bool,
}

impl Kinded for Namespace {
    const KIND: &'static str = "Namespace";
}
