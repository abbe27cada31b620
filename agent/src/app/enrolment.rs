//! Which pods of this node are in the mesh, and where they are: labels and annotations to facts (DESIGN D9). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;

use undermesh_core::api::meta::{Key, Resource};
use undermesh_core::client::Client;
use undermesh_core::inputs::{Inputs, Objects};
use undermesh_core::inventory::{Pod, PodPhase};
use undermesh_redirect::plan::{ExcludedPorts, FailMode};

/// On a namespace or pod; `undermesh` enrols, on a pod `none` opts out.
pub const MODE_LABEL: &str = "istio.io/dataplane-mode";
/// File mode: the path of the pod's network namespace.
pub const NETNS_ANNOTATION: &str = "undermesh.io/netns";
/// File mode: the path of the pod's cgroup.
pub const CGROUP_ANNOTATION: &str = "undermesh.io/cgroup";
/// Destination ports that are never captured, comma-separated.
pub const EXCLUDE_PORTS_ANNOTATION: &str = "undermesh.io/exclude-outbound-ports";
/// `open` or `closed`.
pub const FAIL_MODE_ANNOTATION: &str = "undermesh.io/fail-mode";

/// A pod of this node, as capture has to know it. Equal values need no change in the kernel or the proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalPod {
    /// Namespace and name.
    pub key: Key,
    /// Whether it is in the mesh.
    pub enrolment: Enrolment,
    /// Where its network namespace is, if told.
    pub netns: Option<PathBuf>,
    /// Where its cgroup is, if told.
    pub cgroup: Option<PathBuf>,
    /// It shares the node's network namespace.
    pub is_host_network: bool,
    /// For getsockname.
    pub address4: Option<Ipv4Addr>,
    /// For getsockname.
    pub address6: Option<Ipv6Addr>,
    /// What happens when it cannot be captured.
    pub fail_mode: FailMode,
    /// Ports left alone.
    pub excluded_ports: ExcludedPorts,
    /// Who it is to the rules.
    pub client: Client,
    /// The pod's labels and the rest.
    pub pod: Arc<Resource<Pod>>,
    /// Annotations that say nothing we understand; the default is in force in their place.
    pub complaints: Vec<String>,
}

/// Whether a pod is in the mesh, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrolment {
    /// By a label of its own.
    ByPod,
    /// By the label of its namespace.
    ByNamespace,
    /// The pod's label says `none` (or another data plane's name).
    OptedOut,
    /// Neither it nor its namespace is labelled.
    NotLabelled,
}

impl Enrolment {
    /// Whether the pod is in the mesh.
    pub fn is_enrolled(self) -> bool {
        matches!(self, Self::ByPod | Self::ByNamespace)
    }

    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ByPod => "label on the pod",
            Self::ByNamespace => "label on the namespace",
            Self::OptedOut => "the pod's label opts out",
            Self::NotLabelled => "no label istio.io/dataplane-mode: undermesh on pod or namespace",
        }
    }
}

/// The pods of one node, found among all of the mesh's by what changed among those.
#[derive(Debug)]
pub struct LocalPods {
    node: String,
    /// All pods, as they were the last time.
    pods: Objects<Pod>,
    local: BTreeSet<Key>,
}

impl LocalPods {
    /// Of the node of this name; none are known yet.
    pub fn new(node: impl Into<String>) -> Self {
        Self { node: node.into(), pods: Objects::new(), local: BTreeSet::new() }
    }

    /// The pods that run here, by namespace and name. Pods that have ended are not there any more.
    pub fn of(&mut self, inputs: &Inputs) -> Vec<LocalPod> {
        for change in self.pods.changes(&inputs.pods) {
            if change.after.is_some_and(|pod| self.runs_here(&pod.spec)) {
                self.local.insert(change.key.clone());
            } else {
                self.local.remove(change.key);
            }
        }
        self.pods = inputs.pods.clone();
        self.local.iter().filter_map(|key| inputs.pods.get(key)).map(|pod| local_pod(inputs, pod)).collect()
    }

