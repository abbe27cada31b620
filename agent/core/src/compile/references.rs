//! What a VirtualService names and does not exist. Admission looks at one object at a time and cannot see it; requests would only show it as
//! 503 or 404.

use std::collections::BTreeMap;

use super::by_age;
use crate::api::meta::{Key, Resource};
use crate::api::virtual_service::{Destination, VirtualService};
use crate::cluster::{Discovery, Endpoint};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::host::{self, HostKey};
use crate::inputs::Inputs;
use crate::snapshot::{MESH, Service, ServiceKind, ServicePort, State};

pub(super) fn check(inputs: &Inputs, state: &State, diagnostics: &mut Vec<Diagnostic>) {
    for resource in by_age(&inputs.virtual_services) {
        gateways(inputs, resource, diagnostics);
        hosts(resource, state, diagnostics);
        destinations(resource, state, diagnostics);
    }
    selectors(inputs, state, diagnostics);
}

/// Services whose selector finds nothing at all, ready or not.
fn selectors(inputs: &Inputs, state: &State, diagnostics: &mut Vec<Diagnostic>) {
    if state.services.iter().flat_map(|service| &service.ports).all(|port| port.endpoints.is_empty()) {
        // Rules and services without a cluster.
        return;
    }
    for service in state.services.iter().filter(|service| service.kind != ServiceKind::ServiceEntry) {
        let is_listed = |port: &ServicePort| port.discovery == Discovery::Endpoints;
        let is_empty = |port: &ServicePort| port.endpoints.is_empty() && port.excluded.is_empty();
        let is_idle = service.ports.iter().all(|port| is_listed(port) && is_empty(port));
        if service.ports.is_empty() || !is_idle {
            continue;
        }
        let key = Key::new(&*service.namespace, &*service.name);
        let Some(resource) = inputs.services.get(&key).filter(|it| !it.spec.selector.is_empty()) else {
            continue;
        };
        let labels: Vec<_> =
            resource.spec.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let message = format!("no pod has the labels {}, so requests to it answer 503", labels.join(","));
        diagnostics.push(
            resource
                .diagnostic(Severity::Info, Code::NoEndpoints, "spec.selector", message)
                .with_hint("correct the selector, or start such pods"),
        );
    }
}

fn binds_mesh(resource: &Resource<VirtualService>) -> bool {
    resource.spec.gateways.is_empty() || resource.spec.gateways.iter().any(|gateway| gateway == MESH)
}

/// Hosts of the mesh that look like a Kubernetes service's and are nobody's. Others may well be known to a VirtualService alone.
fn hosts(resource: &Resource<VirtualService>, state: &State, diagnostics: &mut Vec<Diagnostic>) {
    if !binds_mesh(resource) || state.services.is_empty() {
        return;
    }
    let suffix = format!(".svc.{}", state.mesh.cluster_domain);
    for (index, written) in resource.spec.hosts.iter().enumerate() {
        let host = host::complete(written, &resource.meta.namespace, &state.mesh.cluster_domain);
        if host.to_ascii_lowercase().ends_with(&suffix) && !state.registry.has(&HostKey::parse(&host)) {
            let message = format!("no service {host} is known, so these rules govern nobody's address");
            let field = format!("spec.hosts[{index}]");
            diagnostics.push(
                resource
                    .diagnostic(Severity::Warning, Code::UnknownHost, &field, message)
                    .with_hint("correct the name, or add the Service"),
            );
        }
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
            let near = inputs.gateways.keys().find(|key| *key.name == *name);
            let hint = match near {
                Some(key) => format!("did you mean {key}?"),
                None => "correct the name, or add the Gateway; of another namespace, write namespace/name"
                    .to_owned(),
            };
            diagnostics.push(
                resource.diagnostic(Severity::Warning, Code::UnknownGateway, &field, message).with_hint(hint),
            );
        }
    };
    for (index, gateway) in resource.spec.gateways.iter().enumerate() {
        check(gateway, format!("spec.gateways[{index}]"));
    }
    let spec = &resource.spec;
    let http =
        spec.http.iter().map(|rule| rule.matches.iter().map(|entry| &entry.gateways).collect::<Vec<_>>());
    let tls =
        spec.tls.iter().map(|rule| rule.matches.iter().map(|entry| &entry.gateways).collect::<Vec<_>>());
    let tcp =
        spec.tcp.iter().map(|rule| rule.matches.iter().map(|entry| &entry.gateways).collect::<Vec<_>>());
    let mut list = |name: &str, rules: &mut dyn Iterator<Item = Vec<&Vec<String>>>| {
        for (rule, entries) in rules.enumerate() {
            for (at, gateways) in entries.into_iter().enumerate() {
                for (index, gateway) in gateways.iter().enumerate() {
                    check(gateway, format!("spec.{name}[{rule}].match[{at}].gateways[{index}]"));
                }
            }
        }
    };
    list("http", &mut { http });
    list("tls", &mut { tls });
    list("tcp", &mut { tcp });
}

