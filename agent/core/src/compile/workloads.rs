//! Pods as endpoints see them, each made once and kept as long as the pod is what it was.
//!
//! Pods of one Deployment share nearly all of their texts ([`Pool`]).

use std::collections::HashMap;
use std::sync::Arc;

use super::endpoints::locality;
use crate::api::meta::{Labels, Resource};
use crate::cluster::Workload;
use crate::inputs::Inputs;
use crate::inventory::Pod;
use crate::pool::Pool;

/// What endpoints need of a pod.
#[derive(Debug, Clone)]
pub(super) struct KnownPod {
    pub(super) workload: Arc<Workload>,
    pub(super) labels: Labels,
    pub(super) locality: Arc<str>,
}

/// See the module's text. By the allocation of the pod's object, which whoever keeps this keeps too.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    known: HashMap<usize, KnownPod>,
    pool: Pool,
}

impl Workloads {
    pub(super) fn get(&self, pod: &Arc<Resource<Pod>>) -> Option<&KnownPod> {
        self.known.get(&address(pod))
    }

    /// Takes a pod in, or in anew.
    pub(super) fn insert(&mut self, pod: &Arc<Resource<Pod>>, inputs: &Inputs) {
        let meta = &pod.meta;
        let pool = &mut self.pool;
        let workload = Workload::interned(
            meta.name.clone(),
            &meta.namespace,
            &meta.labels,
            &pod.spec.service_account,
            &pod.spec.node,
            &mut |text| pool.known(text),
        );
        let known = KnownPod {
            workload: Arc::new(workload),
            labels: meta.labels.clone(),
            locality: pool.known(&locality(&inputs.nodes, &pod.spec.node, "")),
        };
        self.known.insert(address(pod), known);
    }

    /// Another object says the same of a pod.
    pub(super) fn renew(&mut self, before: &Arc<Resource<Pod>>, after: &Arc<Resource<Pod>>) {
        if let Some(known) = self.known.remove(&address(before)) {
            self.known.insert(address(after), known);
        }
    }

    pub(super) fn remove(&mut self, pod: &Arc<Resource<Pod>>) {
        self.known.remove(&address(pod));
    }

    /// Forgets texts that nobody has any more, now and then.
    pub(super) fn sweep(&mut self) {
        self.pool.sweep();
    }
}

fn address(pod: &Arc<Resource<Pod>>) -> usize {
    Arc::as_ptr(pod).addr()
}
