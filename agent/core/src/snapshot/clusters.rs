//! Clusters for one client: which service a destination means, which endpoints are in it, what remains of its policy.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::State;
use super::blocks::Blocks;
use super::locality::{self, Setting};
use super::service::{Service, ServiceKind, ServicePort};
use super::visibility::Scope;
use crate::balance::Spread;
use crate::client::{Client, ClientKind};
use crate::cluster::{
    Availability, Cluster, ClusterKey, Discovery, DnsEndpoint, Endpoint, ExcludedEndpoint, Missing,
    ServiceRef, UpstreamProtocol,
};
use crate::policy::{Balancer, Policy};

/// Makes the clusters of one client, each once.
pub(crate) struct Clusters<'a> {
    state: &'a State,
    client: &'a Client,
    scope: Option<&'a Scope>,
    /// The address dialled, if any.
    dialled: Option<IpAddr>,
    made: HashMap<ClusterKey, Arc<Cluster>>,
    /// The localities of the pods like the client, once they were looked for.
    peers: OnceCell<Vec<&'a str>>,
}

impl<'a> Clusters<'a> {
    pub(crate) fn new(state: &'a State, client: &'a Client, dialled: Option<IpAddr>) -> Self {
        let scope = match client.kind {
            ClientKind::Mesh => Scope::of(&state.scopes, client, &state.mesh.root_namespace),
            ClientKind::Gateway => None,
        };
        Self { state, client, scope, dialled, made: HashMap::new(), peers: OnceCell::new() }
    }

