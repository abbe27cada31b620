//! What a change of inputs changes among services: those whose object, slices, pods, nodes or WorkloadEntries changed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::endpoints::{has_all, selects_entry};
use super::slices::Slices;
use super::workloads::Workloads;
use crate::api::meta::{Key, Resource};
use crate::inputs::{Change, Inputs};
use crate::inventory::{Node, Pod};

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Affected {
    /// Services to make anew.
    pub(super) services: HashSet<Key>,
    /// Whether the services of ServiceEntries have to be made anew.
    pub(super) entries: bool,
}

/// Brings `slices` and `workloads` to `after`, and answers what else has to follow.
pub(super) fn follow(
    before: Option<&Inputs>,
    after: &Inputs,
    slices: &mut Slices,
    workloads: &mut Workloads,
) -> Affected {
    let nothing = Inputs::default();
    let (is_first, before) = (before.is_none(), before.unwrap_or(&nothing));
    let mut affected = Affected::default();
    for change in before.services.changes(&after.services) {
        affected.entries |= change.before.is_none() || change.after.is_none();
        affected.services.insert(change.key.clone());
    }
    for change in before.endpoint_slices.changes(&after.endpoint_slices) {
        affected.services.extend(slices.follow(&change));
    }
    let moved = moved_nodes(&before.nodes.changes(&after.nodes));
    let changed = changed_pods(before, after, &moved, workloads);
    // The first time all are new anyway.
    if !is_first {
        if !moved.is_empty() {
            affected.services.extend(Slices::on_nodes(after, &moved));
        }
        of_pods(&changed, after, slices, &mut affected);
    }
    for change in before.workload_entries.changes(&after.workload_entries) {
        affected.entries = true;
        for (key, service) in after.services.in_namespace(&change.key.namespace) {
            let selector = &service.spec.selector;
            let selected = [change.before, change.after].into_iter().flatten();
            if !selector.is_empty() && selected.into_iter().any(|entry| selects_entry(entry, selector)) {
                affected.services.insert(key.clone());
            }
        }
    }
    affected.entries |= !before.service_entries.changes(&after.service_entries).is_empty();
    affected
}

/// Nodes that are somewhere else, or new, or gone. Most changes of a node are heartbeats.
fn moved_nodes<'a>(changes: &[Change<'a, Node>]) -> HashSet<&'a str> {
    let place = |node: Option<&Arc<Resource<Node>>>| {
        node.map(|node| (node.spec.region.clone(), node.spec.zone.clone(), node.spec.subzone.clone()))
    };
    let moved = changes.iter().filter(|change| place(change.before) != place(change.after));
    moved.map(|change| &*change.key.name).collect()
}

/// A pod that changed as an endpoint: what it was and what it is.
type ChangedPod<'a> = (&'a Key, [Option<&'a Arc<Resource<Pod>>>; 2]);

fn changed_pods<'a>(
    before: &'a Inputs,
    after: &'a Inputs,
    moved: &HashSet<&str>,
    workloads: &mut Workloads,
) -> Vec<ChangedPod<'a>> {
    let mut changed: Vec<ChangedPod<'_>> = Vec::new();
    for change in before.pods.changes(&after.pods) {
        match (change.before, change.after) {
            (Some(was), Some(is)) if was.spec == is.spec && was.meta.labels == is.meta.labels => {
                workloads.renew(was, is);
                continue;
            }
            (was, is) => {
                was.into_iter().for_each(|was| workloads.remove(was));
                is.into_iter().for_each(|is| workloads.insert(is, after));
            }
        }
        changed.push((change.key, [change.before, change.after]));
    }
    if !moved.is_empty() {
        for (key, pod) in after.pods.iter().filter(|(_, pod)| moved.contains(&*pod.spec.node)) {
            workloads.insert(pod, after);
            changed.push((key, [None, Some(pod)]));
        }
    }
    changed
}

fn of_pods(changed: &[ChangedPod<'_>], after: &Inputs, slices: &Slices, affected: &mut Affected) {
    let mut by_namespace: BTreeMap<&str, Vec<&ChangedPod<'_>>> = BTreeMap::new();
    for pod in changed {
        by_namespace.entry(&pod.0.namespace).or_default().push(pod);
    }
    for (namespace, pods) in &by_namespace {
        let keys: HashSet<&Key> = pods.iter().map(|(key, _)| *key).collect();
        for (key, service) in after.services.in_namespace(namespace) {
            let selector = &service.spec.selector;
            let is_selected = || {
                let mut all = pods.iter().flat_map(|(_, pod)| pod).flatten();
                !selector.is_empty() && all.any(|pod| has_all(&pod.meta.labels, selector))
            };
            let has_it = if slices.of(key).is_some() { slices.refers(key, &keys) } else { is_selected() };
            if has_it {
                affected.services.insert(key.clone());
            }
        }
        let mut entries = after.service_entries.in_namespace(namespace);
        affected.entries |= entries.any(|(_, entry)| entry.spec.workload_selector.is_some());
    }
    if !changed.is_empty() {
        let keys: HashSet<&Key> = changed.iter().map(|(key, _)| *key).collect();
        affected.services.extend(slices.foreign().filter(|service| slices.refers(service, &keys)).cloned());
    }
}
