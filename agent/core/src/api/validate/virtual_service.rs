//! Rules for a VirtualService as a whole.

use super::http_route::RouteKind;
use super::{Checker, http_route, l4, reachability, values};
use crate::api::names::is_host_label;
use crate::api::virtual_service::{Destination, VirtualService};
use crate::diagnostic::Code;
use crate::host::HostKey;

pub(super) fn check(check: &mut Checker<'_>, spec: &VirtualService) {
    let is_delegate = spec.hosts.is_empty();
    if is_delegate {
        for (field, words, is_set) in [
            ("gateways", "gateways", !spec.gateways.is_empty()),
            ("tls", "tls route", !spec.tls.is_empty()),
            ("tcp", "tcp route", !spec.tcp.is_empty()),
        ] {
            if is_set {
                let message = format!("delegate virtual service must have no {words} specified");
                check.error_at(field, Code::InvalidDelegate, message);
                check.hint("a VirtualService without hosts is a delegate");
            }
        }
    }
    hosts(check, spec);
    values::gateway_names(check, &spec.gateways);
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        check.error(Code::MissingAction, "http, tcp or tls must be provided in virtual service");
    }
    check.items("http", &spec.http, |check, route| {
        let kind = match (is_delegate, &route.delegate) {
            (true, _) => RouteKind::Delegate,
            (false, Some(_)) => RouteKind::Root,
            (false, None) => RouteKind::Independent,
        };
        http_route::check(check, route, kind, &spec.gateways);
    });
    check.items("tls", &spec.tls, |check, route| l4::tls(check, route, spec));
    check.items("tcp", &spec.tcp, l4::tcp);
    values::export_to(check, &spec.export_to, values::ExportUse::Rules);
    reachability::check(check, spec);
}

/// Whether rules of the object hold for traffic of pods.
fn is_in_mesh(spec: &VirtualService) -> bool {
    spec.gateways.is_empty() || spec.gateways.iter().any(|gateway| gateway == "mesh")
}

fn hosts(check: &mut Checker<'_>, spec: &VirtualService) {
    let mut all_valid = true;
    check.items("hosts", &spec.hosts, |check, host| {
        if host == "*" && is_in_mesh(spec) {
            all_valid = false;
            let message = "wildcard host * is not allowed for virtual services bound to the mesh gateway";
            check.error(Code::InvalidHost, message);
        } else if let Some(error) = host_error(host, spec).filter(|_| !values::is_ip(host)) {
            all_valid = false;
            check.error(Code::InvalidHost, error);
        } else {
            values::warn_partial_wildcard(check, host);
        }
    });
    if !all_valid {
        return;
    }
    let keys: Vec<_> = spec.hosts.iter().map(|host| (host, HostKey::parse(host))).collect();
    for (index, (first, key)) in keys.iter().enumerate() {
        for (second, other) in keys.iter().skip(index + 1) {
            if !(key.covers(other) || other.covers(key)) {
                continue;
            }
            let message = format!("duplicate hosts in virtual service: {first} & {second}");
            // Case does not matter to requests; Istio's admission compares with it.
            if differ_in_case(first, second) {
                check.warn_at("hosts", Code::DuplicateHost, message);
            } else {
                check.error_at("hosts", Code::DuplicateHost, message);
            }
        }
    }
}

/// Whether two hosts that cover each other would not, were case to matter.
fn differ_in_case(a: &str, b: &str) -> bool {
    let plain = |host: &str| host.strip_prefix('*').unwrap_or(host).to_owned();
    let (a, b) = (plain(a), plain(b));
    !(a.ends_with(&b) || b.ends_with(&a))
}

/// Why a text is no host of this object. Gateways that pass TLS through take SNIs of the form `outbound_.80_.v1_.host`.
pub(super) fn host_error(host: &str, spec: &VirtualService) -> Option<String> {
    let is_cluster_sni = !is_in_mesh(spec) && !spec.tls.is_empty() && host.starts_with("outbound_.");
    if is_cluster_sni {
        let plain: String = host.chars().filter(|&c| c != '_').collect();
        // `outbound_.80_._.host`: an empty subset leaves an empty label.
        return values::wildcard_domain_error(&plain.replace("..", "."));
    }
    values::wildcard_domain_error(host)
}

/// A destination of any rule.
pub(super) fn destination(check: &mut Checker<'_>, destination: Option<&Destination>) {
    let Some(destination) = destination else { return };
    let host = &destination.host;
    if host == "*" {
        check.error_at("host", Code::InvalidDestination, "invalid destination host *");
    } else if let Some(error) = values::wildcard_domain_error(host) {
        check.error_at("host", Code::InvalidDestination, error);
        if values::is_ip(host) {
            check.hint("name a service; for an address, make a ServiceEntry with resolution STATIC");
        }
    }
    if !destination.subset.is_empty() {
        check.field("subset", |check| subset_name(check, &destination.subset));
    }
    if let Some(port) = &destination.port {
        check.field("port.number", |check| values::port(check, port.number));
    }
}

pub(super) fn subset_name(check: &mut Checker<'_>, name: &str) {
    if name.is_empty() {
        check.error(Code::InvalidSubset, "subset name cannot be empty");
    } else if !is_host_label(name) {
        check.error(Code::InvalidSubset, format!("subset name is invalid: {name}"));
    }
}

/// The weights of the destinations of one rule.
pub(super) fn weights(check: &mut Checker<'_>, weights: &[i32]) {
    check.items("route", weights, |check, weight| {
        if *weight < 0 {
            check.error_at("weight", Code::InvalidWeight, format!("weight {weight} < 0"));
        }
    });
    if weights.len() > 1 && weights.iter().map(|&weight| i64::from(weight)).sum::<i64>() == 0 {
        check.error_at("route", Code::InvalidWeight, "total destination weight = 0");
        check.hint("a destination without weight has weight 0 as soon as there are several");
    }
}