    pub(crate) fn client(&self) -> &'a Client {
        self.client
    }

    pub(crate) fn scope(&self) -> Option<&'a Scope> {
        self.scope
    }

    /// Whether the client sees the service when it dials `port`.
    pub(crate) fn sees(&self, service: &Service, port: u16) -> bool {
        service.visibility.sees(&self.client.namespace)
            && self.scope.is_none_or(|scope| scope.imports(&service.namespace, &service.key, port))
    }

    /// The service a destination host means. Destinations are not limited by a Sidecar's scope (Istio imports the destinations
    /// of imported VirtualServices along with them).
    pub(crate) fn service(&self, host: &str) -> Option<&'a Arc<Service>> {
        let visible = |service: &&Arc<Service>| service.visibility.sees(&self.client.namespace);
        let own = |service: &&Arc<Service>| service.namespace == self.client.namespace;
        // Istio compares destinations as written, unlike VirtualService hosts and Host.
        let found = self.state.services_of(host).filter(move |service| *service.host == *host);
        let best = found.clone().filter(own).find(visible).or_else(|| found.clone().find(visible))?;
        match &best.kind {
            ServiceKind::ExternalName(target) if **target != *host => {
                match self.state.services_of(target).find(visible) {
                    // One step: an alias of an alias means the latter's DNS name.
                    Some(target) => Some(target),
                    None => Some(best),
                }
            }
            _ => Some(best),
        }
    }

    /// The cluster of a destination. Without a port: the service's only one, else the one the client dialled.
    pub(crate) fn cluster(
        &mut self,
        host: &str,
        subset: &str,
        port: Option<u16>,
        dialled_port: u16,
    ) -> Arc<Cluster> {
        let service = self.service(host);
        let number = port.unwrap_or_else(|| match service.map(|it| &*it.ports) {
            Some([only]) => only.number,
            _ => dialled_port,
        });
        let host = service.map_or_else(|| host.into(), |it| it.host.clone());
        let key = ClusterKey { host, port: number, subset: subset.into() };
        if let Some(made) = self.made.get(&key) {
            return made.clone();
        }
        let cluster = Arc::new(match service {
            None => missing(key.clone(), Missing::Host, None),
            Some(service) => match (service.port(number), &service.kind) {
                (Some(port), _) => self.known(key.clone(), service, port),
                // An alias of an unknown name without ports of its own leads to the name, at the port in question.
                (None, ServiceKind::ExternalName(target)) if service.ports.is_empty() => {
                    external_name(key.clone(), service, target)
                }
                (None, _) => missing(
                    key.clone(),
                    Missing::Port,
                    service.ports.first().map(|port| port.service.clone()),
                ),
            },
        });
        self.made.insert(key, cluster.clone());
        cluster
    }

    fn known(&self, key: ClusterKey, service: &Service, port: &ServicePort) -> Cluster {
        let mesh = &self.state.mesh;
        let rule = self.state.destination_rules.find(
            self.client,
            &service.key,
            &service.namespace,
            &mesh.root_namespace,
        );
        let subset = match &*key.subset {
            "" => None,
            name => match rule.and_then(|rule| rule.subsets.iter().find(|subset| &*subset.name == name)) {
                Some(subset) => Some(subset),
                None => return missing(key, Missing::Subset, Some(port.service.clone())),
            },
        };
        let mut blocks = Blocks::default();
        if let Some(policy) = rule.and_then(|rule| rule.policy.as_ref()) {
            blocks.overlay(policy, port.number);
        }
        let mesh_policy = mesh.default_policy.as_ref().filter(|_| blocks.lacks_mesh_defaults());
        if let Some((policy, origin)) = mesh_policy {
            blocks.fill(policy, origin);
        }
        if let Some(policy) = subset.and_then(|subset| subset.policy.as_ref()) {
            blocks.overlay(policy, port.number);
        }
        let balancer = blocks.balancer();
        let discovery = match (&port.discovery, balancer) {
            (_, Balancer::Passthrough) => Discovery::OriginalDestination,
            (Discovery::Dns(names), _) => {
                Discovery::Dns(in_subset(names, subset.map(|subset| &subset.labels)))
            }
            (discovery, _) => discovery.clone(),
        };
        let (mut endpoints, mut excluded) =
            self.endpoints(service, port, subset.map(|subset| &subset.labels), &discovery);
        let setting = Setting::in_force(blocks.load_balancer(), service.traffic_distribution, mesh);
        let (protocol, use_client_protocol) = blocks.protocol(port.protocol, mesh.upgrades_to_http2);
        let availability =
            blocks.refusal().map_or(Availability::Known, |why| Availability::Refused(why.into()));
        let policy = blocks.policy(balancer, mesh.connect_timeout);
        let panic_percent = policy.outlier_detection.as_ref().map(|it| it.min_health_percent);
        let clients = if setting.counts_clients() { self.clients_like_this() } else { &[] };
        let layout = locality::lay_out(setting, &endpoints, self.client, panic_percent, clients);
        // Where all are equal, the list is the service's own, shared by all clients.
        if layout.levels.is_some() || !layout.left_out.is_empty() {
            let left_out = layout.left_out.iter().map(|it| exclude(it, locality::NOT_DISTRIBUTED));
            excluded = excluded.iter().cloned().chain(left_out).collect();
            endpoints = layout.endpoints.into();
        }
        let spread = Spread::new(&policy, &endpoints, layout.levels, &self.state.hash_tables);
        Cluster {
            name: Cluster::outbound_name(&key),
            key,
            protocol,
            use_client_protocol,
            discovery,
            endpoints,
            excluded,
            policy,
            spread,
            availability,
            service: Some(port.service.clone()),
        }
    }

    /// The localities of the pods of the client's own service, if it belongs to one.
    fn clients_like_this(&self) -> &[&'a str] {
        self.peers.get_or_init(|| {
            let is_client = |endpoint: &Endpoint| self.client.addresses.contains(&endpoint.address.ip());
            let mut ports = self.state.services.iter().flat_map(|service| &service.ports);
            let own = ports.find(|port| port.endpoints.iter().any(is_client));
            own.map_or_else(Vec::new, |port| port.endpoints.iter().map(|it| &*it.locality).collect())
        })
    }

    /// The endpoints of a subset (`None`: all).
    fn endpoints(
        &self,
        service: &Service,
        port: &ServicePort,
        labels: Option<&BTreeMap<String, String>>,
        discovery: &Discovery,
    ) -> (Arc<[Endpoint]>, Arc<[ExcludedEndpoint]>) {
        if *discovery != Discovery::Endpoints {
            return (Arc::from([]), Arc::from([]));
        }
        let (mut endpoints, mut excluded) = (port.endpoints.clone(), port.excluded.clone());
        let in_subset = |endpoint: &Endpoint| {
            labels.is_none_or(|labels| {
                labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value))
            })
        };
        let is_near = |endpoint: &Endpoint| {
            !service.is_node_local
                || !endpoint.workload.node.is_empty() && endpoint.workload.node == self.client.node
        };
        if labels.is_some_and(|labels| !labels.is_empty()) {
            (endpoints, excluded) = leave_out(&endpoints, &excluded, in_subset, "not in the subset");
        }
        if service.is_node_local {
            (endpoints, excluded) = leave_out(&endpoints, &excluded, is_near, NOT_NEAR);
        }
        if endpoints.is_empty() && excluded.iter().any(|it| it.is_last_resort) {
            let counts = |it: &&ExcludedEndpoint| {
                it.is_last_resort && in_subset(&it.endpoint) && is_near(&it.endpoint)
            };
            endpoints = excluded.iter().filter(counts).map(|it| it.endpoint.clone()).collect();
            excluded = excluded.iter().filter(|it| !counts(it)).cloned().collect();
        }
        // One address for each of several families' worth: the dialled family, as the client surely has that one.
        let wants_v6 = self.dialled.is_some_and(|dialled| dialled.is_ipv6());
        if endpoints.iter().any(|it| it.address.is_ipv6()) && endpoints.iter().any(|it| it.address.is_ipv4())
        {
            let wanted = |endpoint: &Endpoint| endpoint.address.is_ipv6() == wants_v6;
            let has_wanted: HashSet<&str> =
                endpoints.iter().filter(|it| wanted(it)).map(|it| &*it.id).collect();
            endpoints =
                endpoints.iter().filter(|it| wanted(it) || !has_wanted.contains(&*it.id)).cloned().collect();
        }
        // Who dials an endpoint of a headless service means that endpoint (a database's first replica).
        if let (ServiceKind::Headless, Some(dialled)) = (&service.kind, self.dialled) {
            let meant = |endpoint: &Endpoint| endpoint.address.ip() == dialled;
            const ANOTHER: &str = "the client dialled another endpoint";
            if endpoints.iter().any(meant) {
                (endpoints, excluded) = leave_out(&endpoints, &excluded, meant, ANOTHER);
            } else if let Some(it) =
                port.excluded.iter().find(|it| meant(&it.endpoint) && in_subset(&it.endpoint))
            {
                // Ready or not: that is the business of the name server, and the client has its answer.
                let others = endpoints.iter().map(|endpoint| exclude(endpoint, ANOTHER));
                excluded = excluded.iter().filter(|it| !meant(&it.endpoint)).cloned().chain(others).collect();
                endpoints = Arc::from([it.endpoint.clone()]);
            }
        }
        (endpoints, excluded)
    }
}

