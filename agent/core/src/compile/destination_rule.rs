//! DestinationRules by namespace; rules of one host merged as Istio merges them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::by_age;
use crate::api::destination_rule::{DestinationRule, TrafficPolicy};
use crate::api::meta::Resource;
use crate::host::{self, HostKey};
use crate::inputs::Inputs;
use crate::snapshot::{CompiledDestinationRule, CompiledSubset, SourcedPolicy, State, Visibility};

pub(super) fn compile(inputs: &Inputs, state: &mut State) {
    for resource in by_age(&inputs.destination_rules) {
        let namespace: Arc<str> = resource.meta.namespace.as_str().into();
        let rule = one(resource, state);
        let rules = state.destination_rules.by_namespace.entry(namespace).or_default();
        // Only rules for the same clients merge; others stay apart, and the older is found first.
        let same = rules.iter_mut().find(|it| {
            it.host == rule.host && it.visibility == rule.visibility && it.selector == rule.selector
        });
        match same {
            None => rules.push(rule),
            Some(older) => {
                for subset in rule.subsets {
                    if !older.subsets.iter().any(|it| it.name == subset.name) {
                        older.subsets.push(subset);
                    }
                }
                older.policy = older.policy.take().or(rule.policy);
            }
        }
    }
}

fn one(resource: &Resource<DestinationRule>, state: &State) -> CompiledDestinationRule {
    let (meta, spec) = (&resource.meta, &resource.spec);
    let name = format!("DestinationRule {}/{}", meta.namespace, meta.name);
    CompiledDestinationRule {
        host: HostKey::parse(&host::complete(&spec.host, &meta.namespace, &state.mesh.cluster_domain)),
        visibility: Visibility::of(&spec.export_to, &meta.namespace, &state.mesh.destination_rule_export),
        selector: spec
            .workload_selector
            .as_ref()
            .map(|it| it.match_labels.clone())
            .filter(|it| !it.is_empty()),
        policy: spec
            .traffic_policy
            .as_ref()
            .map(|it| sourced(resource, it, name.clone(), "spec.trafficPolicy")),
        subsets: spec
            .subsets
            .iter()
            .enumerate()
            .map(|(index, subset)| CompiledSubset {
                name: subset.name.as_str().into(),
                labels: subset.labels.clone(),
                policy: subset.traffic_policy.as_ref().map(|it| {
                    let field = format!("spec.subsets[{index}].trafficPolicy");
                    sourced(resource, it, format!("{name} subset {}", subset.name), &field)
                }),
            })
            .collect(),
    }
}

fn sourced(
    resource: &Resource<DestinationRule>,
    policy: &TrafficPolicy,
    from: String,
    field: &str,
) -> SourcedPolicy {
    const BLOCKS: [&str; 7] = [
        "connectionPool",
        "loadBalancer",
        "outlierDetection",
        "proxyProtocol",
        "retryBudget",
        "tls",
        "tunnel",
    ];
    let mut lines = BTreeMap::new();
    for block in BLOCKS {
        lines.extend(resource.origin.line(&format!("{field}.{block}")).map(|line| (block.to_owned(), line)));
        for (index, port) in policy.port_level_settings.iter().enumerate() {
            let number = port.port.as_ref().map_or(0, |port| port.number);
            let line = resource.origin.line(&format!("{field}.portLevelSettings[{index}].{block}"));
            lines.extend(line.map(|line| (format!("{number}/{block}"), line)));
        }
    }
    SourcedPolicy {
        policy: policy.clone(),
        from: from.into(),
        file: resource.origin.file().map(Into::into),
        lines,
    }
}
