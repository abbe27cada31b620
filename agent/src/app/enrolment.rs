//! Which pods of this node are in the mesh, and where they are: labels and annotations to facts (DESIGN D9). Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;

use undermesh_core::api::meta::{Key, Resource};
use undermesh_core::client::Client;
use undermesh_core::inputs::{Inputs, Objects};
use undermesh_core::inventory::{Namespace, Node, Pod, PodPhase, PodUid};
pub use undermesh_core::vocabulary::{
    CGROUP_ANNOTATION, EXCLUDE_PORTS_ANNOTATION, FAIL_MODE_ANNOTATION, MODE_LABEL, NETNS_ANNOTATION,
};
use undermesh_redirect::plan::{ExcludedPorts, FailMode};

/// On a namespace, `enabled`: Istio's own label, which counts where [`Rules::istio_injection`] says so.
pub const INJECTION_LABEL: &str = "istio-injection";
/// On a pod, `false`: Istio's way to leave it out of a namespace with [`INJECTION_LABEL`].
pub const INJECT_LABEL: &str = "sidecar.istio.io/inject";

/// A pod of this node, as capture has to know it. Equal values need no change in the kernel or the proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalPod {
    /// Namespace and name.
    pub key: Key,
    /// What its cgroup is named by.
    pub uid: Option<PodUid>,
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
    /// Annotations that say nothing we understand; the default is in force in their place.
    pub complaints: Vec<String>,
}

impl LocalPod {
    /// Whether nothing but the addresses differs: they come a moment after the pod.
    pub fn differs_in_addresses_only(&self, other: &Self) -> bool {
        let Self { address4, address6, .. } = *self;
        let client = Client { addresses: self.client.addresses.clone(), ..other.client.clone() };
        self.client == client && *self == Self { address4, address6, client, ..other.clone() }
    }
}

/// What enrols a pod on this node, besides [`MODE_LABEL`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// [`INJECTION_LABEL`] does.
    pub istio_injection: bool,
    /// Where the annotations say that a pod is, it is ([`Loaded`](crate::source::files::Loaded)).
    pub trusts_annotations: bool,
    /// This process's own pod, which is never enrolled.
    pub own_pod: Option<PodUid>,
}

/// Whether a pod is in the mesh, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enrolment {
    /// By a label of its own.
    ByPod,
    /// By the label of its namespace.
    ByNamespace,
    /// By Istio's label of its namespace.
    ByInjection,
    /// The pod's label says `none` (or another data plane's name).
    OptedOut,
    /// Neither it nor its namespace is labelled.
    NotLabelled,
    /// It brings a proxy of its own.
    HasSidecar,
    /// It is the agent's.
    Agent,
}

impl Enrolment {
    /// Whether the pod is in the mesh.
    pub fn is_enrolled(self) -> bool {
        matches!(self, Self::ByPod | Self::ByNamespace | Self::ByInjection)
    }

    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ByPod => "label on the pod",
            Self::ByNamespace => "label on the namespace",
            Self::ByInjection => "label istio-injection on the namespace",
            Self::OptedOut => "the pod's label opts out",
            Self::HasSidecar => "it has a sidecar: container istio-proxy",
            Self::Agent => "it is the agent's own",
            Self::NotLabelled => "no label istio.io/dataplane-mode: undermesh on pod or namespace",
        }
    }
}

/// The pods of one node, found among all of the mesh's by what changed among those.
#[derive(Debug)]
pub struct LocalPods {
    node: String,
    rules: Rules,
    /// All pods, as they were the last time.
    pods: Objects<Pod>,
    local: BTreeMap<Key, Local>,
}

/// A pod of this node with what was made of it.
#[derive(Debug, Default)]
struct Local {
    // The objects it was made of.
    pod: Known<Pod>,
    namespace: Known<Namespace>,
    node: Known<Node>,
    made: Option<Arc<LocalPod>>,
}

type Known<T> = Option<Arc<Resource<T>>>;

/// What to say when there are pods and none is on this node: a wrong name is easily given.
pub fn elsewhere(inputs: &Inputs, node: &str) -> Option<String> {
    let mut nodes = BTreeSet::new();
    for pod in inputs.pods.values() {
        if *pod.spec.node == *node {
            return None;
        }
        nodes.insert(&*pod.spec.node);
    }
    if nodes.is_empty() {
        return None;
    }
    let named: Vec<_> = nodes.iter().filter(|it| !it.is_empty()).take(5).copied().collect();
    let named = if named.is_empty() { "none".to_owned() } else { named.join(", ") };
    Some(format!(
        "of {} pods none has spec.nodeName {node}, so none is captured here (nodes that are named: {named}); is --node right?",
        inputs.pods.len()
    ))
}

impl LocalPods {
    /// Of the node of this name; none are known yet.
    pub fn new(node: impl Into<String>) -> Self {
        Self { node: node.into(), rules: Rules::default(), pods: Objects::new(), local: BTreeMap::new() }
    }

