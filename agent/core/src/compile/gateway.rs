//! Gateways: servers with their hosts parsed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{by_age, port_number};
use crate::api::gateway::{Gateway, ServerTlsMode, ServerTlsSettings};
use crate::api::meta::{Key, Resource};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::host::HostKey;
use crate::inputs::Inputs;
use crate::inventory::Protocol;
use crate::snapshot::{CompiledGateway, CompiledServer, ServerHost, ServerKind, State, listeners, selectors};

/// Why a server that terminates TLS is refused (and `check` says so, see the coverage table). Nothing speaks clear text in
/// its place.
const TERMINATION: &str = "TLS is not terminated yet";
/// Istio leaves it to each endpoint to demand mutual TLS there; endpoints here take anybody.
const AUTO_PASSTHROUGH: &str = "AUTO_PASSTHROUGH needs endpoints that demand Istio's mutual TLS, and would open all of them to everyone here";

pub(super) fn compile(inputs: &Inputs, state: &mut State, diagnostics: &mut Vec<Diagnostic>) {
    for resource in by_age(&inputs.gateways) {
        let meta = &resource.meta;
        state.gateways.push(Arc::new(CompiledGateway {
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            reference: format!("{}/{}", meta.namespace, meta.name).into(),
            selector: resource.spec.selector.clone(),
            servers: servers(resource, diagnostics),
        }));
    }
    conflicts(inputs, state, diagnostics);
}

fn servers(resource: &Resource<Gateway>, diagnostics: &mut Vec<Diagnostic>) -> Vec<CompiledServer> {
    let mut servers = Vec::new();
    for (index, server) in (0u32..).zip(&resource.spec.servers) {
        let Some(port) = &server.port else { continue };
        if server.bind.starts_with("unix://") {
            diagnostics.push(resource.diagnostic(
                Severity::Warning,
                Code::NotEnforced,
                &format!("spec.servers[{index}].bind"),
                "unix sockets are not listened on: nothing is served for this server",
            ));
            continue;
        }
        let Some(number) = port_number(port.number) else { continue };
        let Some(bind) = bind(&server.bind) else { continue };
        let protocol = Protocol::parse(&port.protocol).unwrap_or(Protocol::Tcp);
        let kind = kind(protocol, server.tls.as_ref());
        servers.push(CompiledServer {
            index,
            port: number,
            bind,
            port_name: port.name.as_str().into(),
            protocol,
            kind,
            hosts: server.hosts.iter().map(|host| server_host(host, &resource.meta.namespace)).collect(),
            https_redirect: server.tls.as_ref().is_some_and(|tls| tls.https_redirect),
        });
    }
    servers
}

/// `None`: no address at all.
#[expect(clippy::option_option, reason = "no address is all addresses")]
fn bind(written: &str) -> Option<Option<IpAddr>> {
    if written.is_empty() {
        return Some(None);
    }
    written.parse::<IpAddr>().ok().map(|address| Some(address.to_canonical()))
}

fn kind(protocol: Protocol, tls: Option<&ServerTlsSettings>) -> ServerKind {
    if protocol.is_http() {
        return ServerKind::Http;
    }
    match tls.map(|tls| tls.mode) {
        None if protocol.is_tls() => ServerKind::RefusedTls("a TLS server needs a tls block"),
        None => ServerKind::Tcp,
        Some(ServerTlsMode::Passthrough) => ServerKind::Passthrough,
        Some(ServerTlsMode::AutoPassthrough) => ServerKind::RefusedTls(AUTO_PASSTHROUGH),
        Some(
            ServerTlsMode::Simple
            | ServerTlsMode::Mutual
            | ServerTlsMode::IstioMutual
            | ServerTlsMode::OptionalMutual,
        ) => ServerKind::RefusedTls(TERMINATION),
    }
}

/// Servers that earlier ones shut out. Which Gateways meet depends on the workload; told are those that meet in any workload
/// that one of them selects.
fn conflicts(inputs: &Inputs, state: &State, diagnostics: &mut Vec<Diagnostic>) {
    let mut told: BTreeSet<(&str, &str, u32)> = BTreeSet::new();
    for selector in selectors(state) {
        for listener in listeners(state, selector) {
            for ((gateway, server), why) in &listener.left_out {
                let key = Key::new(&*gateway.namespace, &*gateway.name);
                let Some(resource) = inputs.gateways.get(&key) else { continue };
                if told.insert((&gateway.namespace, &gateway.name, server.index)) {
                    let field = format!("spec.servers[{}].port", server.index);
                    let message = format!("left out on port {}: {why}", server.port);
                    diagnostics.push(
                        resource
                            .diagnostic(Severity::Warning, Code::PortConflict, &field, message)
                            .with_hint(
                                "use another port, other hosts, or a selector that other workloads have",
                            ),
                    );
                }
            }
        }
    }
}

fn server_host(written: &str, own: &str) -> ServerHost {
    let (namespace, host) = match written.split_once('/') {
        None | Some(("*", _)) => (None, written.rsplit_once('/').map_or(written, |(_, host)| host)),
        Some((".", host)) => (Some(own.into()), host),
        Some((namespace, host)) => (Some(namespace.into()), host),
    };
    ServerHost { namespace, host: HostKey::parse(host), written: written.into() }
}
