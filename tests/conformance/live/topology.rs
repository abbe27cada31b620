//! Who listens where in a case: every endpoint on its own address and ports, every name and address outside the mesh as an
//! echo server, and what each of them stands for (host and port of a service), so that an answer tells its destination.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use crate::case::{Accept, Behaviour, Case};
use crate::upstream::{Modes, Upstream};
use crate::world::{array, text};

/// What listens at an address and port.
#[derive(Debug, Clone)]
pub(crate) struct Listening {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) modes: Modes,
    /// Host and port of each service that is served there.
    pub(crate) serves: BTreeSet<(String, u16)>,
}

#[derive(Debug, Default)]
pub(crate) struct Topology {
    pub(crate) listening: BTreeMap<SocketAddr, Listening>,
    /// What names resolve to.
    pub(crate) zone: BTreeMap<String, IpAddr>,
    upstreams: BTreeMap<IpAddr, Arc<Upstream>>,
}

/// Where names are.
const NAMES: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 0);

impl Topology {
    /// `gateways` are the addresses of gateway pods, where the proxy listens.
    pub(crate) fn of(case: &Case, gateways: &BTreeSet<IpAddr>) -> Result<Self, String> {
        let mut topology = Self::default();
        let entries = |kind: &str| -> Vec<(&str, &str, &Value)> {
            let of_kind = case.config.iter().filter(|it| it["kind"] == kind);
            of_kind
                .map(|it| (text(&it["metadata"]["name"]), text(&it["metadata"]["namespace"]), &it["spec"]))
                .collect()
        };
        let workload_entries = entries("WorkloadEntry");
        let service_entries = entries("ServiceEntry");
        for service in &case.services {
            for port in &service.ports {
                let target = port.target_port.unwrap_or(port.number);
                let serves = (service.host(), port.number);
                for endpoint in &service.endpoints {
                    if gateways.contains(&endpoint.address) {
                        continue;
                    }
                    let upstream = topology.upstream(
                        endpoint.address,
                        &endpoint.id,
                        &endpoint.labels,
                        &endpoint.behaviour,
                    )?;
                    topology.listen(upstream, target, &port.protocol, Some(serves.clone()));
                }
                for (name, _, spec) in workload_entries.iter().filter(|(_, namespace, spec)| {
                    *namespace == service.namespace
                        && !service.selector.is_empty()
                        && has_labels(&labels(spec), &service.selector)
                }) {
                    let address = address(&spec["address"])?;
                    let upstream = topology.upstream(address, name, &labels(spec), &Behaviour::default())?;
                    let target = number(&spec["ports"][&port.name]).unwrap_or(target);
                    topology.listen(upstream, target, &port.protocol, Some(serves.clone()));
                }
            }
        }
        for (_, namespace, spec) in &service_entries {
            topology.service_entry(case, namespace, spec, &workload_entries)?;
        }
        topology.outside(case, &service_entries)?;
        Ok(topology)
    }

    fn service_entry(
        &mut self,
        case: &Case,
        namespace: &str,
        spec: &Value,
        workload_entries: &[(&str, &str, &Value)],
    ) -> Result<(), String> {
        let hosts: Vec<&str> = array(spec, "hosts").iter().map(text).collect();
        for &host in hosts.iter().filter(|host| !host.contains('*')) {
            self.resolve(host);
        }
        for port in array(spec, "ports") {
            let service_port = number(&port["number"]).ok_or("a port without number")?;
            let target = number(&port["targetPort"]).unwrap_or(service_port);
            let protocol = text(&port["protocol"]);
            let serves = |topology: &mut Self, upstream: &Arc<Upstream>, target: u16| {
                for host in &hosts {
                    let served = ((*host).to_owned(), service_port);
                    topology.listen(upstream.clone(), target, protocol, Some(served));
                }
            };
            for endpoint in array(spec, "endpoints") {
                let id = text(&endpoint["address"]);
                let behaviour = match endpoint.get("behaviour") {
                    Some(it) => serde_json::from_value(it.clone()).map_err(|error| error.to_string())?,
                    None => Behaviour::default(),
                };
                let address = id.parse().unwrap_or_else(|_| self.resolve(id));
                let upstream = self.upstream(address, id, &labels(endpoint), &behaviour)?;
                let target = number(&endpoint["ports"][text(&port["name"])]).unwrap_or(target);
                serves(self, &upstream, target);
            }
            let selector = labels(&spec["workloadSelector"]);
            if !selector.is_empty() {
                for (name, of, workload) in workload_entries {
                    if *of == namespace && has_labels(&labels(workload), &selector) {
                        let behaviour = Behaviour::default();
                        let address = address(&workload["address"])?;
                        let upstream = self.upstream(address, name, &labels(workload), &behaviour)?;
                        let target = number(&workload["ports"][text(&port["name"])]).unwrap_or(target);
                        serves(self, &upstream, target);
                    }
                }
                for service in case.services.iter().filter(|it| it.namespace == namespace) {
                    for pod in service.endpoints.iter().filter(|it| has_labels(&it.labels, &selector)) {
                        let upstream = self.upstream(pod.address, &pod.id, &pod.labels, &pod.behaviour)?;
                        serves(self, &upstream, target);
                    }
                }
            } else if array(spec, "endpoints").is_empty() {
                // The hosts themselves: by DNS, or as dialled.
                for &host in hosts.iter().filter(|host| !host.contains('*')) {
                    let address = self.resolve(host);
                    let upstream = self.upstream(address, host, &BTreeMap::new(), &Behaviour::default())?;
                    self.listen(upstream, target, protocol, Some((host.to_owned(), service_port)));
                }
                if matches!(text(&spec["resolution"]), "" | "NONE") {
                    for id in array(spec, "addresses").iter().map(text) {
                        let Ok(address) = id.parse() else { continue };
                        let upstream = self.upstream(address, id, &BTreeMap::new(), &Behaviour::default())?;
                        serves(self, &upstream, service_port);
                    }
                }
            }
        }
        Ok(())
    }

