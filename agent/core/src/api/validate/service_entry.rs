//! Rules for ServiceEntry and WorkloadEntry.

use super::{Checker, values};
use crate::api::gateway::Port;
use crate::api::service_entry::{Location, Resolution, ServiceEntry, WorkloadEntry};
use crate::diagnostic::Code;
use crate::inventory::Protocol;

pub(super) fn check(check: &mut Checker<'_>, entry: &ServiceEntry) {
    if let Some(selector) = &entry.workload_selector {
        check.field("workloadSelector.labels", |check| {
            values::selector(check, &selector.labels);
            if selector.labels.is_empty() {
                check.hint("it selects all workloads of the namespace");
            }
        });
        if !entry.endpoints.is_empty() {
            let message = "only one of WorkloadSelector or Endpoints is allowed in Service Entry";
            check.error(Code::InvalidServiceEntry, message);
        }
    }
    if entry.hosts.is_empty() {
        check.error(Code::InvalidServiceEntry, "service entry must have at least one host");
    }
    check.items("hosts", &entry.hosts, |check, host| {
        if host == "*" {
            check.error(Code::InvalidHost, "invalid host *");
        } else if let Some(error) = values::wildcard_domain_error(host) {
            check.error(Code::InvalidHost, error);
        } else if values::is_partial_wildcard(host) && entry.resolution != Resolution::DynamicDns {
            check.warn(Code::NoEffect, format!("partial wildcard {host:?} not allowed"));
            check.hint("a wildcard is the whole first label, as in *.example.com");
        }
    });
    values::subnets(check, "addresses", &entry.addresses);
    let has_cidr = entry.addresses.iter().any(|address| address.contains('/'));
    if has_cidr && !matches!(entry.resolution, Resolution::None | Resolution::Static) {
        let message = "CIDR addresses are allowed only for NONE/STATIC resolution types";
        check.error_at("addresses", Code::InvalidServiceEntry, message);
    }
    ports(check, &entry.ports, entry.resolution);
    protocols(check, entry);
    resolution(check, entry);
    values::export_to(check, &entry.export_to, values::ExportUse::Services);
}

fn ports(check: &mut Checker<'_>, ports: &[Port], resolution: Resolution) {
    for (index, port) in ports.iter().enumerate() {
        let before = ports.get(..index).unwrap_or_default();
        check.field(&format!("ports[{index}]"), |check| {
            if before.iter().any(|other| other.name == port.name) {
                let message = format!("service entry port name {:?} already defined", port.name);
                check.error_at("name", Code::InvalidServiceEntry, message);
            }
            if before.iter().any(|other| other.number == port.number) {
                let message = format!("service entry port {} already defined", port.number);
                check.error_at("number", Code::InvalidServiceEntry, message);
            }
            if port.target_port != 0 {
                check.field("targetPort", |check| values::port(check, port.target_port));
                if resolution == Resolution::None {
                    let message = "targetPort has no effect when resolution mode is NONE";
                    check.warn_at("targetPort", Code::NoEffect, message);
                }
            }
            check.field("name", |check| values::port_name(check, &port.name));
            protocol(check, &port.protocol);
            check.field("number", |check| values::port(check, port.number));
        });
    }
}

/// What ports say with hosts and addresses: bytes without a name in them cannot tell hosts apart.
fn protocols(check: &mut Checker<'_>, entry: &ServiceEntry) {
    let is_allocated = entry.resolution != Resolution::None
        && !check
            .meta
            .labels
            .get("networking.istio.io/enable-autoallocate-ip")
            .is_some_and(|value| value.eq_ignore_ascii_case("false"));
    check.items("ports", &entry.ports, |check, port| {
        if entry.addresses.is_empty() && !is_allocated && matches!(port.protocol.as_str(), "" | "TCP") {
            check.warn(
                Code::InvalidServiceEntry,
                "addresses are required for ports serving TCP (or unset) protocol when IP Autoallocation is not enabled",
            );
            check.hint("without addresses, any connection to this port is taken for this service");
        }
    });
    if entry.hosts.len() < 2 {
        return;
    }
    let of = |port: &Port| Protocol::parse(&port.protocol);
    let names_hosts = |port: &Port| of(port).is_some_and(|protocol| protocol.is_http() || protocol.is_tls());
    if entry.resolution != Resolution::None && !entry.ports.iter().all(names_hosts) {
        let message = "multiple hosts provided with non-HTTP, non-TLS ports";
        check.error_at("ports", Code::InvalidServiceEntry, message);
        check.hint("make a ServiceEntry for each host");
    }
    let is_dns = matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    let is_tcp = |port: &Port| of(port).is_some_and(|protocol| protocol.is_opaque() || protocol.is_tls());
    if is_dns && !entry.addresses.is_empty() && entry.ports.iter().any(is_tcp) {
        let message = "service entry can not have more than one host specified simultaneously with address and tcp port";
        check.warn_at("hosts", Code::InvalidServiceEntry, message);
    }
}

/// Empty means: to be found out.
pub(super) fn protocol(check: &mut Checker<'_>, name: &str) {
    if !name.is_empty() && Protocol::parse(name).is_none() {
        check.error_at("protocol", Code::InvalidPort, format!("unsupported protocol: {name}"));
    }
}

