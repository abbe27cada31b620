//! TLS and TCP rules of a VirtualService.

use std::sync::Arc;

use super::http_route::leg;
use super::virtual_service::{complete, entry_gateways};
use crate::api::meta::Resource;
use crate::api::virtual_service::{L4MatchAttributes, RouteDestination, TlsMatchAttributes, VirtualService};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::host::{Cidr, HostKey};
use crate::route::{HeaderEdits, RuleRef};
use crate::snapshot::{CompiledTcpRule, CompiledTlsRule, L4Entry, Leg, State, StaticMatch};

pub(super) fn tls(
    resource: &Resource<VirtualService>,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<CompiledTlsRule> {
    let rules = resource.spec.tls.iter().enumerate();
    rules
        .map(|(index, rule)| {
            let field = format!("spec.tls[{index}]");
            let entries = rule.matches.iter().enumerate().filter_map(|(at, entry)| {
                let field = format!("{field}.match[{at}]");
                let rule = rule_ref(resource, index, Some(at), &field);
                tls_entry(resource, entry, rule, &field, diagnostics)
            });
            let entries = entries.collect();
            CompiledTlsRule { entries, legs: legs(resource, &rule.route, &field, state, diagnostics) }
        })
        .collect()
}

pub(super) fn tcp(
    resource: &Resource<VirtualService>,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<CompiledTcpRule> {
    let all = [L4MatchAttributes::default()];
    let rules = resource.spec.tcp.iter().enumerate();
    rules
        .map(|(index, rule)| {
            let field = format!("spec.tcp[{index}]");
            let written = !rule.matches.is_empty();
            let matches = if written { &*rule.matches } else { &all[..] };
            let entries = matches.iter().enumerate().filter_map(|(at, entry)| {
                let below = if written { format!("{field}.match[{at}]") } else { field.clone() };
                let rule = rule_ref(resource, index, written.then_some(at), &below);
                tcp_entry(resource, entry, rule, &below, diagnostics)
            });
            let entries = entries.collect();
            CompiledTcpRule { entries, legs: legs(resource, &rule.route, &field, state, diagnostics) }
        })
        .collect()
}

fn tls_entry(
    resource: &Resource<VirtualService>,
    entry: &TlsMatchAttributes,
    rule: Arc<RuleRef>,
    field: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<L4Entry> {
    Some(L4Entry {
        statics: StaticMatch {
            port: entry.port.map(|port| u16::try_from(port).unwrap_or(0)),
            source_labels: entry.source_labels.clone(),
            source_namespace: entry.source_namespace.clone(),
            gateways: entry_gateways(&entry.gateways, &resource.meta.namespace),
        },
        sni: entry.sni_hosts.iter().map(|host| HostKey::parse(host)).collect(),
        subnets: subnets(resource, &entry.destination_subnets, field, diagnostics)?,
        rule,
    })
}

fn tcp_entry(
    resource: &Resource<VirtualService>,
    entry: &L4MatchAttributes,
    rule: Arc<RuleRef>,
    field: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<L4Entry> {
    Some(L4Entry {
        statics: StaticMatch {
            port: entry.port.map(|port| u16::try_from(port).unwrap_or(0)),
            source_labels: entry.source_labels.clone(),
            source_namespace: entry.source_namespace.clone(),
            gateways: entry_gateways(&entry.gateways, &resource.meta.namespace),
        },
        sni: Vec::new(),
        subnets: subnets(resource, &entry.destination_subnets, field, diagnostics)?,
        rule,
    })
}

/// All or none: an entry of which a range is left out would take more than was meant, if it is the only one.
fn subnets(
    resource: &Resource<VirtualService>,
    written: &[String],
    field: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Vec<Cidr>> {
    let mut subnets = Vec::new();
    for (index, text) in written.iter().enumerate() {
        match text.parse() {
            Ok(subnet) => subnets.push(subnet),
            Err(error) => {
                let field = format!("{field}.destinationSubnets[{index}]");
                let message = format!("{text}: {error}; the entry is left out");
                diagnostics.push(resource.diagnostic(Severity::Error, Code::InvalidAddress, &field, message));
                return None;
            }
        }
    }
    Some(subnets)
}

fn legs(
    resource: &Resource<VirtualService>,
    written: &[RouteDestination],
    field: &str,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Leg> {
    let mut legs = Vec::new();
    for (index, route) in written.iter().enumerate() {
        let Some(destination) = &route.destination else { continue };
        let mut destination = destination.clone();
        let field = format!("{field}.route[{index}].destination.host");
        complete(&mut destination, resource, &field, state, diagnostics);
        legs.push(leg(&destination, route.weight, HeaderEdits::default()));
    }
    legs
}

fn rule_ref(
    resource: &Resource<VirtualService>,
    index: usize,
    at: Option<usize>,
    field: &str,
) -> Arc<RuleRef> {
    Arc::new(RuleRef {
        kind: "VirtualService",
        namespace: resource.meta.namespace.clone(),
        name: resource.meta.name.clone(),
        route: u32::try_from(index).unwrap_or(u32::MAX),
        match_index: at.and_then(|at| u32::try_from(at).ok()),
        route_name: "".into(),
        delegated_by: None,
        file: resource.origin.file().map(Into::into),
        line: resource.origin.line(field),
    })
}
