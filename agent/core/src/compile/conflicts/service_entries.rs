//! ServiceEntries that have the same host, or that connections cannot be told apart from another service's.

use std::collections::HashMap;

use super::super::by_age;
use super::{named, why};
use crate::api::gateway::Port;
use crate::api::meta::Resource;
use crate::api::service_entry::ServiceEntry;
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::host::Cidr;
use crate::inputs::Inputs;
use crate::inventory::Protocol;
use crate::snapshot::{State, Visibility};

pub(super) fn check(inputs: &Inputs, state: &State, diagnostics: &mut Vec<Diagnostic>) {
    let mut of_host: HashMap<String, Vec<&Resource<ServiceEntry>>> = HashMap::new();
    let mut of_address: HashMap<(Cidr, u32), &Resource<ServiceEntry>> = HashMap::new();
    let mut of_port: HashMap<u32, Vec<&Resource<ServiceEntry>>> = HashMap::new();
    for entry in by_age(&inputs.service_entries) {
        for (index, host) in entry.spec.hosts.iter().enumerate() {
            let before = of_host.entry(host.to_ascii_lowercase()).or_default();
            if let Some(older) = before.iter().find(|older| meet(older, entry, state)) {
                same_host(entry, index, host, older, diagnostics);
            }
            before.push(entry);
        }
        addresses(entry, &mut of_address, state, diagnostics);
        without_addresses(entry, &mut of_port, state, diagnostics);
    }
}

/// Whether some client sees both.
fn meet(a: &Resource<ServiceEntry>, b: &Resource<ServiceEntry>, state: &State) -> bool {
    let of = |it: &Resource<ServiceEntry>| {
        Visibility::of(&it.spec.export_to, &it.meta.namespace, &state.mesh.service_export)
    };
    of(a).meets(&of(b))
}

fn share_host(a: &Resource<ServiceEntry>, b: &Resource<ServiceEntry>) -> bool {
    a.spec.hosts.iter().any(|host| b.spec.hosts.iter().any(|other| other.eq_ignore_ascii_case(host)))
}

fn same_host(
    entry: &Resource<ServiceEntry>,
    index: usize,
    host: &str,
    older: &Resource<ServiceEntry>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let field = format!("spec.hosts[{index}]");
    if older.meta.namespace != entry.meta.namespace {
        let message = format!(
            "ServiceEntry {} of another namespace has {host} too; a client that sees both uses one of them: its own \
             namespace's, else {} ({})",
            named(older),
            named(older),
            why(&older.meta, &entry.meta)
        );
        diagnostics.push(entry.diagnostic(Severity::Info, Code::DuplicateServiceEntry, &field, message));
        return;
    }
    let differs = |port: &Port| {
        let other = older.spec.ports.iter().find(|other| other.number == port.number);
        other.is_some_and(|other| {
            older.spec.resolution != entry.spec.resolution
                || Protocol::parse(&other.protocol) != Protocol::parse(&port.protocol)
        })
    };
    if let Some(at) = entry.spec.ports.iter().position(differs) {
        let message = format!(
            "ServiceEntry {} has this port of {host} with another protocol or resolution, and what it says counts: {}",
            named(older),
            why(&older.meta, &entry.meta)
        );
        diagnostics.push(
            entry
                .diagnostic(
                    Severity::Warning,
                    Code::DuplicateServiceEntry,
                    &format!("spec.ports[{at}]"),
                    message,
                )
                .with_hint("write the same in both, or make one entry of them"),
        );
    } else {
        let message =
            format!("one service with ServiceEntry {}: endpoints of both are used for {host}", named(older));
        diagnostics.push(entry.diagnostic(Severity::Info, Code::DuplicateServiceEntry, &field, message));
    }
}

/// The dialled address names the service, so two services with one address and port are one too many.
fn addresses<'a>(
    entry: &'a Resource<ServiceEntry>,
    of_address: &mut HashMap<(Cidr, u32), &'a Resource<ServiceEntry>>,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (index, address) in entry.spec.addresses.iter().enumerate() {
        let Ok(range) = address.parse::<Cidr>() else { continue };
        for port in &entry.spec.ports {
            let older = *of_address.entry((range, port.number)).or_insert(entry);
            if std::ptr::eq(older, entry) || share_host(older, entry) || !meet(older, entry, state) {
                continue;
            }
            let message = format!(
                "port {} of {address} is ServiceEntry {}'s too, and who dials it means that one: {}",
                port.number,
                named(older),
                why(&older.meta, &entry.meta)
            );
            diagnostics.push(
                entry
                    .diagnostic(
                        Severity::Warning,
                        Code::PortConflict,
                        &format!("spec.addresses[{index}]"),
                        message,
                    )
                    .with_hint("give each service its own address, or its own port"),
            );
        }
    }
}

/// Without an address a port alone has to tell the service, unless Host or SNI do.
fn without_addresses<'a>(
    entry: &'a Resource<ServiceEntry>,
    of_port: &mut HashMap<u32, Vec<&'a Resource<ServiceEntry>>>,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) {
    if !entry.spec.addresses.is_empty() {
        return;
    }
    for (index, port) in entry.spec.ports.iter().enumerate() {
        if !Protocol::parse(&port.protocol).is_some_and(Protocol::is_opaque) {
            continue;
        }
        let before = of_port.entry(port.number).or_default();
        if let Some(older) = before.iter().find(|it| !share_host(it, entry) && meet(it, entry, state)) {
            let message = format!(
                "neither this nor ServiceEntry {} has addresses, so nothing tells connections to port {} apart: they all go \
                 to that one ({})",
                named(older),
                port.number,
                why(&older.meta, &entry.meta)
            );
            diagnostics.push(
                entry
                    .diagnostic(
                        Severity::Warning,
                        Code::PortConflict,
                        &format!("spec.ports[{index}].number"),
                        message,
                    )
                    .with_hint("give both entries addresses"),
            );
        }
        before.push(entry);
    }
}