    fn runs_here(&self, pod: &Pod) -> bool {
        pod.node == self.node && !matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed)
    }
}

fn local_pod(inputs: &Inputs, pod: &Arc<Resource<Pod>>) -> LocalPod {
    let meta = &pod.meta;
    let mut complaints = Vec::new();
    let (fail_mode, complaint) = fail_mode(&meta.annotations);
    complaints.extend(complaint);
    let (excluded_ports, complaint) = excluded_ports(&meta.annotations);
    complaints.extend(complaint);
    let path = |name| meta.annotations.get(name).map(PathBuf::from);
    LocalPod {
        key: meta.key(),
        enrolment: enrolment(inputs, pod),
        netns: path(NETNS_ANNOTATION),
        cgroup: path(CGROUP_ANNOTATION),
        is_host_network: pod.spec.is_host_network,
        address4: pod.spec.ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }),
        address6: pod.spec.ips.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None }),
        fail_mode,
        excluded_ports,
        client: client(inputs, pod),
        pod: pod.clone(),
        complaints,
    }
}

fn enrolment(inputs: &Inputs, pod: &Resource<Pod>) -> Enrolment {
    match pod.meta.labels.get(MODE_LABEL).map(String::as_str) {
        Some("undermesh") => return Enrolment::ByPod,
        Some(_) => return Enrolment::OptedOut,
        None => {}
    }
    let namespace = inputs.namespaces.get(&Key::new("", pod.meta.namespace.as_str()));
    match namespace.and_then(|namespace| namespace.meta.labels.get(MODE_LABEL)).map(String::as_str) {
        Some("undermesh") => Enrolment::ByNamespace,
        _ => Enrolment::NotLabelled,
    }
}

/// A pod as the rules see it.
pub fn client(inputs: &Inputs, pod: &Resource<Pod>) -> Client {
    let node = inputs.nodes.get(&Key::new("", pod.spec.node.as_str()));
    let locality = node.map_or_else(String::new, |node| {
        let place = &node.spec;
        [place.region.as_str(), &place.zone, &place.subzone].join("/").trim_end_matches('/').to_owned()
    });
    Client {
        service_account: pod.spec.service_account.as_str().into(),
        workload: pod.meta.name.as_str().into(),
        node: pod.spec.node.as_str().into(),
        locality: locality.into(),
        addresses: pod.spec.ips.clone(),
        ..Client::mesh(&pod.meta.namespace, pod.meta.labels.clone())
    }
}

fn fail_mode(annotations: &BTreeMap<String, String>) -> (FailMode, Option<String>) {
    match annotations.get(FAIL_MODE_ANNOTATION).map(String::as_str) {
        None | Some("open") => (FailMode::Open, None),
        Some("closed") => (FailMode::Closed, None),
        Some(other) => (
            FailMode::Open,
            Some(format!("{FAIL_MODE_ANNOTATION}: `{other}` is neither open nor closed; open is in force")),
        ),
    }
}

