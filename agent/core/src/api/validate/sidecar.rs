//! Rules for a Sidecar.

use super::gateway::HostUse;
use super::{Checker, connection_pool, gateway, service_entry, values, virtual_service};
use crate::api::gateway::{Port, ServerTlsMode};
use crate::api::sidecar::{
    CaptureMode, IstioEgressListener, IstioIngressListener, OutboundTrafficPolicyMode, Sidecar,
};
use crate::diagnostic::Code;
use crate::inventory::Protocol;

pub(super) fn check(check: &mut Checker<'_>, sidecar: &Sidecar) {
    if let Some(selector) = &sidecar.workload_selector {
        check.field("workloadSelector.labels", |check| {
            values::selector(check, &selector.labels);
            if selector.labels.is_empty() {
                check.hint("it selects all workloads of the namespace");
            }
        });
    }
    let is_empty = sidecar.egress.is_empty()
        && sidecar.ingress.is_empty()
        && sidecar.outbound_traffic_policy.is_none()
        && sidecar.inbound_connection_pool.is_none();
    if is_empty {
        return check.error(Code::EmptyPolicy, "sidecar: empty configuration provided");
    }
    let mut seen: Vec<u32> = Vec::new();
    check.items("ingress", &sidecar.ingress, |check, listener| {
        ingress(check, listener);
        unique_port(check, listener.port.as_ref(), &mut seen);
    });
    check.field("inboundConnectionPool", |check| {
        connection_pool::check(check, sidecar.inbound_connection_pool.as_ref());
    });
    seen.clear();
    let mut sockets: Vec<&str> = Vec::new();
    let last = sidecar.egress.len().saturating_sub(1);
    for (index, listener) in sidecar.egress.iter().enumerate() {
        check.field(&format!("egress[{index}]"), |check| {
            if listener.port.is_none() && index != last {
                let message =
                    "sidecar: the egress listener with empty port should be the last listener in the list";
                check.error(Code::InvalidSidecar, message);
            }
            egress(check, listener);
            if listener.port.as_ref().is_none_or(|port| port.number != 0) {
                unique_port(check, listener.port.as_ref(), &mut seen);
            } else if sockets.contains(&listener.bind.as_str()) {
                let message = "sidecar: unix domain socket values for listeners must be unique";
                check.error_at("bind", Code::InvalidSidecar, message);
            } else {
                sockets.push(&listener.bind);
            }
        });
    }
    if let Some(policy) = &sidecar.outbound_traffic_policy
        && let Some(proxy) = &policy.egress_proxy
    {
        check.field("outboundTrafficPolicy.egressProxy", |check| {
            // Without a word, REGISTRY_ONLY.
            if policy.mode != Some(OutboundTrafficPolicyMode::AllowAny) {
                let message =
                    "sidecar: egress_proxy must be set only with ALLOW_ANY outbound_traffic_policy mode";
                check.error(Code::InvalidSidecar, message);
            }
            if proxy.port.is_none() {
                check.error(Code::InvalidSidecar, "sidecar: egress_proxy port must be non-nil");
            }
            if let Some(error) = values::fqdn_error(&proxy.host) {
                check.error_at("host", Code::InvalidDestination, error);
            } else {
                virtual_service::destination(check, Some(proxy));
            }
        });
    }
    if let Some(policy) = &sidecar.outbound_traffic_policy
        && policy.mode == Some(OutboundTrafficPolicyMode::AllowAnyDynamicDns)
    {
        let message =
            "sidecar: ALLOW_ANY_DYNAMIC_DNS mode is only supported in MeshConfig, not in Sidecar resource";
        check.error_at("outboundTrafficPolicy.mode", Code::InvalidSidecar, message);
    }
}

fn unique_port(check: &mut Checker<'_>, port: Option<&Port>, seen: &mut Vec<u32>) {
    let Some(port) = port else { return };
    if seen.contains(&port.number) {
        check.error_at("port", Code::InvalidSidecar, "sidecar: ports on IP bound listeners must be unique");
    }
    seen.push(port.number);
}

/// The port and address of a listener. Only those towards services may be unix sockets.
fn port(check: &mut Checker<'_>, port: &Port, bind: &str, may_be_unix: bool) {
    let is_unix = may_be_unix && port.number == 0;
    check.field("port", |check| {
        if port.target_port > 0 {
            check.error_at("targetPort", Code::InvalidPort, "targetPort has no impact on Sidecars");
        }
        if !port.name.is_empty() {
            check.field("name", |check| values::port_name(check, &port.name));
        }
        service_entry::protocol(check, &port.protocol);
        if !is_unix {
            check.field("number", |check| values::port(check, port.number));
        }
    });
    check.field("bind", |check| match bind.strip_prefix("unix://") {
        Some(path) if is_unix => values::unix_path(check, path),
        _ if is_unix => check.error(
            Code::InvalidSidecar,
            "sidecar: ports with 0 value must have a unix domain socket bind address",
        ),
        _ if !bind.is_empty() && !values::is_ip(bind) => {
            check.error(Code::InvalidAddress, format!("{bind} is not a valid IP"));
        }
        _ => {}
    });
}

