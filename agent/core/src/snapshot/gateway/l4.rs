//! The routes of ports whose connections are not looked into: by server name, or all alike.
//!
//! Istio: `buildGatewayNetworkFiltersFromTLSRoutes` and `...FromTCPRoutes`. Of a match entry only port and gateways count
//! here: who connects from outside has neither labels nor a namespace, and all connections have the gateway's own address.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Server, ServerKind};
use crate::host::HostKey;
use crate::route::{TcpAction, TcpRoute, TcpTable};
use crate::snapshot::State;
use crate::snapshot::clusters::Clusters;
use crate::snapshot::routes::{self, CompiledVirtualService, L4Entry, Leg};

/// TLS by server name. Each name once: of several entries the first counts.
pub(super) fn by_name(state: &State, servers: &[Server<'_>], clusters: &mut Clusters<'_>) -> TcpTable {
    let mut table = TcpTable::empty(TcpAction::Reject);
    table.needs_sni = true;
    // What a server that is not served would have taken goes nowhere, also if another server's wildcard covers it.
    for (_, server) in servers.iter().filter(|(_, it)| matches!(it.kind, ServerKind::RefusedTls(_))) {
        table.routes.push(TcpRoute {
            sni: server.hosts.iter().map(|host| host.host.clone()).collect(),
            subnets: Vec::new(),
            rule: None,
            destinations: Arc::from([]),
            total_weight: 0,
        });
    }
    let mut taken: HashSet<&HostKey> = HashSet::new();
    for &(gateway, server) in servers.iter().filter(|(_, it)| it.kind == ServerKind::Passthrough) {
        for service in bound(state, (gateway, server), clusters) {
            for rule in &service.tls {
                for entry in rule.entries.iter().filter(|entry| holds(entry, &gateway.reference, server.port))
                {
                    if entry.sni.iter().any(|name| taken.contains(name)) {
                        continue;
                    }
                    taken.extend(&entry.sni);
                    table.routes.push(route(entry, &rule.legs, server.port, clusters));
                }
            }
        }
    }
    table
}

/// Opaque bytes: the first rule that is for this port takes everything.
pub(super) fn opaque(state: &State, servers: &[Server<'_>], clusters: &mut Clusters<'_>) -> TcpTable {
    let mut table = TcpTable::empty(TcpAction::Reject);
    let Some(&(gateway, server)) = servers.first() else { return table };
    let found = bound(state, (gateway, server), clusters).into_iter().find_map(|service| {
        service.tcp.iter().find_map(|rule| {
            let entry = rule.entries.iter().find(|entry| holds(entry, &gateway.reference, server.port))?;
            Some((entry, &rule.legs))
        })
    });
    if let Some((entry, legs)) = found {
        table.routes.push(route(entry, legs, server.port, clusters));
    }
    table
}

/// The VirtualServices that are bound to a server and have a host in common with it, oldest first.
fn bound<'a>(
    state: &'a State,
    (gateway, server): Server<'_>,
    clusters: &Clusters<'_>,
) -> Vec<&'a CompiledVirtualService> {
    let shares_a_host = |service: &CompiledVirtualService| {
        server.hosts.iter().any(|written| {
            written.namespace.as_ref().is_none_or(|namespace| *namespace == service.namespace)
                && service.hosts.iter().any(|host| written.host.intersection(host).is_some())
        })
    };
    let services = state.virtual_services.all.iter().map(|service| &**service);
    services
        .filter(|service| service.visibility.sees(&clusters.client().namespace))
        .filter(|service| service.gateways.contains(&gateway.reference) && shares_a_host(service))
        .collect()
}

fn holds(entry: &L4Entry, gateway: &str, port: u16) -> bool {
    let statics = &entry.statics;
    statics.port.is_none_or(|wanted| wanted == port)
        && (statics.gateways.is_empty() || statics.gateways.iter().any(|it| **it == *gateway))
}

fn route(entry: &L4Entry, legs: &[Leg], port: u16, clusters: &mut Clusters<'_>) -> TcpRoute {
    let (destinations, total_weight) = routes::destinations(legs, port, clusters);
    TcpRoute {
        sni: entry.sni.clone(),
        subnets: Vec::new(),
        rule: Some(entry.rule.clone()),
        destinations,
        total_weight,
    }
}
