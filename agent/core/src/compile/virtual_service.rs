//! VirtualServices: hosts and gateways completed, delegates merged in, rules compiled.

use std::collections::HashMap;
use std::sync::Arc;

use super::http_route::{RuleContext, compile_rule};
use super::{by_age, delegate, l4};
use crate::api::meta::Resource;
use crate::api::virtual_service::{Destination, HttpRoute, VirtualService};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::host::{self, HostKey};
use crate::inputs::Inputs;
use crate::snapshot::{CompiledVirtualService, MESH, State, VirtualServices, Visibility};

/// The VirtualServices of one compilation.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) all: Arc<VirtualServices>,
    /// Each by itself, by the allocation of its object, which the inputs keep.
    one: HashMap<usize, Arc<Made>>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// One VirtualService, and what it was made of besides its own object.
#[derive(Debug)]
struct Made {
    delegates: Vec<Option<Arc<Resource<VirtualService>>>>,
    compiled: Arc<CompiledVirtualService>,
    diagnostics: Vec<Diagnostic>,
}

/// Makes those that are new, and keeps the others of `before`, which knew services of the same names.
pub(super) fn compile(inputs: &Inputs, state: &State, before: Option<(&Inputs, &Arc<Rules>)>) -> Arc<Rules> {
    if let Some((old, before)) = before
        && old.virtual_services.is_same(&inputs.virtual_services)
    {
        return before.clone();
    }
    let mut rules = Rules::default();
    let mut all = Vec::new();
    // A delegate without a root does nothing by itself.
    for root in by_age(&inputs.virtual_services).into_iter().filter(|root| !root.spec.hosts.is_empty()) {
        let address = Arc::as_ptr(root).addr();
        let delegates = delegates(root, inputs);
        let is_same = |made: &&Arc<Made>| {
            let pairs = made.delegates.iter().zip(&delegates);
            made.delegates.len() == delegates.len()
                && pairs
                    .into_iter()
                    .all(|(was, is)| was.as_ref().map(Arc::as_ptr) == is.as_ref().map(Arc::as_ptr))
        };
        let known = before.and_then(|(_, before)| before.one.get(&address)).filter(is_same).cloned();
        let made = known.unwrap_or_else(|| {
            let mut diagnostics = Vec::new();
            let compiled = Arc::new(one(root, inputs, state, &mut diagnostics));
            Arc::new(Made { delegates, compiled, diagnostics })
        });
        all.push(made.compiled.clone());
        rules.diagnostics.extend(made.diagnostics.iter().cloned());
        rules.one.insert(address, made);
    }
    rules.all = Arc::new(VirtualServices::new(all));
    Arc::new(rules)
}

/// Those that the rules of `root` name as delegates, in the order of the rules; `None` for one that is not there.
fn delegates(root: &Resource<VirtualService>, inputs: &Inputs) -> Vec<Option<Arc<Resource<VirtualService>>>> {
    let targets = root.spec.http.iter().filter_map(|rule| rule.delegate.as_ref());
    targets.map(|target| inputs.virtual_services.get(&delegate::key(root, target)).cloned()).collect()
}

fn one(
    resource: &Arc<Resource<VirtualService>>,
    inputs: &Inputs,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) -> CompiledVirtualService {
    let (meta, spec) = (&resource.meta, &resource.spec);
    let hosts = spec.hosts.iter().enumerate().map(|(index, written)| {
        let host = host::complete(written, &meta.namespace, &state.mesh.cluster_domain);
        warn_of_dotted_name(resource, index, &host, state, diagnostics);
        HostKey::parse(&host)
    });
    let hosts: Vec<HostKey> = hosts.collect();
    let unregistered = hosts.iter().filter(|host| !state.registry.has(host)).cloned().collect();
    let gateways = gateway_references(&spec.gateways, &meta.namespace);
    let mut http = Vec::new();
    for (index, rule) in spec.http.iter().enumerate() {
        let context = RuleContext::new(resource, index);
        match &rule.delegate {
            None => http.push({
                let rule = completed(rule, resource, index, state, diagnostics);
                compile_rule(&rule, &context, &state.mesh.default_retries, diagnostics)
            }),
            Some(target) => {
                for (rule, context) in
                    delegate::expand(resource, index, rule, target, inputs, state, diagnostics)
                {
                    http.push(compile_rule(&rule, &context, &state.mesh.default_retries, diagnostics));
                }
            }
        }
    }
    CompiledVirtualService {
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        hosts,
        unregistered,
        visibility: Visibility::of(&spec.export_to, &meta.namespace, &state.mesh.virtual_service_export),
        http,
        tls: l4::tls(resource, state, diagnostics),
        tcp: l4::tcp(resource, state, diagnostics),
        gateways,
    }
}

