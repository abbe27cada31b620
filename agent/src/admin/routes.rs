//! The routes of one client, a row each: what `undermesh routes` prints, and what `undermesh check --against-cluster` compares.

use serde_json::{Value, json};
use undermesh_core::client::{Client, ClientKind};
use undermesh_core::cluster::{Availability, Cluster};
use undermesh_core::inventory::Protocol;
use undermesh_core::route::{Action, HttpTable, Route, TcpTable, WeightedDestination};
use undermesh_core::snapshot::Snapshot;

/// All of those whose host contains `text`, in the order in which they are tried. Field names are read by scripts.
pub(crate) fn rows(snapshot: &Snapshot, client: &Client, text: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    if client.kind == ClientKind::Gateway {
        for port in snapshot.gateway(client) {
            table_rows(&mut rows, &port.http, port.port, text);
            tcp_rows(&mut rows, &port.tcp, "*", port.port, text);
        }
        return rows;
    }
    for service in snapshot.services() {
        for port in &service.ports {
            let Some(address) = service.addresses.first() else { continue };
            let outbound = snapshot.outbound(client, (*address, port.number).into());
            if port.protocol.is_http() || port.protocol == Protocol::Auto {
                table_rows(&mut rows, &outbound.http, port.number, text);
            } else {
                tcp_rows(&mut rows, &outbound.tcp, &service.host, port.number, text);
            }
        }
    }
    rows
}

/// A row for people: `reviews.default.svc.cluster.local:9080 header end-user exact "jason" => 100% ...`.
pub(crate) fn line(row: &Value) -> String {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let conditions: Vec<&str> =
        row["match"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let asked = if conditions.is_empty() { String::new() } else { format!(" {}", conditions.join(", ")) };
    let with =
        ["timeout", "fault"].into_iter().filter_map(|key| Some(format!(", {key} {}", row[key].as_str()?)));
    let retries = row["retries"].as_u64().map(|retries| format!(", {retries} retries"));
    let by = row["rule"].as_str().map(|rule| format!(" ({rule})"));
    let rest: String = with.chain(retries).chain(by).collect();
    format!("{}:{}{asked} => {}{rest}", text("host"), row["port"], text("action"))
}

fn table_rows(rows: &mut Vec<Value>, table: &HttpTable, port: u16, text: &str) {
    for host in table.hosts().iter().filter(|host| host.name.contains(text)) {
        for route in &host.routes {
            rows.push(json!({
                "host": &*host.name,
                "port": port,
                "rule": route.rule.as_ref().map(ToString::to_string),
                "match": route.matches.conditions.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "action": action(route),
                "timeout": route.timeout.map(|timeout| format!("{timeout:?}")),
                "retries": route.retries.attempts,
                "fault": (route.fault != Default::default()).then(|| format!("{:?}", route.fault)),
            }));
        }
    }
}

/// Rules for connections that are not looked into; `host` is what those are for that go by no server name.
fn tcp_rows(rows: &mut Vec<Value>, table: &TcpTable, host: &str, port: u16, text: &str) {
    for route in &table.routes {
        let names: Vec<_> = route.sni.iter().map(ToString::to_string).collect();
        let host = if names.is_empty() { host.to_owned() } else { names.join(", ") };
        if !host.contains(text) {
            continue;
        }
        let subnets = route.subnets.iter().map(|subnet| format!("to {subnet}"));
        rows.push(json!({
            "host": host,
            "port": port,
            "rule": route.rule.as_ref().map(ToString::to_string),
            "match": names.iter().map(|name| format!("server name {name}")).chain(subnets).collect::<Vec<_>>(),
            "action": if route.destinations.is_empty() {
                "closed".to_owned()
            } else {
                shares(&route.destinations, route.total_weight)
            },
        }));
    }
}

fn shares(destinations: &[WeightedDestination], total_weight: u64) -> String {
    let share = |cluster: &Cluster, weight: u32| {
        let state = match &cluster.availability {
            Availability::Known => String::new(),
            other => format!(" ({other})"),
        };
        // A single destination takes everything, whatever its weight says.
        let alone = destinations.len() == 1;
        let percent = if alone { 100.0 } else { f64::from(weight) * 100.0 / total_weight.max(1) as f64 };
        format!("{percent}% {}{state}", cluster.name)
    };
    let shares = destinations.iter().map(|one| share(&one.cluster, one.weight));
    shares.collect::<Vec<_>>().join(" + ")
}

fn action(route: &Route) -> String {
    match &route.action {
        Action::Forward => shares(&route.destinations, route.total_weight),
        Action::Redirect(redirect) => format!("redirect {}", redirect.code),
        Action::DirectResponse(response) => format!("answer {}", response.status),
        Action::Refused(why) => format!("refused: {why}"),
    }
}
