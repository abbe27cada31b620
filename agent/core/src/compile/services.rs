//! The registry: Kubernetes Services and ServiceEntries, with their endpoints, found by host and by address.

use std::collections::HashMap;
use std::sync::Arc;

use super::affected::Affected;
use super::endpoints::{self, Finder};
use super::{by_age, port_number};
use crate::api::gateway::Port;
use crate::api::meta::{Key, Resource};
use crate::api::service_entry::{Location, Resolution, ServiceEntry};
use crate::cluster::{Discovery, DnsEndpoint, ServiceRef};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::host::{Cidr, HostKey};
use crate::inputs::Inputs;
use crate::inventory::{self, Protocol, ServiceType, TrafficDistribution, Transport};
use crate::snapshot::{Mesh, Service, ServiceKind, ServicePort, Visibility};

/// Who may see a Service that Kubernetes has no field for.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// The services of one compilation.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// Of Kubernetes, in the order of their objects; then of ServiceEntries, oldest first.
    pub(super) all: Vec<Arc<Service>>,
    /// How many are of Kubernetes.
    of_kubernetes: usize,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// Makes those services that are `affected`, and keeps the others of `before`.
pub(super) fn compile(
    finder: &Finder<'_>,
    mesh: &Mesh,
    affected: &Affected,
    before: Option<(&Inputs, &Services)>,
) -> Services {
    let mut all = match before {
        Some((inputs, before)) => update(finder, mesh, affected, inputs, before),
        None => finder.inputs.services.values().map(|it| Arc::new(kubernetes(it, finder, mesh))).collect(),
    };
    let of_kubernetes = all.len();
    let mut diagnostics = Vec::new();
    match before {
        Some((_, before)) if !affected.entries => {
            all.extend(before.all.iter().skip(before.of_kubernetes).cloned());
            diagnostics.clone_from(&before.diagnostics);
        }
        _ => all.extend(entries(finder, mesh, &mut diagnostics)),
    }
    Services { all, of_kubernetes, diagnostics }
}

/// The services of Kubernetes.
fn update(
    finder: &Finder<'_>,
    mesh: &Mesh,
    affected: &Affected,
    inputs: &Inputs,
    before: &Services,
) -> Vec<Arc<Service>> {
    let renew = |was: &Arc<Service>, service: &Arc<Resource<inventory::Service>>| {
        let is = kubernetes(service, finder, mesh);
        // What came out the same stays the same to all that are made of it.
        if is == **was { was.clone() } else { Arc::new(is) }
    };
    let known = before.all.iter().take(before.of_kubernetes);
    if inputs.services.is_same(&finder.inputs.services) {
        let mut all: Vec<_> = known.cloned().collect();
        for key in &affected.services {
            if let (Some(at), Some(service)) = (inputs.services.position(key), inputs.services.get(key))
                && let Some(there) = all.get_mut(at)
            {
                *there = renew(there, service);
            }
        }
        return all;
    }
    let mut known = inputs.services.keys().zip(known).peekable();
    let now = finder.inputs.services.iter().map(|(key, service)| {
        while known.next_if(|(other, _)| *other < key).is_some() {}
        match known.next_if(|(other, _)| *other == key) {
            Some((_, was)) if affected.services.contains(key) => renew(was, service),
            Some((_, was)) => was.clone(),
            None => Arc::new(kubernetes(service, finder, mesh)),
        }
    });
    now.collect()
}

