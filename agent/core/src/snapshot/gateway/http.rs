//! The routes of a plain HTTP port: of all VirtualServices bound to its servers.
//!
//! The routes of several VirtualServices for one host are concatenated, oldest first, with those that take every request
//! moved to the end.

use std::collections::BTreeMap;

use super::{CompiledGateway, CompiledServer};
use crate::host::HostKey;
use crate::route::{HttpTable, HttpTableBuilder, NoHost, Route, VirtualHost};
use crate::snapshot::State;
use crate::snapshot::clusters::Clusters;
use crate::snapshot::routes::{self, CompiledVirtualService};

/// A virtual host in the making.
#[derive(Default)]
struct Host {
    routes: Vec<(Route, bool)>,
    https_redirect: bool,
}

pub(super) fn table(
    state: &State,
    port: u16,
    servers: &[(&CompiledGateway, &CompiledServer)],
    clusters: &mut Clusters<'_>,
) -> HttpTable {
    let mut hosts: BTreeMap<HostKey, Host> = BTreeMap::new();
    // By age over all Gateways of the port, so that the oldest VirtualService's routes of a host come first.
    let namespace = &clusters.client().namespace;
    for service in state.virtual_services.all.iter().filter(|service| service.visibility.sees(namespace)) {
        for (gateway, server) in servers {
            if service.gateways.contains(&gateway.reference) {
                attach(service, gateway, server, clusters, &mut hosts);
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
