//! Rules for a DestinationRule.

use super::{Checker, connection_pool, load_balancer, values, virtual_service};
use crate::api::destination_rule::{
    ClientTlsMode, ClientTlsSettings, DestinationRule, OutlierDetection, PortTrafficPolicy, TrafficPolicy,
    TunnelSettings,
};
use crate::diagnostic::Code;

pub(super) fn check(check: &mut Checker<'_>, rule: &DestinationRule) {
    check.field("host", |check| match values::wildcard_domain_error(&rule.host) {
        Some(error) => check.error(Code::InvalidHost, error),
        None => values::warn_partial_wildcard(check, &rule.host),
    });
    check.field("trafficPolicy", |check| traffic_policy(check, rule.traffic_policy.as_deref()));
    let mut names: Vec<&str> = Vec::new();
    for (index, subset) in rule.subsets.iter().enumerate() {
        check.field(&format!("subsets[{index}]"), |check| {
            if names.contains(&subset.name.as_str()) {
                check.error_at(
                    "name",
                    Code::InvalidSubset,
                    format!("duplicate subset names: {}", subset.name),
                );
            }
            names.push(&subset.name);
            check.field("name", |check| virtual_service::subset_name(check, &subset.name));
            check.field("labels", |check| values::labels(check, &subset.labels));
            check.field("trafficPolicy", |check| traffic_policy(check, subset.traffic_policy.as_deref()));
        });
    }
    let use_of = match rule.workload_selector {
        Some(_) => values::ExportUse::OwnNamespaceOnly,
        None => values::ExportUse::Rules,
    };
    values::export_to(check, &rule.export_to, use_of);
    if let Some(selector) = &rule.workload_selector {
        check.field("workloadSelector.matchLabels", |check| values::selector(check, &selector.match_labels));
    }
}

pub(super) fn traffic_policy(check: &mut Checker<'_>, policy: Option<&TrafficPolicy>) {
    let Some(policy) = policy else { return };
    if *policy == TrafficPolicy::default() {
        return check.error(Code::EmptyPolicy, "traffic policy must have at least one field");
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        check.error(Code::InvalidTunnel, "tunnel and proxyProtocol must not be set together");
    }
    check.field("outlierDetection", |check| outlier_detection(check, policy.outlier_detection.as_ref()));
    check.field("connectionPool", |check| connection_pool::check(check, policy.connection_pool.as_ref()));
    let has_outlier_detection = policy.outlier_detection.is_some();
    check.field("loadBalancer", |check| {
        load_balancer::check(check, policy.load_balancer.as_ref(), has_outlier_detection);
    });
    check.field("tls", |check| tls(check, policy.tls.as_ref()));
    check.items("portLevelSettings", &policy.port_level_settings, port_policy);
    check.field("tunnel", |check| tunnel(check, policy.tunnel.as_ref()));
    check.field("retryBudget", |check| connection_pool::retry_budget(check, policy.retry_budget.as_ref()));
}

fn port_policy(check: &mut Checker<'_>, policy: &PortTrafficPolicy) {
    match &policy.port {
        None => check.error(Code::InvalidPort, "portTrafficPolicy must have valid port"),
        // Istio lets any number in; these are of no port.
        Some(port) => check.field("port.number", |check| {
            if let Some(message) = values::port_error(port.number) {
                check.warn(Code::NoEffect, message);
            }
        }),
    }
    let without_port = PortTrafficPolicy { port: None, ..policy.clone() };
    if without_port == PortTrafficPolicy::default() {
        return check.error(Code::EmptyPolicy, "port traffic policy must have at least one field");
    }
    check.field("outlierDetection", |check| outlier_detection(check, policy.outlier_detection.as_ref()));
    check.field("connectionPool", |check| connection_pool::check(check, policy.connection_pool.as_ref()));
    let has_outlier_detection = policy.outlier_detection.is_some();
    check.field("loadBalancer", |check| {
        load_balancer::check(check, policy.load_balancer.as_ref(), has_outlier_detection);
    });
    check.field("tls", |check| tls(check, policy.tls.as_ref()));
}

