//! Rules for TLS and TCP routes.

use super::{Checker, values, virtual_service};
use crate::api::names::is_dns_label;
use crate::api::virtual_service::{RouteDestination, TcpRoute, TlsRoute, VirtualService};
use crate::diagnostic::Code;
use crate::host::HostKey;

pub(super) fn tls(check: &mut Checker<'_>, route: &TlsRoute, spec: &VirtualService) {
    if route.matches.is_empty() {
        check.error(Code::InvalidSni, "TLS route must have at least one match condition");
    }
    check.items("match", &route.matches, |check, condition| {
        if condition.sni_hosts.is_empty() {
            check.error(Code::InvalidSni, "TLS match must have at least one SNI host");
        }
        check.items("sniHosts", &condition.sni_hosts, |check, sni| sni_host(check, sni, spec));
        values::subnets(check, "destinationSubnets", &condition.destination_subnets);
        shared(check, condition.port, &condition.source_namespace);
        check.field("sourceLabels", |check| values::labels(check, &condition.source_labels));
        values::gateway_names(check, &condition.gateways);
    });
    if route.route.is_empty() {
        check.error(Code::MissingAction, "TLS route is required");
    }
    destinations(check, &route.route);
}

pub(super) fn tcp(check: &mut Checker<'_>, route: &TcpRoute) {
    check.items("match", &route.matches, |check, condition| {
        values::subnets(check, "destinationSubnets", &condition.destination_subnets);
        shared(check, condition.port, &condition.source_namespace);
        check.field("sourceLabels", |check| values::labels(check, &condition.source_labels));
        values::gateway_names(check, &condition.gateways);
    });
    if route.route.is_empty() {
        check.error(Code::MissingAction, "TCP route is required");
    }
    destinations(check, &route.route);
}

fn shared(check: &mut Checker<'_>, port: Option<u32>, source_namespace: &str) {
    if let Some(port) = port.filter(|&port| port != 0) {
        check.field("port", |check| values::port(check, port));
    }
    if !source_namespace.is_empty() && !is_dns_label(source_namespace) {
        // Istio looks at it in HTTP rules only.
        let message = format!("sourceNamespace match {source_namespace} is invalid: no client is there");
        check.warn_at("sourceNamespace", Code::InvalidMatch, message);
    }
}

fn sni_host(check: &mut Checker<'_>, sni: &str, spec: &VirtualService) {
    if let Some(error) = virtual_service::host_error(sni, spec) {
        if values::is_ip(sni) {
            let message = format!(
                "using an IP address ({sni:?}) goes against SNI spec and most clients do not support this"
            );
            return check.warn(Code::InvalidSni, message);
        }
        return check.error(Code::InvalidSni, error);
    }
    let key = HostKey::parse(sni);
    if !spec.hosts.iter().any(|host| HostKey::parse(host).covers(&key)) {
        let hosts = spec.hosts.join(", ");
        let message = format!(
            "SNI host {sni:?} is not a compatible subset of any of the virtual service hosts: [{hosts}]"
        );
        check.error(Code::InvalidSni, message);
    }
}

fn destinations(check: &mut Checker<'_>, destinations: &[RouteDestination]) {
    check.items("route", destinations, |check, leg| {
        if leg.destination.is_none() {
            check.error(Code::InvalidDestination, "destination is required");
        }
        check.field("destination", |check| virtual_service::destination(check, leg.destination.as_ref()));
    });
    let weights: Vec<_> = destinations.iter().map(|leg| leg.weight).collect();
    virtual_service::weights(check, &weights);
}
