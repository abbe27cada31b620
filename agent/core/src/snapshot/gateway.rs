//! What a gateway workload serves: the servers of all Gateways that select it, and the VirtualServices bound to them.
//!
//! Rules: istio-semantics section 4. Servers of one port and address share a listener if they can: plain HTTP servers merge,
//! TLS servers merge by server name, and of kinds that differ the first one's counts (Istio: `mergeGateways`).

mod http;
mod l4;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::clusters::Clusters;
use super::{GatewayPort, GatewayServer, State};
use crate::client::Client;
use crate::host::HostKey;
use crate::inventory::Protocol;
use crate::route::{HttpTable, NoHost, TcpAction, TcpTable};

/// A Gateway.
#[derive(Debug)]
pub(crate) struct CompiledGateway {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    /// `namespace/name`, as VirtualServices refer to it.
    pub(crate) reference: Arc<str>,
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) servers: Vec<CompiledServer>,
}

#[derive(Debug)]
pub(crate) struct CompiledServer {
    pub(crate) index: u32,
    pub(crate) port: u16,
    /// The only address to listen on; `None`: all.
    pub(crate) bind: Option<IpAddr>,
    pub(crate) port_name: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) kind: ServerKind,
    pub(crate) hosts: Vec<ServerHost>,
    pub(crate) https_redirect: bool,
}

/// What a server does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerKind {
    /// Requests in clear text.
    Http,
    /// Opaque bytes.
    Tcp,
    /// TLS, passed through by its server name.
    Passthrough,
    /// TLS that is not served, for this reason. It keeps its place and its names: nobody else gets its connections.
    RefusedTls(&'static str),
}

impl ServerKind {
    fn family(self) -> Protocol {
        match self {
            Self::Http => Protocol::Http,
            Self::Tcp => Protocol::Tcp,
            Self::Passthrough | Self::RefusedTls(_) => Protocol::Tls,
        }
    }
}

/// `[namespace/]host`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServerHost {
    /// `None`: VirtualServices of any namespace.
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) host: HostKey,
    pub(crate) written: Arc<str>,
}

type Server<'a> = (&'a CompiledGateway, &'a CompiledServer);

/// The servers of one listener.
pub(crate) struct Listener<'a> {
    pub(crate) port: u16,
    pub(crate) bind: Option<IpAddr>,
    servers: Vec<Server<'a>>,
    /// Those that get no connections, and why.
    pub(crate) left_out: Vec<(Server<'a>, String)>,
}

impl Listener<'_> {
    fn family(&self) -> Protocol {
        self.servers.first().map_or(Protocol::Tcp, |(_, server)| server.kind.family())
    }
}

/// The listeners that a workload with `labels` needs, by port and address.
pub(crate) fn listeners<'a>(state: &'a State, labels: &BTreeMap<String, String>) -> Vec<Listener<'a>> {
    let selects = |gateway: &&Arc<CompiledGateway>| {
        gateway.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let mut listeners: BTreeMap<(u16, Option<IpAddr>), Listener<'a>> = BTreeMap::new();
    for gateway in state.gateways.iter().filter(selects) {
        for server in &gateway.servers {
            let (port, bind) = (server.port, server.bind);
            let empty = || Listener { port, bind, servers: Vec::new(), left_out: Vec::new() };
            listeners.entry((port, bind)).or_insert_with(empty).add((gateway, server));
        }
    }
    listeners.into_values().collect()
}

impl<'a> Listener<'a> {
    /// Takes a server in, unless an earlier one excludes it.
    fn add(&mut self, server: Server<'a>) {
        match self.conflict(server.1) {
            None => self.servers.push(server),
            Some(why) => self.left_out.push((server, why)),
        }
    }

    fn conflict(&self, server: &CompiledServer) -> Option<String> {
        let (first, first_server) = self.servers.first()?;
        let family = self.family();
        if family != server.kind.family() {
            return Some(format!(
                "server {} of Gateway {} has the port already, with protocol {:?}",
                first_server.index, first.reference, first_server.protocol
            ));
        }
        match family {
            Protocol::Http => None,
            Protocol::Tls => {
                let taken = self.servers.iter().find_map(|(gateway, it)| {
                    Some((gateway, it.hosts.iter().find(|host| server.hosts.contains(host))?))
                });
                taken.map(|(gateway, host)| {
                    format!("Gateway {} has the host {} on the port already", gateway.reference, host.written)
                })
            }
            _ => Some(format!(
                "server {} of Gateway {} takes all connections of the port",
                first_server.index, first.reference
            )),
        }
    }
}

pub(super) fn ports(state: &State, client: &Client) -> Vec<GatewayPort> {
    listeners(state, &client.labels).iter().map(|listener| port(state, client, listener)).collect()
}

/// The port that a connection to the address `local` of the workload means: only its rules are worked out.
pub(super) fn port_at(state: &State, client: &Client, number: u16, local: IpAddr) -> Option<GatewayPort> {
    let listeners = listeners(state, &client.labels);
    let fitting = listeners.iter().filter(|it| it.port == number);
    let best = fitting.filter_map(|it| Some((fit(it.bind, local)?, it))).min_by_key(|(fit, _)| *fit)?;
    Some(port(state, client, best.1))
}

fn port(state: &State, client: &Client, listener: &Listener<'_>) -> GatewayPort {
    let mut clusters = Clusters::new(state, client, None);
    let (port, protocol) = (listener.port, listener.family());
    let mut http = HttpTable::empty(port, NoHost::NotFound);
    let mut tcp = TcpTable::empty(TcpAction::Reject);
    match protocol {
        Protocol::Http => http = http::table(state, port, &listener.servers, &mut clusters),
        Protocol::Tls => tcp = l4::by_name(state, &listener.servers, &mut clusters),
        _ => tcp = l4::opaque(state, &listener.servers, &mut clusters),
    }
    let served = listener.servers.iter().map(|&server| {
        let idle = match server.1.kind {
            ServerKind::RefusedTls(why) => Some(why.into()),
            ServerKind::Http | ServerKind::Tcp | ServerKind::Passthrough => None,
        };
        server_ref(server, idle)
    });
    let left_out =
        listener.left_out.iter().map(|(server, why)| server_ref(*server, Some(why.as_str().into())));
    GatewayPort { port, bind: listener.bind, protocol, servers: served.chain(left_out).collect(), http, tcp }
}

fn server_ref((gateway, server): Server<'_>, idle: Option<Arc<str>>) -> GatewayServer {
    GatewayServer {
        namespace: gateway.namespace.clone(),
        gateway: gateway.name.clone(),
        index: server.index,
        port_name: server.port_name.clone(),
        protocol: server.protocol,
        hosts: server.hosts.iter().map(|host| host.written.clone()).collect(),
        idle,
    }
}

/// How well a listener fits a connection that arrived at `local`: its address, all of a family, all. `None`: not at all.
fn fit(bind: Option<IpAddr>, local: IpAddr) -> Option<u8> {
    match bind {
        Some(address) if address == local => Some(0),
        Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) if local.is_ipv4() => Some(1),
        Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) if local.is_ipv6() => Some(1),
        Some(_) => None,
        None => Some(2),
    }
}

/// The distinct selectors of all Gateways: the workloads that are certain to exist, if a Gateway is to have any.
pub(crate) fn selectors(state: &State) -> BTreeSet<&BTreeMap<String, String>> {
    state.gateways.iter().map(|gateway| &gateway.selector).collect()
}

#[cfg(test)]
mod tests;
