//! What names what does not exist. Admission looks at one object at a time and cannot see it; requests would only show it as
//! 503 or 404.

use std::collections::{BTreeMap, HashMap};

use super::by_age;
use crate::api::meta::{Key, Resource};
use crate::api::virtual_service::{Destination, VirtualService};
use crate::cluster::{Discovery, Endpoint};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::host::{self, HostKey};
use crate::inputs::Inputs;
use crate::snapshot::{MESH, Service, ServiceKind, ServicePort, State, Visibility};

pub(super) fn check(inputs: &Inputs, state: &State, diagnostics: &mut Vec<Diagnostic>) {
    let mut first_of: HashMap<HostKey, Vec<(&Key, &Resource<VirtualService>)>> = HashMap::new();
    let keys: HashMap<(&str, &str), &Key> =
        inputs.virtual_services.keys().map(|key| ((&*key.namespace, &*key.name), key)).collect();
    for resource in by_age(&inputs.virtual_services) {
        let meta = &resource.meta;
        gateways(inputs, resource, diagnostics);
        destinations(resource, state, diagnostics);
        if resource.spec.hosts.is_empty() || !binds_mesh(resource) {
            continue;
        }
        let Some(key) = keys.get(&(&*meta.namespace, &*meta.name)) else { continue };
        for (index, written) in resource.spec.hosts.iter().enumerate() {
            let host = HostKey::parse(&host::complete(written, &meta.namespace, &state.mesh.cluster_domain));
            let older = first_of.entry(host).or_default();
            if let Some((taken, _)) = older.iter().find(|(_, other)| seen_together(other, resource, state)) {
                diagnostics.push(
                    resource
                        .diagnostic(
                            Severity::Warning,
                            Code::ShadowedObject,
                            &format!("spec.hosts[{index}]"),
                            format!("VirtualService {taken} is older and governs {written}; in the mesh rules do not merge"),
                        )
                        .with_hint("put the rules into one VirtualService, or delegate"),
                );
            }
            older.push((key, resource));
        }
    }
}

fn binds_mesh(resource: &Resource<VirtualService>) -> bool {
    resource.spec.gateways.is_empty() || resource.spec.gateways.iter().any(|gateway| gateway == MESH)
}

/// Whether some namespace sees both.
fn seen_together(a: &Resource<VirtualService>, b: &Resource<VirtualService>, state: &State) -> bool {
    let of = |it: &Resource<VirtualService>| {
        Visibility::of(&it.spec.export_to, &it.meta.namespace, &state.mesh.virtual_service_export)
    };
    match (of(a), of(b)) {
        (Visibility::All, Visibility::All) => true,
        (Visibility::All, Visibility::Namespaces(list)) | (Visibility::Namespaces(list), Visibility::All) => {
            !list.is_empty()
        }
        (Visibility::Namespaces(a), Visibility::Namespaces(b)) => a.iter().any(|it| b.contains(it)),
    }
}

fn gateways(inputs: &Inputs, resource: &Resource<VirtualService>, diagnostics: &mut Vec<Diagnostic>) {
    let own = &resource.meta.namespace;
    let mut check = |written: &str, field: String| {
        if written == MESH {
            return;
        }
        let (namespace, name) = written.split_once('/').unwrap_or((own, written));
        let namespace = if namespace == "." { own } else { namespace };
        if !inputs.gateways.contains_key(&Key::new(namespace, name)) {
            let message = format!("no Gateway {namespace}/{name} exists, so nothing comes in through it");
            diagnostics.push(resource.diagnostic(Severity::Warning, Code::UnknownGateway, &field, message));
        }
    };
    for (index, gateway) in resource.spec.gateways.iter().enumerate() {
        check(gateway, format!("spec.gateways[{index}]"));
    }
    for (rule_index, rule) in resource.spec.http.iter().enumerate() {
        for (at, entry) in rule.matches.iter().enumerate() {
            for (index, gateway) in entry.gateways.iter().enumerate() {
                check(gateway, format!("spec.http[{rule_index}].match[{at}].gateways[{index}]"));
            }
        }
    }
}

fn destinations(resource: &Resource<VirtualService>, state: &State, diagnostics: &mut Vec<Diagnostic>) {
    let spec = &resource.spec;
    for (index, rule) in spec.http.iter().enumerate() {
        for (leg, route) in rule.route.iter().enumerate() {
            let field = format!("spec.http[{index}].route[{leg}].destination");
            destination(resource, route.destination.as_ref(), &field, true, state, diagnostics);
        }
        let field = format!("spec.http[{index}].mirror");
        destination(resource, rule.mirror.as_ref(), &field, true, state, diagnostics);
        for (at, mirror) in rule.mirrors.iter().enumerate() {
            let field = format!("spec.http[{index}].mirrors[{at}].destination");
            destination(resource, mirror.destination.as_ref(), &field, true, state, diagnostics);
        }
    }
    for (index, rule) in spec.tls.iter().enumerate() {
        for (leg, route) in rule.route.iter().enumerate() {
            let field = format!("spec.tls[{index}].route[{leg}].destination");
            destination(resource, route.destination.as_ref(), &field, false, state, diagnostics);
        }
    }
    for (index, rule) in spec.tcp.iter().enumerate() {
        for (leg, route) in rule.route.iter().enumerate() {
            let field = format!("spec.tcp[{index}].route[{leg}].destination");
            destination(resource, route.destination.as_ref(), &field, false, state, diagnostics);
        }
    }
}