    /// What lies outside of the mesh answers on every port that somebody mentions: a literal address that a client dials, a
    /// name, an address of a ServiceEntry.
    fn outside(&mut self, case: &Case, service_entries: &[(&str, &str, &Value)]) -> Result<(), String> {
        let hosts: BTreeSet<String> = case.services.iter().map(|it| it.host()).collect();
        let pods: BTreeSet<IpAddr> =
            case.services.iter().flat_map(|it| it.endpoints.iter().map(|it| it.address)).collect();
        let vips: BTreeSet<IpAddr> = case.services.iter().filter_map(|it| it.vip).collect();
        let mut ports: BTreeSet<u16> = BTreeSet::new();
        for (_, _, spec) in service_entries {
            for port in array(spec, "ports") {
                ports.extend([&port["number"], &port["targetPort"]].into_iter().filter_map(number));
            }
        }
        for request in case.requests.iter().filter(|it| it.connect.get("gateway").is_none()) {
            ports.extend(number(&request.connect["port"]));
            if let Some(host) = request.connect["host"].as_str()
                && !hosts.contains(host)
            {
                let address = self.resolve(host);
                self.upstream(address, host, &BTreeMap::new(), &Behaviour::default())?;
            }
            if let Some(id) = request.connect["address"].as_str()
                && let Ok(address) = id.parse::<IpAddr>()
                && !address.is_loopback()
                && !pods.contains(&address)
                && !vips.contains(&address)
            {
                self.upstream(address, id, &BTreeMap::new(), &Behaviour::default())?;
            }
        }
        let outside: Vec<_> =
            self.upstreams.values().filter(|it| !pods.contains(&it.address)).cloned().collect();
        for upstream in outside {
            for &port in &ports {
                if !self.listening.contains_key(&SocketAddr::new(upstream.address, port)) {
                    self.listen(upstream.clone(), port, "AUTO", None);
                }
            }
        }
        Ok(())
    }

    /// The address of a name.
    fn resolve(&mut self, name: &str) -> IpAddr {
        let next = u32::from(NAMES) + 1 + self.zone.len() as u32;
        *self.zone.entry(name.to_owned()).or_insert(IpAddr::V4(next.into()))
    }

    fn upstream(
        &mut self,
        address: IpAddr,
        id: &str,
        labels: &BTreeMap<String, String>,
        behaviour: &Behaviour,
    ) -> Result<Arc<Upstream>, String> {
        match self.upstreams.get(&address) {
            // Several services may have it, and each may say how it behaves.
            Some(known) if *behaviour == Behaviour::default() || known.behaviour == *behaviour => {
                Ok(known.clone())
            }
            Some(known) => Err(format!("{id} at {address} is already {} and behaves otherwise", known.id)),
            None => {
                let made = Arc::new(Upstream::new(id, address, labels.clone(), behaviour.clone()));
                self.upstreams.insert(address, made.clone());
                Ok(made)
            }
        }
    }

    fn listen(&mut self, upstream: Arc<Upstream>, port: u16, protocol: &str, serves: Option<(String, u16)>) {
        let mut modes = Modes::of(protocol);
        let accepted = |mode| upstream.behaviour.accept.contains(&mode);
        if accepted(Accept::Http1) || accepted(Accept::H2c) {
            (modes.http1, modes.http2) = (accepted(Accept::Http1), accepted(Accept::H2c));
        }
        let at = SocketAddr::new(upstream.address, port);
        let listening =
            self.listening.entry(at).or_insert(Listening { upstream, modes, serves: BTreeSet::new() });
        listening.modes = listening.modes.or(modes);
        listening.serves.extend(serves);
    }
}

fn labels(value: &Value) -> BTreeMap<String, String> {
    let labels = value["labels"].as_object().into_iter().flatten();
    labels.map(|(key, value)| (key.clone(), text(value).to_owned())).collect()
}

/// Whether there is all of `wanted`.
pub(crate) fn has_labels(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|it| u16::try_from(it).ok())
}

fn address(value: &Value) -> Result<IpAddr, String> {
    text(value).parse().map_err(|_| format!("{value} is no address"))
}
