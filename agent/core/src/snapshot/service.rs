//! Services as routing sees them, whichever registry they come from.

use std::net::IpAddr;
use std::sync::Arc;

use super::visibility::Visibility;
use crate::cluster::{Discovery, Endpoint, ExcludedEndpoint, ServiceRef};
use crate::host::{Cidr, HostKey};
use crate::inventory::{Protocol, TrafficDistribution};

/// Something clients can call.
#[derive(Debug, PartialEq)]
pub struct Service {
    /// FQDN, or a ServiceEntry's host (which may be a wildcard).
    pub host: Arc<str>,
    /// The Kubernetes name; of a ServiceEntry its host.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Where it comes from.
    pub kind: ServiceKind,
    /// Cluster IPs, or the addresses of a ServiceEntry, all families.
    pub addresses: Vec<IpAddr>,
    /// Ranges of a ServiceEntry.
    pub ranges: Vec<Cidr>,
    /// TCP ports.
    pub ports: Vec<ServicePort>,
    /// Which endpoints its clients prefer.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// Clients use those of their own node only (`internalTrafficPolicy: Local`).
    pub is_node_local: bool,
    /// `MESH_EXTERNAL`.
    pub is_external: bool,
    pub(crate) key: HostKey,
    pub(crate) visibility: Visibility,
}

/// See [`Service::kind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceKind {
    /// A Kubernetes Service with cluster IPs.
    ClusterIp,
    /// A Kubernetes Service whose clients dial the endpoints.
    Headless,
    /// An alias of a DNS name.
    ExternalName(Arc<str>),
    /// A ServiceEntry.
    ServiceEntry,
}

/// A port of a service with what is behind it.
#[derive(Debug, PartialEq)]
pub struct ServicePort {
    /// Its name, may be empty.
    pub name: Arc<str>,
    /// The port clients dial.
    pub number: u16,
    /// What is spoken.
    pub protocol: Protocol,
    /// Where the endpoints come from.
    pub discovery: Discovery,
    /// Those that may be used.
    pub endpoints: Arc<[Endpoint]>,
    /// Those that may not, and why.
    pub excluded: Arc<[ExcludedEndpoint]>,
    /// As logs and metrics name it.
    pub service: Arc<ServiceRef>,
}

impl Service {
    /// The port `number`.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Whether all that finds it is the same: names, addresses, ports; of a headless service its endpoints' addresses too.
    pub(crate) fn is_found_alike(&self, other: &Self) -> bool {
        let is_headless = self.kind == ServiceKind::Headless;
        let addresses = |port: &ServicePort| -> Vec<IpAddr> {
            let excluded = port.excluded.iter().map(|it| it.endpoint.address.ip());
            port.endpoints.iter().map(|endpoint| endpoint.address.ip()).chain(excluded).collect()
        };
        let port = |port: &ServicePort| (port.number, port.protocol, is_headless.then(|| addresses(port)));
        self.key == other.key
            && self.host == other.host
            && self.kind == other.kind
            && self.addresses == other.addresses
            && self.ranges == other.ranges
            && self.ports.iter().map(port).eq(other.ports.iter().map(port))
    }

    /// Whether clients find it by Host or SNI only.
    pub fn is_without_address(&self) -> bool {
        self.kind == ServiceKind::ServiceEntry && self.addresses.is_empty() && self.ranges.is_empty()
    }

    /// The hosts that clients of `namespace` may call it by (istio-semantics section 1).
    pub(crate) fn names(&self, namespace: &str) -> Vec<HostKey> {
        let mut names = vec![self.key.clone()];
        if matches!(self.kind, ServiceKind::ServiceEntry) {
            return names;
        }
        let (name, own) = (&self.name, &self.namespace);
        let mut push = |text: String| names.push(HostKey::parse(&text));
        push(format!("{name}.{own}"));
        push(format!("{name}.{own}.svc"));
        if **own == *namespace {
            push(name.to_string());
        }
        names
    }
}
