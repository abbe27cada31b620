//! Rules for an AuthorizationPolicy (Istio: `ValidateAuthorizationPolicy`, `pkg/config/security`).

use std::net::IpAddr;

use super::{Checker, authentication};
use crate::api::security::{Action, AuthorizationPolicy, Condition, Operation, Rule, Source};
use crate::diagnostic::Code;
use crate::host::Cidr;

pub(super) fn check(check: &mut Checker<'_>, policy: &AuthorizationPolicy) {
    authentication::scope(check, policy.selector.as_ref(), policy.target_ref.as_ref(), &policy.target_refs);
    let action = policy.action;
    if policy.rules.is_empty() && matches!(action, Action::Deny | Action::Custom) {
        let message = format!(
            "{} action without `rules` is meaningless as it will never be triggered, add an empty rule `{{}}` if you want \
             it be triggered for every request",
            action.name()
        );
        check.error(Code::InvalidPolicy, message);
    }
    let provider = policy.provider.as_ref();
    if action == Action::Custom && !policy.rules.is_empty() && provider.is_none_or(|it| it.name.is_empty()) {
        check.error(Code::InvalidPolicy, "`provider.name` must not be empty");
    }
    if action != Action::Custom && provider.is_some() {
        let message = format!("`provider` must not be with non CUSTOM action, found {}", action.name());
        check.error_at("provider", Code::InvalidPolicy, message);
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        check.field(&format!("rules[{index}]"), |check| self::rule(check, rule, index, action));
    }
}

fn rule(check: &mut Checker<'_>, rule: &Rule, index: usize, action: Action) {
    check.items("from", &rule.from, |check, from| match &from.source {
        None => {
            check.error(Code::InvalidPolicy, format!("`from.source` must not be nil, found at rule {index}"));
        }
        Some(source) => check.field("source", |check| self::source(check, source, index, action)),
    });
    check.items("to", &rule.to, |check, to| match &to.operation {
        None => {
            check
                .error(Code::InvalidPolicy, format!("`to.operation` must not be nil, found at rule {index}"));
        }
        Some(operation) => check.field("operation", |check| self::operation(check, operation, index)),
    });
    check.items("when", &rule.when, |check, condition| self::condition(check, condition, action));
    let sources: Vec<_> = rule.from.iter().filter_map(|from| from.source.as_ref()).collect();
    let operations: Vec<_> = rule.to.iter().filter_map(|to| to.operation.as_ref()).collect();
    let from_http_only = !sources.is_empty() && !sources.iter().any(|source| is_of_connection(source));
    let to_http_only =
        !operations.is_empty() && operations.iter().all(|it| it.ports.is_empty() && it.not_ports.is_empty());
    if action == Action::Deny && (to_http_only || (from_http_only && operations.is_empty())) {
        check.warn(
            Code::NoEffect,
            "configured AuthorizationPolicy will deny all traffic to TCP ports under its scope due to the use of only HTTP \
             attributes in a DENY rule; it is recommended to explicitly specify the port",
        );
    }
}

/// Whether something of it can be told without reading HTTP.
fn is_of_connection(source: &Source) -> bool {
    [
        &source.principals,
        &source.not_principals,
        &source.namespaces,
        &source.not_namespaces,
        &source.service_accounts,
        &source.not_service_accounts,
        &source.ip_blocks,
        &source.not_ip_blocks,
        &source.remote_ip_blocks,
        &source.not_remote_ip_blocks,
    ]
    .iter()
    .any(|list| !list.is_empty())
}

/// A list of a source: its field, how Istio calls it, what its values are, and whether CUSTOM may use it.
type Listed<'a> = (&'static str, &'static str, &'a Vec<String>, Value, bool);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Text,
    Address,
    ServiceAccount,
    TrustDomain,
}

