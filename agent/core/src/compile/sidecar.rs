//! Sidecars to scopes: what the clients of a namespace see. Binds, capture modes and ingress mean nothing without sidecars.

use std::sync::Arc;

use super::{by_age, port_number};
use crate::api::meta::{Kinded, Resource};
use crate::api::sidecar::OutboundTrafficPolicyMode;
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::inputs::Inputs;
use crate::snapshot::{EgressHost, EgressListener, Scope, State};

pub(super) fn compile(inputs: &Inputs, state: &mut State, diagnostics: &mut Vec<Diagnostic>) {
    for resource in by_age(&inputs.sidecars) {
        let own: Arc<str> = resource.meta.namespace.clone();
        let egress = resource.spec.egress.iter().map(|listener| EgressListener {
            port: listener.port.as_ref().and_then(|port| port_number(port.number)),
            hosts: listener.hosts.iter().filter_map(|host| EgressHost::parse(host, &own)).collect(),
        });
        // A policy without mode has protobuf's first, which is REGISTRY_ONLY.
        let policy = resource.spec.outbound_traffic_policy.as_ref();
        let mode = policy.map(|policy| policy.mode.unwrap_or(OutboundTrafficPolicyMode::RegistryOnly));
        let registry_only = mode.map(|mode| mode == OutboundTrafficPolicyMode::RegistryOnly);
        if registry_only == Some(true) {
            diagnostics.push(registry_only_limit(resource, "spec.outboundTrafficPolicy.mode"));
        }
        state.scopes.push(Scope {
            egress: egress.collect(),
            selector: resource
                .spec
                .workload_selector
                .as_ref()
                .map(|it| it.labels.clone())
                .filter(|it| !it.is_empty()),
            registry_only,
            namespace: own,
        });
    }
}

/// The kernel captures listed ports only, so connections to ports that no service has are not seen and not refused.
pub(super) fn registry_only_limit<T: Kinded>(resource: &Resource<T>, field: &str) -> Diagnostic {
    resource
        .diagnostic(
            Severity::Warning,
            Code::NotEnforced,
            field,
            "REGISTRY_ONLY is enforced on ports that some service has; connections to other ports still leave",
        )
        .with_hint("add a NetworkPolicy that denies egress if nothing else may leave")
}
