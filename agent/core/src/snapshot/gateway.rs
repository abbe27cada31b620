//! What a gateway workload serves: the servers of all Gateways that select it, and the VirtualServices bound to them.
//!
//! Rules: istio-semantics section 4. Plain HTTP servers of one port merge; the routes of several VirtualServices for one host
//! are concatenated, oldest first, with those that take every request moved to the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::clusters::Clusters;
use super::routes::{self, CompiledVirtualService};
use super::{GatewayPort, GatewayServer, State};
use crate::client::Client;
use crate::host::HostKey;
use crate::inventory::Protocol;
use crate::route::{HttpTable, HttpTableBuilder, NoHost, Route, VirtualHost};

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
    pub(crate) port_name: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) hosts: Vec<ServerHost>,
    pub(crate) https_redirect: bool,
}

/// `[namespace/]host`.
#[derive(Debug)]
pub(crate) struct ServerHost {
    /// `None`: VirtualServices of any namespace.
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) host: HostKey,
    pub(crate) written: Arc<str>,
}

pub(super) fn ports(state: &State, client: &Client) -> Vec<GatewayPort> {
    let mut ports: BTreeMap<u16, Vec<(&CompiledGateway, &CompiledServer)>> = BTreeMap::new();
    let selected = state.gateways.iter().filter(|gateway| client.has_labels(&gateway.selector));
    for gateway in selected {
        for server in &gateway.servers {
            ports.entry(server.port).or_default().push((gateway, server));
        }
    }
    ports
        .into_iter()
        .filter_map(|(port, servers)| {
            // Of different kinds of servers on one port the first one's counts.
            let is_http = servers.first().is_some_and(|(_, server)| server.protocol.is_http());
            let servers: Vec<_> =
                servers.into_iter().filter(|(_, server)| server.protocol.is_http()).collect();
            is_http.then(|| GatewayPort {
                port,
                http: table(state, client, port, &servers),
                servers: servers.iter().map(|(gateway, server)| server_ref(gateway, server)).collect(),
            })
        })
        .collect()
}

fn server_ref(gateway: &CompiledGateway, server: &CompiledServer) -> GatewayServer {
    GatewayServer {
        namespace: gateway.namespace.clone(),
        gateway: gateway.name.clone(),
        index: server.index,
        port_name: server.port_name.clone(),
        protocol: server.protocol,
        hosts: server.hosts.iter().map(|host| host.written.clone()).collect(),
    }
}

/// A virtual host in the making.
#[derive(Default)]
struct Host {
    routes: Vec<(Route, bool)>,
    https_redirect: bool,
}

fn table(
    state: &State,
    client: &Client,
    port: u16,
    servers: &[(&CompiledGateway, &CompiledServer)],
) -> HttpTable {
    let mut clusters = Clusters::new(state, client, None);
    let mut hosts: BTreeMap<HostKey, Host> = BTreeMap::new();
    // By age over all Gateways of the port, so that the oldest VirtualService's routes of a host come first.
    for service in
        state.virtual_services.all.iter().filter(|service| service.visibility.sees(&client.namespace))
    {
        for (gateway, server) in servers {
            if service.gateways.contains(&gateway.reference) {
                attach(service, gateway, server, &mut clusters, &mut hosts);
            }
        }
    }
    for (_, server) in servers.iter().filter(|(_, server)| server.https_redirect) {
        for written in &server.hosts {
            hosts.entry(written.host.clone()).or_default();
            // Every virtual host of the server redirects, with routes or without.
            for (key, host) in &mut hosts {
                host.https_redirect |= written.host.covers(key);
            }
        }
    }
    let mut table = HttpTableBuilder::new(port, NoHost::NotFound);
    for (key, mut host) in hosts {
        host.routes.sort_by_key(|(_, is_catch_all)| *is_catch_all);
        let routes = host.routes.into_iter().map(|(route, _)| route).collect();
        let name = key.to_string().into();
        table.push(VirtualHost { name, routes, https_redirect: host.https_redirect }, [key]);
    }
    table.build()
}

fn attach(
    service: &CompiledVirtualService,
    gateway: &CompiledGateway,
    server: &CompiledServer,
    clusters: &mut Clusters<'_>,
    hosts: &mut BTreeMap<HostKey, Host>,
) {
    let mut served: Vec<&HostKey> = Vec::new();
    for written in &server.hosts {
        if written.namespace.as_ref().is_some_and(|namespace| *namespace != service.namespace) {
            continue;
        }
        for host in service.hosts.iter().filter_map(|host| written.host.intersection(host)) {
            if !served.contains(&host) {
                served.push(host);
            }
        }
    }
    if served.is_empty() {
        return;
    }
    let routes = routes::http_routes(service, &gateway.reference, server.port, clusters);
    for key in served {
        hosts.entry(key.clone()).or_default().routes.extend(routes.iter().cloned());
    }
}
