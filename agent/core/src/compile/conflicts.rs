//! Objects that want the same thing: which of them gets it, and why. The younger one is told, as its author is the one who looks.
//! Of servers of Gateways, `gateway` tells, from the listeners that come of them.

mod destination_rules;
mod service_entries;

use super::by_age;
use crate::api::meta::{ObjectMeta, Resource};
use crate::diagnostic::Diagnostic;
use crate::inputs::Inputs;
use crate::snapshot::State;

pub(super) fn check(inputs: &Inputs, state: &State, diagnostics: &mut Vec<Diagnostic>) {
    destination_rules::check(&by_age(&inputs.destination_rules), state, diagnostics);
    service_entries::check(inputs, state, diagnostics);
}

/// How `winner` comes before `loser`, in words (`ObjectMeta::cmp_by_age` is the rule).
pub(super) fn why(winner: &ObjectMeta, loser: &ObjectMeta) -> &'static str {
    match (winner.creation_timestamp, loser.creation_timestamp) {
        (Some(a), Some(b)) if a != b => "it is older",
        (Some(_), None) => "it has a creationTimestamp and this one has none",
        _ if winner.name != loser.name => "their age is the same and its name comes first",
        _ => "their age and name are the same and its namespace comes first",
    }
}

/// `shop/catalog`
pub(super) fn named<T>(resource: &Resource<T>) -> String {
    format!("{}/{}", resource.meta.namespace, resource.meta.name)
}

#[cfg(test)]
mod tests;
