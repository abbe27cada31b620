//! Endpoints of a service: EndpointSlices, else Pods by selector, and WorkloadEntries.
//!
//! Those that are not ready, or shutting down, are kept aside with the reason: for `explain`, for who dials them, and as the
//! last resort where none is left (Kubernetes: KEP-1669).

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::slices::Slices;
use super::workloads::{KnownPod, Workloads};
use crate::api::meta::{Key, Resource};
use crate::api::service_entry::WorkloadEntry;
use crate::cluster::{Endpoint, ExcludedEndpoint, Workload};
use crate::inputs::{Inputs, Objects};
use crate::inventory::{EndpointSlice, Node, Pod, PodPhase, Service, ServicePort, TargetPort, Transport};

/// The endpoints of one port, usable and not.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    pub(super) usable: Vec<Endpoint>,
    pub(super) excluded: Vec<ExcludedEndpoint>,
    /// The addresses of `usable`.
    seen: HashSet<SocketAddr>,
}

impl Endpoints {
    /// Takes an endpoint in; anything but [`Health::Ready`] keeps it aside. An address counts once.
    fn push(&mut self, endpoint: Endpoint, health: Health) {
        if self.seen.contains(&endpoint.address) {
            return;
        }
        let why = match health {
            Health::Ready => {
                self.seen.insert(endpoint.address);
                self.excluded.retain(|it| it.endpoint.address != endpoint.address);
                self.usable.push(endpoint);
                return;
            }
            Health::NotReady => "not ready",
            Health::Serving => "terminating",
            Health::Ended => "terminating, not serving",
        };
        let is_last_resort = health == Health::Serving;
        self.excluded.push(ExcludedEndpoint { endpoint, why, is_last_resort });
    }
}

/// What Kubernetes says of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Ready,
    NotReady,
    /// Shutting down, and it would be ready but for that.
    Serving,
    /// Shutting down.
    Ended,
}

impl Health {
    /// `all_count`: `publishNotReadyAddresses`, which counts those that shut down, too.
    fn of(is_ready: bool, is_serving: bool, is_terminating: bool, all_count: bool) -> Self {
        match (is_terminating, is_serving) {
            _ if all_count => Self::Ready,
            (true, true) => Self::Serving,
            (true, false) => Self::Ended,
            (false, _) if is_ready => Self::Ready,
            (false, _) => Self::NotReady,
        }
    }
}

/// What is looked up for every service.
pub(super) struct Finder<'a> {
    pub(super) inputs: &'a Inputs,
    pub(super) slices: &'a Slices,
    pub(super) workloads: &'a Workloads,
}

impl<'a> Finder<'a> {
    fn locality(&self, node: &str, zone: &str) -> Arc<str> {
        locality(&self.inputs.nodes, node, zone).into()
    }

