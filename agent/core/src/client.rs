//! Who calls: the facts about a workload that rules may depend on before any request is seen.
//!
//! `sourceLabels`, `sourceNamespace`, `exportTo`, `gateways`, a Sidecar's scope and the look-up of DestinationRules depend on
//! nothing else, so they are settled once per client and address (`Snapshot::outbound`), never per request.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Whether a client is an application in the mesh or a gateway that forwards for others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientKind {
    /// An enrolled workload: rules for the reserved gateway `mesh` apply to it.
    #[default]
    Mesh,
    /// A gateway workload: rules bound to the Gateways whose selector finds its labels apply.
    Gateway,
}

/// A calling workload. Equal clients get equal answers from one snapshot, so this is the key for caching them.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its pod's labels.
    pub labels: BTreeMap<String, String>,
    /// Its service account; `default` if nothing else is known.
    pub service_account: Arc<str>,
    /// The name of its pod, or whatever names it.
    pub workload: Arc<str>,
    /// The node it runs on; empty if unknown.
    pub node: Arc<str>,
    /// `region/zone/subzone`, trailing parts may be missing.
    pub locality: Arc<str>,
    /// Its addresses, for the families it can dial.
    pub addresses: Vec<IpAddr>,
    /// Application or gateway.
    pub kind: ClientKind,
}

impl Client {
    /// A mesh workload of `namespace` with these labels and nothing else known.
    pub fn mesh(namespace: &str, labels: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { namespace: namespace.into(), labels: labels.into_iter().collect(), ..Self::default() }
    }

    /// A gateway workload of `namespace` with these labels.
    pub fn gateway(namespace: &str, labels: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { kind: ClientKind::Gateway, ..Self::mesh(namespace, labels) }
    }

    /// Whether the workload carries all of `wanted` (Istio's subset test; nothing wanted is always there).
    pub fn has_labels(&self, wanted: &BTreeMap<String, String>) -> bool {
        wanted.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}
