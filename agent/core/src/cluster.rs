//! A cluster: one subset of one port of one service as one client may use it, with its endpoints and policy.
//!
//! Named and keyed as in Envoy, since its names are what operators find in logs and dashboards. A destination that cannot be
//! resolved is a cluster too: it keeps its weight and fails visibly (see [`Availability`]).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::balance::Spread;
use crate::policy::Policy;

/// What tells two clusters of one client apart. Live state (pools, breakers, ejections) is kept under it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterKey {
    /// FQDN of the service, or a ServiceEntry's host.
    pub host: Arc<str>,
    /// The service port.
    pub port: u16,
    /// The subset; empty means all of the service.
    pub subset: Arc<str>,
}

/// How to speak to the endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 in clear text with prior knowledge.
    Http2,
}

/// A destination, resolved for one client.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// What it is.
    pub key: ClusterKey,
    /// Envoy's name for it: `outbound|9080|v2|reviews.default.svc.cluster.local`.
    pub name: Arc<str>,
    /// The HTTP version the endpoints speak. Of no meaning to TCP.
    pub protocol: UpstreamProtocol,
    /// Speak the version that the client speaks (`useClientProtocol`) in place of `protocol`.
    pub use_client_protocol: bool,
    /// Where the addresses come from.
    pub discovery: Discovery,
    /// The endpoints that may be used, in a stable order. Empty unless `discovery` is [`Discovery::Endpoints`], or whoever
    /// connects has filled them in.
    pub endpoints: Arc<[Endpoint]>,
    /// Endpoints that were left out, for `explain`.
    pub excluded: Arc<[ExcludedEndpoint]>,
    /// What the DestinationRule asks for, defaults filled in.
    pub policy: Policy,
    /// How requests spread over the endpoints.
    pub spread: Spread,
    /// Whether it can be used at all.
    pub availability: Availability,
    /// The service, for metric labels. `None` if no registry knows the host.
    pub service: Option<Arc<ServiceRef>>,
}

impl Cluster {
    /// Envoy's name of an outbound cluster.
    pub fn outbound_name(key: &ClusterKey) -> Arc<str> {
        format!("outbound|{}|{}|{}", key.port, key.subset, key.host).into()
    }
}

/// Where a cluster's addresses come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Discovery {
    /// [`Cluster::endpoints`].
    Endpoints,
    /// The address the client dialled (ServiceEntry `resolution: NONE`, load balancer PASSTHROUGH).
    OriginalDestination,
    /// Names that whoever connects must resolve (ServiceEntry `resolution: DNS`, `DNS_ROUND_ROBIN`).
    Dns(Arc<[DnsEndpoint]>),
    /// The Host or SNI of each request, resolved (`DYNAMIC_DNS`), at this port.
    DynamicDns(u16),
}

/// A name to resolve.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DnsEndpoint {
    /// The name (or an address written as a name).
    pub host: Arc<str>,
    /// The port to dial.
    pub port: u16,
    /// Relative weight, at least 1.
    pub weight: u32,
    /// Only the first address of an answer counts (`DNS_ROUND_ROBIN`).
    pub first_only: bool,
    /// The labels subsets select by.
    pub labels: Arc<BTreeMap<String, String>>,
    /// `region/zone/subzone`.
    pub locality: Arc<str>,
}

impl DnsEndpoint {
    /// A name by itself, of which all addresses count.
    pub fn new(host: &str, port: u16) -> Self {
        let (labels, locality) = (Arc::default(), "".into());
        Self { host: host.into(), port, weight: 1, first_only: false, labels, locality }
    }
}

/// Whether requests can be sent to a cluster at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Availability {
    /// It is known. It may still be without endpoints: 503, flag UH.
    Known,
    /// No registry knows it: 503, flag NC.
    Missing(Missing),
    /// Its policy asks for something that is not done here, and doing less would be wrong (clear text where TLS is asked
    /// for): 503, flag UF. The text says what.
    Refused(Arc<str>),
}

/// What is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// No service has the host, or none that the client can see.
    Host,
    /// The service does not have the port.
    Port,
    /// No DestinationRule that applies to the client defines the subset.
    Subset,
}

impl Availability {
    /// Envoy's response flag for requests that meet it; `None` if it can be used.
    pub fn flag(&self) -> Option<&'static str> {
        match self {
            Self::Known => None,
            Self::Missing(_) => Some("NC"),
            Self::Refused(_) => Some("UF"),
        }
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known => f.write_str("known"),
            Self::Missing(Missing::Host) => f.write_str("no service that the client can see has this host"),
            Self::Missing(Missing::Port) => f.write_str("the service does not have this port"),
            Self::Missing(Missing::Subset) => {
                f.write_str("no DestinationRule for the client defines this subset")
            }
            Self::Refused(why) => f.write_str(why),
        }
    }
}

