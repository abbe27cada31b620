//! `undermesh status` for people: one screen that says whether all is well, and where to look if not.

use std::io::Write;

use serde_json::Value;

/// What the kernel programs' counters mean, in the order in which a connection meets them.
const COUNTERS: &[(&str, &str)] = &[
    ("redirected4", "brought to the proxy (IPv4)"),
    ("redirected6", "brought to the proxy (IPv6)"),
    ("redirected_mapped", "brought to the proxy (IPv4 from an IPv6 socket)"),
    ("not_tcp", "not TCP: left alone"),
    ("not_configured", "before the agent was ready: left alone"),
    ("own_traffic", "the agent's own"),
    ("host_process", "of the node's own processes: left alone"),
    ("unknown_pod", "of pods the agent does not know"),
    ("not_enrolled", "of pods that are not in the mesh: left alone"),
    ("loopback", "to the pod itself: left alone"),
    ("excluded_port", "to ports that the pod excludes: left alone"),
    ("not_a_service", "to no service of the mesh: left alone"),
    ("no_listener", "no listener in the pod: its fail mode decided"),
    ("heartbeat_stale", "the agent was away: the pod's fail mode decided"),
    ("storage_full", "the kernel had no memory: the pod's fail mode decided"),
    ("fail_open", "fail mode open: went as dialled"),
    ("fail_closed", "fail mode closed: refused"),
    ("origin_inserted", "handed over with the address that was dialled"),
    ("origin_full", "refused: too many connections on their way"),
    ("origin_quota", "refused: too many of one pod on their way"),
    ("origin_dropped_on_close", "given up before the proxy took them"),
    ("peername", "times a program asked for its peer's address"),
    ("sockname", "times a program asked for its own address"),
    ("event_lost", "events lost from the debug log"),
];

/// Pods that are named; the rest is counted.
const MAX_NAMED: usize = 10;

/// `workloads` are the rows of that verb.
pub(super) fn print(out: &mut impl Write, status: &Value, workloads: &Value) -> std::io::Result<()> {
    let text = |path: &str| status.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let number = |path: &str| status.pointer(path).and_then(Value::as_u64).unwrap_or_default();
    let is_gateway = text("/role") == "gateway";
    if is_gateway {
        let labels = status["labels"].as_object().into_iter().flatten();
        let labels: Vec<_> =
            labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
        let (labels, namespace) = (labels.join(","), text("/namespace"));
        writeln!(out, "gateway {labels} in namespace {namespace}, version {}", text("/version"))?;
    } else {
        writeln!(out, "agent of node {}, version {}", text("/node"), text("/version"))?;
    }
    let mut line = |what: &str, rest: &str| writeln!(out, "  {what:14} {rest}");
    let age = status.pointer("/configuration/age_seconds").and_then(Value::as_u64);
    let age = age.map_or("not yet in force".to_owned(), |age| format!("in force for {}", duration(age)));
    let compiled = status.pointer("/configuration/compile_ms").and_then(Value::as_f64).unwrap_or_default();
    let generation = number("/configuration/generation");
    line("configuration", &format!("generation {generation}, {age}, compiled in {compiled:.1} ms"))?;
    let read: Vec<String> = [
        ("services", "service", "services"),
        ("virtual_services", "VirtualService", "VirtualServices"),
        ("destination_rules", "DestinationRule", "DestinationRules"),
        ("gateways", "Gateway", "Gateways"),
        ("service_entries", "ServiceEntry", "ServiceEntries"),
        ("pods", "pod", "pods"),
    ]
    .into_iter()
    .map(|(key, one, more)| (number(&format!("/configuration/{key}")), one, more))
    .filter(|(count, ..)| *count > 0)
    .map(|(count, one, more)| many(count, one, more))
    .collect();
    line("read", &if read.is_empty() { "nothing".to_owned() } else { read.join(", ") })?;
    let (errors, warnings) = (number("/configuration/errors"), number("/configuration/warnings"));
    let look = if errors + warnings > 0 { "; see undermesh diagnostics" } else { "" };
    let (errors, warnings) = (many(errors, "error", "errors"), many(warnings, "warning", "warnings"));
    line("remarks", &format!("{errors}, {warnings}{look}"))?;
    if let Some(source) = status["source"].as_object() {
        let facts: Vec<_> = source.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect();
        line("source", &facts.join(", "))?;
    }
    let counts = status["workloads"].as_object().into_iter().flatten();
    let counts: Vec<_> = counts.map(|(state, count)| format!("{count} {state}")).collect();
    line(if is_gateway { "ports" } else { "pods" }, &counts.join(", "))?;
    let rows = workloads.as_array().map(Vec::as_slice).unwrap_or_default();
    let troubled: Vec<&Value> =
        rows.iter().filter(|row| matches!(row["capture"].as_str(), Some("failed" | "waiting"))).collect();
    for row in troubled.iter().take(MAX_NAMED) {
        let port = row["port"].as_u64().map_or(String::new(), |port| format!(" port {port}"));
        let (pod, state) = (plain(&row["pod"]), plain(&row["capture"]));
        line("", &format!("{pod}{port} {state}: {}", plain(&row["reason"])))?;
    }
    if troubled.len() > MAX_NAMED {
        line("", &format!("and {} more; see undermesh workloads", troubled.len() - MAX_NAMED))?;
    }
    let connections = many(number("/traffic/connections"), "connection", "connections");
    let requests = many(number("/traffic/requests"), "request", "requests");
    let accepted = number("/traffic/accepted");
    line("traffic", &format!("{connections} open, {accepted} accepted so far, {requests} answered"))?;
    for (key, what) in [
        ("refused_no_origin", "connections refused, as nobody knows where they were meant to go"),
        ("malformed_requests", "requests that were not valid HTTP"),
        ("access_log_lines_lost", "lines of the access log lost"),
    ] {
        let count = number(&format!("/traffic/{key}"));
        if count > 0 {
            line("", &format!("{count} {what}"))?;
        }
    }
    let cgroup = text("/capture/cgroup");
    if !cgroup.is_empty() {
        line("kernel", &format!("programs attached at {cgroup}; connections seen there:"))?;
        for (name, what) in COUNTERS {
            let count = number(&format!("/capture/counters/{name}"));
            if count > 0 {
                line("", &format!("{name:24} {count:>10}  {what}"))?;
            }
        }
    }
    Ok(())
}

