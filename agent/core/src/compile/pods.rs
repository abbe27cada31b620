//! Pods as clients.

use super::endpoints::locality;
use crate::client::{Client, ClientKind};
use crate::inputs::Inputs;
use crate::snapshot::State;

pub(super) fn compile(inputs: &Inputs, state: &mut State) {
    let clients = inputs.pods.iter().map(|(key, pod)| {
        let client = Client {
            namespace: key.namespace.as_str().into(),
            labels: pod.meta.labels.clone(),
            service_account: pod.spec.service_account.as_str().into(),
            workload: key.name.as_str().into(),
            node: pod.spec.node.as_str().into(),
            locality: locality(inputs, &pod.spec.node, ""),
            addresses: pod.spec.ips.clone(),
            kind: ClientKind::Mesh,
        };
        (key.clone(), client)
    });
    state.pods = clients.collect();
}
