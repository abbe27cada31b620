//! Rules for ServiceEntry and WorkloadEntry.

use super::{Checker, values};
use crate::api::gateway::Port;
use crate::api::service_entry::{Resolution, ServiceEntry, WorkloadEntry};
use crate::diagnostic::Code;
use crate::inventory::Protocol;

pub(super) fn check(check: &mut Checker<'_>, entry: &ServiceEntry) {
    if let Some(selector) = &entry.workload_selector {
        check.field("workloadSelector.labels", |check| values::selector(check, &selector.labels));
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
        } else {
            values::warn_partial_wildcard(check, host);
        }
    });
    values::subnets(check, "addresses", &entry.addresses);
    let has_cidr = entry.addresses.iter().any(|address| address.contains('/'));
    if has_cidr && !matches!(entry.resolution, Resolution::None | Resolution::Static) {
        let message = "CIDR addresses are allowed only for NONE/STATIC resolution types";
        check.error_at("addresses", Code::InvalidServiceEntry, message);
    }
    ports(check, &entry.ports, entry.resolution);
    resolution(check, entry);
    values::export_to(check, &entry.export_to, false);
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
    if matches!(entry.resolution, Resolution::None | Resolution::DynamicDns) && !entry.endpoints.is_empty() {
        let mode = mode.to_ascii_lowercase();
        let message = format!("no endpoints should be provided for resolution type {mode}");
        check.error_at("endpoints", Code::InvalidServiceEntry, message);
    }
    if entry.resolution != Resolution::Static && entry.workload_selector.is_some() {
        let message = format!("workloadSelector should not be set when resolution mode is {mode}");
        check.warn_at("workloadSelector", Code::NoEffect, message);
    }
    if is_dns && entry.endpoints.is_empty() {
        check.items("hosts", &entry.hosts, |check, host| {
            if values::fqdn_error(host).is_some() {
                let message =
                    format!("hosts must be FQDN if no endpoints are provided for resolution mode {mode}");
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
            workload_entry(check, endpoint, Some(&entry.ports), is_dns);
        });
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
