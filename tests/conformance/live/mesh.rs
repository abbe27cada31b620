//! The mesh of a case: one proxy for the pods of a node and one for each gateway, all in process, with the kernel's half
//! played by a table: where a connection was going is noted before it is made.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;
use socket2::{Domain, Socket};
use undermesh_core::client::{Client, ClientKind};
use undermesh_core::cluster::Workload;
use undermesh_core::snapshot::Snapshot;
use undermesh_proxy::access_log::{Format, Sink};
use undermesh_proxy::inlet::{Caller, Entrance, Inlet, Origin, Origins, OwnNamespace, Sockets};
use undermesh_proxy::names::{Answer, Lookup, LookupError, Resolver};
use undermesh_proxy::{InletHandle, Proxy, Settings};

use crate::case::{Case, Source};
use crate::topology::has_labels;
use crate::variant;

/// Where captured connections are accepted.
const INLET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 253, 0, 1)), 15001);
const INLET6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x0afd, 1)), 15001);
/// Addresses of gateways that are no endpoint, and of clients that are none.
const GATEWAYS: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 0);
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 252, 0, 0);

/// The addresses of a case's gateways by `namespace/name`: of the endpoint that is the gateway's pod, if there is one.
pub(crate) fn gateway_addresses(case: &Case) -> BTreeMap<String, IpAddr> {
    let pods = |namespace: &str, labels: &BTreeMap<String, String>| {
        let services = case.services.iter().filter(|it| it.namespace == namespace);
        let mut pods = services.flat_map(|it| &it.endpoints);
        pods.find(|it| has_labels(&it.labels, labels)).map(|it| it.address)
    };
    let gateways = case.gateways.iter().enumerate();
    let addresses = gateways.map(|(index, it)| {
        let address = pods(&it.namespace, &it.labels).unwrap_or_else(|| nth(GATEWAYS, index, case));
        (format!("{}/{}", it.namespace, it.name), address)
    });
    addresses.collect()
}

fn nth(base: Ipv4Addr, index: usize, case: &Case) -> IpAddr {
    let address = IpAddr::V4((u32::from(base) + 1 + index as u32).into());
    if case.is_ipv6() { variant::as_ipv6(address) } else { address }
}

/// A proxy, what it logged, and the connections it tried.
struct Member {
    proxy: Proxy,
    log: Log,
    inlets: Vec<InletHandle>,
}

pub(crate) struct Mesh {
    snapshot: Arc<ArcSwap<Snapshot>>,
    node: Member,
    gateways: BTreeMap<String, Member>,
    gateway_callers: Vec<(String, Arc<Caller>, IpAddr)>,
    /// Ports that gateways serve already.
    served: BTreeSet<SocketAddr>,
    dialled: Arc<Dialled>,
    callers: BTreeMap<Source, (Arc<Caller>, IpAddr)>,
    connects: Arc<AtomicUsize>,
}

impl Mesh {
    pub(crate) fn start(
        case: &Case,
        snapshot: Snapshot,
        zone: &BTreeMap<String, IpAddr>,
    ) -> std::io::Result<Self> {
        let zone = Arc::new(Zone(zone.clone()));
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot.with_generation(1)));
        let dialled = Arc::new(Dialled::default());
        let mut node = Member::start(&snapshot, zone.clone())?;
        let inlet = Inlet {
            name: "pods".into(),
            listeners: vec![TcpListener::bind(INLET)?, TcpListener::bind(INLET6)?],
            entrance: Entrance::Mesh(dialled.clone()),
        };
        node.inlets.push(node.proxy.open(inlet));
        let connects = Arc::new(AtomicUsize::new(0));
        let addresses = gateway_addresses(case);
        let mut gateways = BTreeMap::new();
        let mut gateway_callers = Vec::new();
        for gateway in &case.gateways {
            let id = format!("{}/{}", gateway.namespace, gateway.name);
            let client = Client {
                workload: gateway.name.as_str().into(),
                ..Client::gateway(&gateway.namespace, gateway.labels.clone())
            };
            let address = addresses[&id];
            gateway_callers.push((id.clone(), caller(&id, client, address, &connects), address));
            gateways.insert(id, Member::start(&snapshot, zone.clone())?);
        }
        let served = BTreeSet::new();
        let callers = BTreeMap::new();
        let mut mesh = Self { snapshot, node, gateways, gateway_callers, served, dialled, callers, connects };
        mesh.open_gateway_ports()?;
        Ok(mesh)
    }

    /// Takes a new configuration.
    pub(crate) fn apply(&mut self, snapshot: Snapshot) -> std::io::Result<()> {
        let generation = self.snapshot.load().generation() + 1;
        self.snapshot.store(Arc::new(snapshot.with_generation(generation)));
        self.open_gateway_ports()
    }

    /// The ports of the Gateways that select a gateway, as the gateway's own process would serve them.
    fn open_gateway_ports(&mut self) -> std::io::Result<()> {
        for (id, caller, address) in &self.gateway_callers {
            let Some(member) = self.gateways.get_mut(id) else { continue };
            for port in self.snapshot.load().gateway(&caller.client).iter().map(|it| it.port) {
                let at = SocketAddr::new(*address, port);
                if self.served.insert(at) {
                    let inlet = Inlet {
                        name: format!("{id} port {port}").into(),
                        listeners: vec![TcpListener::bind(at)?],
                        entrance: Entrance::Gateway { caller: caller.clone(), port },
                    };
                    member.inlets.push(member.proxy.open(inlet));
                }
            }
        }
        Ok(())
    }

    /// The pod of `source`, and its address.
    pub(crate) fn pod(&mut self, source: &Source, case: &Case) -> (Arc<Caller>, IpAddr) {
        if let Some(known) = self.callers.get(source) {
            return known.clone();
        }
        let index = self.callers.len();
        let own = source.endpoint.as_deref().and_then(|id| {
            let services = case.services.iter();
            services
                .flat_map(|it| it.endpoints.iter().map(move |pod| (it, pod)))
                .find(|(_, pod)| pod.id == id)
        });
        let address = own.map_or_else(|| nth(CLIENTS, index, case), |(_, pod)| pod.address);
        let namespace = source.namespace.as_deref().or(own.map(|(service, _)| service.namespace.as_str()));
        let labels = source.labels.clone().or(own.map(|(_, pod)| pod.labels.clone()));
        let name = source.endpoint.clone().unwrap_or_else(|| format!("client-{index}"));
        let or_empty = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        let client = Client {
            service_account: source.service_account.as_deref().unwrap_or("default").into(),
            workload: name.as_str().into(),
            node: or_empty(&source.node),
            locality: or_empty(&source.locality),
            addresses: vec![address],
            kind: ClientKind::Mesh,
            ..Client::mesh(namespace.unwrap_or("default"), labels.unwrap_or_default())
        };
        let id = format!("{}/{name}", client.namespace);
        let pod = (caller(&id, client, address, &self.connects), address);
        self.callers.insert(source.clone(), pod.clone());
        pod
    }

    /// Notes where the connection from `peer` will be going, and answers where it is captured.
    pub(crate) fn capture(&self, peer: SocketAddr, origin: Origin) -> SocketAddr {
        self.dialled.0.lock().unwrap().insert(peer, origin);
        if peer.is_ipv4() { INLET } else { INLET6 }
    }

    /// Connections that the proxies have tried so far.
    pub(crate) fn connects(&self) -> usize {
        self.connects.load(Ordering::SeqCst)
    }

    /// Lines of the access logs so far: of the node, and of each gateway.
    pub(crate) fn logs(&self) -> Logs {
        let gateways = self.gateways.iter().map(|(id, it)| (id.clone(), it.log.lines()));
        Logs { node: self.node.log.lines(), gateways: gateways.collect() }
    }

    /// Ends the proxies.
    pub(crate) fn end(self) {
        for member in std::iter::once(self.node).chain(self.gateways.into_values()) {
            drop(member.inlets);
            member.proxy.drain(Duration::ZERO);
        }
    }
}

