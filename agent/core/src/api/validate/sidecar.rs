//! Rules for a Sidecar.

use super::gateway::HostUse;
use super::{Checker, connection_pool, gateway, service_entry, values, virtual_service};
use crate::api::gateway::Port;
use crate::api::sidecar::{IstioEgressListener, IstioIngressListener, OutboundTrafficPolicyMode, Sidecar};
use crate::diagnostic::Code;

pub(super) fn check(check: &mut Checker<'_>, sidecar: &Sidecar) {
    if let Some(selector) = &sidecar.workload_selector {
        check.field("workloadSelector.labels", |check| values::selector(check, &selector.labels));
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
        unique(check, listener.port.as_ref(), &mut seen);
    });
    check.field("inboundConnectionPool", |check| {
        connection_pool::check(check, sidecar.inbound_connection_pool.as_ref());
    });
    seen.clear();
    let last = sidecar.egress.len().saturating_sub(1);
    for (index, listener) in sidecar.egress.iter().enumerate() {
        check.field(&format!("egress[{index}]"), |check| {
            if listener.port.is_none() && index != last {
                let message =
                    "sidecar: the egress listener with empty port should be the last listener in the list";
                check.error(Code::InvalidSidecar, message);
            }
            egress(check, listener);
            unique(check, listener.port.as_ref(), &mut seen);
        });
    }
    if let Some(policy) = &sidecar.outbound_traffic_policy
        && let Some(proxy) = &policy.egress_proxy
    {
        check.field("outboundTrafficPolicy.egressProxy", |check| {
            if policy.mode == Some(OutboundTrafficPolicyMode::RegistryOnly) {
                let message =
                    "sidecar: egress_proxy must be set only with ALLOW_ANY outbound_traffic_policy mode";
                check.error(Code::InvalidSidecar, message);
            }
            if proxy.port.is_none() {
                check.error(Code::InvalidSidecar, "sidecar: egress_proxy port must be non-nil");
            }
            virtual_service::destination(check, Some(proxy));
        });
    }
}

fn unique(check: &mut Checker<'_>, port: Option<&Port>, seen: &mut Vec<u32>) {
    let Some(port) = port.filter(|port| port.number != 0) else { return };
    if seen.contains(&port.number) {
        check.error_at("port", Code::InvalidSidecar, "sidecar: ports on IP bound listeners must be unique");
    }
    seen.push(port.number);
}

fn port(check: &mut Checker<'_>, port: &Port, bind: &str) {
    check.field("port", |check| {
        if port.target_port > 0 {
            check.error_at("targetPort", Code::InvalidPort, "targetPort has no impact on Sidecars");
        }
        if !port.name.is_empty() {
            check.field("name", |check| values::port_name(check, &port.name));
        }
        service_entry::protocol(check, &port.protocol);
        let is_unix = bind.starts_with("unix://");
        if !(port.number == 0 && is_unix) {
            check.field("number", |check| values::port(check, port.number));
        }
    });
    check.field("bind", |check| {
        if let Some(path) = bind.strip_prefix("unix://") {
            values::unix_path(check, path);
        } else if !bind.is_empty() && !values::is_ip(bind) {
            check.error(Code::InvalidAddress, format!("{bind:?} is not a valid IP"));
        }
    });
}

fn ingress(check: &mut Checker<'_>, listener: &IstioIngressListener) {
    match &listener.port {
        None => check.error(Code::InvalidSidecar, "sidecar: port is required for ingress listeners"),
        Some(port) => self::port(check, port, &listener.bind),
    }
    if !listener.default_endpoint.is_empty() {
        check.field("defaultEndpoint", |check| default_endpoint(check, &listener.default_endpoint));
    }
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
            gateway::tls(check, tls);
        });
    }
    check.field("connectionPool", |check| connection_pool::check(check, listener.connection_pool.as_ref()));
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
        self::port(check, port, &listener.bind);
    }
    if listener.hosts.is_empty() {
        check.error(Code::InvalidSidecar, "sidecar: egress listener must contain at least one host");
    }
    for (index, host) in listener.hosts.iter().enumerate() {
        check.field(&format!("hosts[{index}]"), |check| {
            gateway::namespaced_host(check, host, HostUse::Sidecar);
            if listener.hosts.iter().take(index).any(|other| other == host) {
                check.warn(Code::DuplicateHost, format!("duplicated egress host: {host}"));
            }
        });
    }
}