/// The services of ServiceEntries. Several entries of one host in one namespace are one service.
fn entries(finder: &Finder<'_>, mesh: &Mesh, diagnostics: &mut Vec<Diagnostic>) -> Vec<Arc<Service>> {
    let mut services: Vec<Service> = Vec::new();
    let mut known: HashMap<(&str, HostKey), usize> = HashMap::new();
    for entry in by_age(&finder.inputs.service_entries) {
        for (index, host) in entry.spec.hosts.iter().enumerate() {
            if is_kubernetes(host, finder.inputs, mesh) {
                diagnostics.push(entry.diagnostic(
                    Severity::Info,
                    Code::NoEffect,
                    &format!("spec.hosts[{index}]"),
                    format!("{host} is a Kubernetes Service, which this entry adds nothing to"),
                ));
                continue;
            }
            let made = service_entry(entry, host, finder, mesh);
            let key = (&*entry.meta.namespace, made.key.clone());
            match known.get(&key).and_then(|&at| services.get_mut(at)) {
                Some(older) => unite(older, made),
                None => {
                    known.insert(key, services.len());
                    services.push(made);
                }
            }
        }
    }
    services.into_iter().map(Arc::new).collect()
}

/// Whether a host is the name of a Service.
fn is_kubernetes(host: &str, inputs: &Inputs, mesh: &Mesh) -> bool {
    let host = host.to_ascii_lowercase();
    let short = host.strip_suffix(&*mesh.cluster_domain).and_then(|rest| rest.strip_suffix(".svc."));
    let parts = short.and_then(|short| short.rsplit_once('.'));
    parts.is_some_and(|(name, namespace)| inputs.services.contains_key(&Key::new(namespace, name)))
}

fn kubernetes(service: &Resource<inventory::Service>, finder: &Finder<'_>, mesh: &Mesh) -> Service {
    let (meta, spec) = (&service.meta, &service.spec);
    let (name, namespace): (Arc<str>, Arc<str>) = (meta.name.clone(), meta.namespace.clone());
    let host: Arc<str> = format!("{}.{}.svc.{}", meta.name, meta.namespace, mesh.cluster_domain).into();
    let target: Option<Arc<str>> = spec.external_name.as_ref().map(|name| name.trim_end_matches('.').into());
    let kind = match (spec.service_type, target) {
        (ServiceType::ExternalName, target) => ServiceKind::ExternalName(target.unwrap_or_default()),
        _ if spec.headless => ServiceKind::Headless,
        _ => ServiceKind::ClusterIp,
    };
    let export_to: Vec<String> = meta
        .annotations
        .get(EXPORT_TO)
        .map(|list| list.split(',').map(|it| it.trim().to_owned()).filter(|it| !it.is_empty()).collect())
        .unwrap_or_default();
    let ports = spec.ports.iter().filter(|port| port.transport == Transport::Tcp).map(|port| {
        let (discovery, found) = match &kind {
            ServiceKind::ExternalName(target) => {
                let endpoint = DnsEndpoint::new(target, port.number);
                (Discovery::Dns(Arc::from([endpoint])), endpoints::Endpoints::default())
            }
            _ => (Discovery::Endpoints, finder.of_service(service, port)),
        };
        ServicePort {
            name: port.name.clone(),
            number: port.number,
            protocol: port.protocol(),
            discovery,
            endpoints: found.usable.into(),
            excluded: found.excluded.into(),
            service: Arc::new(ServiceRef {
                host: host.clone(),
                port: port.number,
                name: name.clone(),
                namespace: namespace.clone(),
            }),
        }
    });
    Service {
        ports: ports.collect(),
        key: HostKey::parse(&host),
        name,
        namespace,
        addresses: spec.cluster_ips.iter().map(|address| address.to_canonical()).collect(),
        ranges: Vec::new(),
        is_external: false,
        traffic_distribution: spec.traffic_distribution,
        is_node_local: spec.internal_traffic_is_local,
        visibility: Visibility::of(&export_to, &meta.namespace, &mesh.service_export),
        kind,
        host,
    }
}