/// Gateways as `namespace/name`; none means the mesh.
pub(super) fn gateway_references(written: &[String], namespace: &str) -> Vec<Arc<str>> {
    if written.is_empty() {
        return vec![MESH.into()];
    }
    entry_gateways(written, namespace)
}

/// As [`gateway_references`], for a match entry, where none means all.
pub(super) fn entry_gateways(written: &[String], namespace: &str) -> Vec<Arc<str>> {
    let complete = |name: &String| match name.as_str() {
        MESH => MESH.into(),
        name if name.contains('/') => {
            name.replacen("./", &format!("{namespace}/"), usize::from(name.starts_with("./"))).into()
        }
        name => format!("{namespace}/{name}").into(),
    };
    written.iter().map(complete).collect()
}

/// The rule with its destinations completed in the namespace of `resource`, whoever it is merged into.
pub(super) fn completed(
    rule: &HttpRoute,
    resource: &Resource<VirtualService>,
    index: usize,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) -> HttpRoute {
    let mut rule = rule.clone();
    let field = format!("spec.http[{index}]");
    for (leg, route) in rule.route.iter_mut().enumerate() {
        if let Some(destination) = &mut route.destination {
            complete(
                destination,
                resource,
                &format!("{field}.route[{leg}].destination.host"),
                state,
                diagnostics,
            );
        }
    }
    if let Some(destination) = &mut rule.mirror {
        complete(destination, resource, &format!("{field}.mirror.host"), state, diagnostics);
    }
    for (position, mirror) in rule.mirrors.iter_mut().enumerate() {
        if let Some(destination) = &mut mirror.destination {
            complete(
                destination,
                resource,
                &format!("{field}.mirrors[{position}].destination.host"),
                state,
                diagnostics,
            );
        }
    }
    rule
}

/// Completes a destination. `name.namespace` that no registry knows as it stands, but that names a Service, means that Service
/// (DESIGN D8), with a warning: Istio would answer 503.
pub(super) fn complete(
    destination: &mut Destination,
    resource: &Resource<VirtualService>,
    field: &str,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let host = host::complete(&destination.host, &resource.meta.namespace, &state.mesh.cluster_domain);
    if let Some(fqdn) = dotted_service(&host, state) {
        diagnostics.push(
            resource
                .diagnostic(
                    Severity::Warning,
                    Code::ShortNameTaken,
                    field,
                    format!("{host} is taken for the Service {fqdn}; Istio would answer 503"),
                )
                .with_hint(format!("write {fqdn}")),
        );
        destination.host = fqdn;
    } else {
        destination.host = host;
    }
}

/// The FQDN that `name.namespace` or `name.namespace.svc` would mean, if a Service has it and nobody the name itself.
fn dotted_service(host: &str, state: &State) -> Option<String> {
    let short = host.strip_suffix(".svc").unwrap_or(host);
    if short.split('.').count() != 2
        || state.registry.by_host.contains_key(host.to_ascii_lowercase().as_str())
    {
        return None;
    }
    let fqdn = format!("{short}.svc.{}", state.mesh.cluster_domain);
    state.registry.by_host.contains_key(fqdn.as_str()).then_some(fqdn)
}

/// Hosts of a VirtualService stay literal, as in Istio; what looks like a Service's short form gets a word of warning, unless
/// the full name is there too.
fn warn_of_dotted_name(
    resource: &Resource<VirtualService>,
    index: usize,
    host: &str,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let Some(fqdn) = dotted_service(host, state) else { return };
    if resource.spec.hosts.contains(&fqdn) {
        return;
    }
    diagnostics.push(
        resource
            .diagnostic(
                Severity::Warning,
                Code::NoEffect,
                &format!("spec.hosts[{index}]"),
                format!("{host} is not completed, so these rules do not govern the Service {fqdn}"),
            )
            .with_hint(format!("write {fqdn}")),
    );
}
