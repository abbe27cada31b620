//! The answers: what is in force and what goes on, as JSON. Field names are read by scripts; add, do not rename.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};
use undermesh_core::client::Client;
use undermesh_core::cluster::{Discovery, DnsEndpoint};
use undermesh_core::diagnostic::Severity;
use undermesh_core::host::HostKey;
use undermesh_core::snapshot::{Service, ServiceKind, ServicePort};
use undermesh_proxy::OutlierRow;
use undermesh_proxy::metrics::Counter;
use undermesh_proxy::names::NameRow;
use undermesh_redirect::inspect::Inspection;

use super::{Role, State, diagnostics, routes};
use crate::app::enrolment;

/// `undermesh status`
pub(super) async fn status(state: &State) -> Value {
    let config = state.published.config.load();
    let snapshot = state.published.snapshot.load();
    let count =
        |severity| config.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let traffic = state.proxy.metrics().await;
    let inputs = &config.inputs;
    let mut value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "role": match &state.role {
            Role::Agent { .. } => "agent",
            Role::Gateway { .. } => "gateway",
        },
        "configuration": {
            "generation": snapshot.generation(),
            "age_seconds": config.since.and_then(|since| since.elapsed().ok()).map(|age| age.as_secs()),
            "compile_ms": config.compile_us as f64 / 1000.0,
            "errors": count(Severity::Error),
            "warnings": count(Severity::Warning),
            "refused": diagnostics::refused(&config.diagnostics),
            "services": snapshot.services().len(),
            "virtual_services": inputs.virtual_services.len(),
            "destination_rules": inputs.destination_rules.len(),
            "gateways": inputs.gateways.len(),
            "service_entries": inputs.service_entries.len(),
            "pods": inputs.pods.len(),
        },
        "traffic": {
            "connections": traffic.counter(Counter::Active),
            "accepted": traffic.counter(Counter::Accepted),
            "requests": traffic.requests(),
            "refused_no_origin": traffic.counter(Counter::RefusedNoOrigin),
            "malformed_requests": traffic.counter(Counter::Malformed),
            "access_log_lines_lost": state.log_sink.dropped_lines(),
        },
    });
    if let Some(link) = &state.source {
        value["source"] = link.status();
    }
    match &state.role {
        Role::Agent { node } => value["node"] = json!(node),
        Role::Gateway { client } => {
            value["labels"] = json!(client.labels);
            value["namespace"] = json!(&*client.namespace);
        }
    }
    if let Some(redirect) = &state.redirect
        && let Ok(redirect) = redirect.lock()
    {
        let counters = redirect.counters().unwrap_or_default();
        let counters: Map<String, Value> =
            counters.into_iter().map(|(counter, value)| (counter.name().to_owned(), json!(value))).collect();
        value["capture"] = json!({ "cgroup": redirect.cgroup(), "counters": counters });
    }
    let empty = Vec::new();
    let workloads = state.workloads.load();
    let by_state = |wanted: &str| {
        workloads
            .as_array()
            .unwrap_or(&empty)
            .iter()
            .filter(|row| row["capture"].as_str() == Some(wanted))
            .count()
    };
    value["workloads"] = match state.role {
        Role::Agent { .. } => {
            json!({
                "captured": by_state("yes"),
                "waiting": by_state("waiting"),
                "failed": by_state("failed"),
                "left alone": by_state("no"),
            })
        }
        Role::Gateway { .. } => json!({"listening": by_state("listening"), "failed": by_state("failed")}),
    };
    value
}

/// `undermesh services`
pub(super) fn services(state: &State) -> Value {
    let snapshot = state.published.snapshot.load();
    let row = |service: &std::sync::Arc<Service>| {
        let kind = match &service.kind {
            ServiceKind::ClusterIp => "ClusterIP".to_owned(),
            ServiceKind::Headless => "headless".to_owned(),
            ServiceKind::ExternalName(target) => format!("ExternalName {target}"),
            ServiceKind::ServiceEntry => "ServiceEntry".to_owned(),
        };
        let ports: Vec<String> =
            service.ports.iter().map(|port| format!("{}/{:?}", port.number, port.protocol)).collect();
        json!({
            "host": &*service.host,
            "namespace": &*service.namespace,
            "kind": kind,
            "addresses": service.addresses,
            "ports": ports,
        })
    };
    snapshot.services().iter().map(row).collect()
}

