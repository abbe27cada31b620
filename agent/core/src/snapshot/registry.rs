//! What finds a service: by host, by address, by port. It depends on what services are, not on their endpoints, so it is made
//! anew only when a service comes, goes or changes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::service::{Service, ServiceKind};
use crate::capture::Capture;
use crate::host::{HostKey, domains};
use crate::inventory::Protocol;
use std::sync::Arc;

/// Positions are those in the list of services it was made of.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Registry {
    /// Host in lower case, best first.
    pub(crate) by_host: HashMap<Box<str>, Vec<u32>>,
    /// Dialled address, to positions of the service and of the port in it.
    pub(super) by_address: HashMap<(IpAddr, u16), Vec<(u32, u16)>>,
    /// The keys of `by_address`, in order.
    pub(super) addresses: Arc<[Capture]>,
    /// Services with ranges of addresses.
    pub(super) ranged: Vec<u32>,
    /// Services without addresses, by port.
    pub(super) without_address: HashMap<u16, Vec<u32>>,
    /// Services that clients speak HTTP to, or may, by port.
    pub(super) http: HashMap<u16, Vec<u32>>,
    /// ExternalName services, by the name they are an alias of.
    pub(super) aliases: HashMap<Arc<str>, Vec<u32>>,
    /// ExternalName services whose target no registry knows.
    pub(super) external_aliases: Vec<u32>,
    /// Ports that services claim on any address: those without addresses, and aliases, which Host finds.
    pub(crate) claimed_ports: BTreeSet<u16>,
    /// Every port that some service has.
    pub(crate) ports: BTreeSet<u16>,
    /// Every domain that some service is in.
    domains: HashSet<Box<str>>,
}

impl Registry {
    pub(crate) fn new(services: &[Arc<Service>]) -> Self {
        let mut registry = Self::default();
        for (position, service) in (0u32..).zip(services) {
            registry.add(position, service);
        }
        for (position, service) in (0u32..).zip(services) {
            if let ServiceKind::ExternalName(target) = &service.kind
                && !registry.by_host.contains_key(target.to_ascii_lowercase().as_str())
            {
                registry.external_aliases.push(position);
            }
        }
        // A cluster IP is its service's, whoever writes it into the endpoints of a headless one.
        for known in registry.by_address.values_mut().filter(|known| known.len() > 1) {
            let is_own = |position: u32| {
                services.get(position as usize).is_some_and(|it| it.kind == ServiceKind::ClusterIp)
            };
            known.sort_by_key(|&(position, _)| !is_own(position));
        }
        let mut addresses: Vec<_> =
            registry.by_address.keys().map(|&(address, port)| Capture::Address { address, port }).collect();
        addresses.sort_unstable();
        registry.addresses = addresses.into();
        registry
    }

    fn add(&mut self, position: u32, service: &Service) {
        self.by_host.entry(service.key.to_string().into()).or_default().push(position);
        for domain in domains(&service.key) {
            // A domain that is known has brought those above it.
            if self.domains.contains(domain) {
                break;
            }
            self.domains.insert(domain.into());
        }
        if !service.ranges.is_empty() {
            self.ranged.push(position);
        }
        if let ServiceKind::ExternalName(target) = &service.kind {
            self.aliases.entry(target.clone()).or_default().push(position);
            self.claimed_ports.extend(service.ports.iter().map(|port| port.number));
            if service.ports.is_empty() {
                // Istio serves them like hosts that only a VirtualService knows.
                self.claimed_ports.insert(UNREGISTERED_PORT);
            }
        }
        let without_address = service.is_without_address();
        for (port_position, port) in (0u16..).zip(&service.ports) {
            let mut add = |address| {
                let positions = self.by_address.entry((address, port.number)).or_default();
                if !positions.contains(&(position, port_position)) {
                    positions.push((position, port_position));
                }
            };
            service.addresses.iter().copied().for_each(&mut add);
            if service.kind == ServiceKind::Headless {
                // Also those not ready: publishing them or not is DNS's business; the client has dialled one.
                port.endpoints.iter().for_each(|endpoint| add(endpoint.address.ip()));
                port.excluded.iter().for_each(|it| add(it.endpoint.address.ip()));
            }
            if without_address || !service.ranges.is_empty() {
                self.claimed_ports.insert(port.number);
            }
            self.ports.insert(port.number);
            if port.protocol.is_http() || port.protocol == Protocol::Auto {
                push_once(self.http.entry(port.number).or_default(), position);
            }
            if without_address {
                push_once(self.without_address.entry(port.number).or_default(), position);
            }
        }
    }

    /// Whether both know the same hosts.
    pub(crate) fn has_same_names(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || self.by_host.len() == other.by_host.len()
                && self.by_host.keys().all(|host| other.by_host.contains_key(host))
    }

    /// Whether a service has the host, or one of the hosts. `*` is every service's.
    pub(crate) fn has(&self, host: &HostKey) -> bool {
        match host {
            HostKey::Any => true,
            HostKey::Exact(name) => self.by_host.contains_key(name),
            HostKey::Suffix(suffix) => self.domains.contains(suffix),
        }
    }
}

/// The port on which Istio serves hosts that no registry knows.
pub(crate) const UNREGISTERED_PORT: u16 = 80;

fn push_once(positions: &mut Vec<u32>, position: u32) {
    if positions.last() != Some(&position) {
        positions.push(position);
    }
}