/// A service as metrics, logs and `explain` name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRef {
    /// FQDN, or a ServiceEntry's host.
    pub host: Arc<str>,
    /// The service port.
    pub port: u16,
    /// Kubernetes name; of a ServiceEntry its host, as in Istio's metrics.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
}

/// A workload, for metric labels and logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    /// The name of the pod or WorkloadEntry.
    pub instance: Arc<str>,
    /// The name of what owns it (Deployment), guessed from the pod's name as Istio does; else the instance.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// `service.istio.io/canonical-name`, `app.kubernetes.io/name`, `app`, else the workload's name.
    pub canonical_name: Arc<str>,
    /// `service.istio.io/canonical-revision`, `app.kubernetes.io/version`, `version`, else `latest`.
    pub canonical_revision: Arc<str>,
    /// The label `app`; `unknown` if absent.
    pub app: Arc<str>,
    /// The label `version`; `unknown` if absent.
    pub version: Arc<str>,
    /// Its service account.
    pub service_account: Arc<str>,
    /// The node it runs on.
    pub node: Arc<str>,
}

impl Workload {
    /// From what Kubernetes knows of a pod (or a WorkloadEntry says). Names follow Istio's.
    pub fn new(
        instance: &str,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        service_account: &str,
        node: &str,
    ) -> Self {
        Self::interned(instance.into(), namespace, labels, service_account, node, &mut |text| text.into())
    }

    /// As [`Workload::new`], with `text` to share texts that many workloads have.
    pub(crate) fn interned(
        instance: Arc<str>,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        service_account: &str,
        node: &str,
        text: &mut impl FnMut(&str) -> Arc<str>,
    ) -> Self {
        let label = |names: &[&str]| {
            names.iter().find_map(|name| labels.get(*name)).filter(|value| !value.is_empty())
        };
        let name = owner(&instance, labels);
        let canonical_name = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let canonical_revision =
            label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        Self {
            namespace: text(namespace),
            canonical_name: text(canonical_name.map_or(name, String::as_str)),
            canonical_revision: text(canonical_revision.map_or("latest", String::as_str)),
            app: text(label(&["app"]).map_or("unknown", String::as_str)),
            version: text(label(&["version"]).map_or("unknown", String::as_str)),
            service_account: text(service_account),
            node: text(node),
            name: text(name),
            instance,
        }
    }
}

/// The name of what made a pod, by the labels its controller put on it and the suffix it put after its own name.
fn owner<'a>(instance: &'a str, labels: &BTreeMap<String, String>) -> &'a str {
    let cut = |text: &'a str| text.rsplit_once('-').map(|(owner, _)| owner);
    let deployment = labels
        .get("pod-template-hash")
        .and_then(|hash| cut(instance)?.strip_suffix(&**hash)?.strip_suffix('-'));
    let numbered = labels.contains_key("statefulset.kubernetes.io/pod-name")
        || labels.contains_key("controller-revision-hash");
    deployment
        .or_else(|| cut(instance).filter(|_| numbered))
        .filter(|owner| !owner.is_empty())
        .unwrap_or(instance)
}

/// One address behind a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Pod address and *target* port.
    pub address: SocketAddr,
    /// The Pod's or WorkloadEntry's name, else the address.
    pub id: Arc<str>,
    /// Who answers there.
    pub workload: Arc<Workload>,
    /// The labels subsets select by.
    pub labels: Arc<BTreeMap<String, String>>,
    /// `region/zone/subzone`.
    pub locality: Arc<str>,
    /// Relative weight, at least 1.
    pub weight: u32,
}

/// An endpoint that gets no traffic, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct ExcludedEndpoint {
    /// The endpoint as it would be.
    pub endpoint: Endpoint,
    /// Why: not ready, terminating, not in the subset.
    pub why: &'static str,
    /// It still serves while it shuts down, and is used when no other is left (as by kube-proxy): a roll that is faster than
    /// its successors are ready fails nobody.
    pub is_last_resort: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_after_what_made_it() {
        for (instance, labels, want) in [
            ("reviews-v1-5d8c7-x2x9z", &[("pod-template-hash", "5d8c7")][..], "reviews-v1"),
            ("db-0", &[("statefulset.kubernetes.io/pod-name", "db-0")][..], "db"),
            ("log-x2x9z", &[("controller-revision-hash", "abc")][..], "log"),
            ("reviews-v1-a", &[][..], "reviews-v1-a"),
            ("odd", &[("pod-template-hash", "5d8c7")][..], "odd"),
        ] {
            let labels = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
            let workload = Workload::new(instance, "ns", &labels, "default", "");
            assert_eq!((&*workload.name, &*workload.canonical_name), (want, want), "{instance}");
        }
    }
}
