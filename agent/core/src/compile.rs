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

mod affected;
mod analysis;
mod conflicts;
mod cors;
mod delegate;
mod destination_rule;
pub(crate) mod endpoints;
#[cfg(test)]
pub(crate) mod fixture;
mod gateway;
mod headers;
mod http_match;
mod http_route;
mod l4;
mod mesh;
mod references;
mod services;
mod shadowed;
mod sidecar;
mod slices;
mod unused;
mod virtual_service;
mod workloads;

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::api::meta::Resource;
use crate::diagnostic::Diagnostic;
use crate::inputs::{Inputs, Objects};
use crate::snapshot::{Registry, Service, Snapshot, State, UNREGISTERED_PORT};

use endpoints::Finder;
use services::Services;
use slices::Slices;
use workloads::Workloads;

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
    Compiler::default().compile(inputs)
}

/// Compiles again and again. What its last inputs share with the next ones it does not compile anew, so a change costs what
/// it changes; the result is that of [`compile`], whatever came before.
///
/// Objects are taken for unchanged if they are the same allocation. What was made of them is kept by the objects it depends
/// on: a service by its own, its slices, pods, nodes and WorkloadEntries ([`affected`]); a DestinationRule by its own; a
/// VirtualService by its own, its delegates, and the names of services; the remarks about all of them together by all that they
/// look at ([`analysis`]). A change of the mesh settings starts afresh.
#[derive(Debug, Default)]
pub struct Compiler {
    slices: Slices,
    workloads: Workloads,
    last: Option<Last>,
}

/// What the last compilation left.
#[derive(Debug)]
struct Last {
    inputs: Inputs,
    state: Arc<State>,
    mesh_diagnostics: Vec<Diagnostic>,
    services: Services,
    destination_rules: Arc<destination_rule::Rules>,
    virtual_services: Arc<virtual_service::Rules>,
    analysis: Arc<[Diagnostic]>,
}

impl Compiler {
    /// Makes the snapshot of these inputs.
    pub fn compile(&mut self, inputs: &Inputs) -> Compiled {
        let mesh = |inputs: &Inputs| inputs.mesh.as_ref().map(Arc::as_ptr);
        if self.last.as_ref().is_none_or(|last| mesh(&last.inputs) != mesh(inputs)) {
            *self = Self::default();
        }
        let last = self.last.take();
        let last = last.as_ref();
        let (mesh, mesh_diagnostics) = match last {
            Some(last) => (last.state.mesh.clone(), last.mesh_diagnostics.clone()),
            None => {
                let mut diagnostics = Vec::new();
                (Arc::new(mesh::compile(inputs, &mut diagnostics)), diagnostics)
            }
        };
        let affected =
            affected::follow(last.map(|last| &last.inputs), inputs, &mut self.slices, &mut self.workloads);
        let finder = Finder { inputs, slices: &self.slices, workloads: &self.workloads };
        let before = last.map(|last| (&last.inputs, &last.services));
        let services = services::compile(&finder, &mesh, &affected, before);
        let registry = registry(&services.all, last);
        let has_same_names = last.is_some_and(|last| last.state.registry.has_same_names(&registry));
        let destination_rules = destination_rule::compile(
            inputs,
            &mesh,
            last.map(|last| (&last.inputs, &last.destination_rules)),
        );
        let mut state = State {
            mesh,
            services: services.all.clone(),
            registry,
            destination_rules: destination_rules.all.clone(),
            pods: inputs.pods.clone(),
            nodes: inputs.nodes.clone(),
            ..State::default()
        };
        let virtual_services = virtual_service::compile(
            inputs,
            &state,
            last.filter(|_| has_same_names).map(|last| (&last.inputs, &last.virtual_services)),
        );
        state.virtual_services = virtual_services.all.clone();
        let mut diagnostics = mesh_diagnostics.clone();
        diagnostics.extend(services.diagnostics.iter().cloned());
        diagnostics.extend(virtual_services.diagnostics.iter().cloned());
        gateway::compile(inputs, &mut state, &mut diagnostics);
        sidecar::compile(inputs, &mut state, &mut diagnostics);
        state.captured_ports = captured_ports(&state);
        let analysis =
            analysis::check(inputs, &state, last.map(|last| (&last.inputs, &*last.state, &last.analysis)));
        diagnostics.extend(analysis.iter().cloned());
        self.workloads.sweep();
        let state = Arc::new(state);
        self.last = Some(Last {
            inputs: inputs.clone(),
            state: state.clone(),
            mesh_diagnostics,
            services,
            destination_rules,
            virtual_services,
            analysis,
        });
        Compiled { snapshot: Snapshot::new(state), diagnostics }
    }
}

/// What finds the services: that of `last`, if nothing changed but what is behind them.
fn registry(services: &[Arc<Service>], last: Option<&Last>) -> Arc<Registry> {
    let is_found_alike = |last: &&Last| {
        let known = &last.state.services;
        known.len() == services.len()
            && known.iter().zip(services).all(|(was, is)| Arc::ptr_eq(was, is) || was.is_found_alike(is))
    };
    match last.filter(is_found_alike) {
        Some(last) => last.state.registry.clone(),
        None => Arc::new(Registry::new(services)),
    }
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