fn excluded_ports(annotations: &BTreeMap<String, String>) -> (ExcludedPorts, Option<String>) {
    let Some(list) = annotations.get(EXCLUDE_PORTS_ANNOTATION) else {
        return (ExcludedPorts::default(), None);
    };
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let ports: Result<Vec<NonZeroU16>, String> =
        entries.map(|entry| entry.parse().map_err(|_| format!("`{entry}` is no port"))).collect();
    match ports.and_then(|ports| ExcludedPorts::new(ports).map_err(|error| error.to_string())) {
        Ok(ports) => (ports, None),
        Err(why) => (
            ExcludedPorts::default(),
            Some(format!("{EXCLUDE_PORTS_ANNOTATION}: {why}; no port is excluded")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use undermesh_core::api;

    use super::*;

    fn inputs(objects: impl IntoIterator<Item = Value>) -> Inputs {
        let mut inputs = Inputs::default();
        for value in objects {
            let parsed = api::parse(value, Default::default());
            assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
            inputs.insert(parsed.object.unwrap());
        }
        inputs
    }

    fn pod(labels: &Value, annotations: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "namespace": "ns1", "labels": labels, "annotations": annotations},
            "spec": {"nodeName": "n1"}, "status": {"podIPs": [{"ip": "10.1.0.2"}, {"ip": "fd00::2"}]}})
    }

    fn namespace(labels: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns1", "labels": labels}})
    }

    fn local_pods(inputs: &Inputs, node: &str) -> Vec<LocalPod> {
        LocalPods::new(node).of(inputs)
    }

    #[test]
    fn pods_come_and_go_with_the_inputs() {
        let mut pods = LocalPods::new("n1");
        let mut inputs = inputs([pod(&json!({}), &json!({}))]);
        assert_eq!(pods.of(&inputs).len(), 1);
        assert_eq!(pods.of(&inputs).len(), 1);
        let mut moved = pod(&json!({}), &json!({}));
        moved["spec"]["nodeName"] = json!("n2");
        inputs.insert(api::parse(moved, Default::default()).object.unwrap());
        assert_eq!(pods.of(&inputs).len(), 0);
        inputs.insert(api::parse(pod(&json!({}), &json!({})), Default::default()).object.unwrap());
        assert_eq!(pods.of(&inputs).len(), 1);
        inputs.pods.remove(&Key::new("ns1", "a"));
        assert_eq!(pods.of(&inputs).len(), 0);
    }

    #[test]
    fn the_pods_label_beats_the_namespaces() {
        let mode = |mode: &str| json!({MODE_LABEL: mode});
        for (namespace_label, pod_label, want) in [
            (json!({}), json!({}), Enrolment::NotLabelled),
            (mode("undermesh"), json!({}), Enrolment::ByNamespace),
            (mode("ambient"), json!({}), Enrolment::NotLabelled),
            (json!({}), mode("undermesh"), Enrolment::ByPod),
            (mode("undermesh"), mode("none"), Enrolment::OptedOut),
        ] {
            let inputs = inputs([namespace(&namespace_label), pod(&pod_label, &json!({}))]);
            assert_eq!(local_pods(&inputs, "n1")[0].enrolment, want);
        }
    }

    #[test]
    fn only_pods_of_this_node_are_local() {
        let inputs = inputs([pod(&json!({}), &json!({}))]);
        assert_eq!(local_pods(&inputs, "n1").len(), 1);
        assert_eq!(local_pods(&inputs, "n2").len(), 0);
    }

    #[test]
    fn annotations_are_read_and_nonsense_is_complained_about() {
        let good = json!({NETNS_ANNOTATION: "/run/netns/a", FAIL_MODE_ANNOTATION: "closed", EXCLUDE_PORTS_ANNOTATION: "25, 53"});
        let pods = local_pods(&inputs([pod(&json!({}), &good)]), "n1");
        let ports = ExcludedPorts::new([25, 53].map(|port| NonZeroU16::new(port).unwrap())).unwrap();
        assert_eq!(pods[0].netns.as_deref(), Some("/run/netns/a".as_ref()));
        assert_eq!(
            (pods[0].fail_mode, pods[0].excluded_ports, pods[0].complaints.len()),
            (FailMode::Closed, ports, 0)
        );
        assert_eq!(pods[0].address4, Some(Ipv4Addr::new(10, 1, 0, 2)));
        assert_eq!(pods[0].address6, Some("fd00::2".parse().unwrap()));

        let bad = json!({FAIL_MODE_ANNOTATION: "ajar", EXCLUDE_PORTS_ANNOTATION: "0"});
        let pods = local_pods(&inputs([pod(&json!({}), &bad)]), "n1");
        assert_eq!((pods[0].fail_mode, pods[0].excluded_ports), (FailMode::Open, ExcludedPorts::default()));
        assert_eq!(pods[0].complaints.len(), 2, "{:?}", pods[0].complaints);
    }
}
