//! From tables to live state: what one worker keeps for one client, and for each place it connects to.
//!
//! ```text
//!   LocalCaller ── Outlet (a dialled address or a gateway port: the tables of one generation)
//!        │             └ Bound (a cluster of the tables, with its Neighbour and the pools of its endpoints)
//!        └─────── Neighbour (live state of a cluster, by key)
//! ```
//!
//! An Outlet is built when the first request after a new snapshot needs it, from `core`'s pure functions; Neighbours outlive
//! it, so a change of routing neither closes connections nor forgets limits.

mod bound;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use undermesh_core::balance;
use undermesh_core::cluster::{
    Availability, Cluster, ClusterKey, Discovery, DnsEndpoint, UpstreamProtocol, Workload,
};
use undermesh_core::host::HostKey;
use undermesh_core::inventory::Protocol;
use undermesh_core::policy::Policy;
use undermesh_core::route::{HttpTable, RouteIndex, TcpTable};
use undermesh_core::snapshot::{GatewayPort, Outbound, Snapshot};

use crate::inlet::Caller;
use crate::live::{Gauges, Neighbour};
use crate::metrics::{SeriesCache, Shard, escape};
use crate::names::Names;
use crate::outlier::OutlierRegistry;
use crate::record::Peer;
use crate::resolution::{self, Resolution};
use crate::warmup::Acquaintances;

pub(crate) use bound::Bound;
use bound::BoundClusters;

/// Names that clients asked for, of one target in one generation.
const MOST_NAMES: usize = 256;

/// Where a connection of a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// The address the application dialled.
    Address(SocketAddr),
    /// A server port of a gateway, and the address of the gateway that was dialled.
    GatewayPort(u16, IpAddr),
}

/// What the workers share of all clients' live state towards all clusters: what limits are counted with, ejections, and since
/// when endpoints are known.
#[derive(Default)]
pub(crate) struct GaugeRegistry {
    gauges: Mutex<HashMap<GaugeKey, Arc<Gauges>>>,
    pub outliers: OutlierRegistry,
    pub acquaintances: Acquaintances,
}

/// A client and a cluster.
type GaugeKey = (Arc<str>, ClusterKey);

impl GaugeRegistry {
    fn of(&self, caller: &Arc<str>, cluster: &ClusterKey) -> Arc<Gauges> {
        let mut all = self.gauges.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.entry((caller.clone(), cluster.clone())).or_default().clone()
    }

    /// Forgets those that no worker holds.
    pub(crate) fn sweep(&self) {
        let mut all = self.gauges.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.retain(|_, gauges| Arc::strong_count(gauges) > 1);
    }
}

/// What one worker keeps for one client.
pub(crate) struct LocalCaller {
    pub caller: Arc<Caller>,
    /// `source_workload="...",...`: the client's part of every metric label text.
    pub source_labels: String,
    /// Its connections end with the request that is under way.
    pub is_let_go: Cell<bool>,
    registry: Arc<GaugeRegistry>,
    names: Arc<Names>,
    shard: Rc<Shard>,
    neighbours: RefCell<HashMap<ClusterKey, Rc<Neighbour>>>,
    outlets: RefCell<HashMap<Target, Rc<Outlet>>>,
}

impl LocalCaller {
    pub(crate) fn new(
        caller: Arc<Caller>,
        registry: Arc<GaugeRegistry>,
        names: Arc<Names>,
        shard: Rc<Shard>,
    ) -> Rc<Self> {
        let source_labels = workload_labels("source", Some(&caller.workload), true);
        Rc::new(Self {
            caller,
            source_labels,
            is_let_go: Cell::new(false),
            registry,
            names,
            shard,
            neighbours: RefCell::default(),
            outlets: RefCell::default(),
        })
    }