fn service_entry(entry: &Resource<ServiceEntry>, host: &str, finder: &Finder<'_>, mesh: &Mesh) -> Service {
    let (meta, spec) = (&entry.meta, &entry.spec);
    let (mut addresses, mut ranges) = (Vec::new(), Vec::new());
    for range in spec.addresses.iter().filter_map(|address| address.parse::<Cidr>().ok()) {
        match range.single() {
            Some(address) => addresses.push(address.to_canonical()),
            None => ranges.push(range),
        }
    }
    Service {
        host: host.into(),
        name: host.into(),
        namespace: meta.namespace.clone(),
        kind: ServiceKind::ServiceEntry,
        addresses,
        ranges,
        ports: spec.ports.iter().filter_map(|port| entry_port(entry, host, port, finder)).collect(),
        is_external: spec.location == Location::MeshExternal,
        traffic_distribution: TrafficDistribution::of(&meta.annotations, None),
        is_node_local: false,
        key: HostKey::parse(host),
        visibility: Visibility::of(&spec.export_to, &meta.namespace, &mesh.service_export),
    }
}

fn entry_port(
    entry: &Resource<ServiceEntry>,
    host: &str,
    port: &Port,
    finder: &Finder<'_>,
) -> Option<ServicePort> {
    let (meta, spec) = (&entry.meta, &entry.spec);
    let number = port_number(port.number)?;
    let protocol = match &*port.protocol {
        "" => Protocol::of_port(&port.name, None, number),
        name => Protocol::parse(name).unwrap_or(Protocol::Tcp),
    };
    if protocol == Protocol::Udp {
        return None;
    }
    let target = port_number(port.target_port).unwrap_or(number);
    let written = || {
        spec.endpoints.iter().filter_map(|it| {
            endpoints::of_spec(it, it.labels.clone(), &it.address, &meta.namespace, &port.name, target)
        })
    };
    let mut found = endpoints::Endpoints::default();
    if let Some(selector) = &spec.workload_selector {
        found = finder.of_selector(&meta.namespace, &selector.labels, &port.name, target);
    }
    let first_only = spec.resolution == Resolution::DnsRoundRobin;
    let names = || {
        spec.endpoints.iter().map(|it| DnsEndpoint {
            host: it.address.as_str().into(),
            port: it.ports.get(&port.name).and_then(|&number| port_number(number)).unwrap_or(target),
            weight: it.weight.max(1),
            first_only,
            labels: Arc::new(it.labels.clone()),
            locality: it.locality.as_str().into(),
        })
    };
    let all_are_addresses = !spec.endpoints.is_empty() && written().count() == spec.endpoints.len();
    let discovery = match spec.resolution {
        Resolution::None => Discovery::OriginalDestination,
        Resolution::DynamicDns => Discovery::DynamicDns(target),
        Resolution::Dns | Resolution::DnsRoundRobin
            if !all_are_addresses && spec.workload_selector.is_none() =>
        {
            let itself = || DnsEndpoint { first_only, ..DnsEndpoint::new(host, target) };
            Discovery::Dns(if spec.endpoints.is_empty() { Arc::from([itself()]) } else { names().collect() })
        }
        Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => {
            endpoints::merge(&mut found.usable, written());
            Discovery::Endpoints
        }
    };
    Some(ServicePort {
        name: port.name.as_str().into(),
        number,
        protocol,
        discovery,
        endpoints: found.usable.into(),
        excluded: found.excluded.into(),
        service: Arc::new(ServiceRef {
            host: host.into(),
            port: number,
            name: host.into(),
            namespace: meta.namespace.clone(),
        }),
    })
}

fn unite(older: &mut Service, newer: Service) {
    for address in newer.addresses {
        if !older.addresses.contains(&address) {
            older.addresses.push(address);
        }
    }
    older.ranges.extend(newer.ranges);
    for port in newer.ports {
        match older.ports.iter_mut().find(|it| it.number == port.number) {
            None => older.ports.push(port),
            // Endpoints unite only if both have some; of two ways to find them the older stays.
            Some(known)
                if known.discovery == Discovery::Endpoints && port.discovery == Discovery::Endpoints =>
            {
                let mut all = known.endpoints.to_vec();
                endpoints::merge(&mut all, port.endpoints.iter().cloned());
                known.endpoints = all.into();
            }
            Some(_) => {}
        }
    }
}