fn source(check: &mut Checker<'_>, source: &Source, index: usize, action: Action) {
    let lists: [Listed<'_>; 14] = [
        ("principals", "Principals", &source.principals, Value::Text, false),
        ("notPrincipals", "NotPrincipals", &source.not_principals, Value::Text, false),
        ("requestPrincipals", "RequestPrincipals", &source.request_principals, Value::Text, false),
        ("notRequestPrincipals", "NotRequestPrincipals", &source.not_request_principals, Value::Text, false),
        ("namespaces", "Namespaces", &source.namespaces, Value::Text, false),
        ("notNamespaces", "NotNamespaces", &source.not_namespaces, Value::Text, false),
        ("serviceAccounts", "ServiceAccounts", &source.service_accounts, Value::ServiceAccount, false),
        (
            "notServiceAccounts",
            "NotServiceAccounts",
            &source.not_service_accounts,
            Value::ServiceAccount,
            false,
        ),
        ("ipBlocks", "IpBlocks", &source.ip_blocks, Value::Address, true),
        ("notIpBlocks", "NotIpBlocks", &source.not_ip_blocks, Value::Address, true),
        ("remoteIpBlocks", "RemoteIpBlocks", &source.remote_ip_blocks, Value::Address, true),
        ("notRemoteIpBlocks", "NotRemoteIpBlocks", &source.not_remote_ip_blocks, Value::Address, true),
        ("trustDomains", "TrustDomains", &source.trust_domains, Value::TrustDomain, false),
        ("notTrustDomains", "NotTrustDomains", &source.not_trust_domains, Value::TrustDomain, false),
    ];
    if lists.iter().all(|(_, _, list, ..)| list.is_empty()) {
        check.error(Code::InvalidPolicy, format!("`from.source` must not be empty, found at rule {index}"));
    }
    let others = [&source.principals, &source.not_principals, &source.namespaces, &source.not_namespaces];
    let accounts = [&source.service_accounts, &source.not_service_accounts];
    if others.iter().any(|list| !list.is_empty()) && accounts.iter().any(|list| !list.is_empty()) {
        let message =
            format!("cannot set serviceAccounts with namespaces or principals, found at rule {index}");
        check.error(Code::InvalidPolicy, message);
    }
    for (field, key, list, value, is_custom) in lists {
        if action == Action::Custom && !is_custom && !list.is_empty() {
            let message = format!("From.{key} is currently not supported with CUSTOM action");
            check.error_at(field, Code::InvalidPolicy, message);
        }
        check.items(field, list, |check, text| {
            let error = match value {
                Value::Text => empty_error(key, text),
                Value::Address => empty_error(key, text).or_else(|| address_error(text)),
                Value::ServiceAccount => account_error(key, text),
                Value::TrustDomain => wildcard_error(key, text).or_else(|| {
                    text.contains('/')
                        .then(|| format!("trust domain must not contain '/', found in {key}: {text:?}"))
                }),
            };
            if let Some(error) = error {
                check.error(Code::InvalidPolicy, error);
            }
        });
        if value == Value::ServiceAccount && list.len() > 16 {
            check.error_at(field, Code::InvalidPolicy, "may not have more than 16 values");
        }
    }
}

fn operation(check: &mut Checker<'_>, operation: &Operation, index: usize) {
    let lists = [
        ("hosts", "Hosts", &operation.hosts),
        ("notHosts", "NotHosts", &operation.not_hosts),
        ("ports", "Ports", &operation.ports),
        ("notPorts", "NotPorts", &operation.not_ports),
        ("methods", "Methods", &operation.methods),
        ("notMethods", "NotMethods", &operation.not_methods),
        ("paths", "Paths", &operation.paths),
        ("notPaths", "NotPaths", &operation.not_paths),
    ];
    if lists.iter().all(|(.., list)| list.is_empty()) {
        check.error(Code::InvalidPolicy, format!("`to.operation` must not be empty, found at rule {index}"));
    }
    for (field, key, list) in lists {
        check.items(field, list, |check, text| {
            let error = empty_error(key, text).or_else(|| match key {
                "Ports" | "NotPorts" => port_error(text),
                "Paths" | "NotPaths" => path_error(key, text),
                _ => None,
            });
            if let Some(error) = error {
                check.error(Code::InvalidPolicy, error);
            }
        });
    }
}

fn condition(check: &mut Checker<'_>, condition: &Condition, action: Action) {
    let key = condition.key.as_str();
    if key.is_empty() {
        return check.error(Code::InvalidPolicy, "`key` must not be empty");
    }
    let is_custom = !matches!(
        key,
        "source.namespace" | "source.serviceAccount" | "source.trustDomain" | "source.principal"
    ) && !key.starts_with("request.auth.");
    if action == Action::Custom && !is_custom {
        let message = format!("{key} is currently not supported with CUSTOM action");
        check.error_at("key", Code::InvalidPolicy, message);
    }
    if condition.values.is_empty() && condition.not_values.is_empty() {
        let message = format!("at least one of `values` or `notValues` must be set for key {key}");
        return check.error(Code::InvalidPolicy, message);
    }
    for (field, word, values) in
        [("values", "value", &condition.values), ("notValues", "notValue", &condition.not_values)]
    {
        if let Some(error) = attribute_error(key, values).filter(|_| !values.is_empty()) {
            let message = format!("invalid `{word}` for `key` {key}: {error}");
            check.error_at(field, Code::InvalidPolicy, message);
        }
    }
}