fn ingress(check: &mut Checker<'_>, listener: &IstioIngressListener) {
    match &listener.port {
        None => check.error(Code::InvalidSidecar, "sidecar: port is required for ingress listeners"),
        Some(port) => self::port(check, port, &listener.bind, false),
    }
    if !listener.default_endpoint.is_empty() {
        check.field("defaultEndpoint", |check| default_endpoint(check, &listener.default_endpoint));
    }
    let protocol = listener.port.as_ref().and_then(|port| Protocol::parse(&port.protocol));
    if let Some(tls) = &listener.tls {
        check.field("tls", |check| {
            if tls.https_redirect {
                check.error(Code::InvalidSidecar, "sidecar: httpsRedirect is not supported");
            }
            if !tls.subject_alt_names.is_empty() {
                check.error(Code::InvalidSidecar, "sidecar: subjectAltNames is not supported in ingress tls");
            }
            if !tls.credential_name.is_empty() {
                check.error(Code::InvalidSidecar, "sidecar: credentialName is not currently supported");
            }
            for (field, is_set) in [
                ("credentialNames", !tls.credential_names.is_empty()),
                ("tls_certificates", !tls.tls_certificates.is_empty()),
            ] {
                if is_set {
                    let message = format!("sidecar: {field} is not currently supported");
                    check.error(Code::InvalidSidecar, message);
                }
            }
            let mode = match tls.mode {
                ServerTlsMode::IstioMutual => Some("ISTIO_MUTUAL"),
                ServerTlsMode::AutoPassthrough => Some("AUTO_PASSTHROUGH"),
                _ => None,
            };
            if let Some(mode) = mode {
                let message =
                    format!("configuration is invalid: cannot set mode to {mode} in sidecar ingress tls");
                check.error_at("mode", Code::InvalidSidecar, message);
            }
            if !protocol.is_some_and(Protocol::is_tls) {
                let message = "server cannot have TLS settings for non HTTPS/TLS ports";
                check.error(Code::InvalidTls, message);
            }
            gateway::tls(check, tls);
        });
    }
    check.field("connectionPool", |check| connection_pool::check(check, listener.connection_pool.as_ref()));
    let has_http = listener.connection_pool.as_ref().is_some_and(|pool| pool.http.is_some());
    if let Some(port) = &listener.port
        && has_http
        && !protocol.is_some_and(Protocol::is_http)
    {
        let message = format!(
            "sidecar: HTTP connection pool settings are configured for port {} ({:?}) but its protocol is not HTTP ({}); \
             only TCP settings will apply",
            port.number, port.name, port.protocol
        );
        check.warn_at("connectionPool.http", Code::NoEffect, message);
    }
}

fn default_endpoint(check: &mut Checker<'_>, endpoint: &str) {
    if let Some(path) = endpoint.strip_prefix("unix://") {
        return values::unix_path(check, path);
    }
    let Some((host, port)) = endpoint.rsplit_once(':') else {
        return check.error(Code::InvalidSidecar, format!("address {endpoint}: missing port in address"));
    };
    if !matches!(host, "" | "127.0.0.1" | "0.0.0.0" | "[::1]" | "[::]") {
        let message = "sidecar: defaultEndpoint must be of form 127.0.0.1:<port>,0.0.0.0:<port>,[::1]:port,[::]:port,\
                       unix://filepath or unset";
        check.error(Code::InvalidSidecar, message);
    }
    match port.parse() {
        Ok(number) => values::port(check, number),
        Err(_) => {
            let message = format!("sidecar: defaultEndpoint port ({port}) is not a number");
            check.error(Code::InvalidSidecar, message);
        }
    }
}

fn egress(check: &mut Checker<'_>, listener: &IstioEgressListener) {
    if let Some(port) = &listener.port {
        self::port(check, port, &listener.bind, true);
        if port.number == 0 && listener.capture_mode == CaptureMode::Iptables {
            let message = "sidecar: captureMode must be DEFAULT/NONE for unix domain socket listeners";
            check.error_at("captureMode", Code::InvalidSidecar, message);
        }
    }
    if listener.hosts.is_empty() {
        check.error(Code::InvalidSidecar, "sidecar: egress listener must contain at least one host");
    }
    let namespace = check.meta.namespace.clone();
    for (index, host) in listener.hosts.iter().enumerate() {
        check.field(&format!("hosts[{index}]"), |check| {
            gateway::namespaced_host(check, host, HostUse::Sidecar);
            let Some(own) = split(host, &namespace) else { return };
            let before = listener.hosts.iter().take(index).filter_map(|host| split(host, &namespace));
            let mut same = before.filter(|(other, _)| *other == own.0);
            // `ns/*` after anything of the namespace; anything after `ns/*`, or the same twice.
            if same.any(|(_, host)| own.1 == "*" || host == "*" || host == own.1) {
                check.warn(Code::DuplicateHost, format!("duplicated egress host: {host}"));
            }
        });
    }
    let namespaces: std::collections::BTreeSet<&str> = listener
        .hosts
        .iter()
        .filter_map(|host| split(host, &namespace))
        .map(|(namespace, _)| namespace)
        .collect();
    if namespaces.len() > 1 && listener.hosts.iter().any(|host| host == "*/*") {
        let message = "`*/*` host select all resources, no other hosts can be added";
        check.warn_at("hosts", Code::DuplicateHost, message);
    }
}

/// Namespace and name of what is imported; `None` for what is left out.
fn split<'a>(host: &'a str, own: &'a str) -> Option<(&'a str, &'a str)> {
    let (namespace, name) = host.split_once('/').filter(|(namespace, _)| !namespace.starts_with('~'))?;
    Some((if namespace == "." { own } else { namespace }, name))
}