fn outlier_detection(check: &mut Checker<'_>, outlier: Option<&OutlierDetection>) {
    let Some(outlier) = outlier else { return };
    check.field("baseEjectionTime", |check| values::duration(check, outlier.base_ejection_time));
    if outlier.consecutive_errors != 0 {
        let message = "outlier detection consecutive errors is deprecated, use consecutiveGatewayErrors or \
                       consecutive5xxErrors instead";
        check.warn_at("consecutiveErrors", Code::Deprecated, message);
    }
    let local = outlier.consecutive_local_origin_failures.unwrap_or(0) > 0;
    if local && !outlier.split_external_local_origin_errors {
        let message = "outlier detection consecutive local origin failures is specified, but split external local \
                       origin errors is set to false";
        check.error_at("consecutiveLocalOriginFailures", Code::InvalidOutlierDetection, message);
    }
    check.field("interval", |check| values::duration(check, outlier.interval));
    check.field("maxEjectionPercent", |check| values::percent(check, outlier.max_ejection_percent));
    check.field("minHealthPercent", |check| values::percent(check, outlier.min_health_percent));
    check.items(
        "outlierDetectionHttpErrorCodes",
        &outlier.outlier_detection_http_error_codes,
        |check, code| {
            if !(100..=599).contains(code) {
                check.error(
                    Code::InvalidOutlierDetection,
                    format!("HTTP status {code} is not in range 100-599"),
                );
            }
        },
    );
}

/// Istio: `ValidateTLS`.
fn tls(check: &mut Checker<'_>, tls: Option<&ClientTlsSettings>) {
    let Some(tls) = tls else { return };
    let is_mutual = tls.mode == ClientTlsMode::Mutual;
    let is_simple = tls.mode == ClientTlsMode::Simple;
    let has_ca = !tls.ca_certificates.is_empty();
    let has_credential = !tls.credential_name.is_empty();
    let has_names = !tls.subject_alt_names.is_empty();
    if tls.insecure_skip_verify == Some(true) {
        if is_simple && (has_ca || has_credential || has_names) {
            let message = "cannot specify CaCertificates or CredentialName or SubjectAltNames when InsecureSkipVerify is \
                           set true";
            check.error(Code::InvalidTls, message);
        }
        if is_mutual && (has_ca || has_names) {
            let message =
                "cannot specify CaCertificates or SubjectAltNames when InsecureSkipVerify is set true";
            check.error(Code::InvalidTls, message);
        }
    }
    if (is_simple || is_mutual) && has_credential {
        let has_paths =
            [&tls.client_certificate, &tls.private_key, &tls.ca_crl].iter().any(|path| !path.is_empty());
        if has_paths || has_ca {
            let message =
                "cannot specify client certificates or CA certificate or CA CRL If credentialName is set";
            check.error(Code::InvalidTls, message);
        }
        return;
    }
    if is_mutual && tls.client_certificate.is_empty() {
        check.error(Code::InvalidTls, "client certificate required for mutual tls");
    }
    if is_mutual && tls.private_key.is_empty() {
        check.error(Code::InvalidTls, "private key required for mutual tls");
    }
}

fn tunnel(check: &mut Checker<'_>, tunnel: Option<&TunnelSettings>) {
    let Some(tunnel) = tunnel else { return };
    if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
        check.error_at("protocol", Code::InvalidTunnel, "tunnel protocol must be \"CONNECT\" or \"POST\"");
    }
    if let Some(error) =
        values::fqdn_error(&tunnel.target_host).filter(|_| !values::is_ip(&tunnel.target_host))
    {
        let message = format!("tunnel target host must be valid FQDN or IP address: {error}");
        check.error_at("targetHost", Code::InvalidTunnel, message);
    }
    if let Some(error) = values::port_error(tunnel.target_port) {
        check.error_at("targetPort", Code::InvalidTunnel, format!("tunnel target port is invalid: {error}"));
    }
}