/// Istio: `ValidateAttribute`.
fn attribute_error(key: &str, values: &[String]) -> Option<String> {
    let first = |error: &dyn Fn(&str) -> Option<String>| values.iter().find_map(|value| error(value));
    if let Some(error) = first(&|value| empty_error(key, value)) {
        return Some(error);
    }
    match key {
        "source.ip" | "remote.ip" | "destination.ip" => first(&address_error),
        "destination.port" => first(&port_error),
        "source.serviceAccount" => first(&|value| account_error(key, value)),
        "source.trustDomain" => first(&|value| wildcard_error(key, value)),
        "source.namespace"
        | "source.principal"
        | "request.auth.principal"
        | "request.auth.audiences"
        | "request.auth.presenter"
        | "connection.sni" => None,
        "destination.namespace" => Some(format!("attribute {key} is replaced by the metadata.namespace")),
        "destination.name" | "destination.user" => {
            Some(format!("deprecated attribute {key}: only supported in v1alpha1"))
        }
        _ if ["request.headers", "request.auth.claims", "experimental.envoy.filters."]
            .iter()
            .any(|prefix| key.starts_with(prefix)) =>
        {
            map_key_error(key)
        }
        _ if key.starts_with("destination.labels") => {
            Some(format!("attribute {key} is replaced by the workload selector"))
        }
        _ => Some(format!("unknown attribute: {key}")),
    }
}

fn map_key_error(key: &str) -> Option<String> {
    let is_map_key = key
        .strip_suffix(']')
        .and_then(|key| key.split_once('['))
        .is_some_and(|(map, inner)| !map.is_empty() && !inner.is_empty());
    (!is_map_key).then(|| format!("bad key ({key}): should have format a[b]"))
}

fn empty_error(key: &str, value: &str) -> Option<String> {
    value.is_empty().then(|| format!("empty value not allowed, found in {key}"))
}

fn wildcard_error(key: &str, value: &str) -> Option<String> {
    if value.is_empty() {
        return empty_error(key, value);
    }
    if value.matches('*').count() > 1 {
        return Some(format!("at most one wildcard is allowed, found in {key}: {value:?}"));
    }
    (value.contains('*') && !value.starts_with('*') && !value.ends_with('*'))
        .then(|| format!("wildcard is only allowed at the start or end, found in {key}: {value:?}"))
}

fn account_error(key: &str, value: &str) -> Option<String> {
    const FORM: &str = "expected format 'serviceAccount' or 'namespace/serviceAccount'";
    if value.is_empty() {
        return empty_error(key, value);
    }
    if value.contains('*') {
        return Some(format!("wildcard not allowed, found in {key}"));
    }
    if value.len() > 320 {
        return Some(format!("value cannot exceed 320 characters, found {value:?} in {key}"));
    }
    match value.split_once('/') {
        None => None,
        Some((_, account)) if account.contains('/') => Some(format!("{FORM}, found {value:?} in {key}")),
        Some(("", _)) => Some(format!("{FORM}, found empty namespace {value:?} in {key}")),
        Some((_, "")) => Some(format!("{FORM}, found empty serviceAccount {value:?} in {key}")),
        Some(_) => None,
    }
}

fn address_error(text: &str) -> Option<String> {
    if text.contains('/') {
        text.parse::<Cidr>().is_err().then(|| format!("bad CIDR range ({text})"))
    } else {
        text.parse::<IpAddr>().is_err().then(|| format!("bad IP address ({text})"))
    }
}

fn port_error(text: &str) -> Option<String> {
    text.parse::<u16>().is_err().then(|| format!("bad port ({text})"))
}

/// Istio: `CheckValidPathTemplate`.
fn path_error(key: &str, path: &str) -> Option<String> {
    let is_template = path.contains("{*}") || path.contains("{**}");
    let trimmed = path.trim_matches('/');
    let mut is_after_rest = false;
    for part in trimmed.split('/') {
        let problem = match part {
            "{*}" | "{**}" if is_after_rest => "{**} is not the last operator".to_owned(),
            "{*}" => continue,
            "{**}" => {
                is_after_rest = true;
                continue;
            }
            _ if part.contains(['{', '}']) => {
                "Contains '{' or '}' beyond a supported path template".to_owned()
            }
            _ if is_template && !is_literal(part) => {
                format!("Contains segment {part} with invalid string literal")
            }
            _ => continue,
        };
        return Some(format!("invalid or unsupported path {trimmed}, found in {key}. {problem}"));
    }
    None
}

fn is_literal(part: &str) -> bool {
    !part.is_empty()
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte))
}
