//! What a connection of one client to one address means (DESIGN D8).
//!
//! ```text
//!   dialled address ─┬─ of a service the client sees ──▶ that service; Host may pick one of its aliases
//!                    └─ nobody's ─▶ Host or SNI among services without addresses ─▶ else pass through, or refuse
//!   either way: hosts that only a VirtualService knows are found by Host on port 80
//! ```

use std::net::SocketAddr;
use std::sync::Arc;

use super::clusters::Clusters;
use super::routes::{self, CompiledVirtualService, Leg, MESH};
use super::service::{Service, ServicePort};
use super::{Outbound, State, UNREGISTERED_PORT};
use crate::client::Client;
use crate::host::HostKey;
use crate::inventory::Protocol;
use crate::route::{
    Action, Fault, HttpTable, HttpTableBuilder, NoHost, Rewrite, Route, RouteMatch, TcpAction, TcpRoute,
    TcpTable, VirtualHost,
};

impl State {
    /// The services of a host, best first. Hosts of ServiceEntries may be wildcards; those match only as written.
    pub(crate) fn services_of(&self, host: &str) -> impl Iterator<Item = &Arc<Service>> + Clone {
        let lower = host.to_ascii_lowercase();
        let found = self.registry.by_host.get(lower.as_str()).map(Vec::as_slice).unwrap_or_default();
        self.at(found)
    }

    /// The services at some positions.
    fn at<'a>(&'a self, positions: &'a [u32]) -> impl Iterator<Item = &'a Arc<Service>> + Clone {
        positions.iter().filter_map(|&position| self.services.get(position as usize))
    }

    /// The services that have the dialled address: exactly, else by range.
    fn dialled(&self, dialled: SocketAddr) -> impl Iterator<Item = (&Arc<Service>, &ServicePort)> {
        let (address, number) = (dialled.ip().to_canonical(), dialled.port());
        let exact = self.registry.by_address.get(&(address, number)).map(Vec::as_slice).unwrap_or_default();
        let exact = exact.iter().filter_map(|&(service, port)| {
            let service = self.services.get(service as usize)?;
            Some((service, service.ports.get(usize::from(port))?))
        });
        let ranged = self
            .at(&self.registry.ranged)
            .filter(move |it| it.ranges.iter().any(|range| range.contains(address)));
        exact.chain(ranged.filter_map(move |service| Some((service, service.port(number)?))))
    }
}

pub(super) fn outbound(state: &State, generation: u64, client: &Client, dialled: SocketAddr) -> Outbound {
    let port = dialled.port();
    let found = {
        let clusters = Clusters::new(state, client, None);
        state.dialled(dialled).find(|(service, _)| clusters.sees(service, port))
    };
    let clusters = Clusters::new(state, client, Some(dialled.ip().to_canonical()));
    let mut view = View { state, clusters, port };
    match found {
        Some((service, service_port)) => view.known(generation, dialled, service, service_port),
        None => view.unknown(generation, dialled),
    }
}

/// The mesh as one client sees it when it dials one port.
struct View<'a> {
    state: &'a State,
    clusters: Clusters<'a>,
    port: u16,
}

impl<'a> View<'a> {
    fn known(
        &mut self,
        generation: u64,
        dialled: SocketAddr,
        service: &'a Arc<Service>,
        port: &ServicePort,
    ) -> Outbound {
        let mut http = HttpTableBuilder::new(self.port, NoHost::NotFound);
        let rules = self.virtual_service(&service.key);
        let routes = self.service_routes(service, rules);
        http.push(virtual_host(service.host.clone(), routes), [HostKey::Any]);
        if port.protocol.is_http() {
            self.push_aliases(&mut http, service);
            self.push_unregistered(&mut http);
        }
        Outbound {
            generation,
            dialled,
            protocol: port.protocol,
            service: Some(port.service.clone()),
            http: http.build(),
            tcp: self.tcp_table(service, port, rules),
        }
    }

