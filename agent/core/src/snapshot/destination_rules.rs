//! DestinationRules, and which of them governs a service for a client.
//!
//! Look-up: istio-semantics section 3 (Istio: `PushContext.destinationRule`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::visibility::Visibility;
use crate::api::destination_rule::TrafficPolicy;
use crate::client::Client;
use crate::host::{HostIndex, HostKey};

/// All DestinationRules, and what finds them.
#[derive(Debug, Default)]
pub(crate) struct DestinationRules {
    /// By namespace; within one, rules for one host are merged and the oldest come first.
    rules: Vec<Arc<CompiledDestinationRule>>,
    by_namespace: HashMap<Arc<str>, HostIndex>,
    by_host: HostIndex,
}

/// One rule, or several for the same host, merged.
#[derive(Debug, Clone)]
pub(crate) struct CompiledDestinationRule {
    pub(crate) host: HostKey,
    pub(crate) visibility: Visibility,
    /// Only clients of the rule's namespace with these labels.
    pub(crate) selector: Option<BTreeMap<String, String>>,
    pub(crate) policy: Option<Arc<SourcedPolicy>>,
    pub(crate) subsets: Vec<Arc<CompiledSubset>>,
}

#[derive(Debug)]
pub(crate) struct CompiledSubset {
    pub(crate) name: Arc<str>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) policy: Option<Arc<SourcedPolicy>>,
}

/// A policy and the places its blocks were written.
#[derive(Debug)]
pub(crate) struct SourcedPolicy {
    pub(crate) policy: Arc<TrafficPolicy>,
    /// `DestinationRule default/reviews subset v2`.
    pub(crate) from: Arc<str>,
    pub(crate) file: Option<Arc<str>>,
    /// Block name to line; a block of a port has `port/block`.
    pub(crate) lines: BTreeMap<String, u32>,
}

impl DestinationRules {
    /// Of rules by namespace, in the order of [`DestinationRules::rules`].
    pub(crate) fn new(by_namespace: BTreeMap<Arc<str>, Vec<Arc<CompiledDestinationRule>>>) -> Self {
        let mut all = Self::default();
        for (namespace, rules) in by_namespace {
            let index = all.by_namespace.entry(namespace).or_default();
            for (position, rule) in (all.rules.len() as u32..).zip(&rules) {
                index.insert(&rule.host, position);
                all.by_host.insert(&rule.host, position);
            }
            all.rules.extend(rules);
        }
        all
    }

    /// The rule for a service as `client` sees it: its own namespace, the service's, the root namespace; the first that has any
    /// rule for the host decides, by its most specific one.
    pub(crate) fn find(
        &self,
        client: &Client,
        host: &HostKey,
        service_namespace: &str,
        root_namespace: &str,
    ) -> Option<&CompiledDestinationRule> {
        let own: &str = &client.namespace;
        let in_namespace = |namespace: &str, usable: &dyn Fn(&CompiledDestinationRule) -> bool| {
            self.by_namespace.get(namespace)?.covering(host).find_map(|positions| {
                let rules = self.at(positions).filter(|rule| usable(rule)).filter(|rule| {
                    rule.selector.as_ref().is_none_or(|it| namespace == own && client.has_labels(it))
                });
                // The oldest of the most specific; one that selects the client beats one for all.
                rules.min_by_key(|rule| rule.selector.is_none())
            })
        };
        let visible = |rule: &CompiledDestinationRule| rule.visibility.sees(own);
        // Clients of the root namespace are not governed by rules meant as everyone's default before the service's own.
        let private = |rule: &CompiledDestinationRule| rule.visibility.is_private_to(own);
        let first =
            if own == root_namespace { in_namespace(own, &private) } else { in_namespace(own, &visible) };
        first
            .or_else(|| {
                (service_namespace != own).then(|| in_namespace(service_namespace, &visible)).flatten()
            })
            .or_else(|| in_namespace(root_namespace, &visible))
    }

    /// All rules for a host, whoever sees them: the most specific first, then by namespace and age.
    pub(crate) fn covering<'a>(
        &'a self,
        host: &HostKey,
    ) -> impl Iterator<Item = &'a CompiledDestinationRule> {
        self.by_host.covering(host).flat_map(|positions| self.at(positions))
    }

    /// The hosts of rules that ask for a warm-up somewhere.
    pub(crate) fn warming_up(&self) -> impl Iterator<Item = &HostKey> {
        self.rules.iter().filter(|rule| rule.policies().any(has_warmup)).map(|rule| &rule.host)
    }

    fn at<'a>(&'a self, positions: &'a [u32]) -> impl Iterator<Item = &'a CompiledDestinationRule> {
        positions.iter().filter_map(|&position| self.rules.get(position as usize)).map(|rule| &**rule)
    }
}

impl CompiledDestinationRule {
    fn policies(&self) -> impl Iterator<Item = &TrafficPolicy> {
        let of_subsets = self.subsets.iter().filter_map(|subset| subset.policy.as_ref());
        self.policy.iter().chain(of_subsets).map(|sourced| &*sourced.policy)
    }
}

fn has_warmup(policy: &TrafficPolicy) -> bool {
    let of_ports = policy.port_level_settings.iter().filter_map(|port| port.load_balancer.as_ref());
    policy
        .load_balancer
        .iter()
        .chain(of_ports)
        .any(|settings| settings.warmup.is_some() || settings.warmup_duration_secs.is_some())
}
