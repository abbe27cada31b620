//! Compiling: everything a source knows, resolved once into a [`Snapshot`].
//!
//! Total, deterministic and without side effects: any `Inputs` give a snapshot, the same `Inputs` the same one. What is wrong
//! in an object costs that object, rule or entry and nothing else, and is said in a diagnostic; objects in `Inputs` passed
//! admission, so most of what is found here are references between objects, which admission cannot see.
//!
//! ```text
//!   mesh ─▶ services + endpoints ─▶ DestinationRules ─▶ VirtualServices (delegates merged) ─▶ Gateways ─▶ Sidecars
//!                                └───────────────▶ references: what names what does not exist
//! ```

mod conflicts;
mod cors;
mod delegate;
mod destination_rule;
mod endpoints;
#[cfg(test)]
pub(crate) mod fixture;
mod gateway;
mod headers;
mod http_match;
mod http_route;
mod l4;
mod mesh;
mod pods;
mod references;
mod services;
mod shadowed;
mod sidecar;
mod unused;
mod virtual_service;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::meta::Resource;
use crate::diagnostic::Diagnostic;
use crate::inputs::{Inputs, Objects};
use crate::snapshot::{Snapshot, State, UNREGISTERED_PORT};

/// See [`compile`].
#[derive(Debug, Clone)]
pub struct Compiled {
    /// Of generation 0; its one writer counts.
    pub snapshot: Snapshot,
    /// What is wrong, by object. Admission's own findings are not repeated.
    pub diagnostics: Vec<Diagnostic>,
}

/// Makes the snapshot of these inputs.
pub fn compile(inputs: &Inputs) -> Compiled {
    let mut diagnostics = Vec::new();
    let mut state = State { mesh: mesh::compile(inputs, &mut diagnostics), ..State::default() };
    services::compile(inputs, &mut state, &mut diagnostics);
    pods::compile(inputs, &mut state);
    destination_rule::compile(inputs, &mut state);
    virtual_service::compile(inputs, &mut state, &mut diagnostics);
    gateway::compile(inputs, &mut state, &mut diagnostics);
    sidecar::compile(inputs, &mut state, &mut diagnostics);
    state.captured_ports = captured_ports(&state);
    references::check(inputs, &state, &mut diagnostics);
    shadowed::check(inputs, &state, &mut diagnostics);
    conflicts::check(inputs, &state, &mut diagnostics);
    unused::check(inputs, &state, &mut diagnostics);
    Compiled { snapshot: Snapshot::new(state), diagnostics }
}

/// Ports to capture on any address. REGISTRY_ONLY claims every port that some service has; others cannot be listed.
fn captured_ports(state: &State) -> BTreeSet<u16> {
    let mut ports = state.registry.claimed_ports.clone();
    // Hosts that only a VirtualService knows are served on one port, on any address.
    if state.virtual_services.unregistered().next().is_some() {
        ports.insert(UNREGISTERED_PORT);
    }
    if state.mesh.registry_only || state.scopes.iter().any(|scope| scope.registry_only == Some(true)) {
        ports.extend(&state.registry.ports);
    }
    ports
}

/// The objects of one kind, oldest first: age decides conflicts.
fn by_age<T>(objects: &Objects<T>) -> Vec<&Arc<Resource<T>>> {
    let mut all: Vec<_> = objects.values().collect();
    all.sort_by(|a, b| -> Ordering { a.meta.cmp_by_age(&b.meta) });
    all
}

/// A port number as written; admission keeps it in 1 to 65535.
fn port_number(number: u32) -> Option<u16> {
    u16::try_from(number).ok().filter(|&number| number > 0)
}

#[cfg(test)]
mod tests;