    fn unknown(&mut self, generation: u64, dialled: SocketAddr) -> Outbound {
        let registry_only = self
            .clusters
            .scope()
            .and_then(|scope| scope.registry_only)
            .unwrap_or(self.state.mesh.registry_only);
        let mut http = HttpTableBuilder::new(
            self.port,
            if registry_only { NoHost::BadGateway } else { NoHost::Passthrough },
        );
        let mut tcp = TcpTable::empty(if registry_only { TcpAction::Reject } else { TcpAction::Passthrough });
        let state = self.state;
        let mut has_http = false;
        let of_port = state.registry.without_address.get(&self.port).map(Vec::as_slice).unwrap_or_default();
        for service in state.at(of_port) {
            let Some(port) = service.port(self.port).filter(|_| self.clusters.sees(service, self.port))
            else {
                continue;
            };
            let rules = self.virtual_service(&service.key);
            if port.protocol.is_http() || port.protocol == Protocol::Auto {
                let routes = self.service_routes(service, rules);
                http.push(
                    virtual_host(service.host.clone(), routes),
                    service.names(&self.clusters.client().namespace),
                );
                has_http = true;
            } else {
                self.push_tcp_by_name(&mut tcp, service, port, rules);
            }
        }
        has_http |= self.push_external_names(&mut http);
        has_http |= self.push_unregistered(&mut http);
        // REGISTRY_ONLY answers 502 where the client has an HTTP listener for the port, else it closes.
        let of_port = state.registry.http.get(&self.port).map(Vec::as_slice).unwrap_or_default();
        has_http |= registry_only && state.at(of_port).any(|service| self.clusters.sees(service, self.port));
        tcp.needs_sni = tcp.routes.iter().any(|route| !route.sni.is_empty());
        // A route for all takes what no name takes, so it comes last.
        tcp.routes.sort_by_key(|route| route.sni.is_empty());
        let protocol = match (has_http, tcp.needs_sni) {
            (true, _) => Protocol::Auto,
            (false, true) => Protocol::Tls,
            (false, false) => Protocol::Tcp,
        };
        Outbound { generation, dialled, protocol, service: None, http: http.build(), tcp }
    }

