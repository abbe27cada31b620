//! Which VirtualServices have a host, which of them governs it for a client and why the others do not: in words, for `explain`.
//!
//! It looks where the tables of [`super::outbound`] and [`super::gateway`] are made, and repeats their questions; what it says is
//! about rules that left no trace in a table because they were sorted out before any request came.

use std::net::IpAddr;
use std::sync::Arc;

use super::routes::{CompiledVirtualService, MESH, StaticMatch};
use super::visibility::Scope;
use super::{Service, ServiceKind, Snapshot};
use crate::client::Client;
use crate::host::HostKey;
use crate::route::RuleRef;

/// Lines about VirtualServices that are not used, at most.
const MAX_LINES: usize = 20;

impl Snapshot {
    /// What the dialled address is to the service.
    pub(crate) fn how_dialled(&self, host: &str, address: IpAddr) -> &'static str {
        let Some(service) = self.service_named(host) else { return "its address" };
        match service.kind {
            ServiceKind::ClusterIp => "its cluster IP",
            ServiceKind::Headless => "one of its endpoints, as it is headless",
            ServiceKind::ExternalName(_) => "its alias",
            ServiceKind::ServiceEntry if service.addresses.contains(&address.to_canonical()) => {
                "an address of its ServiceEntry"
            }
            ServiceKind::ServiceEntry => "within a range of its ServiceEntry",
        }
    }

    /// The service of a host.
    pub(crate) fn service_named(&self, host: &str) -> Option<&Arc<Service>> {
        self.state.services_of(host).next()
    }

    /// What there is about a host for a client in the mesh that dials `port`.
    pub(crate) fn account_of_mesh(
        &self,
        client: &Client,
        host: &HostKey,
        port: u16,
        is_http: bool,
    ) -> Vec<String> {
        let scope = Scope::of(&self.state.scopes, client, &self.state.mesh.root_namespace);
        let mut governing: Option<&CompiledVirtualService> = None;
        let mut lines = Vec::new();
        for service in self.state.virtual_services.covering(host) {
            let named = named(service);
            let own = best(service, host);
            let imported =
                |scope: &Scope| service.hosts.iter().any(|own| scope.imports(&service.namespace, own, port));
            if !service.visibility.sees(&client.namespace) {
                lines
                    .push(format!("{named} has {own}; it is not exported to namespace {}", client.namespace));
            } else if !scope.is_none_or(imported) {
                lines.push(format!("{named} has {own}; the Sidecar of this client does not import it"));
            } else if let Some(first) = governing {
                let why = if best(first, host) < own {
                    "its host is less specific".to_owned()
                } else {
                    format!("{} is older, or of the same age and first by name", self::named(first))
                };
                lines.push(format!("{named} has {own} too; it is not used: {why}"));
            } else {
                lines.push(format!("{named} governs it by its host {own}"));
                governing = Some(service);
            }
        }
        shorten(&mut lines);
        match governing {
            None => lines.push("no VirtualService governs it for this client".to_owned()),
            Some(service) => left_out(service, client, MESH, port, is_http, &mut lines),
        }
        lines
    }

    /// What there is about a host at a gateway, where the rules of several VirtualServices are joined.
    pub(crate) fn account_of_gateway(&self, client: &Client, host: &HostKey, port: u16) -> Vec<String> {
        let mut lines = Vec::new();
        let gateways: Vec<_> = self
            .state
            .gateways
            .iter()
            .filter(|it| {
                client.has_labels(&it.selector) && it.servers.iter().any(|server| server.port == port)
            })
            .collect();
        for service in &self.state.virtual_services.all {
            let of_host = service.hosts.iter().any(|own| own.intersection(host).is_some());
            let Some(gateway) = gateways.iter().find(|it| service.gateways.contains(&it.reference)) else {
                continue;
            };
            if !of_host {
                continue;
            }
            let named = named(service);
            if service.visibility.sees(&client.namespace) {
                lines.push(format!(
                    "{named} is bound to Gateway {}; its rules are joined, oldest first",
                    gateway.reference
                ));
                left_out(service, client, &gateway.reference, port, true, &mut lines);
            } else {
                lines.push(format!(
                    "{named} has the host; it is not exported to namespace {}",
                    client.namespace
                ));
            }
        }
        shorten(&mut lines);
        lines
    }
}

fn named(service: &CompiledVirtualService) -> String {
    format!("VirtualService {}/{}", service.namespace, service.name)
}

/// The most specific of its hosts that has the host.
fn best<'a>(service: &'a CompiledVirtualService, host: &'a HostKey) -> &'a HostKey {
    service.hosts.iter().filter(|own| own.covers(host)).min().unwrap_or(host)
}

fn shorten(lines: &mut Vec<String>) {
    let more = lines.len().saturating_sub(MAX_LINES);
    lines.truncate(MAX_LINES);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
}

/// Entries that do not hold for this client and port, whatever it sends.
fn left_out(
    service: &CompiledVirtualService,
    client: &Client,
    gateway: &str,
    port: u16,
    is_http: bool,
    lines: &mut Vec<String>,
) {
    let http = service.http.iter().flat_map(|rule| rule.entries.iter().map(|it| (&it.statics, &it.rule)));
    let tls = service.tls.iter().flat_map(|rule| &rule.entries).map(|it| (&it.statics, &it.rule));
    let tcp = service.tcp.iter().flat_map(|rule| &rule.entries).map(|it| (&it.statics, &it.rule));
    let mut say = |statics: &StaticMatch, rule: &RuleRef| {
        if let Some(why) = unmet(statics, client, gateway, port, is_http) {
            let entry = rule.match_index.map_or(String::new(), |entry| format!(" match {entry}"));
            lines.push(format!("{rule}{entry}: not for this client: {why}"));
        }
    };
    if is_http {
        http.for_each(|(statics, rule)| say(statics, rule));
    } else {
        tls.chain(tcp).for_each(|(statics, rule)| say(statics, rule));
    }
}

/// The condition that does not hold, with what there is instead.
fn unmet(statics: &StaticMatch, client: &Client, gateway: &str, port: u16, is_http: bool) -> Option<String> {
    if let Some(wanted) = statics.port.filter(|&wanted| wanted != port) {
        return Some(format!("port {wanted}, and it is {port}"));
    }
    if !statics.gateways.is_empty() && !statics.gateways.iter().any(|it| &**it == gateway) {
        return Some(format!("gateways {}, and it is {gateway}", statics.gateways.join(", ")));
    }
    // Of HTTP rules, gateways stand in place of conditions on the client.
    if is_http && !statics.gateways.is_empty() {
        return None;
    }
    let label = statics.source_labels.iter().find(|(key, value)| client.labels.get(*key) != Some(value));
    if let Some((key, value)) = label {
        let have = client.labels.get(key).map_or("none".to_owned(), |have| format!("{have:?}"));
        return Some(format!("sourceLabels {key}={value}, and the client has {have}"));
    }
    (!statics.source_namespace.is_empty() && *statics.source_namespace != *client.namespace)
        .then(|| format!("sourceNamespace {}, and it is {}", statics.source_namespace, client.namespace))
}
