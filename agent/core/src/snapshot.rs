//! The snapshot: all that is known about the mesh at one moment, immutable, and what it means for each client.
//!
//! `compile` resolves names, endpoints and rules once. What depends on the client (visibility, source conditions, which
//! DestinationRule applies) is settled when a client first uses an address: [`Snapshot::outbound`] gives everything a
//! connection can need as plain tables, which the proxy keeps per client and address until the generation changes.
//!
//! Which service a connection means is DESIGN D8: the *dialled address* names the service; a Host chooses only among
//! ServiceEntries without addresses, ExternalName aliases of the dialled service, and hosts that only a VirtualService knows.

mod account;
mod blocks;
mod clusters;
mod destination_rules;
mod gateway;
mod locality;
mod mesh;
mod outbound;
mod registry;
mod routes;
mod service;
mod visibility;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::api::meta::Key;
use crate::balance::consistent_hash::Tables;
use crate::capture::Capture;
use crate::client::{Client, ClientKind};
use crate::cluster::ServiceRef;
use crate::compile::endpoints::locality;
use crate::inputs::Objects;
use crate::inventory::{Node, Pod, Protocol};
use crate::path::Normalization;
use crate::route::{HttpTable, TcpTable};

pub(crate) use destination_rules::{
    CompiledDestinationRule, CompiledSubset, DestinationRules, SourcedPolicy,
};
pub(crate) use gateway::{CompiledGateway, CompiledServer, ServerHost, ServerKind, listeners, selectors};
pub(crate) use mesh::Mesh;
pub(crate) use registry::{Registry, UNREGISTERED_PORT};
pub(crate) use routes::{
    Body, CompiledRule, CompiledTcpRule, CompiledTlsRule, CompiledVirtualService, Entry, EntryAction,
    L4Entry, Leg, MESH, MirrorLeg, RedirectPort, StaticMatch, VirtualServices,
};
pub use service::{Service, ServiceKind, ServicePort};
pub(crate) use visibility::{EgressHost, EgressListener, Scope, Visibility};

/// Everything known at one moment. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    generation: u64,
    state: Arc<State>,
}

/// What `compile` fills in.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) mesh: Arc<Mesh>,
    /// Kubernetes' first, then ServiceEntries by age.
    pub(crate) services: Vec<Arc<Service>>,
    /// What finds them.
    pub(crate) registry: Arc<Registry>,
    /// Ports to capture on any address.
    pub(crate) captured_ports: BTreeSet<u16>,
    pub(crate) virtual_services: Arc<VirtualServices>,
    pub(crate) destination_rules: Arc<DestinationRules>,
    /// Oldest first.
    pub(crate) gateways: Vec<Arc<CompiledGateway>>,
    pub(crate) scopes: Vec<Scope>,
    /// Of consistent hashing, made when first used.
    pub(crate) hash_tables: Tables,
    /// Who may be a client.
    pub(crate) pods: Objects<Pod>,
    /// Where clients are.
    pub(crate) nodes: Objects<Node>,
}

/// Everything a connection of one client to one address can need.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// Of the snapshot it was made from.
    pub generation: u64,
    /// The address it is for.
    pub dialled: SocketAddr,
    /// What is spoken: [`Protocol::Auto`] if the first bytes have to tell. HTTP goes by `http`, all else by `tcp`.
    pub protocol: Protocol,
    /// The dialled service; `None` if the address belongs to none.
    pub service: Option<Arc<ServiceRef>>,
    /// For requests.
    pub http: HttpTable,
    /// For connections that carry no HTTP.
    pub tcp: TcpTable,
}

/// A port of a gateway.
#[derive(Debug, Clone)]
pub struct GatewayPort {
    /// The port number of the Gateway's servers.
    pub port: u16,
    /// The only address it is for; `None`: all that no other one is for.
    pub bind: Option<IpAddr>,
    /// HTTP goes by `http`; TLS by `tcp`, with its server name; TCP by `tcp`.
    pub protocol: Protocol,
    /// The servers that make it up.
    pub servers: Vec<GatewayServer>,
    /// For requests; 404 for hosts that no server or VirtualService has.
    pub http: HttpTable,
    /// For connections that are not looked into; refused if nothing is bound for them.
    pub tcp: TcpTable,
}

impl GatewayPort {
    /// Whether the gateway should listen. An HTTP port without rules answers 404; others have nothing to say then.
    pub fn is_served(&self) -> bool {
        self.protocol.is_http() || self.tcp.routes.iter().any(|route| !route.destinations.is_empty())
    }
}

/// A server of a Gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayServer {
    /// Namespace of the Gateway.
    pub namespace: Arc<str>,
    /// Name of the Gateway.
    pub gateway: Arc<str>,
    /// Position in `spec.servers`.
    pub index: u32,
    /// The name of its port.
    pub port_name: Arc<str>,
    /// As declared.
    pub protocol: Protocol,
    /// As written.
    pub hosts: Vec<Arc<str>>,
    /// Why it serves nothing; `None`: it serves.
    pub idle: Option<Arc<str>>,
}

impl Snapshot {
    pub(crate) fn new(state: Arc<State>) -> Self {
        Self { generation: 0, state }
    }