    /// The tables of `target` in `snapshot`, built at the first use of each generation.
    pub(crate) fn outlet(&self, target: Target, snapshot: &Snapshot) -> Rc<Outlet> {
        if let Some(outlet) = self.outlets.borrow().get(&target)
            && outlet.generation == snapshot.generation()
        {
            outlet.unused.set(0);
            return outlet.clone();
        }
        self.registry.acquaintances.follow(snapshot, Instant::now());
        let outlet = Rc::new(Outlet::new(target, snapshot, &self.caller));
        self.outlets.borrow_mut().insert(target, outlet.clone());
        outlet
    }

    /// `cluster` with its live state, for connections that dialled `outlet`.
    pub(crate) fn bind(&self, outlet: &Outlet, cluster: &Arc<Cluster>) -> Rc<Bound> {
        if let Some(bound) = outlet.bound.borrow().get(cluster)
            && bound.resolution.as_ref().is_none_or(Resolution::is_current)
        {
            return bound.clone();
        }
        let of = cluster;
        let (resolved, resolution) = match &of.discovery {
            Discovery::Dns(endpoints) => {
                let (resolved, resolution) =
                    resolution::resolve(of, endpoints, &self.names, &self.caller, &self.shard);
                (Some(Arc::new(resolved)), Some(resolution))
            }
            _ => (None, None),
        };
        let cluster = resolved.as_ref().unwrap_or(of);
        let neighbour = self.neighbour(&cluster.key);
        let pools = match (&cluster.discovery, outlet.target) {
            (Discovery::Endpoints | Discovery::Dns(_), _) => {
                cluster.endpoints.iter().map(|endpoint| neighbour.endpoint(endpoint.address)).collect()
            }
            (Discovery::OriginalDestination, Target::Address(dialled)) => vec![neighbour.endpoint(dialled)],
            // A gateway's client dialled the gateway; without a request there is no name.
            (Discovery::OriginalDestination, Target::GatewayPort(..)) | (Discovery::DynamicDns(_), _) => {
                Vec::new()
            }
        };
        let watch = match &cluster.discovery {
            // Where the client dialled the endpoint itself there is no other one to send it to.
            Discovery::OriginalDestination => None,
            _ => {
                let addresses = pools.iter().map(|pool| pool.address);
                self.registry.outliers.watch(&self.caller.id, cluster, outlet.generation, addresses)
            }
        };
        let window = cluster.policy.retry_budget.as_ref();
        let window = window.and_then(|budget| neighbour.gauges.window(budget, Instant::now()));
        let warming = cluster.policy.warmup.map(|warmup| {
            let addresses = pools.iter().map(|pool| pool.address);
            self.registry.acquaintances.warming(&warmup, addresses, Instant::now())
        });
        let bound = Rc::new(Bound {
            of: of.clone(),
            cluster: cluster.clone(),
            neighbour,
            pools,
            watch,
            window,
            warming,
            resolution,
            preparing: Default::default(),
        });
        outlet.bound.borrow_mut().insert(bound.clone());
        bound
    }

    /// As [`Self::bind`], for a request or connection that asks for the host `name`: where the cluster leaves it to each of
    /// them, that is the name to resolve, if the cluster's host covers it.
    pub(crate) fn bind_for(&self, outlet: &Outlet, cluster: &Arc<Cluster>, name: Option<&str>) -> Rc<Bound> {
        let Discovery::DynamicDns(port) = cluster.discovery else { return self.bind(outlet, cluster) };
        // A rule of another host may lead here: what this cluster is not for must not become reachable by asking for it.
        let Some(name) = name.filter(|name| HostKey::parse(&cluster.key.host).matches(name)) else {
            return self.bind(outlet, cluster);
        };
        let mut named = outlet.named.borrow_mut();
        let key = (Arc::as_ptr(cluster) as usize, name.to_ascii_lowercase());
        if !named.contains_key(&key) && named.len() >= MOST_NAMES {
            outlet.bound.borrow_mut().remove(named.values());
            named.clear();
        }
        let one = named.entry(key).or_insert_with_key(|(_, name)| {
            let endpoint = DnsEndpoint::new(name, port);
            Arc::new(Cluster { discovery: Discovery::Dns(Arc::from([endpoint])), ..Cluster::clone(cluster) })
        });
        self.bind(outlet, one)
    }