/// `undermesh endpoints`
pub(super) fn endpoints(state: &State) -> Value {
    let snapshot = state.published.snapshot.load();
    let outliers = state.proxy.outliers();
    let names = state.proxy.names();
    let mut rows = Vec::new();
    for service in snapshot.services() {
        for port in &service.ports {
            for endpoint in port.endpoints.iter() {
                let ejections: Vec<_> = outliers
                    .iter()
                    .filter(|row| row.cluster.port == port.number && row.address == endpoint.address)
                    .filter(|row| row.cluster.host == service.host)
                    .collect();
                rows.push(json!({
                    "host": &*service.host,
                    "port": port.number,
                    "id": &*endpoint.id,
                    "address": endpoint.address,
                    "state": "ready",
                    "health": health(&ejections),
                    "ejections": ejections.iter().map(|row| json!({
                        "source": &*row.source,
                        "subset": &*row.cluster.subset,
                        "cause": row.cause.as_str(),
                        "seconds_left": row.left.as_secs_f64().round(),
                        "count": row.ejections,
                    })).collect::<Vec<_>>(),
                    "labels": &*endpoint.labels,
                    "locality": &*endpoint.locality,
                    "weight": endpoint.weight,
                }));
            }
            let endpoints = match &port.discovery {
                Discovery::Dns(endpoints) => &**endpoints,
                _ => &[],
            };
            for endpoint in endpoints {
                name_rows(&mut rows, service, port, &names, endpoint);
            }
            if let Discovery::DynamicDns(number) = port.discovery {
                let host = HostKey::parse(&service.host);
                for name in names.iter().filter(|name| host.matches(&name.name)) {
                    name_rows(&mut rows, service, port, &names, &DnsEndpoint::new(&name.name, number));
                }
            }
            for excluded in port.excluded.iter() {
                let endpoint = &excluded.endpoint;
                rows.push(json!({
                    "host": &*service.host,
                    "port": port.number,
                    "id": &*endpoint.id,
                    "address": endpoint.address,
                    "state": excluded.why,
                    "labels": &*endpoint.labels,
                }));
            }
        }
    }
    rows.into()
}

/// Who leaves an endpoint out at present, and for how long.
fn health(ejections: &[&OutlierRow]) -> String {
    if ejections.is_empty() {
        return "healthy".to_owned();
    }
    let one = |row: &&OutlierRow| {
        let subset = match &*row.cluster.subset {
            "" => String::new(),
            subset => format!(" in {subset}"),
        };
        format!("{}{subset} for {:.0}s more (#{})", row.source, row.left.as_secs_f64(), row.ejections)
    };
    format!("ejected by {}", ejections.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// The addresses that a name has now.
fn name_rows(
    rows: &mut Vec<Value>,
    service: &Service,
    port: &ServicePort,
    names: &[NameRow],
    endpoint: &DnsEndpoint,
) {
    let row = |address: Value, state: &str| {
        json!({
            "host": &*service.host,
            "port": port.number,
            "id": &*endpoint.host,
            "address": address,
            "state": state,
            "labels": &*endpoint.labels,
            "locality": &*endpoint.locality,
            "weight": endpoint.weight,
        })
    };
    let known = names.iter().find(|name| name.name.eq_ignore_ascii_case(endpoint.host.trim_end_matches('.')));
    let addresses = match (known, endpoint.host.parse::<IpAddr>()) {
        (_, Ok(address)) => vec![address],
        (Some(known), _) => known.addresses.clone(),
        (None, _) => Vec::new(),
    };
    let state = match known {
        Some(known) if known.failures > 0 => "look-up fails",
        _ if addresses.is_empty() => "not looked up",
        _ => "ready",
    };
    if addresses.is_empty() {
        rows.push(row(format!("{}:{}", endpoint.host, endpoint.port).into(), state));
    }
    for address in addresses {
        rows.push(row(SocketAddr::new(address, endpoint.port).to_string().into(), state));
    }
}

/// `undermesh routes [--pod] [--host]`
pub(super) fn routes(state: &State, query: &str) -> Result<Value, String> {
    let parameter = |wanted: &str| {
        query
            .split('&')
            .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == wanted))
            .map(|(_, value)| decode(value))
    };
    let snapshot = state.published.snapshot.load();
    let text = parameter("host").unwrap_or_default();
    let client = match &state.role {
        Role::Gateway { client } => client.clone(),
        Role::Agent { .. } => client(state, parameter("pod").as_deref())?,
    };
    Ok(routes::rows(&snapshot, &client, &text).into())
}

fn client(state: &State, pod: Option<&str>) -> Result<Client, String> {
    let Some(pod) = pod else { return Ok(Client::mesh("default", [])) };
    let config = state.published.config.load();
    let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
    let key = undermesh_core::api::meta::Key::new(namespace, name);
    let found = config.inputs.pods.get(&key).ok_or_else(|| format!("there is no pod {namespace}/{name}"))?;
    Ok(enrolment::client(&config.inputs, found))
}

