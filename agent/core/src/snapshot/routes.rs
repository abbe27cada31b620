//! VirtualServices, resolved as far as no client is needed, and what is left of them for one client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::clusters::Clusters;
use super::visibility::Visibility;
use crate::client::Client;
use crate::host::{Cidr, HostIndex, HostKey};
use crate::route::{
    Action, CorsPolicy, DirectResponse, Fault, HeaderEdits, Mirror, Percent, Redirect, RetryPolicy, Rewrite,
    Route, RouteMatch, RuleRef, TcpRoute, WeightedDestination,
};

/// The reserved gateway that stands for all clients in the mesh.
pub(crate) const MESH: &str = "mesh";

/// All VirtualServices, and what finds them.
#[derive(Debug, Default)]
pub(crate) struct VirtualServices {
    /// Oldest first.
    pub(crate) all: Vec<Arc<CompiledVirtualService>>,
    /// Those bound to the mesh, by host.
    by_host: HostIndex,
    /// Those bound to the mesh with hosts that no registry knows.
    unregistered: Vec<u32>,
}

impl VirtualServices {
    /// `all` are the oldest first.
    pub(crate) fn new(all: Vec<Arc<CompiledVirtualService>>) -> Self {
        let (mut by_host, mut unregistered) = (HostIndex::default(), Vec::new());
        for (position, service) in (0u32..).zip(&all) {
            if service.gateways.iter().any(|gateway| &**gateway == MESH) {
                service.hosts.iter().for_each(|host| by_host.insert(host, position));
                if !service.unregistered.is_empty() {
                    unregistered.push(position);
                }
            }
        }
        Self { all, by_host, unregistered }
    }

    /// Those bound to the mesh that have a host or a wildcard that covers it: exact first, then by longer suffixes; the
    /// oldest of equals first.
    pub(crate) fn covering<'a>(
        &'a self,
        host: &HostKey,
    ) -> impl Iterator<Item = &'a Arc<CompiledVirtualService>> {
        self.by_host.covering(host).flatten().filter_map(|&position| self.all.get(position as usize))
    }

    /// Those bound to the mesh with hosts that no registry knows, oldest first.
    pub(crate) fn unregistered(&self) -> impl Iterator<Item = &Arc<CompiledVirtualService>> {
        self.unregistered.iter().filter_map(|&position| self.all.get(position as usize))
    }
}

/// A VirtualService.
#[derive(Debug)]
pub(crate) struct CompiledVirtualService {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    /// Completed.
    pub(crate) hosts: Vec<HostKey>,
    /// Those of the hosts that no registry knows: served by Host alone.
    pub(crate) unregistered: Vec<HostKey>,
    /// `namespace/name`, or `mesh`.
    pub(crate) gateways: Vec<Arc<str>>,
    pub(crate) visibility: Visibility,
    /// Delegates merged in.
    pub(crate) http: Vec<CompiledRule>,
    pub(crate) tls: Vec<CompiledTlsRule>,
    pub(crate) tcp: Vec<CompiledTcpRule>,
}

/// One HTTP rule.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub(crate) body: Arc<Body>,
    /// One for each match entry; a rule without any has one that matches all.
    pub(crate) entries: Vec<Entry>,
}

/// One match entry.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) statics: StaticMatch,
    pub(crate) matches: Arc<RouteMatch>,
    pub(crate) rule: Arc<RuleRef>,
    /// Ends the list: no request gets past it.
    pub(crate) is_catch_all: bool,
    pub(crate) rewrite: Rewrite,
    pub(crate) action: EntryAction,
}