    /// The pods that run here, by namespace and name. Pods that have ended are not there any more. One that is what it was the
    /// last time is the same allocation.
    pub fn of(&mut self, inputs: &Inputs, rules: Rules) -> Vec<Arc<LocalPod>> {
        if rules != self.rules {
            self.rules = rules;
            self.local.values_mut().for_each(|local| local.made = None);
        }
        for change in self.pods.changes(&inputs.pods) {
            if change.after.is_some_and(|pod| self.runs_here(&pod.spec)) {
                self.local.entry(change.key.clone()).or_default();
            } else {
                self.local.remove(change.key);
            }
        }
        self.pods = inputs.pods.clone();
        let node = inputs.nodes.get(&Key::new("", self.node.as_str()));
        self.local.iter_mut().filter_map(|(key, local)| local.follow(inputs, rules, key, node)).collect()
    }

    fn runs_here(&self, pod: &Pod) -> bool {
        *pod.node == *self.node && !matches!(pod.phase, PodPhase::Succeeded | PodPhase::Failed)
    }
}

impl Local {
    fn follow(
        &mut self,
        inputs: &Inputs,
        rules: Rules,
        key: &Key,
        node: Option<&Arc<Resource<Node>>>,
    ) -> Option<Arc<LocalPod>> {
        fn is_same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
            one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
        }
        let pod = inputs.pods.get(key)?;
        let namespace = inputs.namespaces.get(&Key::new("", key.namespace.clone()));
        let is_known = is_same(self.pod.as_ref(), Some(pod))
            && is_same(self.namespace.as_ref(), namespace)
            && is_same(self.node.as_ref(), node);
        if !is_known || self.made.is_none() {
            let new = local_pod(inputs, rules, pod);
            // What comes out the same stays the same to all that are made of it.
            if self.made.as_deref() != Some(&new) {
                self.made = Some(Arc::new(new));
            }
            (self.pod, self.namespace, self.node) = (Some(pod.clone()), namespace.cloned(), node.cloned());
        }
        self.made.clone()
    }
}

fn local_pod(inputs: &Inputs, rules: Rules, pod: &Arc<Resource<Pod>>) -> LocalPod {
    let meta = &pod.meta;
    let mut complaints = Vec::new();
    let (fail_mode, complaint) = fail_mode(&meta.annotations);
    complaints.extend(complaint);
    let (excluded_ports, complaint) = excluded_ports(&meta.annotations);
    complaints.extend(complaint);
    let mut path = |name| {
        let path = meta.annotations.get(name)?;
        if !rules.trusts_annotations {
            complaints.push(format!("{name}: only believed in files; the pod is found by its uid"));
            return None;
        }
        Some(PathBuf::from(path))
    };
    LocalPod {
        key: meta.key(),
        uid: pod.spec.uid,
        enrolment: enrolment(inputs, rules, pod),
        netns: path(NETNS_ANNOTATION),
        cgroup: path(CGROUP_ANNOTATION),
        is_host_network: pod.spec.is_host_network,
        address4: pod.spec.ips.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }),
        address6: pod.spec.ips.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None }),
        fail_mode,
        excluded_ports,
        client: client(inputs, pod),
        complaints,
    }
}

fn enrolment(inputs: &Inputs, rules: Rules, pod: &Resource<Pod>) -> Enrolment {
    if rules.own_pod.is_some() && pod.spec.uid == rules.own_pod {
        return Enrolment::Agent;
    }
    // Two proxies would each apply the rules.
    if pod.spec.has_sidecar {
        return Enrolment::HasSidecar;
    }
    let label = |name| pod.meta.labels.get(name).map(String::as_str);
    match label(MODE_LABEL) {
        Some("undermesh") => return Enrolment::ByPod,
        Some(_) => return Enrolment::OptedOut,
        None => {}
    }
    let namespace = inputs.namespaces.get(&Key::new("", pod.meta.namespace.clone()));
    let of_namespace = |name| namespace.and_then(|it| it.meta.labels.get(name)).map(String::as_str);
    match of_namespace(MODE_LABEL) {
        Some("undermesh") => return Enrolment::ByNamespace,
        // Another data plane's, or nobody's.
        Some(_) => return Enrolment::NotLabelled,
        None => {}
    }
    let inject =
        || label(INJECT_LABEL).or_else(|| pod.meta.annotations.get(INJECT_LABEL).map(String::as_str));
    match of_namespace(INJECTION_LABEL) {
        Some("enabled") if rules.istio_injection && inject() == Some("false") => Enrolment::OptedOut,
        Some("enabled") if rules.istio_injection => Enrolment::ByInjection,
        _ => Enrolment::NotLabelled,
    }
}

/// A pod as the rules see it.
pub fn client(inputs: &Inputs, pod: &Resource<Pod>) -> Client {
    let node = inputs.nodes.get(&Key::new("", pod.spec.node.clone()));
    let locality = node.map_or_else(String::new, |node| {
        let place = &node.spec;
        [place.region.as_str(), &place.zone, &place.subzone].join("/").trim_end_matches('/').to_owned()
    });
    Client {
        service_account: pod.spec.service_account.clone(),
        workload: pod.meta.name.clone(),
        node: pod.spec.node.clone(),
        locality: locality.into(),
        addresses: pod.spec.ips.to_vec(),
        ..Client::mesh(&pod.meta.namespace, (*pod.meta.labels).clone())
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
mod tests;