/// `undermesh connections`
pub(super) async fn connections(state: &State) -> Value {
    let rows = state.proxy.connections().await;
    rows.into_iter()
        .map(|row| {
            json!({
                "source": &*row.source,
                "remote": row.remote,
                "dialled": row.dialled,
                "protocol": row.protocol,
                "age": format!("{:.1}s", row.age.as_secs_f64()),
                "worker": row.worker,
            })
        })
        .collect()
}

/// `undermesh diagnostics`
pub(super) fn all_diagnostics(state: &State) -> Value {
    serde_json::to_value(&state.published.config.load().diagnostics).unwrap_or_default()
}

/// `undermesh bpf`
pub(super) fn bpf(state: &State) -> Result<Value, String> {
    let redirect = state.redirect.as_ref().ok_or("a gateway has no kernel half")?;
    let redirect = redirect.lock().map_err(|_| "the kernel half has panicked".to_owned())?;
    let inspection = redirect.inspect().map_err(|error| error.to_string())?;
    let counters = redirect.counters().map_err(|error| error.to_string())?;
    let mut value = inspection_value(&inspection);
    value["counters"] = counters
        .into_iter()
        .map(|(counter, count)| (counter.name().to_owned(), json!(count)))
        .collect::<Map<_, _>>()
        .into();
    Ok(value)
}

fn inspection_value(inspection: &Inspection) -> Value {
    let programs = inspection.programs.iter().map(|program| {
        json!({
            "name": program.name,
            "id": program.id,
            "tag": program.tag,
            "link_id": program.link_id,
            "runs": program.runs,
            "run_time_ns": program.run_time_ns,
        })
    });
    let maps = inspection.maps.iter().map(|map| {
        json!({
            "name": map.name,
            "id": map.id,
            "key_size": map.key_size,
            "value_size": map.value_size,
            "max_entries": map.max_entries,
            "entries": map.entries,
        })
    });
    let workloads = inspection.workloads.iter().map(|workload| {
        json!({
            "id": workload.id,
            "place": workload.place,
            "key": workload.key,
            "is_enrolled": workload.is_enrolled,
            "is_fail_closed": workload.is_fail_closed,
            "listener4": workload.listener4,
            "listener6": workload.listener6,
            "address4": workload.address4,
            "address6": workload.address6,
            "excluded_ports": workload.excluded_ports,
            "generation": workload.generation,
        })
    });
    let origins = inspection.origins.iter().map(|origin| {
        json!({
            "netns_cookie": origin.netns_cookie,
            "source": origin.source,
            "destination": origin.destination,
            "workload": origin.workload,
            "age_ms": origin.age_ns as f64 / 1e6,
        })
    });
    json!({
        "cgroup": inspection.cgroup,
        "generation": inspection.generation,
        "programs": programs.collect::<Vec<_>>(),
        "maps": maps.collect::<Vec<_>>(),
        "services": inspection.services,
        "ports": inspection.ports,
        "workloads": workloads.collect::<Vec<_>>(),
        "origins": origins.collect::<Vec<_>>(),
    })
}

/// The metrics page.
pub(super) async fn metrics(state: &State) -> String {
    let mut out = String::new();
    state.proxy.metrics().await.render(&mut out);
    if let Some(counts) = &state.report {
        counts.render(&mut out);
    }
    if let Some(link) = &state.source {
        link.render(&mut out);
    }
    let config = state.published.config.load();
    // Writing to a String cannot fail.
    let mut gauge = |name: &str, help: &str, rows: &[(&str, u64)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in rows {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let remarks = diagnostics::rows(&config.diagnostics);
    let remarks: Vec<_> = remarks.iter().map(|(labels, count)| (labels.as_str(), *count)).collect();
    gauge(
        "undermesh_config_diagnostics",
        "Remarks about the configuration in force; codes as in docs/diagnostics.md.",
        &remarks,
    );
    gauge(
        "undermesh_config_generation",
        "Generation of the configuration in force.",
        &[("", config.generation)],
    );
    gauge(
        "undermesh_access_log_lost_lines",
        "Access-log lines that could not be written.",
        &[("", state.log_sink.dropped_lines())],
    );
    if let Some(redirect) = &state.redirect
        && let Ok(redirect) = redirect.lock()
        && let Ok(counters) = redirect.counters()
    {
        let name = "undermesh_capture_total";
        let _ = writeln!(out, "# HELP {name} Outcomes of the kernel programs.\n# TYPE {name} counter");
        for (counter, value) in counters {
            let _ = writeln!(out, "{name}{{outcome=\"{}\"}} {value}", counter.name());
        }
    }
    out
}

fn decode(value: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
        match byte {
            b'%' => {
                let (high, low) = (hex(bytes.next()), hex(bytes.next()));
                out.extend(high.zip(low).map(|(high, low)| (high * 16 + low) as u8));
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
