//! Remarks about the mesh as a whole: what names what does not exist, what comes behind what, what conflicts, what nobody uses.
//!
//! They look at everything, and at little of each thing: endpoints count by their labels, pods by theirs. As long as that is
//! what it was, so are they; most changes of a mesh are pods that become ready, and endpoints that come and go.

use std::collections::HashSet;
use std::sync::Arc;

use super::{conflicts, references, shadowed, unused};
use crate::api::meta::Resource;
use crate::diagnostic::Diagnostic;
use crate::inputs::Inputs;
use crate::inventory::Pod;
use crate::snapshot::{Service, State};
use crate::vocabulary;

/// Makes the remarks, or keeps those of before.
pub(super) fn check(
    inputs: &Inputs,
    state: &State,
    before: Option<(&Inputs, &State, &Arc<[Diagnostic]>)>,
) -> Arc<[Diagnostic]> {
    if let Some((old, was, known)) = before
        && looks_alike((old, was), (inputs, state))
    {
        return known.clone();
    }
    let mut diagnostics = Vec::new();
    references::check(inputs, state, &mut diagnostics);
    shadowed::check(inputs, state, &mut diagnostics);
    conflicts::check(inputs, state, &mut diagnostics);
    unused::check(inputs, state, &mut diagnostics);
    vocabulary::check(inputs, &mut diagnostics);
    diagnostics.into()
}

/// Whether the remarks find the same: objects but slices, pods and nodes are the same allocations.
fn looks_alike((old, was): (&Inputs, &State), (new, is): (&Inputs, &State)) -> bool {
    let Inputs {
        mesh: _,
        virtual_services,
        destination_rules,
        gateways,
        service_entries,
        workload_entries,
        sidecars,
        services,
        endpoint_slices: _,
        pods,
        nodes: _,
        namespaces,
        ..
    } = new;
    let same_pod = |pods: Option<&Arc<Resource<Pod>>>, other: Option<&Arc<Resource<Pod>>>| match (pods, other)
    {
        (Some(a), Some(b)) => {
            a.meta.labels == b.meta.labels
                && a.spec.phase == b.spec.phase
                && vocabulary::annotations(&a.meta).eq(vocabulary::annotations(&b.meta))
        }
        _ => false,
    };
    virtual_services.is_same(&old.virtual_services)
        && destination_rules.is_same(&old.destination_rules)
        && gateways.is_same(&old.gateways)
        && service_entries.is_same(&old.service_entries)
        && workload_entries.is_same(&old.workload_entries)
        && sidecars.is_same(&old.sidecars)
        && services.is_same(&old.services)
        && namespaces.is_same(&old.namespaces)
        && old.pods.changes(pods).iter().all(|change| same_pod(change.before, change.after))
        && Arc::ptr_eq(&was.registry, &is.registry)
        && Arc::ptr_eq(&was.virtual_services, &is.virtual_services)
        && Arc::ptr_eq(&was.destination_rules, &is.destination_rules)
        && was.services.len() == is.services.len()
        && was
            .services
            .iter()
            .zip(&is.services)
            .all(|(was, is)| Arc::ptr_eq(was, is) || serves_alike(was, is))
}

/// Whether the endpoints of both have the same labels, port by port.
fn serves_alike(was: &Service, is: &Service) -> bool {
    was.ports.len() == is.ports.len()
        && was.ports.iter().zip(&is.ports).all(|(was, is)| {
            let labels = |endpoints: &[crate::cluster::Endpoint]| -> HashSet<_> {
                endpoints.iter().map(|endpoint| endpoint.labels.clone()).collect()
            };
            was.discovery == is.discovery && labels(&was.endpoints) == labels(&is.endpoints)
        })
}
