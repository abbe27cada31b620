//! VirtualServices of one host. In the mesh they do not merge: the first takes it all. At a gateway their rules are joined, so
//! that only what comes after a rule for all requests is lost.

use std::collections::HashMap;

use super::by_age;
use super::conflicts::{named, why};
use super::virtual_service::gateway_references;
use crate::api::http_match::HttpMatchRequest;
use crate::api::meta::Resource;
use crate::api::string_match::Condition;
use crate::api::virtual_service::VirtualService;
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::host::{self, HostKey};
use crate::inputs::Inputs;
use crate::snapshot::{MESH, State, Visibility};

pub(super) fn check(inputs: &Inputs, state: &State, diagnostics: &mut Vec<Diagnostic>) {
    let mut in_mesh: HashMap<HostKey, Vec<&Resource<VirtualService>>> = HashMap::new();
    let mut at_gateway: HashMap<(HostKey, std::sync::Arc<str>), Vec<&Resource<VirtualService>>> =
        HashMap::new();
    for resource in by_age(&inputs.virtual_services) {
        let namespace = &resource.meta.namespace;
        let gateways = gateway_references(&resource.spec.gateways, namespace);
        let mut is_said = false;
        for (index, written) in resource.spec.hosts.iter().enumerate() {
            let host = HostKey::parse(&host::complete(written, namespace, &state.mesh.cluster_domain));
            for gateway in &gateways {
                if **gateway == *MESH {
                    let older = in_mesh.entry(host.clone()).or_default();
                    if let Some(other) = older.iter().find(|other| meet(other, resource, state)) {
                        diagnostics.push(in_the_mesh(resource, index, written, other));
                    }
                    older.push(resource);
                    continue;
                }
                let older = at_gateway.entry((host.clone(), gateway.clone())).or_default();
                if let Some(at) = takes_all(resource) {
                    let other =
                        older.iter().find(|other| takes_all(other).is_some() && meet(other, resource, state));
                    if let Some(other) = other.filter(|_| !std::mem::replace(&mut is_said, true)) {
                        diagnostics.push(behind(resource, at, written, gateway, other));
                    }
                }
                older.push(resource);
            }
        }
    }
}

/// Whether some namespace sees both.
fn meet(a: &Resource<VirtualService>, b: &Resource<VirtualService>, state: &State) -> bool {
    let of = |it: &Resource<VirtualService>| {
        Visibility::of(&it.spec.export_to, &it.meta.namespace, &state.mesh.virtual_service_export)
    };
    of(a).meets(&of(b))
}

fn in_the_mesh(
    resource: &Resource<VirtualService>,
    index: usize,
    written: &str,
    other: &Resource<VirtualService>,
) -> Diagnostic {
    let message = format!(
        "VirtualService {} governs {written}: {}; in the mesh rules of several do not merge, so these have no effect",
        named(other),
        why(&other.meta, &resource.meta)
    );
    let field = format!("spec.hosts[{index}]");
    resource
        .diagnostic(Severity::Warning, Code::ShadowedObject, &field, message)
        .with_hint("put the rules into one VirtualService, or delegate")
}

fn behind(
    resource: &Resource<VirtualService>,
    at: usize,
    written: &str,
    gateway: &str,
    other: &Resource<VirtualService>,
) -> Diagnostic {
    let message = format!(
        "VirtualService {} has a rule for all requests to {written} at Gateway {gateway}, and it comes first: {}",
        named(other),
        why(&other.meta, &resource.meta)
    );
    resource
        .diagnostic(Severity::Warning, Code::ShadowedObject, &format!("spec.http[{at}]"), message)
        .with_hint("leave one rule for all requests among the VirtualServices of a host")
}

/// The rule that every request fits.
fn takes_all(resource: &Resource<VirtualService>) -> Option<usize> {
    let mut rules = resource.spec.http.iter();
    rules.position(|rule| rule.matches.is_empty() || rule.matches.iter().any(fits_all))
}

fn fits_all(entry: &HttpMatchRequest) -> bool {
    let path = entry.uri.as_ref().map(|uri| uri.condition());
    let rest = HttpMatchRequest { uri: None, name: String::new(), ignore_uri_case: false, ..entry.clone() };
    rest == HttpMatchRequest::default() && matches!(path, None | Some(Condition::Prefix("" | "/")))
}
