//! Delegation: a root's rule whose action is the list of another VirtualService (istio-semantics section 2.10).
//!
//! The delegate's rules stand at the root rule's place, each with the conditions of both. Istio: `mergeHTTPRoutes`.

use std::collections::BTreeMap;

use super::http_route::RuleContext;
use super::virtual_service::completed;
use crate::api::http_match::HttpMatchRequest;
use crate::api::http_route::Delegate;
use crate::api::meta::{Key, Resource};
use crate::api::string_match::{Condition, StringMatch};
use crate::api::virtual_service::{HttpRoute, VirtualService};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::inputs::Inputs;
use crate::snapshot::{State, Visibility};

/// Whom a rule of `root` delegates to.
pub(super) fn key(root: &Resource<VirtualService>, target: &Delegate) -> Key {
    let namespace = if target.namespace.is_empty() {
        root.meta.namespace.clone()
    } else {
        target.namespace.as_str().into()
    };
    Key::new(namespace, &*target.name)
}

/// The rules that a delegating rule stands for. A delegate that does not exist, or that the root's namespace does not see,
/// costs this rule only.
pub(super) fn expand<'a>(
    root: &Resource<VirtualService>,
    index: usize,
    rule: &HttpRoute,
    target: &Delegate,
    inputs: &'a Inputs,
    state: &State,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<(HttpRoute, RuleContext<'a>)> {
    let key = key(root, target);
    let namespace = &key.namespace;
    let found = inputs.virtual_services.get(&key).filter(|delegate| {
        let export = Visibility::of(&delegate.spec.export_to, namespace, &state.mesh.virtual_service_export);
        delegate.spec.hosts.is_empty() && export.sees(&root.meta.namespace)
    });
    let Some(delegate) = found else {
        diagnostics.push(root.diagnostic(
            Severity::Warning,
            Code::UnknownDelegate,
            &format!("spec.http[{index}].delegate.name"),
            format!("no VirtualService {namespace}/{} without hosts that this namespace sees; the rule is left out", target.name),
        ));
        return Vec::new();
    };
    let base = completed(rule, root, index, state, diagnostics);
    let by = format!("VirtualService/{}/{}#{index}", root.meta.namespace, root.meta.name);
    let mut merged = Vec::new();
    for (at, own) in delegate.spec.http.iter().enumerate() {
        let own = completed(own, delegate, at, state, diagnostics);
        let Some((matches, entries)) = merge_matches(&base.matches, &own.matches) else {
            diagnostics.push(delegate.diagnostic(
                Severity::Warning,
                Code::Unreachable,
                &format!("spec.http[{at}].match"),
                format!("conflicts with the conditions of {by}, so the rule is left out there"),
            ));
            continue;
        };
        let context = RuleContext {
            resource: delegate,
            index: at,
            entries: Some(entries),
            delegated_by: Some(by.as_str().into()),
        };
        merged.push((merge(&base, own, matches), context));
    }
    merged
}

/// A delegate's rule with what it leaves open taken from the root, field by whole field.
fn merge(root: &HttpRoute, own: HttpRoute, matches: Vec<HttpMatchRequest>) -> HttpRoute {
    let name = match (&*root.name, &*own.name) {
        (root, "") => root.to_owned(),
        ("", own) => own.to_owned(),
        (root, own) => format!("{root}-{own}"),
    };
    let mirrors_itself = own.mirror.is_some() || !own.mirrors.is_empty();
    HttpRoute {
        name,
        matches,
        delegate: None,
        rewrite: own.rewrite.or_else(|| root.rewrite.clone()),
        direct_response: own.direct_response.or_else(|| root.direct_response.clone()),
        timeout: own.timeout.or(root.timeout),
        retries: own.retries.or_else(|| root.retries.clone()),
        fault: own.fault.or_else(|| root.fault.clone()),
        mirror: if mirrors_itself { own.mirror } else { root.mirror.clone() },
        mirrors: if mirrors_itself { own.mirrors } else { root.mirrors.clone() },
        mirror_percent: own.mirror_percent.or(root.mirror_percent),
        mirror_percentage: own.mirror_percentage.or_else(|| root.mirror_percentage.clone()),
        cors_policy: own.cors_policy.or_else(|| root.cors_policy.clone()),
        headers: own.headers.or_else(|| root.headers.clone()),
        route: own.route,
        redirect: own.redirect,
    }
}

type Merged = (Vec<HttpMatchRequest>, Vec<Option<usize>>);

/// Every pair of entries without conflict; an empty side takes the other's. `None`: an entry of the delegate fits no entry of
/// the root, and the rule falls away whole.
fn merge_matches(root: &[HttpMatchRequest], own: &[HttpMatchRequest]) -> Option<Merged> {
    if root.is_empty() || own.is_empty() {
        let entries = (0..own.len()).map(Some).chain(std::iter::repeat_n(None, root.len())).collect();
        return Some((if own.is_empty() { root.to_vec() } else { own.to_vec() }, entries));
    }
    let (mut matches, mut entries) = (Vec::new(), Vec::new());
    for (at, entry) in own.iter().enumerate() {
        let before = matches.len();
        matches
            .extend(root.iter().filter(|root| !conflict(root, entry)).map(|root| merge_entry(root, entry)));
        if matches.len() == before {
            return None;
        }
        entries.resize(matches.len(), Some(at));
    }
    Some((matches, entries))
}

