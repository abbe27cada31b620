//! DestinationRules, and which of them governs a service for a client.
//!
//! Look-up: istio-semantics section 3 (Istio: `PushContext.destinationRule`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::visibility::Visibility;
use crate::api::destination_rule::TrafficPolicy;
use crate::client::Client;
use crate::host::HostKey;

/// DestinationRules by namespace; within one, rules for one host are merged and the oldest come first.
#[derive(Debug, Default)]
pub(crate) struct DestinationRules {
    pub(crate) by_namespace: HashMap<Arc<str>, Vec<CompiledDestinationRule>>,
}

/// One rule, or several for the same host, merged.
#[derive(Debug)]
pub(crate) struct CompiledDestinationRule {
    pub(crate) host: HostKey,
    pub(crate) visibility: Visibility,
    /// Only clients of the rule's namespace with these labels.
    pub(crate) selector: Option<BTreeMap<String, String>>,
    pub(crate) policy: Option<SourcedPolicy>,
    pub(crate) subsets: Vec<CompiledSubset>,
}

#[derive(Debug)]
pub(crate) struct CompiledSubset {
    pub(crate) name: Arc<str>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) policy: Option<SourcedPolicy>,
}

/// A policy and the places its blocks were written.
#[derive(Debug)]
pub(crate) struct SourcedPolicy {
    pub(crate) policy: TrafficPolicy,
    /// `DestinationRule default/reviews subset v2`.
    pub(crate) from: Arc<str>,
    pub(crate) file: Option<Arc<str>>,
    /// Block name to line; a block of a port has `port/block`.
    pub(crate) lines: BTreeMap<String, u32>,
}

impl DestinationRules {
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
            let rules = self.by_namespace.get(namespace)?;
            rules
                .iter()
                .filter(|rule| rule.host.covers(host) && usable(rule))
                .filter(|rule| {
                    rule.selector.as_ref().is_none_or(|it| namespace == own && client.has_labels(it))
                })
                // The oldest of the most specific; one that selects the client beats one for all.
                .min_by_key(|rule| (rule.host.clone(), rule.selector.is_none()))
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
}
