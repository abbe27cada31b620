//! Objects that do nothing: nobody refers to them, no client looks them up, nothing is there that they ask for.

use std::collections::{BTreeSet, HashSet};

use super::by_age;
use super::conflicts::named;
use crate::api::destination_rule::DestinationRule;
use crate::api::gateway::Gateway;
use crate::api::meta::{Key, Kinded, Resource};
use crate::api::sidecar::Sidecar;
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::host::{self, HostKey};
use crate::inputs::{Inputs, Objects};
use crate::snapshot::{EgressHost, State, Visibility};

pub(super) fn check(inputs: &Inputs, state: &State, diagnostics: &mut Vec<Diagnostic>) {
    for rule in by_age(&inputs.destination_rules) {
        destination_rule(rule, inputs, state, diagnostics);
    }
    delegates(inputs, diagnostics);
    for gateway in by_age(&inputs.gateways) {
        selector(gateway, inputs, diagnostics);
    }
    for sidecar in by_age(&inputs.sidecars) {
        imports(sidecar, inputs, state, diagnostics);
    }
    exports(inputs, diagnostics);
}

/// Clients look in their own namespace, the service's and the root's, and take the first that has any rule for the host.
fn destination_rule(
    rule: &Resource<DestinationRule>,
    inputs: &Inputs,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let (own, spec) = (&*rule.meta.namespace, &rule.spec);
    let key = HostKey::parse(&host::complete(&spec.host, own, &state.mesh.cluster_domain));
    if !state.registry.has(&key) && !governs_below(&key, state) {
        // Rules that are checked before they reach a cluster have no services to name.
        if !inputs.services.is_empty() || !inputs.service_entries.is_empty() {
            let message = format!("no service {key} is known, so nothing looks this rule up");
            diagnostics.push(
                rule.diagnostic(Severity::Warning, Code::UnusedObject, "spec.host", message)
                    .with_hint("correct the name, or add a Service or ServiceEntry"),
            );
        }
        return;
    }
    let visibility = Visibility::of(&spec.export_to, own, &state.mesh.destination_rule_export);
    let HostKey::Exact(name) = &key else { return };
    let is_of_service = state.services_of(name).any(|service| *service.namespace == *own);
    if is_of_service || *own == *state.mesh.root_namespace {
        return;
    }
    let service = state.services_of(name).next().map_or("", |service| &*service.namespace).to_owned();
    if visibility.sees(own) {
        // That is how a client overrides a service's policy for itself; of one that says who else is meant, it is not.
        if !spec.export_to.is_empty() && spec.export_to.iter().any(|to| to != "." && to != own) {
            let message = format!(
                "only clients of namespace {own} look for rules in it; those of other namespaces look in their own, in \
                 {service} (the service's) and in {}",
                state.mesh.root_namespace
            );
            diagnostics.push(
                rule.diagnostic(Severity::Info, Code::NoEffect, "spec.exportTo", message).with_hint(format!(
                    "to govern all clients of the service, move the rule to namespace {service}"
                )),
            );
        }
        return;
    }
    let message = format!(
        "only clients of namespace {own} would look this rule up, and it is not exported to them: {service} is the service's \
         namespace, {} the root",
        state.mesh.root_namespace
    );
    diagnostics.push(
        rule.diagnostic(Severity::Warning, Code::UnusedObject, "spec.exportTo", message)
            .with_hint(format!("add \".\" to exportTo, or move the rule to namespace {service}")),
    );
}

/// Whether some wildcard ServiceEntry has the hosts of the rule among its own.
fn governs_below(key: &HostKey, state: &State) -> bool {
    state.services.iter().any(|service| service.key.is_wildcard() && service.key.covers(key))
}

/// A VirtualService without hosts does something only where another one names it.
fn delegates(inputs: &Inputs, diagnostics: &mut Vec<Diagnostic>) {
    let mut wanted: HashSet<Key> = HashSet::new();
    for root in inputs.virtual_services.values() {
        for delegate in root.spec.http.iter().filter_map(|rule| rule.delegate.as_ref()) {
            let namespace = match &*delegate.namespace {
                "" => &*root.meta.namespace,
                namespace => namespace,
            };
            wanted.insert(Key::new(namespace, &*delegate.name));
        }
    }
    for delegate in by_age(&inputs.virtual_services) {
        if delegate.spec.hosts.is_empty() && !wanted.contains(&delegate.meta.key()) {
            let message = "no VirtualService delegates to this one, and by itself it has no hosts";
            diagnostics.push(
                delegate
                    .diagnostic(Severity::Warning, Code::UnusedObject, "spec.hosts", message)
                    .with_hint("add hosts, or name it in a delegate"),
            );
        }
    }
}

