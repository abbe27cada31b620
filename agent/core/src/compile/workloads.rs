//! Pods as endpoints see them, each made once and kept as long as the pod is what it was.
//!
//! Pods of one Deployment share nearly all of their texts, and their labels whole. They are kept once: with a hundred thousand
//! endpoints this is most of the memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::endpoints::locality;
use crate::api::meta::Resource;
use crate::cluster::Workload;
use crate::inputs::Inputs;
use crate::inventory::Pod;

/// What endpoints need of a pod.
#[derive(Debug, Clone)]
pub(super) struct KnownPod {
    pub(super) workload: Arc<Workload>,
    pub(super) labels: Arc<BTreeMap<String, String>>,
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
            &meta.name,
            &meta.namespace,
            &meta.labels,
            &pod.spec.service_account,
            &pod.spec.node,
            &mut |text| pool.text(text),
        );
        let known = KnownPod {
            workload: Arc::new(workload),
            labels: pool.labels(&meta.labels),
            locality: pool.text(&locality(&inputs.nodes, &pod.spec.node, "")),
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

/// Texts and labels, each once.
#[derive(Debug, Default)]
struct Pool {
    texts: HashSet<Arc<str>>,
    labels: HashSet<Arc<BTreeMap<String, String>>>,
    /// How many there were after the last sweep.
    kept: usize,
}

impl Pool {
    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.texts.insert(new.clone());
        new
    }

    fn labels(&mut self, labels: &BTreeMap<String, String>) -> Arc<BTreeMap<String, String>> {
        if let Some(known) = self.labels.get(labels) {
            return known.clone();
        }
        let new = Arc::new(labels.clone());
        self.labels.insert(new.clone());
        new
    }

    fn sweep(&mut self) {
        let len = self.texts.len() + self.labels.len();
        if len > 2 * self.kept + 1024 {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.labels.retain(|labels| Arc::strong_count(labels) > 1);
            self.kept = self.texts.len() + self.labels.len();
        }
    }
}
