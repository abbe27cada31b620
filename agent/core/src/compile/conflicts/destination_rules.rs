//! DestinationRules of one host in one namespace: they merge, or one is found before the other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{named, why};
use crate::api::destination_rule::DestinationRule;
use crate::api::meta::Resource;
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::host::{self, HostKey};
use crate::snapshot::{State, Visibility};

/// Rules that are one for their clients. Istio merges those that the same namespaces see.
struct Merged<'a> {
    first: &'a Resource<DestinationRule>,
    visibility: Visibility,
    labels: &'a BTreeMap<String, String>,
    subsets: HashMap<&'a str, &'a Resource<DestinationRule>>,
    policy: Option<&'a Resource<DestinationRule>>,
}

pub(super) fn check(
    rules: &[&Arc<Resource<DestinationRule>>],
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let none = BTreeMap::new();
    let mut of_host: HashMap<(&str, HostKey), Vec<Merged<'_>>> = HashMap::new();
    for rule in rules {
        let (meta, spec) = (&rule.meta, &rule.spec);
        let host = host::complete(&spec.host, &meta.namespace, &state.mesh.cluster_domain);
        let visibility =
            Visibility::of(&spec.export_to, &meta.namespace, &state.mesh.destination_rule_export);
        let labels = spec.workload_selector.as_ref().map_or(&none, |it| &it.match_labels);
        let before = of_host.entry((&meta.namespace, HostKey::parse(&host))).or_default();
        let same = before.iter_mut().find(|it| it.visibility == visibility && it.labels == labels);
        if let Some(merged) = same {
            merge(rule, merged, &host, diagnostics);
            continue;
        }
        // A rule for some clients beats one for all: that is what it is for.
        if let Some(other) = before.iter().find(|it| it.labels == labels && it.visibility.meets(&visibility))
        {
            let message = format!(
                "clients that see DestinationRule {} too use that one for {host}: {}; the two do not merge, as their \
                 exportTo differ",
                named(other.first),
                why(&other.first.meta, meta)
            );
            diagnostics.push(
                rule.diagnostic(Severity::Warning, Code::ShadowedObject, "spec.host", message)
                    .with_hint("put both into one rule, or give them the same exportTo"),
            );
        }
        let subsets = spec.subsets.iter().map(|subset| (&*subset.name, &***rule)).collect();
        let policy = spec.traffic_policy.as_ref().map(|_| &***rule);
        before.push(Merged { first: rule, visibility, labels, subsets, policy });
    }
}

fn merge<'a>(
    rule: &'a Resource<DestinationRule>,
    merged: &mut Merged<'a>,
    host: &str,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (index, subset) in rule.spec.subsets.iter().enumerate() {
        let owner = *merged.subsets.entry(&subset.name).or_insert(rule);
        if std::ptr::eq(owner, rule) {
            continue;
        }
        let message = format!(
            "DestinationRule {} defines the subset {} of {host} too, and its labels and policy count: {}",
            named(owner),
            subset.name,
            why(&owner.meta, &rule.meta)
        );
        diagnostics.push(
            rule.diagnostic(
                Severity::Warning,
                Code::DuplicateSubset,
                &format!("spec.subsets[{index}].name"),
                message,
            )
            .with_hint("give it another name, or take it out of one of the rules"),
        );
    }
    match (&rule.spec.traffic_policy, merged.policy) {
        (Some(_), Some(owner)) => {
            let message = format!(
                "this policy has no effect: DestinationRule {} has one for {host} too, and that one counts: {}",
                named(owner),
                why(&owner.meta, &rule.meta)
            );
            diagnostics.push(
                rule.diagnostic(Severity::Warning, Code::ShadowedObject, "spec.trafficPolicy", message)
                    .with_hint("put both into one rule"),
            );
        }
        (Some(_), None) => merged.policy = Some(rule),
        (None, _) => {}
    }
}