    /// Waits for the first answer to the names behind `bound`, within a limit.
    pub(crate) async fn settled(&self, outlet: &Outlet, bound: Rc<Bound>) -> Rc<Bound> {
        if let Some(resolution) = &bound.resolution {
            resolution.settled().await;
        }
        self.bind(outlet, &bound.of)
    }

    fn neighbour(&self, key: &ClusterKey) -> Rc<Neighbour> {
        if let Some(neighbour) = self.neighbours.borrow().get(key) {
            return neighbour.clone();
        }
        let gauges = self.registry.of(&self.caller.id, key);
        let neighbour = Neighbour::new(gauges, self.caller.sockets.clone(), self.shard.clone());
        self.neighbours.borrow_mut().insert(key.clone(), neighbour.clone());
        neighbour
    }

    /// The address a server would know the client by: connections of a pod reach us from its loopback.
    pub(crate) fn source_ip(&self, peer: Peer, target: Target) -> IpAddr {
        let remote = peer.remote.ip().to_canonical();
        match target {
            Target::Address(dialled) => {
                let is_v6 = dialled.ip().to_canonical().is_ipv6();
                let own = self.caller.client.addresses.iter().find(|it| it.is_ipv6() == is_v6);
                own.copied().unwrap_or(remote)
            }
            Target::GatewayPort(..) => remote,
        }
    }

    /// Closes what has been idle for too long and forgets what nobody uses: tables of older generations and of addresses not
    /// dialled for a while, clusters without connections.
    pub(crate) fn sweep(&self, now: Instant, generation: u64) {
        // A client may dial as many addresses as it likes: tables are kept for those it uses.
        self.outlets
            .borrow_mut()
            .retain(|_, outlet| outlet.generation == generation && outlet.is_used_within(SWEEPS_UNUSED));
        let neighbours: Vec<_> =
            self.neighbours.borrow().iter().map(|(key, one)| (key.clone(), one.clone())).collect();
        for (key, neighbour) in neighbours {
            let is_empty = !neighbour.sweep(now);
            // Ours and the map's.
            if is_empty && Rc::strong_count(&neighbour) == 2 {
                self.neighbours.borrow_mut().remove(&key);
            }
        }
    }
}

impl Drop for LocalCaller {
    fn drop(&mut self) {
        for neighbour in self.neighbours.get_mut().values() {
            neighbour.clear();
        }
    }
}

/// The tables for one target in one generation.
pub(crate) struct Outlet {
    pub target: Target,
    pub generation: u64,
    tables: Tables,
    bound: RefCell<BoundClusters>,
    /// Clusters of which each request says the name, by their place in memory, for each name.
    named: RefCell<HashMap<(usize, String), Arc<Cluster>>>,
    passthrough: OnceCell<Arc<Cluster>>,
    /// Series of requests that got no cluster.
    pub series: SeriesCache,
    /// Proxies in front that are believed; none in the mesh.
    pub trusted_proxies: u32,
    /// Rendered ids of the rules met so far.
    rule_ids: RefCell<HashMap<RouteIndex, Option<Arc<str>>>>,
    /// Sweeps since a connection had it.
    unused: Cell<u32>,
}

/// How many sweeps, one a second, the tables of an address are kept without a connection.
const SWEEPS_UNUSED: u32 = 60;

enum Tables {
    Mesh(Arc<Outbound>),
    Gateway(GatewayPort),
    /// The gateway no longer serves the port.
    Closed(HttpTable),
}

impl Outlet {
    fn new(target: Target, snapshot: &Snapshot, caller: &Caller) -> Self {
        let tables = match target {
            Target::Address(address) => Tables::Mesh(snapshot.outbound(&caller.client, address)),
            Target::GatewayPort(port, local) => {
                snapshot.gateway_port(&caller.client, port, local).map_or_else(
                    || Tables::Closed(HttpTable::empty(port, undermesh_core::route::NoHost::NotFound)),
                    Tables::Gateway,
                )
            }
        };
        Self {
            target,
            generation: snapshot.generation(),
            tables,
            bound: RefCell::default(),
            named: RefCell::default(),
            passthrough: OnceCell::new(),
            series: SeriesCache::default(),
            trusted_proxies: match target {
                Target::Address(_) => 0,
                Target::GatewayPort(..) => snapshot.trusted_proxies(),
            },
            rule_ids: RefCell::default(),
            unused: Cell::default(),
        }
    }