/// Gateways may run where no Pod is known, so this is no more than a remark; and it is made only of labels that look misspelt: of
/// the same keys, with other values.
fn selector(gateway: &Resource<Gateway>, inputs: &Inputs, diagnostics: &mut Vec<Diagnostic>) {
    let selector = &gateway.spec.selector;
    if selector.is_empty() {
        return;
    }
    let mut others: BTreeSet<String> = BTreeSet::new();
    for pod in inputs.pods.values() {
        let labels = &pod.meta.labels;
        if selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
            return;
        }
        if selector.keys().all(|key| labels.contains_key(key)) {
            let value = |key| labels.get(key).map_or("", String::as_str);
            let pairs: Vec<_> = selector.keys().map(|key| format!("{key}={}", value(key))).collect();
            others.insert(pairs.join(","));
        }
    }
    if others.is_empty() {
        return;
    }
    let wanted: Vec<_> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let have: Vec<_> = others.into_iter().take(5).collect();
    let message =
        format!("no Pod has the labels {}; there are Pods with {}", wanted.join(","), have.join(" and "));
    diagnostics.push(
        gateway
            .diagnostic(Severity::Info, Code::UnselectedGateway, "spec.selector", message)
            .with_hint(format!("correct the labels, or run a gateway with --labels {}", wanted.join(","))),
    );
}

/// Hosts of a Sidecar that bring nothing into view.
fn imports(sidecar: &Resource<Sidecar>, inputs: &Inputs, state: &State, diagnostics: &mut Vec<Diagnostic>) {
    if state.services.is_empty() {
        return;
    }
    let own: std::sync::Arc<str> = sidecar.meta.namespace.clone();
    for (at, listener) in sidecar.spec.egress.iter().enumerate() {
        for (index, written) in listener.hosts.iter().enumerate() {
            let Some(entry) = EgressHost::parse(written, &own).filter(|entry| !entry.excludes) else {
                continue;
            };
            let namespace = entry.namespace.as_deref();
            // Of a namespace as a whole it may be true today and not tomorrow; the root's is in everyone's list.
            let message = match (&entry.host, namespace) {
                (HostKey::Any, Some(namespace))
                    if !has_any(&inputs.services, namespace)
                        && !has_any(&inputs.service_entries, namespace)
                        && *namespace != *own
                        && *namespace != *state.mesh.root_namespace =>
                {
                    format!("namespace {namespace} has no service")
                }
                (HostKey::Any, _) => continue,
                (host, namespace) => match nothing(host, namespace, state) {
                    Some(message) => message,
                    None => continue,
                },
            };
            diagnostics.push(
                sidecar
                    .diagnostic(
                        Severity::Warning,
                        Code::ImportsNothing,
                        &format!("spec.egress[{at}].hosts[{index}]"),
                        format!("{message}, so this imports nothing"),
                    )
                    .with_hint("write namespace/host, with the host's full name"),
            );
        }
    }
}

/// Why no service or VirtualService has the host in the namespace.
fn nothing(host: &HostKey, namespace: Option<&str>, state: &State) -> Option<String> {
    let is_there = |of: &str| namespace.is_none_or(|namespace| namespace == of);
    let mut elsewhere = None;
    let services = state.services.iter().filter(|service| host.intersection(&service.key).is_some());
    for service in services {
        if is_there(&service.namespace) {
            return None;
        }
        elsewhere.get_or_insert_with(|| service.namespace.to_string());
    }
    let mut rules = state.virtual_services.all.iter();
    if rules.any(|it| is_there(&it.namespace) && it.hosts.iter().any(|own| host.intersection(own).is_some()))
    {
        return None;
    }
    let place = namespace.map_or(String::new(), |namespace| format!(" in namespace {namespace}"));
    Some(match elsewhere {
        Some(elsewhere) => format!("{host} is not{place} but in {elsewhere}"),
        None => format!("no service {host} is known{place}"),
    })
}

/// `exportTo` that names nobody. Worth a word only where namespaces are known.
fn exports(inputs: &Inputs, diagnostics: &mut Vec<Diagnostic>) {
    if inputs.namespaces.is_empty() {
        return;
    }
    for rule in by_age(&inputs.virtual_services) {
        export(rule, &rule.spec.export_to, inputs, diagnostics);
    }
    for rule in by_age(&inputs.destination_rules) {
        export(rule, &rule.spec.export_to, inputs, diagnostics);
    }
    for entry in by_age(&inputs.service_entries) {
        export(entry, &entry.spec.export_to, inputs, diagnostics);
    }
}

/// Whether a namespace has objects of a kind.
fn has_any<T>(objects: &Objects<T>, namespace: &str) -> bool {
    objects.in_namespace(namespace).next().is_some()
}

fn export<T: Kinded>(
    resource: &Resource<T>,
    export_to: &[String],
    inputs: &Inputs,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (index, namespace) in export_to.iter().enumerate() {
        let is_known = matches!(namespace.as_str(), "." | "*" | "~")
            || inputs.namespaces.contains_key(&Key::new("", namespace.as_str()))
            || has_any(&inputs.services, namespace)
            || has_any(&inputs.pods, namespace);
        if is_known {
            continue;
        }
        let message =
            format!("no namespace {namespace} is known; {} is exported to nobody there", named(resource));
        let field = format!("spec.exportTo[{index}]");
        diagnostics.push(resource.diagnostic(Severity::Info, Code::UnknownNamespace, &field, message));
    }
}

#[cfg(test)]
mod tests;
