//! DestinationRules by namespace; rules of one host merged as Istio merges them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::by_age;
use crate::api::destination_rule::{DestinationRule, TrafficPolicy};
use crate::api::meta::Resource;
use crate::host::{self, HostKey};
use crate::inputs::Inputs;
use crate::snapshot::{
    CompiledDestinationRule, CompiledSubset, DestinationRules, Mesh, SourcedPolicy, Visibility,
};

/// The DestinationRules of one compilation.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) all: Arc<DestinationRules>,
    /// Each rule by itself, by the allocation of its object, which the inputs keep.
    one: HashMap<usize, Arc<CompiledDestinationRule>>,
}

/// Makes those rules that are new, and keeps the others of `before`.
pub(super) fn compile(inputs: &Inputs, mesh: &Mesh, before: Option<(&Inputs, &Arc<Rules>)>) -> Arc<Rules> {
    if let Some((old, before)) = before
        && old.destination_rules.is_same(&inputs.destination_rules)
    {
        return before.clone();
    }
    let mut compiled = HashMap::new();
    let rules = by_age(&inputs.destination_rules).into_iter().map(|resource| {
        let address = Arc::as_ptr(resource).addr();
        let known = before.and_then(|(_, before)| before.one.get(&address).cloned());
        let rule = known.unwrap_or_else(|| Arc::new(one(resource, mesh)));
        compiled.insert(address, rule.clone());
        (&*resource.meta.namespace, rule)
    });
    let rules: Vec<_> = rules.collect();
    Arc::new(Rules { all: Arc::new(merge(&rules)), one: compiled })
}

/// Merges what belongs together, of rules with their namespaces, oldest first.
fn merge(rules: &[(&str, Arc<CompiledDestinationRule>)]) -> DestinationRules {
    let mut by_namespace: BTreeMap<Arc<str>, Vec<Arc<CompiledDestinationRule>>> = BTreeMap::new();
    let mut of_host: HashMap<(&str, &HostKey), Vec<usize>> = HashMap::new();
    for (namespace, rule) in rules {
        let merged = match by_namespace.get_mut(*namespace) {
            Some(merged) => merged,
            None => by_namespace.entry((*namespace).into()).or_default(),
        };
        let same_host = of_host.entry((namespace, &rule.host)).or_default();
        // Only rules for the same clients merge; others stay apart, and the older is found first.
        let same = same_host.iter().copied().find(|&at| {
            merged.get(at).is_some_and(|it| it.visibility == rule.visibility && it.selector == rule.selector)
        });
        match same.and_then(|at| merged.get_mut(at)) {
            None => {
                same_host.push(merged.len());
                merged.push(rule.clone());
            }
            Some(older) => unite(Arc::make_mut(older), rule),
        }
    }
    DestinationRules::new(by_namespace)
}

fn unite(older: &mut CompiledDestinationRule, rule: &CompiledDestinationRule) {
    for subset in &rule.subsets {
        if !older.subsets.iter().any(|it| it.name == subset.name) {
            older.subsets.push(subset.clone());
        }
    }
    older.policy = older.policy.take().or_else(|| rule.policy.clone());
}

fn one(resource: &Resource<DestinationRule>, mesh: &Mesh) -> CompiledDestinationRule {
    let (meta, spec) = (&resource.meta, &resource.spec);
    let name = format!("DestinationRule {}/{}", meta.namespace, meta.name);
    CompiledDestinationRule {
        host: HostKey::parse(&host::complete(&spec.host, &meta.namespace, &mesh.cluster_domain)),
        visibility: Visibility::of(&spec.export_to, &meta.namespace, &mesh.destination_rule_export),
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
            .map(|(index, subset)| {
                Arc::new(CompiledSubset {
                    name: subset.name.as_str().into(),
                    labels: subset.labels.clone(),
                    policy: subset.traffic_policy.as_ref().map(|it| {
                        let field = format!("spec.subsets[{index}].trafficPolicy");
                        sourced(resource, it, format!("{name} subset {}", subset.name), &field)
                    }),
                })
            })
            .collect(),
    }
}

fn sourced(
    resource: &Resource<DestinationRule>,
    policy: &Arc<TrafficPolicy>,
    from: String,
    field: &str,
) -> Arc<SourcedPolicy> {
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
    Arc::new(SourcedPolicy {
        policy: policy.clone(),
        from: from.into(),
        file: resource.origin.file().map(Into::into),
        lines,
    })
}