    /// The VirtualService that governs a host for this client: exact, else longest wildcard; the oldest of equals.
    fn virtual_service(&self, host: &HostKey) -> Option<&'a Arc<CompiledVirtualService>> {
        let positions = self.state.virtual_services.covering(host);
        positions.into_iter().find(|service| self.sees(service))
    }

    /// Whether this client sees a VirtualService that is bound to the mesh.
    fn sees(&self, service: &CompiledVirtualService) -> bool {
        let imports = |scope: &super::visibility::Scope| {
            service.hosts.iter().any(|host| scope.imports(&service.namespace, host, self.port))
        };
        service.visibility.sees(&self.clusters.client().namespace)
            && self.clusters.scope().is_none_or(imports)
    }

    /// The routes of a service: its rules, or, if none is left for this client, the plain service.
    fn service_routes(
        &mut self,
        service: &Service,
        rules: Option<&Arc<CompiledVirtualService>>,
    ) -> Vec<Route> {
        let ruled = rules
            .map(|rules| routes::http_routes(rules, MESH, self.port, &mut self.clusters))
            .unwrap_or_default();
        if ruled.is_empty() {
            return vec![self.default_route(&service.host)];
        }
        ruled.into_iter().map(|(route, _)| route).collect()
    }

    fn default_route(&mut self, host: &str) -> Route {
        let (destinations, total_weight) =
            routes::destinations(&[whole(host, self.port)], self.port, &mut self.clusters);
        Route {
            matches: Arc::new(RouteMatch::default()),
            rule: None,
            action: Action::Forward,
            destinations,
            total_weight,
            rewrite: Rewrite::default(),
            headers: Arc::default(),
            timeout: None,
            retries: self.state.mesh.default_retries.clone(),
            fault: Fault::default(),
            mirrors: Arc::from([]),
            cors: None,
        }
    }

    /// ExternalName aliases of the dialled service that have rules of their own; one without goes with the service.
    fn push_aliases(&mut self, http: &mut HttpTableBuilder, service: &Service) {
        let state = self.state;
        let aliases = state.registry.aliases.get(&service.host).map(Vec::as_slice).unwrap_or_default();
        for alias in state.at(aliases) {
            if self.clusters.sees(alias, self.port) {
                self.push_alias(http, alias);
            }
        }
    }

    /// Aliases of names that no registry knows: Host finds them.
    fn push_external_names(&mut self, http: &mut HttpTableBuilder) -> bool {
        let state = self.state;
        let mut any = false;
        for alias in state.at(&state.registry.external_aliases) {
            if self.clusters.sees(alias, self.port) {
                any |= self.push_alias(http, alias);
            }
        }
        any
    }

    fn push_alias(&mut self, http: &mut HttpTableBuilder, alias: &Service) -> bool {
        let Some(rules) = self.virtual_service(&alias.key) else { return false };
        let names = if !alias.ports.is_empty() {
            alias.names(&self.clusters.client().namespace)
        } else if self.port == UNREGISTERED_PORT {
            // Without ports Istio knows the FQDN only, and serves it like an unregistered host.
            vec![alias.key.clone()]
        } else {
            return false;
        };
        let ruled = routes::http_routes(rules, MESH, self.port, &mut self.clusters);
        if ruled.is_empty() {
            return false;
        }
        http.push(
            virtual_host(alias.host.clone(), ruled.into_iter().map(|(route, _)| route).collect()),
            names,
        );
        true
    }

    /// Hosts that only a VirtualService knows: served on port 80, as in Istio.
    fn push_unregistered(&mut self, http: &mut HttpTableBuilder) -> bool {
        if self.port != UNREGISTERED_PORT {
            return false;
        }
        let state = self.state;
        let mut any = false;
        for service in state.virtual_services.unregistered() {
            if !self.sees(service) {
                continue;
            }
            for host in &service.unregistered {
                let ruled = routes::http_routes(service, MESH, self.port, &mut self.clusters);
                if ruled.is_empty() {
                    continue;
                }
                let routes = ruled.into_iter().map(|(route, _)| route).collect();
                http.push(virtual_host(host.to_string().into(), routes), [host.clone()]);
                any = true;
            }
        }
        any
    }

    fn tcp_table(
        &mut self,
        service: &Service,
        port: &ServicePort,
        rules: Option<&Arc<CompiledVirtualService>>,
    ) -> TcpTable {
        let mut table = TcpTable::empty(TcpAction::Reject);
        if let Some(rules) = rules {
            if port.protocol.is_tls() || port.protocol == Protocol::Auto {
                table.routes = routes::tls_routes(rules, MESH, self.port, &mut self.clusters);
            }
            // A TLS port with rules by SNI has no chain for other names. A sniffed port still carries plain TCP.
            if port.protocol.is_tls() && !table.routes.is_empty() {
                table.needs_sni = true;
                return table;
            }
            table.routes.extend(routes::tcp_routes(rules, MESH, self.port, &mut self.clusters));
        }
        table.needs_sni = table.routes.iter().any(|route| !route.sni.is_empty());
        if table.routes.last().is_none_or(|route| !route.sni.is_empty() || !route.subnets.is_empty()) {
            table.routes.push(self.plain(service, Vec::new()));
        }
        table
    }

    /// Without an address, TLS is found by SNI and TCP by the port alone.
    fn push_tcp_by_name(
        &mut self,
        table: &mut TcpTable,
        service: &Service,
        port: &ServicePort,
        rules: Option<&Arc<CompiledVirtualService>>,
    ) {
        if port.protocol.is_tls() {
            let ruled = rules
                .map(|rules| routes::tls_routes(rules, MESH, self.port, &mut self.clusters))
                .unwrap_or_default();
            if ruled.is_empty() {
                let plain = self.plain(service, vec![service.key.clone()]);
                table.routes.push(plain);
            }
            table.routes.extend(ruled);
        } else if !table.routes.iter().any(|route| route.sni.is_empty()) {
            let ruled = rules
                .map(|rules| routes::tcp_routes(rules, MESH, self.port, &mut self.clusters))
                .unwrap_or_default();
            if ruled.is_empty() {
                let plain = self.plain(service, Vec::new());
                table.routes.push(plain);
            }
            table.routes.extend(ruled);
        }
    }

    fn plain(&mut self, service: &Service, sni: Vec<HostKey>) -> TcpRoute {
        let (destinations, total_weight) =
            routes::destinations(&[whole(&service.host, self.port)], self.port, &mut self.clusters);
        TcpRoute { sni, subnets: Vec::new(), rule: None, destinations, total_weight }
    }
}

fn whole(host: &str, port: u16) -> Leg {
    Leg { host: host.into(), subset: "".into(), port: Some(port), weight: 1, headers: Arc::default() }
}

fn virtual_host(name: Arc<str>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name, routes, https_redirect: false }
}

/// For tests and `explain`: a table nobody is in.
impl Default for HttpTable {
    fn default() -> Self {
        Self::empty(0, NoHost::NotFound)
    }
}
