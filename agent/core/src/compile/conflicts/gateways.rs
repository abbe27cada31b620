//! Servers of Gateways that one workload would have to serve on one port, and cannot.

use std::collections::HashMap;
use std::sync::Arc;

use super::{named, why};
use crate::api::gateway::{Gateway, Server};
use crate::api::meta::Resource;
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::inventory::Protocol;

/// What can be on one port together: requests are told apart by Host, TLS connections by SNI, others not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Tls,
    Tcp,
}

type Listed<'a> = (&'a Resource<Gateway>, usize, &'a Server, Kind);

pub(super) fn check(gateways: &[&Arc<Resource<Gateway>>], diagnostics: &mut Vec<Diagnostic>) {
    let mut of_port: HashMap<u32, Vec<Listed<'_>>> = HashMap::new();
    for gateway in gateways {
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            let Some(port) = &server.port else { continue };
            let kind = match Protocol::parse(&port.protocol) {
                Some(protocol) if protocol.is_http() => Kind::Http,
                Some(protocol) if protocol.is_tls() => Kind::Tls,
                _ => Kind::Tcp,
            };
            let before = of_port.entry(port.number).or_default();
            let here: Listed<'_> = (gateway, index, server, kind);
            let meets = |other: &&Listed<'_>| {
                share_workloads(other.0, gateway) && (other.2.bind.is_empty() || other.2.bind == server.bind)
            };
            if let Some(other) = before.iter().filter(meets).find(|other| conflict(other, &here)) {
                diagnostics.push(conflicting(&here, other, port.number));
            }
            before.push(here);
        }
    }
}

/// Whether one selector asks for all that the other asks for: then what has the longer one's labels serves both.
fn share_workloads(a: &Resource<Gateway>, b: &Resource<Gateway>) -> bool {
    let within =
        |a: &Gateway, b: &Gateway| a.selector.iter().all(|(key, value)| b.selector.get(key) == Some(value));
    within(&a.spec, &b.spec) || within(&b.spec, &a.spec)
}

fn conflict(a: &Listed<'_>, b: &Listed<'_>) -> bool {
    a.3 != b.3 || a.3 == Kind::Tcp || (a.3 == Kind::Tls && shared_host(a.2, b.2).is_some())
}

/// A host for which both servers would have a certificate.
fn shared_host<'a>(a: &Server, b: &'a Server) -> Option<&'a str> {
    let plain = |host: &'a str| host.split_once('/').map_or(host, |(_, host)| host);
    let has = |host: &str| a.hosts.iter().any(|other| other.rsplit('/').next() == Some(host));
    b.hosts.iter().map(|host| plain(host)).find(|host| has(host))
}

fn conflicting(here: &Listed<'_>, other: &Listed<'_>, port: u32) -> Diagnostic {
    let (gateway, index, server, kind) = here;
    let (older, at, theirs, _) = other;
    let protocol = |server: &Server| server.port.as_ref().map_or(String::new(), |port| port.protocol.clone());
    let whose = if std::ptr::eq(*older, *gateway) {
        format!("server {at} of this Gateway")
    } else {
        format!("server {at} of Gateway {} ({})", named(older), why(&older.meta, &gateway.meta))
    };
    let (field, message) = match shared_host(theirs, server).filter(|_| other.3 == *kind) {
        Some(host) => {
            ("hosts", format!("{host} on port {port} is served by {whose} already, with its certificate"))
        }
        None => (
            "port",
            format!(
                "port {port} is {} for {whose}, which comes first, and cannot be {} as well: nothing is served here",
                protocol(theirs),
                protocol(server)
            ),
        ),
    };
    gateway
        .diagnostic(Severity::Warning, Code::PortConflict, &format!("spec.servers[{index}].{field}"), message)
        .with_hint("use another port, other hosts, or a selector that other workloads have")
}
