//! Rules for single values: hosts, ports, durations, percentages, expressions, labels, names.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Checker;
use crate::api::duration::Duration;
use crate::api::names::{is_dns_label, is_host_label, is_label_key, is_label_value};
use crate::api::string_match::StringMatch;
use crate::api::virtual_service::Percent;
use crate::diagnostic::Code;
use crate::host::Cidr;
use crate::route::re2;

/// Why a name is no DNS name (Istio: `ValidateFQDN`).
pub(super) fn fqdn_error(name: &str) -> Option<String> {
    length_error(name).or_else(|| labels_error(name, name))
}

/// Why a name is neither a DNS name nor a wildcard (Istio: `ValidateWildcardDomain`).
pub(super) fn wildcard_domain_error(name: &str) -> Option<String> {
    if let Some(error) = length_error(name) {
        return Some(error);
    }
    let (first, rest) = name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)));
    if first == "*" {
        return rest.and_then(|rest| labels_error(rest, name));
    }
    // Istio lets `*foo` in, and matches it as text.
    let plain = first.strip_prefix("*-").or_else(|| first.strip_prefix('*')).unwrap_or(first);
    if plain != first && is_host_label(plain) {
        return rest.and_then(|rest| labels_error(rest, name));
    }
    labels_error(name, name)
}

fn length_error(name: &str) -> Option<String> {
    match name.len() {
        0 => Some("empty domain name not allowed".into()),
        1..=255 => None,
        _ => Some(format!("domain name {name:?} too long (max 255)")),
    }
}

fn labels_error(labels: &str, name: &str) -> Option<String> {
    let top = labels.rsplit('.').next().unwrap_or(labels);
    if !top.is_empty() && top.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(format!(
            "domain name {name:?} invalid (top level domain {top:?} cannot be all-numeric)"
        ));
    }
    // One empty label at the end is the root's.
    let labels = match labels.strip_suffix('.') {
        Some(rest) if !rest.is_empty() => rest,
        _ => labels,
    };
    let wrong = labels.split('.').find(|label| !is_host_label(label))?;
    Some(format!("domain name {name:?} invalid (label {wrong:?} invalid)"))
}

/// A host that no request can have: a wildcard that is not the whole first label.
pub(super) fn warn_partial_wildcard(check: &mut Checker<'_>, name: &str) {
    if is_partial_wildcard(name) {
        check.warn(Code::NoEffect, format!("partial wildcard {name:?} matches no host"));
        check.hint("a wildcard is the whole first label, as in *.example.com");
    }
}

pub(super) fn is_partial_wildcard(name: &str) -> bool {
    name.contains('*') && name != "*" && !name.starts_with("*.")
}

pub(super) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

pub(super) fn port(check: &mut Checker<'_>, number: u32) {
    if let Some(message) = port_error(number) {
        check.error(Code::InvalidPort, message);
    }
}

pub(super) fn port_error(number: u32) -> Option<String> {
    (!(1..=65_535).contains(&number)).then(|| format!("port number {number} must be in the range 1..65535"))
}

/// Istio: `ValidateDuration`.
pub(super) fn duration(check: &mut Checker<'_>, duration: Option<Duration>) {
    let Some(duration) = duration.map(Duration::get) else { return };
    if duration < std::time::Duration::from_millis(1) {
        check.error(Code::InvalidDuration, "duration must be greater than 1ms");
    } else if duration.subsec_nanos() % 1_000_000 != 0 {
        check.error(Code::InvalidDuration, "only durations to ms precision are supported");
    }
}

/// Istio: `validatePercentage`.
pub(super) fn percentage(check: &mut Checker<'_>, percentage: Option<&Percent>) {
    let Some(Percent { value }) = percentage else { return };
    if *value != 0.0 && !(0.0001..=100.0).contains(value) {
        let message = format!("percentage {value} is neither 0.0, nor in range [0.0001, 100.0]");
        check.error_at("value", Code::InvalidPercent, message);
    }
}

/// Whole per cent, 0 to 100.
pub(super) fn percent(check: &mut Checker<'_>, value: i32) {
    if !(0..=100).contains(&value) {
        check.error(Code::InvalidPercent, format!("percentage {value} is not in range 0..100"));
    }
}

/// An expression that has to match `whole`, or part of, a text. `place` is how Istio names it.
pub(super) fn regex(check: &mut Checker<'_>, expression: &str, place: &str, whole: bool) {
    if expression.is_empty() {
        return check.error(Code::InvalidRegex, format!("{place:?}: regex string match should not be empty"));
    }
    if expression.len() > 1024 {
        return check
            .error(Code::InvalidRegex, format!("{place:?}: regex is too large, max length allowed is 1024"));
    }
    let compiled = if whole { re2::full(expression) } else { re2::partial(expression) };
    if let Err(error) = compiled {
        let link = "Istio uses RE2 style regex-based match (https://github.com/google/re2/wiki/Syntax)";
        check.error(Code::InvalidRegex, format!("{place:?}: {error}; {link}"));
    }
}

/// A condition on a string. Only paths may have an empty prefix.
pub(super) fn string_match(check: &mut Checker<'_>, condition: Option<&StringMatch>, place: &str) {
    let Some(condition) = condition else { return };
    let StringMatch { exact, prefix, regex: expression } = condition;
    if usize::from(exact.is_some()) + usize::from(prefix.is_some()) + usize::from(expression.is_some()) > 1 {
        check.error(Code::InvalidMatch, format!("{place:?}: only one of exact, prefix and regex may be set"));
    }
    if prefix.as_deref() == Some("") && place != "uri" {
        check.error_at(
            "prefix",
            Code::InvalidMatch,
            format!("{place:?}: prefix string match should not be empty"),
        );
    }
    if let Some(expression) = expression {
        check.field("regex", |check| regex(check, expression, place, true));
    }
}