fn merge_entry(root: &HttpMatchRequest, own: &HttpMatchRequest) -> HttpMatchRequest {
    let name = match (&*root.name, &*own.name) {
        (root, "") => root.to_owned(),
        ("", own) => own.to_owned(),
        (root, own) => format!("{root}-{own}"),
    };
    let or = |own: &str, root: &str| if own.is_empty() { root.to_owned() } else { own.to_owned() };
    HttpMatchRequest {
        name,
        uri: own.uri.clone().or_else(|| root.uri.clone()),
        scheme: own.scheme.clone().or_else(|| root.scheme.clone()),
        method: own.method.clone().or_else(|| root.method.clone()),
        authority: own.authority.clone().or_else(|| root.authority.clone()),
        headers: union(&root.headers, &own.headers),
        port: own.port.or(root.port),
        source_labels: union(&root.source_labels, &own.source_labels),
        gateways: if own.gateways.is_empty() { root.gateways.clone() } else { own.gateways.clone() },
        query_params: union(&root.query_params, &own.query_params),
        ignore_uri_case: own.ignore_uri_case || root.ignore_uri_case,
        without_headers: union(&root.without_headers, &own.without_headers),
        source_namespace: or(&own.source_namespace, &root.source_namespace),
        stat_prefix: or(&own.stat_prefix, &root.stat_prefix),
    }
}

/// Both; the delegate's value of a key wins.
fn union<T: Clone>(root: &BTreeMap<String, T>, own: &BTreeMap<String, T>) -> BTreeMap<String, T> {
    let mut union = root.clone();
    union.extend(own.clone());
    union
}

/// Whether no request can meet both entries, or Istio would not try to find out (Istio: `hasConflict`).
fn conflict(root: &HttpMatchRequest, own: &HttpMatchRequest) -> bool {
    let strings = [
        (&root.uri, &own.uri),
        (&root.scheme, &own.scheme),
        (&root.method, &own.method),
        (&root.authority, &own.authority),
    ];
    if strings.into_iter().any(|(root, own)| string_conflict(root.as_ref(), own.as_ref())) {
        return true;
    }
    let maps = [
        (&root.headers, &own.headers),
        (&root.without_headers, &own.without_headers),
        (&root.query_params, &own.query_params),
    ];
    let map_conflict = |(root, own): (&BTreeMap<String, StringMatch>, &BTreeMap<String, StringMatch>)| {
        own.iter()
            .any(|(key, value)| root.get(key).is_some_and(|root| string_conflict(Some(root), Some(value))))
    };
    if maps.into_iter().any(map_conflict) {
        return true;
    }
    let labels = own
        .source_labels
        .iter()
        .any(|(key, value)| root.source_labels.get(key).is_some_and(|it| it != value));
    // Also where one of them says nothing of the path.
    let case = root.ignore_uri_case != own.ignore_uri_case;
    let port = matches!((root.port, own.port), (Some(root), Some(own)) if root != own);
    let namespace = !root.source_namespace.is_empty() && root.source_namespace != own.source_namespace;
    let gateways = !root.gateways.is_empty() && !own.gateways.iter().all(|it| root.gateways.contains(it));
    labels || case || port || namespace || gateways
}

fn string_conflict(root: Option<&StringMatch>, own: Option<&StringMatch>) -> bool {
    let (Some(root), Some(own)) = (root, own) else { return false };
    match (root.condition(), own.condition()) {
        (Condition::Regex(_), _) | (_, Condition::Regex(_)) => true,
        (Condition::Exact(root), Condition::Exact(own)) => root != own,
        (Condition::Exact(_), Condition::Prefix(_)) => true,
        (Condition::Prefix(root), Condition::Prefix(own) | Condition::Exact(own)) => !own.starts_with(root),
        (Condition::Present, _) | (_, Condition::Present) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn entries_conflict_where_istio_does_not_merge_them() {
        let entry =
            |value: &Value| -> HttpMatchRequest { serde_json::from_value(value.clone()).expect("an entry") };
        let path = |kind: &str, text: &str| json!({"uri": {kind: text}});
        for (root, own, want) in [
            (json!({}), path("prefix", "/a"), false),
            (path("prefix", "/a"), path("prefix", "/ab"), false),
            (path("prefix", "/a"), path("exact", "/a/b"), false),
            (path("prefix", "/a/b"), path("prefix", "/a"), true),
            (path("exact", "/a"), path("prefix", "/a"), true),
            (path("exact", "/a"), path("exact", "/a"), false),
            (path("regex", "/a.*"), path("exact", "/a"), true),
            (path("regex", "/a.*"), json!({}), false),
            (json!({"ignoreUriCase": true, "uri": {"prefix": "/a"}}), path("prefix", "/a"), true),
            (json!({"ignoreUriCase": true, "uri": {"prefix": "/a"}}), json!({"port": 80}), true),
            (json!({"ignoreUriCase": true}), json!({"ignoreUriCase": true}), false),
            (json!({"port": 80}), json!({"port": 81}), true),
            (json!({"port": 80}), json!({}), false),
            (json!({"sourceNamespace": "a"}), json!({}), true),
            (json!({}), json!({"sourceNamespace": "a"}), false),
            (json!({"gateways": ["g"]}), json!({}), false),
            (json!({"gateways": ["g"]}), json!({"gateways": ["g", "h"]}), true),
            (json!({"sourceLabels": {"a": "1"}}), json!({"sourceLabels": {"b": "1"}}), false),
            (json!({"sourceLabels": {"a": "1"}}), json!({"sourceLabels": {"a": "2"}}), true),
        ] {
            assert_eq!(conflict(&entry(&root), &entry(&own)), want, "{root} with {own}");
        }
    }
}