    /// Counts up with every change; 0 until the one writer sets it.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The same snapshot as generation `generation`.
    #[must_use]
    pub fn with_generation(self, generation: u64) -> Self {
        Self { generation, ..self }
    }

    /// The same snapshot as the one that follows `earlier`, with what that one had worked out and still holds.
    #[must_use]
    pub fn following(self, earlier: &Self) -> Self {
        self.state.hash_tables.inherit(&earlier.state.hash_tables);
        self.with_generation(earlier.generation + 1)
    }

    /// The destinations the kernel must bring to the proxy: TCP service addresses of all families (cluster IPs, endpoints of
    /// headless services by service port, ServiceEntry addresses), and ports claimed on any address. In order, each once.
    pub fn captures(&self) -> impl Iterator<Item = Capture> + use<> {
        let addresses = self.state.registry.addresses.clone();
        let addresses = (0..addresses.len()).filter_map(move |at| addresses.get(at).copied());
        let ports: Vec<_> = self.state.captured_ports.iter().copied().map(Capture::Port).collect();
        addresses.chain(ports)
    }

    /// Whether [`captures`](Self::captures) certainly are those of `other`: at little cost, as services that are what they were
    /// share them.
    pub fn captures_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state.registry.addresses, &other.state.registry.addresses)
            && self.state.captured_ports == other.state.captured_ports
    }

    /// How request paths are normalised before anything looks at them.
    pub fn normalization(&self) -> Normalization {
        self.state.mesh.normalization
    }

    /// How many proxies in front of a gateway are believed (Istio: `gatewayTopology.numTrustedProxies`): the client is the
    /// address so far from the right in `x-forwarded-for`, and `x-forwarded-proto` is what the last of them says.
    pub fn trusted_proxies(&self) -> u32 {
        self.state.mesh.trusted_proxies
    }

    /// The namespace whose rules hold for all.
    pub fn root_namespace(&self) -> &Arc<str> {
        &self.state.mesh.root_namespace
    }

    /// All services, Kubernetes' first, by namespace and name; then ServiceEntries, oldest first.
    pub fn services(&self) -> &[Arc<Service>] {
        &self.state.services
    }

    /// The services that some DestinationRule gives a warm-up.
    pub fn warming_up(&self) -> impl Iterator<Item = &Arc<Service>> {
        let hosts: Vec<_> = self.state.destination_rules.warming_up().collect();
        let services = if hosts.is_empty() { &[][..] } else { &*self.state.services };
        services.iter().filter(move |service| hosts.iter().any(|host| host.covers(&service.key)))
    }

    /// The service that has the address, if any.
    pub fn service_at(&self, dialled: SocketAddr) -> Option<(&Arc<Service>, &ServicePort)> {
        let found = self.state.registry.by_address.get(&(dialled.ip().to_canonical(), dialled.port()))?;
        let &(service, port) = found.first()?;
        let service = self.state.services.get(service as usize)?;
        Some((service, service.ports.get(usize::from(port))?))
    }

    /// Whether a connection to `dialled` is among [`Snapshot::captures`].
    pub fn captures_address(&self, dialled: SocketAddr) -> bool {
        self.state.registry.by_address.contains_key(&(dialled.ip().to_canonical(), dialled.port()))
            || self.state.captured_ports.contains(&dialled.port())
    }

    /// A pod as a client.
    pub fn client_of_pod(&self, namespace: &str, name: &str) -> Option<Client> {
        let pod = self.state.pods.get(&Key::new(namespace, name))?;
        Some(Client {
            namespace: namespace.into(),
            labels: (*pod.meta.labels).clone(),
            service_account: pod.spec.service_account.clone(),
            workload: name.into(),
            node: pod.spec.node.clone(),
            locality: locality(&self.state.nodes, &pod.spec.node, "").into(),
            addresses: pod.spec.ips.to_vec(),
            kind: ClientKind::Mesh,
        })
    }

    /// What a connection of `client` to `dialled` means. An address nobody knows passes through (ALLOW_ANY) or is refused
    /// (REGISTRY_ONLY). Total: any client and address have an answer.
    pub fn outbound(&self, client: &Client, dialled: SocketAddr) -> Arc<Outbound> {
        Arc::new(outbound::outbound(&self.state, self.generation, client, dialled))
    }

    /// The ports of a gateway workload: of all Gateways whose selector finds `client.labels`, ascending.
    pub fn gateway(&self, client: &Client) -> Vec<GatewayPort> {
        gateway::ports(&self.state, &self.placed(client))
    }

    /// A gateway knows its own name, and only the API server where its pod runs.
    fn placed<'a>(&self, client: &'a Client) -> Cow<'a, Client> {
        match self.client_of_pod(&client.namespace, &client.workload) {
            Some(pod) if client.locality.is_empty() => {
                Cow::Owned(Client { locality: pod.locality, node: pod.node, ..client.clone() })
            }
            _ => Cow::Borrowed(client),
        }
    }

    /// The port of a gateway workload that a connection to its address `local` means.
    pub fn gateway_port(&self, client: &Client, port: u16, local: IpAddr) -> Option<GatewayPort> {
        gateway::port_at(&self.state, &self.placed(client), port, local)
    }
}

#[cfg(test)]
mod tests;