pub(super) fn labels(check: &mut Checker<'_>, labels: &BTreeMap<String, String>) {
    for (key, value) in labels {
        check.key(key, |check| {
            if !is_label_key(key) {
                check.error(Code::InvalidSelector, format!("invalid tag key: {key:?}"));
            }
            if !is_label_value(value) {
                check.error(Code::InvalidSelector, format!("invalid tag value: {value:?}"));
            }
        });
    }
}

/// Labels that select workloads. Wildcards are refused.
pub(super) fn selector(check: &mut Checker<'_>, labels: &BTreeMap<String, String>) {
    for (key, value) in labels {
        let pair = format!("{key}={value}");
        check.key(key, |check| {
            if key.is_empty() {
                check.error(
                    Code::InvalidSelector,
                    format!("empty key is not supported in selector: {pair:?}"),
                );
            }
            if pair.contains('*') {
                check
                    .error(Code::InvalidSelector, format!("wildcard is not supported in selector: {pair:?}"));
            }
        });
    }
    if labels.is_empty() {
        check.warn(Code::NoEffect, "workload selector specified without labels");
    }
}

pub(super) fn subnets(check: &mut Checker<'_>, name: &str, subnets: &[String]) {
    check.items(name, subnets, |check, subnet| {
        if !is_ip(subnet) && subnet.parse::<Cidr>().is_err() {
            check.error(Code::InvalidAddress, format!("{subnet:?} is not a valid IP address or CIDR"));
        }
    });
}

/// `[namespace/]name`, `mesh`, or the old dotted form.
pub(super) fn gateway_names(check: &mut Checker<'_>, names: &[String]) {
    // Istio stops to look after a name without namespace.
    let mut looks = true;
    check.items("gateways", names, |check, name| {
        if !looks {
            return;
        }
        let Some((namespace, gateway)) = name.split_once('/') else {
            looks = false;
            if let Some(error) = fqdn_error(name) {
                check.error(Code::InvalidGatewayName, error);
            } else if let Some((gateway, rest)) = name.split_once('.') {
                let namespace = rest.split('.').next().unwrap_or(rest);
                let better = format!("{namespace}/{gateway}");
                check.warn(
                    Code::LegacyGatewayName,
                    format!(
                        "using legacy gatewayName format {name:?}; prefer the <namespace>/<name> format: {better:?}"
                    ),
                );
            }
            return;
        };
        if namespace.is_empty() || gateway.is_empty() {
            return check.error(Code::InvalidGatewayName, "config namespace and gateway name cannot be empty");
        }
        if !is_dns_label(namespace) {
            check.error(Code::InvalidGatewayName, format!("invalid value for namespace: {namespace:?}"));
        }
        if !is_dns_label(gateway) {
            check.error(Code::InvalidGatewayName, format!("invalid value for gateway name: {gateway:?}"));
        }
    });
}

/// Whose exportTo it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExportUse {
    /// Of rules.
    Rules,
    /// Of a DestinationRule with a workloadSelector.
    OwnNamespaceOnly,
    /// Of a service, which may be there for nobody.
    Services,
}

/// Istio: `validateExportTo`.
pub(super) fn export_to(check: &mut Checker<'_>, entries: &[String], use_of: ExportUse) {
    let namespace = check.meta.namespace.clone();
    let mut seen: Vec<&str> = Vec::new();
    check.field("exportTo", |check| {
        for entry in entries {
            let key = if entry == "." { &*namespace } else { entry.as_str() };
            if seen.contains(&key) {
                let message = if key == entry {
                    format!("duplicate entries in exportTo for entry {entry}")
                } else {
                    format!("duplicate entries in exportTo: . and current namespace {namespace}")
                };
                check.error(Code::InvalidExportTo, message);
            } else if entry == "~" && use_of != ExportUse::Services {
                let message = "exportTo ~ (none) is not allowed for Istio configuration objects";
                check.error(Code::InvalidExportTo, message);
            } else if matches!(entry.as_str(), "." | "*" | "~") || is_dns_label(entry) {
                seen.push(key);
            } else {
                let message = "only .,*, or a valid DNS 1123 label is allowed as exportTo entry";
                check.error(Code::InvalidExportTo, message);
            }
        }
        if use_of == ExportUse::OwnNamespaceOnly && !seen.is_empty() {
            if !seen.contains(&&*namespace) {
                let message =
                    "destination rule with workload selector cannot have exportTo beyond current namespace";
                check.error(Code::InvalidExportTo, message);
            } else if seen.len() > 1 {
                let message =
                    "destination rule with workload selector cannot have multiple entries in exportTo";
                check.error(Code::InvalidExportTo, message);
            }
        }
        if entries.len() > 1 && seen.contains(&"*") {
            let message = "cannot have both public (*) and non-public exportTo values for a resource";
            check.error(Code::InvalidExportTo, message);
        }
        if entries.len() > 1 && seen.contains(&"~") {
            check.error(Code::InvalidExportTo, "cannot export service entry to no one (~) and someone");
        }
    });
}

/// A port's name: a DNS label.
pub(super) fn port_name(check: &mut Checker<'_>, name: &str) {
    if !is_dns_label(name) {
        check.error(Code::InvalidPort, format!("invalid port name: {name}"));
    }
}

/// A path of a unix socket, without the `unix://`.
pub(super) fn unix_path(check: &mut Checker<'_>, path: &str) {
    if path.is_empty() {
        check.error(Code::InvalidAddress, "unix address must not be empty");
    } else if !path.starts_with('@') && (!path.starts_with('/') || path.ends_with('/')) {
        check.error(Code::InvalidAddress, format!("{path} is not an absolute path to a file"));
    }
}