fn many(count: u64, one: &str, more: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { more })
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use undermesh_redirect::Counter;

    use super::*;

    fn printed(status: &Value, workloads: &Value) -> String {
        let mut out = Vec::new();
        print(&mut out, status, workloads).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_node_in_one_screen_with_what_is_wrong_by_name_and_no_zeros() {
        let status = json!({
            "version": "0.1.0", "role": "agent", "node": "n1",
            "configuration": {
                "generation": 4, "age_seconds": 192, "compile_ms": 1.25, "errors": 1, "warnings": 0, "services": 6,
                "virtual_services": 1, "destination_rules": 0, "pods": 3,
            },
            "traffic": {"connections": 1, "accepted": 7, "requests": 40, "malformed_requests": 0},
            "capture": {"cgroup": "/sys/fs/cgroup/kubepods", "counters": {"redirected4": 7, "loopback": 0}},
            "workloads": {"captured": 2, "failed": 1},
        });
        let workloads = json!([
            {"pod": "default/a", "capture": "yes", "reason": "label on the pod"},
            {"pod": "default/b", "capture": "failed", "reason": "port 15001 is taken"},
        ]);
        assert_eq!(
            printed(&status, &workloads),
            "agent of node n1, version 0.1.0
  configuration  generation 4, in force for 3 min 12 s, compiled in 1.2 ms
  read           6 services, 1 VirtualService, 3 pods
  remarks        1 error, 0 warnings; see undermesh diagnostics
  pods           2 captured, 1 failed
                 default/b failed: port 15001 is taken
  traffic        1 connection open, 7 accepted so far, 40 requests answered
  kernel         programs attached at /sys/fs/cgroup/kubepods; connections seen there:
                 redirected4                       7  brought to the proxy (IPv4)
"
        );
    }

    #[test]
    fn a_gateway_has_ports_and_no_kernel_half() {
        let status = json!({
            "version": "0.1.0", "role": "gateway", "namespace": "istio-system", "labels": {"istio": "ingressgateway"},
            "configuration": {"generation": 0, "age_seconds": null}, "workloads": {"listening": 1, "failed": 1},
        });
        let rows = json!([{"pod": "istio-system/gw", "port": 80, "capture": "failed", "reason": "taken"}]);
        let text = printed(&status, &rows);
        let first = "gateway istio=ingressgateway in namespace istio-system, version 0.1.0\n";
        assert!(text.starts_with(first) && text.contains("not yet in force"), "{text}");
        assert!(text.contains("istio-system/gw port 80 failed: taken") && !text.contains("kernel"), "{text}");
    }

    #[test]
    fn every_counter_has_a_word() {
        for counter in Counter::ALL {
            assert!(COUNTERS.iter().any(|(name, _)| *name == counter.name()), "{counter:?}");
        }
        assert_eq!(COUNTERS.len(), Counter::COUNT);
    }
}