#[derive(Debug)]
pub(crate) enum EntryAction {
    Forward,
    Redirect { redirect: Redirect, port: RedirectPort },
    DirectResponse(Arc<DirectResponse>),
    Refused(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RedirectPort {
    Default,
    Fixed(u16),
    /// The port the client dialled.
    FromRequest,
}

/// The conditions of a match entry that depend on the client and the port alone.
#[derive(Debug, Default)]
pub(crate) struct StaticMatch {
    pub(crate) port: Option<u16>,
    pub(crate) source_labels: BTreeMap<String, String>,
    /// Empty: any.
    pub(crate) source_namespace: String,
    /// Empty: the VirtualService's.
    pub(crate) gateways: Vec<Arc<str>>,
}

impl StaticMatch {
    /// HTTP: `gateways` in an entry replaces its source conditions (Istio: `sourceMatchHTTP`).
    fn holds(&self, client: &Client, gateway: &str, port: u16) -> bool {
        if self.port.is_some_and(|wanted| wanted != port) {
            return false;
        }
        if self.gateways.is_empty() {
            self.source_holds(client)
        } else {
            self.gateways.iter().any(|it| &**it == gateway)
        }
    }

    /// L4: gateways and source conditions both apply (Istio: `matchTCP`).
    fn holds_l4(&self, client: &Client, gateway: &str, port: u16) -> bool {
        self.port.is_none_or(|wanted| wanted == port)
            && self.source_holds(client)
            && (self.gateways.is_empty() || self.gateways.iter().any(|it| &**it == gateway))
    }

    fn source_holds(&self, client: &Client) -> bool {
        client.has_labels(&self.source_labels)
            && (self.source_namespace.is_empty() || *self.source_namespace == *client.namespace)
    }
}

/// What a rule does, shared by its entries.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) legs: Vec<Leg>,
    pub(crate) headers: Arc<HeaderEdits>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: Arc<RetryPolicy>,
    pub(crate) fault: Fault,
    pub(crate) mirrors: Vec<MirrorLeg>,
    pub(crate) cors: Option<Arc<CorsPolicy>>,
}

/// A weighted destination, completed but not resolved: what is visible depends on the client.
#[derive(Debug, Clone)]
pub(crate) struct Leg {
    pub(crate) host: Arc<str>,
    pub(crate) subset: Arc<str>,
    pub(crate) port: Option<u16>,
    pub(crate) weight: u32,
    pub(crate) headers: Arc<HeaderEdits>,
}

#[derive(Debug)]
pub(crate) struct MirrorLeg {
    pub(crate) leg: Leg,
    pub(crate) percent: Percent,
}

/// A rule for TLS by SNI.
#[derive(Debug)]
pub(crate) struct CompiledTlsRule {
    pub(crate) entries: Vec<L4Entry>,
    pub(crate) legs: Vec<Leg>,
}

/// A rule for TCP.
#[derive(Debug)]
pub(crate) struct CompiledTcpRule {
    pub(crate) entries: Vec<L4Entry>,
    pub(crate) legs: Vec<Leg>,
}

/// A match entry of either.
#[derive(Debug)]
pub(crate) struct L4Entry {
    pub(crate) statics: StaticMatch,
    pub(crate) sni: Vec<HostKey>,
    pub(crate) subnets: Vec<Cidr>,
    pub(crate) rule: Arc<RuleRef>,
}

/// What is left of the HTTP rules for a client that comes through `gateway` (`mesh` or `namespace/name`) to `port`. Stops at
/// the first entry that takes every request. Beside each route: whether it is such an entry.
pub(crate) fn http_routes(
    service: &CompiledVirtualService,
    gateway: &str,
    port: u16,
    clusters: &mut Clusters<'_>,
) -> Vec<(Route, bool)> {
    let mut routes = Vec::new();
    for rule in &service.http {
        // Resolved once, and only if an entry of the rule is left.
        let mut resolved = None;
        for entry in &rule.entries {
            if !entry.statics.holds(clusters.client(), gateway, port) {
                continue;
            }
            let (destinations, total_weight, mirrors) =
                resolved.get_or_insert_with(|| resolve(&rule.body, port, clusters));
            routes.push((
                Route {
                    matches: entry.matches.clone(),
                    rule: Some(entry.rule.clone()),
                    action: action(&entry.action, port),
                    destinations: destinations.clone(),
                    total_weight: *total_weight,
                    rewrite: entry.rewrite.clone(),
                    headers: rule.body.headers.clone(),
                    timeout: rule.body.timeout,
                    retries: rule.body.retries.clone(),
                    fault: rule.body.fault,
                    mirrors: mirrors.clone(),
                    cors: rule.body.cors.clone(),
                },
                entry.is_catch_all,
            ));
            if entry.is_catch_all {
                return routes;
            }
        }
    }
    routes
}

type Resolved = (Arc<[WeightedDestination]>, u64, Arc<[Mirror]>);

fn resolve(body: &Body, port: u16, clusters: &mut Clusters<'_>) -> Resolved {
    let (destinations, total_weight) = destinations(&body.legs, port, clusters);
    let mirrors = body.mirrors.iter().map(|mirror| Mirror {
        cluster: clusters.cluster(&mirror.leg.host, &mirror.leg.subset, mirror.leg.port, port),
        percent: mirror.percent,
    });
    (destinations, total_weight, mirrors.collect())
}

pub(crate) fn destinations(
    legs: &[Leg],
    port: u16,
    clusters: &mut Clusters<'_>,
) -> (Arc<[WeightedDestination]>, u64) {
    let destinations: Arc<[WeightedDestination]> = legs
        .iter()
        .map(|leg| WeightedDestination {
            cluster: clusters.cluster(&leg.host, &leg.subset, leg.port, port),
            weight: leg.weight,
            headers: leg.headers.clone(),
        })
        .collect();
    let total = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
    (destinations, total)
}

fn action(action: &EntryAction, port: u16) -> Action {
    match action {
        EntryAction::Forward => Action::Forward,
        EntryAction::DirectResponse(response) => Action::DirectResponse(response.clone()),
        EntryAction::Refused(why) => Action::Refused(why.clone()),
        EntryAction::Redirect { redirect, port: kind } => {
            let written = match kind {
                RedirectPort::Default => None,
                RedirectPort::Fixed(fixed) => Some(*fixed),
                RedirectPort::FromRequest => Some(port),
            };
            // All our listeners are plain HTTP, so that is the scheme unless the rule has one.
            let scheme = redirect.scheme.as_deref().unwrap_or("http");
            let is_default = |port: &u16| matches!((scheme, port), ("http", 80) | ("https", 443));
            Action::Redirect(Arc::new(Redirect {
                port: written.filter(|port| !is_default(port)),
                ..redirect.clone()
            }))
        }
    }
}

/// What is left of the TLS rules, each (SNI, subnets) once: the first counts.
pub(crate) fn tls_routes(
    service: &CompiledVirtualService,
    gateway: &str,
    port: u16,
    clusters: &mut Clusters<'_>,
) -> Vec<TcpRoute> {
    let mut routes: Vec<TcpRoute> = Vec::new();
    for rule in &service.tls {
        for entry in &rule.entries {
            let taken = |route: &TcpRoute| route.sni == entry.sni && route.subnets == entry.subnets;
            if !entry.statics.holds_l4(clusters.client(), gateway, port) || routes.iter().any(taken) {
                continue;
            }
            routes.push(l4_route(entry, &rule.legs, port, clusters));
        }
    }
    routes
}

/// What is left of the TCP rules. The first entry without subnets is final.
pub(crate) fn tcp_routes(
    service: &CompiledVirtualService,
    gateway: &str,
    port: u16,
    clusters: &mut Clusters<'_>,
) -> Vec<TcpRoute> {
    let mut routes = Vec::new();
    for rule in &service.tcp {
        for entry in &rule.entries {
            if !entry.statics.holds_l4(clusters.client(), gateway, port) {
                continue;
            }
            routes.push(l4_route(entry, &rule.legs, port, clusters));
            if entry.subnets.is_empty() {
                return routes;
            }
        }
    }
    routes
}

fn l4_route(entry: &L4Entry, legs: &[Leg], port: u16, clusters: &mut Clusters<'_>) -> TcpRoute {
    let (destinations, total_weight) = destinations(legs, port, clusters);
    TcpRoute {
        sni: entry.sni.clone(),
        subnets: entry.subnets.clone(),
        rule: Some(entry.rule.clone()),
        destinations,
        total_weight,
    }
}
