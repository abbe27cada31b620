//! Gateways: servers with their hosts parsed.

use std::sync::Arc;

use super::{by_age, port_number};
use crate::api::gateway::Gateway;
use crate::api::meta::Resource;
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::host::HostKey;
use crate::inputs::Inputs;
use crate::inventory::Protocol;
use crate::snapshot::{CompiledGateway, CompiledServer, ServerHost, State};

pub(super) fn compile(inputs: &Inputs, state: &mut State, diagnostics: &mut Vec<Diagnostic>) {
    for resource in by_age(&inputs.gateways) {
        let meta = &resource.meta;
        state.gateways.push(Arc::new(CompiledGateway {
            namespace: meta.namespace.as_str().into(),
            name: meta.name.as_str().into(),
            reference: format!("{}/{}", meta.namespace, meta.name).into(),
            selector: resource.spec.selector.clone(),
            servers: servers(resource, diagnostics),
        }));
    }
}

fn servers(resource: &Resource<Gateway>, diagnostics: &mut Vec<Diagnostic>) -> Vec<CompiledServer> {
    let mut servers = Vec::new();
    for (index, server) in (0u32..).zip(&resource.spec.servers) {
        let Some(port) = &server.port else { continue };
        let Some(number) = port_number(port.number) else { continue };
        let protocol = Protocol::parse(&port.protocol).unwrap_or(Protocol::Tcp);
        if !protocol.is_http() {
            diagnostics.push(resource.diagnostic(
                Severity::Warning,
                Code::NotEnforced,
                &format!("spec.servers[{index}].port.protocol"),
                format!(
                    "{} servers are not served yet; nothing listens on port {number} for this server",
                    port.protocol
                ),
            ));
        }
        servers.push(CompiledServer {
            index,
            port: number,
            port_name: port.name.as_str().into(),
            protocol,
            hosts: server.hosts.iter().map(|host| server_host(host, &resource.meta.namespace)).collect(),
            https_redirect: server.tls.as_ref().is_some_and(|tls| tls.https_redirect),
        });
    }
    servers
}

fn server_host(written: &str, own: &str) -> ServerHost {
    let (namespace, host) = match written.split_once('/') {
        None | Some(("*", _)) => (None, written.rsplit_once('/').map_or(written, |(_, host)| host)),
        Some((".", host)) => (Some(own.into()), host),
        Some((namespace, host)) => (Some(namespace.into()), host),
    };
    ServerHost { namespace, host: HostKey::parse(host), written: written.into() }
}
