//! `undermesh bpf` for people: tables of what the agent has in the kernel.

use std::io::Write;

use serde_json::Value;

use super::super::output::{self, Column, Output};

const PROGRAMS: &[Column] = &[
    ("PROGRAM", "name"),
    ("ID", "id"),
    ("LINK", "link_id"),
    ("TAG", "tag"),
    ("RUNS", "runs"),
    ("NANOSECONDS", "run_time_ns"),
];
const MAPS: &[Column] = &[
    ("MAP", "name"),
    ("ID", "id"),
    ("KEY BYTES", "key_size"),
    ("VALUE BYTES", "value_size"),
    ("ENTRIES", "entries"),
    ("ROOM FOR", "max_entries"),
];
const WORKLOADS: &[Column] = &[
    ("WORKLOAD", "id"),
    ("BY", "place"),
    ("KEY", "key"),
    ("ENROLLED", "is_enrolled"),
    ("FAIL CLOSED", "is_fail_closed"),
    ("LISTENER4", "listener4"),
    ("LISTENER6", "listener6"),
    ("ADDRESS4", "address4"),
    ("ADDRESS6", "address6"),
    ("EXCLUDED", "excluded_ports"),
];
const ORIGINS: &[Column] = &[
    ("ON THE WAY FROM", "source"),
    ("TO", "destination"),
    ("WORKLOAD", "workload"),
    ("NETNS COOKIE", "netns_cookie"),
    ("AGE MS", "age_ms"),
];

pub(super) fn print(out: &mut impl Write, bpf: &Value) -> std::io::Result<()> {
    let count = |key: &str| bpf[key].as_array().map_or(0, Vec::len);
    writeln!(
        out,
        "attached at {}, generation {}; captured: service addresses {}, ports on any address {}\n",
        bpf["cgroup"].as_str().unwrap_or("?"),
        bpf["generation"],
        count("services"),
        count("ports"),
    )?;
    output::rows(out, Output::Table, &bpf["programs"], PROGRAMS)?;
    let is_measured = bpf["programs"].as_array().into_iter().flatten().any(|it| it["runs"].is_u64());
    if count("programs") > 0 && !is_measured {
        writeln!(out, "runs are not measured: the sysctl kernel.bpf_stats_enabled is off")?;
    }
    for (key, columns) in [("maps", MAPS), ("workloads", WORKLOADS), ("origins", ORIGINS)] {
        if count(key) > 0 {
            writeln!(out)?;
            output::rows(out, Output::Table, &bpf[key], columns)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn printed(runs: &Value) -> String {
        let bpf = json!({
            "cgroup": "/sys/fs/cgroup", "generation": 3, "services": ["10.96.0.1:80"], "ports": [],
            "programs": [{"name": "connect4", "id": 7, "tag": "ab", "link_id": 9, "runs": runs, "run_time_ns": runs}],
            "maps": [{"name": "SERVICES", "id": 8, "key_size": 20, "value_size": 4, "max_entries": 10, "entries": 1}],
            "workloads": [], "origins": [],
        });
        let mut out = Vec::new();
        print(&mut out, &bpf).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_not_measured_is_no_zero() {
        let text = printed(&Value::Null);
        assert!(text.contains("connect4  7   9     ab   -     -") && text.contains("not measured"), "{text}");
        assert!(text.contains("SERVICES") && !text.contains("WORKLOAD"), "{text}");
        let text = printed(&5.into());
        assert!(
            text.contains("connect4  7   9     ab   5     5") && !text.contains("not measured"),
            "{text}"
        );
    }
}