/// Access log lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logs {
    pub(crate) node: Vec<Value>,
    pub(crate) gateways: BTreeMap<String, Vec<Value>>,
}

impl Logs {
    pub(crate) fn lines(&self) -> impl Iterator<Item = &Value> {
        self.node.iter().chain(self.gateways.values().flatten())
    }

    pub(crate) fn count(&self) -> usize {
        self.lines().count()
    }

    /// What is new in them.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut new = self.clone();
        new.node.drain(..before.node.len());
        for (id, lines) in &mut new.gateways {
            lines.drain(..before.gateways.get(id).map_or(0, Vec::len));
        }
        new
    }
}

fn caller(id: &str, client: Client, address: IpAddr, connects: &Arc<AtomicUsize>) -> Arc<Caller> {
    let workload = Workload::new(
        &client.workload,
        &client.namespace,
        &client.labels,
        &client.service_account,
        &client.node,
    );
    let sockets = Arc::new(PodSockets { address, connects: connects.clone() });
    Arc::new(Caller { id: id.into(), workload: Arc::new(workload), client, sockets })
}

impl Member {
    fn start(snapshot: &Arc<ArcSwap<Snapshot>>, resolver: Arc<Zone>) -> std::io::Result<Self> {
        let log = Log::default();
        // The writer ends with the proxy.
        let (log_sink, _) = Sink::start(log.clone())?;
        let settings = Settings {
            workers: 1,
            access_log: Format::Json,
            log_sink,
            hostname: "conformance".into(),
            connections_per_client: usize::MAX,
            resolver,
        };
        Ok(Self { proxy: Proxy::start(settings, snapshot.clone())?, log, inlets: Vec::new() })
    }
}

/// What the name server says.
struct Zone(BTreeMap<String, IpAddr>);

impl Resolver for Zone {
    fn resolve(&self, name: &str) -> Lookup {
        let answer = self
            .0
            .get(name)
            .map(|address| Answer { addresses: vec![*address], time_to_live: Duration::from_secs(60) });
        Box::pin(std::future::ready(answer.ok_or_else(|| LookupError("no such name".into()))))
    }
}

/// Sockets with the address of their pod, counted.
struct PodSockets {
    address: IpAddr,
    connects: Arc<AtomicUsize>,
}

impl Sockets for PodSockets {
    fn stream(&self, domain: Domain) -> std::io::Result<Socket> {
        let socket = OwnNamespace.stream(domain)?;
        self.connects.fetch_add(1, Ordering::SeqCst);
        let own = SocketAddr::new(self.address, 0);
        if Domain::for_address(own) == domain {
            socket.bind(&own.into())?;
        }
        Ok(socket)
    }
}

/// The kernel's word about where connections were going.
#[derive(Default)]
struct Dialled(Mutex<HashMap<SocketAddr, Origin>>);

impl Origins for Dialled {
    fn take(&self, peer: SocketAddr) -> Option<Origin> {
        self.0.lock().unwrap().remove(&peer)
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> Vec<Value> {
        let bytes = self.0.lock().unwrap();
        bytes.split(|&it| it == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