    /// Whether a connection has it, or had it within so many sweeps. To be asked once in each.
    fn is_used_within(self: &Rc<Self>, sweeps: u32) -> bool {
        let unused = if Rc::strong_count(self) > 1 { 0 } else { self.unused.get() + 1 };
        self.unused.set(unused);
        unused <= sweeps
    }

    /// The id of the rule behind a route, as logs and metrics have it; `None` for a plain service's default route.
    pub(crate) fn rule_id(&self, route: RouteIndex) -> Option<Arc<str>> {
        let render = || Some(self.http().route(route)?.rule.as_ref()?.to_string().into());
        self.rule_ids.borrow_mut().entry(route).or_insert_with(render).clone()
    }

    pub(crate) fn http(&self) -> &HttpTable {
        match &self.tables {
            Tables::Mesh(outbound) => &outbound.http,
            Tables::Gateway(server) => &server.http,
            Tables::Closed(table) => table,
        }
    }

    /// Tables of the opaque path.
    pub(crate) fn tcp(&self) -> Option<&TcpTable> {
        match &self.tables {
            Tables::Mesh(outbound) => Some(&outbound.tcp),
            Tables::Gateway(server) => Some(&server.tcp),
            Tables::Closed(_) => None,
        }
    }

    /// What is spoken, as far as it is declared.
    pub(crate) fn protocol(&self) -> Protocol {
        match &self.tables {
            Tables::Mesh(outbound) => outbound.protocol,
            Tables::Gateway(server) => server.protocol,
            Tables::Closed(_) => Protocol::Http,
        }
    }

    /// Envoy's `PassthroughCluster`: the dialled address, without policy.
    pub(crate) fn passthrough(&self) -> &Arc<Cluster> {
        self.passthrough.get_or_init(|| {
            let port = match self.target {
                Target::Address(address) => address.port(),
                Target::GatewayPort(port, _) => port,
            };
            Arc::new(Cluster {
                key: ClusterKey { host: "PassthroughCluster".into(), port, subset: "".into() },
                name: "PassthroughCluster".into(),
                protocol: UpstreamProtocol::Http1,
                use_client_protocol: true,
                discovery: Discovery::OriginalDestination,
                endpoints: Arc::from([]),
                excluded: Arc::from([]),
                policy: Policy::default(),
                spread: balance::Spread::default(),
                availability: Availability::Known,
                service: None,
            })
        })
    }
}

/// Istio's workload labels with `side` = `source` or `destination`; `unknown` for what is not known, as Istio does.
pub(crate) fn workload_labels(side: &str, workload: Option<&Workload>, with_cluster: bool) -> String {
    let or_unknown = |text: &str| if text.is_empty() { "unknown".into() } else { escape(text).into_owned() };
    let unknown = Workload::default();
    let workload = workload.unwrap_or(&unknown);
    let mut out = String::new();
    for (name, value) in [
        ("workload", &workload.name),
        ("workload_namespace", &workload.namespace),
        ("canonical_service", &workload.canonical_name),
        ("canonical_revision", &workload.canonical_revision),
        ("app", &workload.app),
        ("version", &workload.version),
    ] {
        // Writing to a String cannot fail.
        let _ = write!(out, "{side}_{name}=\"{}\",", or_unknown(value));
    }
    // No mTLS yet: nobody's identity is proven.
    let _ = write!(out, "{side}_principal=\"unknown\"");
    if with_cluster {
        let _ = write!(out, ",{side}_cluster=\"Kubernetes\"");
    }
    out
}

#[cfg(test)]
mod tests;