    fn known(&self, pod: &Key) -> Option<&'a KnownPod> {
        self.workloads.get(self.inputs.pods.get(pod)?)
    }

    /// The endpoints of a port of a Kubernetes Service.
    pub(super) fn of_service(&self, service: &'a Resource<Service>, port: &ServicePort) -> Endpoints {
        let mut found = Endpoints::default();
        let meta = &service.meta;
        match self.slices.of(&meta.key()) {
            Some(slices) => {
                slices.iter().for_each(|slice| self.of_slice(&service.spec, slice, port, &mut found));
            }
            None => self.of_selected_pods(service, port, &mut found),
        }
        if !service.spec.selector.is_empty() {
            for entry in self.selected_entries(&meta.namespace, &service.spec.selector) {
                let default = match port.target_port {
                    TargetPort::Number(number) => number,
                    TargetPort::Name(_) => port.number,
                };
                found.usable.extend(self.of_entry(entry, &port.name, default));
            }
        }
        found
    }

    fn of_slice(
        &self,
        service: &Service,
        slice: &Resource<EndpointSlice>,
        port: &ServicePort,
        found: &mut Endpoints,
    ) {
        let numbers =
            slice.spec.ports.iter().filter(|it| it.transport == Transport::Tcp && it.name == port.name);
        for number in numbers.filter_map(|it| it.number) {
            for endpoint in &slice.spec.endpoints {
                let health = Health::of(
                    endpoint.is_ready,
                    endpoint.is_serving,
                    endpoint.is_terminating,
                    service.publish_not_ready_addresses,
                );
                for &address in &endpoint.addresses {
                    let address = SocketAddr::new(address.to_canonical(), number);
                    let made = match endpoint.pod.as_ref().and_then(|pod| self.known(pod)) {
                        Some(known) => of_pod(known, address),
                        None => self.unnamed(slice, endpoint, address),
                    };
                    found.push(made, health);
                }
            }
        }
    }

    fn of_selected_pods(&self, service: &Resource<Service>, port: &ServicePort, found: &mut Endpoints) {
        if service.spec.selector.is_empty() {
            return;
        }
        for pod in self.selected_pods(&service.meta.namespace, &service.spec.selector) {
            let number = match &port.target_port {
                TargetPort::Number(number) => Some(*number),
                TargetPort::Name(name) => pod.spec.port_named(name, Transport::Tcp),
            };
            if let Some(number) = number {
                self.push_pod(pod, number, service.spec.publish_not_ready_addresses, found);
            }
        }
    }

    fn push_pod(
        &self,
        pod: &Arc<Resource<Pod>>,
        number: u16,
        publish_not_ready: bool,
        found: &mut Endpoints,
    ) {
        let Pod { is_ready, is_terminating, .. } = pod.spec;
        let health = Health::of(is_ready, is_ready, is_terminating, publish_not_ready);
        let Some(known) = self.workloads.get(pod) else { return };
        for ip in &pod.spec.ips {
            found.push(of_pod(known, SocketAddr::new(ip.to_canonical(), number)), health);
        }
    }

    /// Pods that run, by labels.
    fn selected_pods(
        &self,
        namespace: &str,
        selector: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Arc<Resource<Pod>>> {
        let pods = self.inputs.pods.in_namespace(namespace).map(|(_, pod)| pod);
        pods.filter(move |pod| {
            !matches!(pod.spec.phase, PodPhase::Succeeded | PodPhase::Failed)
                && has_all(&pod.meta.labels, selector)
        })
    }

    fn selected_entries(
        &self,
        namespace: &str,
        selector: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Arc<Resource<WorkloadEntry>>> {
        let entries = self.inputs.workload_entries.in_namespace(namespace).map(|(_, entry)| entry);
        entries.filter(move |entry| selects_entry(entry, selector))
    }

    /// Pods and WorkloadEntries that a ServiceEntry selects in its namespace.
    pub(super) fn of_selector(
        &self,
        namespace: &str,
        selector: &BTreeMap<String, String>,
        port_name: &str,
        target: u16,
    ) -> Endpoints {
        let mut found = Endpoints::default();
        if selector.is_empty() {
            return found;
        }
        for pod in self.selected_pods(namespace, selector) {
            self.push_pod(pod, target, false, &mut found);
        }
        for entry in self.selected_entries(namespace, selector) {
            found.usable.extend(self.of_entry(entry, port_name, target));
        }
        found
    }

    /// A WorkloadEntry as endpoint, if its address is one.
    fn of_entry(&self, entry: &Resource<WorkloadEntry>, port_name: &str, target: u16) -> Option<Endpoint> {
        let mut labels = (*entry.meta.labels).clone();
        labels.extend(entry.spec.labels.clone());
        of_spec(&entry.spec, labels, &entry.meta.name, &entry.meta.namespace, port_name, target)
    }

    fn unnamed(
        &self,
        slice: &Resource<EndpointSlice>,
        endpoint: &crate::inventory::Endpoint,
        address: SocketAddr,
    ) -> Endpoint {
        let id: Arc<str> =
            endpoint.pod.as_ref().map_or_else(|| address.ip().to_string().into(), |pod| pod.name.clone());
        let labels = BTreeMap::new();
        let workload = Workload::new(&id, &slice.meta.namespace, &labels, "", &endpoint.node);
        Endpoint {
            address,
            id,
            workload: Arc::new(workload),
            labels: Arc::new(labels),
            locality: self.locality(&endpoint.node, &endpoint.zone),
            weight: 1,
        }
    }
}

fn of_pod(known: &KnownPod, address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        id: known.workload.instance.clone(),
        workload: known.workload.clone(),
        labels: known.labels.clone(),
        locality: known.locality.clone(),
        weight: 1,
    }
}

/// Istio selects by the entry's own labels, which its metadata's complete.
pub(super) fn selects_entry(entry: &Resource<WorkloadEntry>, selector: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| entry.spec.labels.get(key).or_else(|| entry.meta.labels.get(key)) == Some(value))
}

/// `region/zone/subzone` of a node, or what the slice says of the zone.
pub(crate) fn locality(nodes: &Objects<Node>, node: &str, zone: &str) -> String {
    let node = nodes.get(&Key::new("", node)).map(|node| &node.spec);
    let region = node.map_or("", |node| &node.region);
    let zone = node.map(|node| &*node.zone).filter(|zone| !zone.is_empty()).unwrap_or(zone);
    let subzone = node.map_or("", |node| &node.subzone);
    format!("{region}/{zone}/{subzone}").trim_end_matches('/').to_owned()
}

/// An endpoint written in a WorkloadEntry or ServiceEntry; `None` if its address is a name or a unix socket.
pub(super) fn of_spec(
    spec: &WorkloadEntry,
    labels: BTreeMap<String, String>,
    id: &str,
    namespace: &str,
    port_name: &str,
    target: u16,
) -> Option<Endpoint> {
    let address: IpAddr = spec.address.parse().ok()?;
    let number = spec.ports.get(port_name).and_then(|&number| super::port_number(number)).unwrap_or(target);
    let workload = Workload::new(id, namespace, &labels, &spec.service_account, "");
    Some(Endpoint {
        address: SocketAddr::new(address.to_canonical(), number),
        id: id.into(),
        workload: Arc::new(workload),
        labels: Arc::new(labels),
        locality: spec.locality.as_str().into(),
        weight: spec.weight.max(1),
    })
}

pub(super) fn has_all(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Each address once, of endpoints from several places.
pub(super) fn merge(into: &mut Vec<Endpoint>, more: impl IntoIterator<Item = Endpoint>) {
    let mut seen: HashSet<SocketAddr> = into.iter().map(|it| it.address).collect();
    into.extend(more.into_iter().filter(|it| seen.insert(it.address)));
}