fn destinations(resource: &Resource<VirtualService>, state: &State, diagnostics: &mut Vec<Diagnostic>) {
    let spec = &resource.spec;
    let mut at = Place { resource, state, diagnostics, is_http: true };
    for (index, rule) in spec.http.iter().enumerate() {
        let legs: Vec<_> =
            rule.route.iter().map(|route| (route.destination.as_ref(), route.weight)).collect();
        at.legs(&format!("spec.http[{index}].route"), &legs);
        at.destination(rule.mirror.as_ref(), &format!("spec.http[{index}].mirror"), None);
        for (position, mirror) in rule.mirrors.iter().enumerate() {
            let field = format!("spec.http[{index}].mirrors[{position}].destination");
            at.destination(mirror.destination.as_ref(), &field, None);
        }
    }
    at.is_http = false;
    for (index, rule) in spec.tls.iter().enumerate() {
        let legs: Vec<_> =
            rule.route.iter().map(|route| (route.destination.as_ref(), route.weight)).collect();
        at.legs(&format!("spec.tls[{index}].route"), &legs);
    }
    for (index, rule) in spec.tcp.iter().enumerate() {
        let legs: Vec<_> =
            rule.route.iter().map(|route| (route.destination.as_ref(), route.weight)).collect();
        at.legs(&format!("spec.tcp[{index}].route"), &legs);
    }
}

/// What is looked at, and where remarks go.
struct Place<'a> {
    resource: &'a Resource<VirtualService>,
    state: &'a State,
    diagnostics: &'a mut Vec<Diagnostic>,
    is_http: bool,
}

impl Place<'_> {
    /// The destinations of a rule, with their weights.
    fn legs(&mut self, field: &str, legs: &[(Option<&Destination>, i32)]) {
        let total: i64 = legs.iter().map(|(_, weight)| i64::from((*weight).max(0))).sum();
        for (leg, (destination, weight)) in legs.iter().enumerate() {
            let percent =
                (legs.len() > 1 && total > 0).then(|| f64::from((*weight).max(0)) * 100.0 / total as f64);
            self.destination(*destination, &format!("{field}[{leg}].destination"), percent);
        }
    }

    fn warn(&mut self, code: Code, field: &str, message: String, hint: &str) {
        let warning = self.resource.diagnostic(Severity::Warning, code, field, message);
        self.diagnostics.push(warning.with_hint(hint));
    }

    /// `percent`: of the rule's requests, if there are several destinations.
    fn destination(&mut self, written: Option<&Destination>, field: &str, percent: Option<f64>) {
        let Some(written) = written else { return };
        let (resource, state) = (self.resource, self.state);
        // Completed as the rules were; its remarks have been made there.
        let mut completed = written.clone();
        super::virtual_service::complete(&mut completed, resource, field, state, &mut Vec::new());
        let Some(service) = state.registered(&completed.host) else {
            let hint = match state.registered(&completed.host.to_ascii_lowercase()) {
                Some(service) => format!("case counts here: write {}", service.host),
                None => "correct the name, or add a Service or ServiceEntry".to_owned(),
            };
            let message = format!("no service {} is known", completed.host);
            return self.warn(Code::UnknownHost, &format!("{field}.host"), message, &hint);
        };
        let subset = &*completed.subset;
        if !subset.is_empty() && subset_labels(service, subset, state).is_none() {
            let message = format!(
                "no DestinationRule for {} defines the subset {subset}, so requests to it answer 503",
                service.host
            );
            let hint = "add the subset to a DestinationRule, or correct its name";
            self.warn(Code::UnknownSubset, &format!("{field}.subset"), message, hint);
        } else {
            self.endpoints(service, subset, field, percent);
        }
        match &completed.port {
            Some(port) => {
                let known = service.ports.iter().any(|it| u32::from(it.number) == port.number);
                if !known && !service.ports.is_empty() {
                    let ports: Vec<_> = service.ports.iter().map(|port| port.number.to_string()).collect();
                    let message = format!("{} has no port {}", service.host, port.number);
                    let hint = format!("use one of the service's ports: {}", ports.join(", "));
                    self.warn(Code::UnknownPort, &format!("{field}.port.number"), message, &hint);
                }
            }
            None if self.is_http && binds_mesh(resource) => {
                only_port(resource, service, field, state, self.diagnostics);
            }
            None => {}
        }
    }

    /// A share of requests that nobody answers is worth a warning; a service that is not there yet, a word.
    fn endpoints(&mut self, service: &Service, subset: &str, field: &str, percent: Option<f64>) {
        let labels = subset_labels(service, subset, self.state);
        if percent == Some(0.0) || !has_no_endpoint(service, labels, self.state) {
            return;
        }
        let what = if subset.is_empty() { String::new() } else { format!(" subset {subset}") };
        let (severity, part) = match percent {
            Some(percent) => (Severity::Warning, format!(": {percent:.1} % of the requests answer 503")),
            None => (Severity::Info, String::new()),
        };
        let message = format!("{}{what} has no endpoint that is ready{part}", service.host);
        let remark = self.resource.diagnostic(severity, Code::NoEndpoints, field, message);
        self.diagnostics.push(match labels {
            Some(labels) if !subset.is_empty() => {
                let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                remark.with_hint(format!(
                    "start workloads with the labels {}, or take their weight",
                    labels.join(",")
                ))
            }
            _ => remark,
        });
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