fn resolution(check: &mut Checker<'_>, entry: &ServiceEntry) {
    let mode = match entry.resolution {
        Resolution::None => "NONE",
        Resolution::Static => "STATIC",
        Resolution::Dns => "DNS",
        Resolution::DnsRoundRobin => "DNS_ROUND_ROBIN",
        Resolution::DynamicDns => "DYNAMIC_DNS",
    };
    let is_dns = matches!(entry.resolution, Resolution::Dns | Resolution::DnsRoundRobin);
    if entry.resolution == Resolution::None && !entry.endpoints.is_empty() {
        let message = "no endpoints should be provided for resolution type none";
        check.error_at("endpoints", Code::InvalidServiceEntry, message);
    }
    if entry.resolution == Resolution::DynamicDns {
        dynamic_dns(check, entry);
    }
    if entry.resolution != Resolution::Static && entry.workload_selector.is_some() {
        let message = format!("workloadSelector should not be set when resolution mode is {mode}");
        check.warn_at("workloadSelector", Code::NoEffect, message);
    }
    if is_dns && entry.endpoints.is_empty() {
        check.items("hosts", &entry.hosts, |check, host| {
            if values::fqdn_error(host).is_some() {
                let message = format!(
                    "hosts must be FQDN or contain only prefix wildcards if no endpoints are provided for resolution mode \
                     {mode}"
                );
                check.error(Code::InvalidServiceEntry, message);
            }
        });
    }
    if entry.resolution == Resolution::DnsRoundRobin && entry.endpoints.len() > 1 {
        let message = format!("there must only be 0 or 1 endpoint for resolution mode {mode}");
        check.error_at("endpoints", Code::InvalidServiceEntry, message);
    }
    if is_dns || entry.resolution == Resolution::Static {
        check.items("endpoints", &entry.endpoints, |check, endpoint| {
            let is_unix = endpoint.address.starts_with("unix://");
            if is_dns && (endpoint.address.is_empty() || is_unix) {
                let message =
                    format!("endpoint address {:?} is not a valid FQDN or an IP address", endpoint.address);
                return check.error_at("address", Code::InvalidAddress, message);
            }
            workload_entry(check, endpoint, Some(&entry.ports), is_dns);
        });
    }
}

/// Names are resolved one by one, as requests name them.
fn dynamic_dns(check: &mut Checker<'_>, entry: &ServiceEntry) {
    const MODE: &str = "DYNAMIC_DNS";
    check.items("hosts", &entry.hosts, |check, host| {
        if !host.starts_with('*') {
            let message = format!("host must be wildcarded for resolution mode {MODE}");
            check.error(Code::InvalidServiceEntry, message);
        }
    });
    if !entry.addresses.is_empty() {
        let message = format!("addresses cannot be set for resolution type {MODE}");
        check.error_at("addresses", Code::InvalidServiceEntry, message);
    }
    if !entry.endpoints.is_empty() {
        let message = format!("endpoints cannot be set for resolution type {MODE}");
        check.error_at("endpoints", Code::InvalidServiceEntry, message);
    }
    check.items("ports", &entry.ports, |check, port| {
        let protocol = Protocol::parse(&port.protocol);
        if !matches!(protocol, Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tls)) {
            let message =
                format!("only HTTP, TLS, GRPC, and HTTP2 protocols are supported for resolution type {MODE}");
            check.error_at("protocol", Code::InvalidServiceEntry, message);
        }
    });
    let waypoint = check.meta.labels.get("istio.io/use-waypoint");
    let uses_waypoint = waypoint.is_some_and(|name| !name.is_empty() && !name.eq_ignore_ascii_case("none"));
    if entry.location == Location::MeshInternal && uses_waypoint {
        let message = format!(
            "location MESH_INTERNAL with resolution type {MODE} is not supported when using waypoints"
        );
        check.error_at("location", Code::InvalidServiceEntry, message);
    }
}

/// `service_ports`: of the ServiceEntry that the endpoint is part of. `may_be_name`: a DNS name will do.
pub(super) fn workload_entry(
    check: &mut Checker<'_>,
    entry: &WorkloadEntry,
    service_ports: Option<&[Port]>,
    may_be_name: bool,
) {
    let address = &entry.address;
    if address.is_empty() {
        if entry.network.is_empty() {
            return check.error_at("address", Code::InvalidAddress, "address is required");
        }
        let message = format!("address is unset with network {:?}", entry.network);
        check.warn_at("address", Code::InvalidAddress, message);
    } else if let Some(path) = address.strip_prefix("unix://") {
        check.field("address", |check| values::unix_path(check, path));
        if !entry.ports.is_empty() {
            let message = format!("unix endpoint {address} must not include ports");
            check.error_at("ports", Code::InvalidAddress, message);
        }
        if service_ports.is_some_and(|ports| ports.len() != 1) {
            check.error(Code::InvalidAddress, "exactly 1 service port required for unix endpoints");
        }
    } else if !values::is_ip(address) {
        if !may_be_name {
            let message = format!("endpoint address {address:?} is not a valid IP address");
            check.error_at("address", Code::InvalidAddress, message);
        } else if values::fqdn_error(address).is_some() {
            let message = format!("endpoint address {address:?} is not a valid FQDN or an IP address");
            check.error_at("address", Code::InvalidAddress, message);
        }
    }
    check.field("ports", |check| {
        for (name, &port) in &entry.ports {
            check.key(name, |check| {
                if service_ports.is_some_and(|ports| !ports.iter().any(|port| port.name == *name)) {
                    let message = format!("endpoint port {port} is not defined by the service entry");
                    check.error(Code::InvalidServiceEntry, message);
                }
                values::port_name(check, name);
                values::port(check, port);
            });
        }
    });
    check.field("labels", |check| values::labels(check, &entry.labels));
}
