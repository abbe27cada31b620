//! EndpointSlices by the service they belong to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::api::meta::{Key, Resource};
use crate::inputs::{Change, Inputs};
use crate::inventory::EndpointSlice;

type Slice = Arc<Resource<EndpointSlice>>;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Slices {
    /// In the order of their names.
    by_service: HashMap<Key, Vec<Slice>>,
    /// Services with an endpoint whose pod is in another namespace: odd, and possible.
    foreign: HashSet<Key>,
}

impl Slices {
    pub(super) fn of(&self, service: &Key) -> Option<&[Slice]> {
        self.by_service.get(service).map(Vec::as_slice)
    }

    pub(super) fn foreign(&self) -> impl Iterator<Item = &Key> {
        self.foreign.iter()
    }

    /// Follows a change, and answers whose slices they are.
    pub(super) fn follow(&mut self, change: &Change<'_, EndpointSlice>) -> Vec<Key> {
        let service = |slice: &Slice| Key::new(&*change.key.namespace, &*slice.spec.service);
        let mut services = Vec::new();
        if let Some(before) = change.before {
            let service = service(before);
            if let Some(slices) = self.by_service.get_mut(&service) {
                slices.retain(|slice| !Arc::ptr_eq(slice, before));
                if slices.is_empty() {
                    self.by_service.remove(&service);
                }
            }
            services.push(service);
        }
        if let Some(after) = change.after {
            let service = service(after);
            let slices = self.by_service.entry(service.clone()).or_default();
            let at = slices.partition_point(|slice| slice.meta.name < after.meta.name);
            slices.insert(at, after.clone());
            services.push(service);
        }
        for service in &services {
            let is_foreign = |slice: &Slice| {
                slice.spec.endpoints.iter().any(|endpoint| {
                    endpoint.pod.as_ref().is_some_and(|pod| pod.namespace != service.namespace)
                })
            };
            if self.of(service).is_some_and(|slices| slices.iter().any(is_foreign)) {
                self.foreign.insert(service.clone());
            } else {
                self.foreign.remove(service);
            }
        }
        services
    }

    /// Whether an endpoint of a service is `pod`.
    pub(super) fn refers(&self, service: &Key, pods: &HashSet<&Key>) -> bool {
        let refers = |slice: &Slice| {
            slice
                .spec
                .endpoints
                .iter()
                .any(|endpoint| endpoint.pod.as_ref().is_some_and(|pod| pods.contains(pod)))
        };
        self.of(service).is_some_and(|slices| slices.iter().any(refers))
    }

    /// The services with an endpoint on one of these nodes.
    pub(super) fn on_nodes(inputs: &Inputs, nodes: &HashSet<&str>) -> impl Iterator<Item = Key> {
        inputs.endpoint_slices.iter().filter_map(|(key, slice)| {
            let is_there = slice.spec.endpoints.iter().any(|endpoint| nodes.contains(&*endpoint.node));
            is_there.then(|| Key::new(&*key.namespace, &*slice.spec.service))
        })
    }
}