fn destination(
    resource: &Resource<VirtualService>,
    written: Option<&Destination>,
    field: &str,
    is_http: bool,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let Some(written) = written else { return };
    // Completed as the rules were; its remarks have been made there.
    let mut completed = written.clone();
    super::virtual_service::complete(&mut completed, resource, field, state, &mut Vec::new());
    let mut warn = |code, below: &str, message: String, hint: &str| {
        let field = format!("{field}.{below}");
        diagnostics.push(resource.diagnostic(Severity::Warning, code, &field, message).with_hint(hint));
    };
    let Some(service) = state.registered(&completed.host) else {
        let hint = match state.registered(&completed.host.to_ascii_lowercase()) {
            Some(service) => format!("case counts here: write {}", service.host),
            None => "correct the name, or add a Service or ServiceEntry".to_owned(),
        };
        warn(Code::UnknownHost, "host", format!("no service {} is known", completed.host), &hint);
        return;
    };
    if !completed.subset.is_empty() && !has_subset(service, &completed.subset, state) {
        let message =
            format!("no DestinationRule for {} defines the subset {}", service.host, completed.subset);
        warn(
            Code::UnknownSubset,
            "subset",
            message,
            "add the subset to a DestinationRule, or correct its name",
        );
    }
    let labels = subset_labels(service, &completed.subset, state);
    if has_no_endpoint(service, labels, state) {
        let what =
            if completed.subset.is_empty() { String::new() } else { format!(" subset {}", completed.subset) };
        let message = format!("{}{what} has no endpoint that is ready", service.host);
        diagnostics.push(resource.diagnostic(Severity::Info, Code::NoEndpoints, field, message));
    }
    let mut warn = |code, below: &str, message: String, hint: &str| {
        let field = format!("{field}.{below}");
        diagnostics.push(resource.diagnostic(Severity::Warning, code, &field, message).with_hint(hint));
    };
    match &completed.port {
        Some(port) => {
            let known = service.ports.iter().any(|it| u32::from(it.number) == port.number);
            if !known && !service.ports.is_empty() {
                let message = format!("{} has no port {}", service.host, port.number);
                warn(Code::UnknownPort, "port.number", message, "use one of the service's ports");
            }
        }
        None if is_http && binds_mesh(resource) => only_port(resource, service, field, state, diagnostics),
        None => {}
    }
}

/// A destination without port means the service's only one, as documented; Istio's sidecars take the client's port instead.
fn only_port(
    resource: &Resource<VirtualService>,
    service: &Service,
    field: &str,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let [only] = &*service.ports else { return };
    let governed = resource.spec.hosts.iter().filter_map(|written| {
        state.registered(&host::complete(written, &resource.meta.namespace, &state.mesh.cluster_domain))
    });
    let differs = governed.flat_map(|it| &it.ports).any(|port| port.number != only.number);
    if differs {
        diagnostics.push(
            resource
                .diagnostic(
                    Severity::Info,
                    Code::OnlyPort,
                    &format!("{field}.port"),
                    format!(
                        "requests go to {}'s only port {}; Istio's sidecars would keep the port that the client dialled",
                        service.host, only.number
                    ),
                )
                .with_hint(format!("write port.number: {} to have the same everywhere", only.number)),
        );
    }
}

fn has_subset(service: &Service, subset: &str, state: &State) -> bool {
    subset_labels(service, subset, state).is_some()
}

/// The labels of a subset as some rule defines it; those of the whole service are none.
fn subset_labels<'a>(
    service: &Service,
    subset: &str,
    state: &'a State,
) -> Option<&'a BTreeMap<String, String>> {
    let rules = state.destination_rules.covering(&service.key);
    rules.flat_map(|rule| &rule.subsets).find(|it| &*it.name == subset).map(|it| &it.labels)
}

/// Whether nothing answers on any port. Where no service at all has endpoints, the inputs are rules without a cluster, and it
/// is not worth a word.
fn has_no_endpoint(service: &Service, labels: Option<&BTreeMap<String, String>>, state: &State) -> bool {
    let fits = |endpoint: &Endpoint| {
        labels.is_none_or(|labels| labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value)))
    };
    let is_listed = |port: &ServicePort| port.discovery == Discovery::Endpoints;
    !service.ports.is_empty()
        && service.ports.iter().all(|port| is_listed(port) && !port.endpoints.iter().any(fits))
        && state.services.iter().flat_map(|service| &service.ports).any(|port| !port.endpoints.is_empty())
}

impl State {
    /// The service of a host, whoever sees it; an alias leads to its target.
    fn registered(&self, host: &str) -> Option<&Service> {
        let exact =
            |host: &str| self.services_of(host).find(|service| *service.host == *host).map(|it| &**it);
        let found = exact(host)?;
        match &found.kind {
            ServiceKind::ExternalName(target) => Some(exact(target).unwrap_or(found)),
            _ => Some(found),
        }
    }
}