fn in_subset(names: &Arc<[DnsEndpoint]>, labels: Option<&BTreeMap<String, String>>) -> Arc<[DnsEndpoint]> {
    let Some(labels) = labels.filter(|labels| !labels.is_empty()) else { return names.clone() };
    let selected =
        |name: &&DnsEndpoint| labels.iter().all(|(key, value)| name.labels.get(key) == Some(value));
    names.iter().filter(selected).cloned().collect()
}

const NOT_NEAR: &str = "on another node than the client (internalTrafficPolicy: Local)";

/// Keeps the endpoints that are `wanted`, and says of the others `why` not.
fn leave_out(
    endpoints: &[Endpoint],
    excluded: &[ExcludedEndpoint],
    wanted: impl Fn(&Endpoint) -> bool,
    why: &'static str,
) -> (Arc<[Endpoint]>, Arc<[ExcludedEndpoint]>) {
    let others = endpoints.iter().filter(|endpoint| !wanted(endpoint)).map(|it| exclude(it, why));
    let excluded = excluded.iter().cloned().chain(others).collect();
    (endpoints.iter().filter(|endpoint| wanted(endpoint)).cloned().collect(), excluded)
}

fn exclude(endpoint: &Endpoint, why: &'static str) -> ExcludedEndpoint {
    ExcludedEndpoint { endpoint: endpoint.clone(), why, is_last_resort: false }
}

fn missing(key: ClusterKey, what: Missing, service: Option<Arc<ServiceRef>>) -> Cluster {
    Cluster {
        name: Cluster::outbound_name(&key),
        key,
        protocol: UpstreamProtocol::Http1,
        use_client_protocol: false,
        discovery: Discovery::Endpoints,
        endpoints: Arc::from([]),
        excluded: Arc::from([]),
        policy: Policy::default(),
        spread: Spread::default(),
        availability: Availability::Missing(what),
        service,
    }
}

fn external_name(key: ClusterKey, service: &Service, target: &Arc<str>) -> Cluster {
    let endpoint = DnsEndpoint::new(target, key.port);
    let named = ServiceRef {
        host: service.host.clone(),
        port: key.port,
        name: service.name.clone(),
        namespace: service.namespace.clone(),
    };
    Cluster {
        discovery: Discovery::Dns(Arc::from([endpoint])),
        availability: Availability::Known,
        ..missing(key, Missing::Host, Some(Arc::new(named)))
    }
}
