//! `cargo xtask deps`: the arrows between our crates, and what the inner ones must not know of. One table; a crate that is
//! not in it is an error, so that a new one is placed on purpose.
//!
//! ```text
//!   agent ──→ proxy ────→ core          proxy and redirect never see each other,
//!     └─────→ redirect ─→ core          nor do core and common
//!                └──────→ common ←── ebpf
//! ```

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use serde_json::Value;

use crate::cargo::{items, metadata, text};

/// Check which of our crates depend on which, and on what others
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

struct Crate {
    name: &'static str,
    /// Which of our own crates it may depend on, tests included.
    may_use: &'static [&'static str],
    /// What must not be anywhere below it.
    never: &'static [&'static str],
}

/// Sockets, runtimes, files by notification, the kernel, the API server: what pure code has no use for.
const EDGES: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "rustix",
    "nix",
    "aya",
    "aya-obj",
    "hyper",
    "h2",
    "rustls",
    "kube",
    "k8s-openapi",
    "clap",
    "anyhow",
    "notify",
    "rand",
    "getrandom",
    "tracing-subscriber",
];
/// What only the agent may know.
const AGENTS_OWN: &[&str] = &["kube", "k8s-openapi", "clap", "anyhow"];

const CRATES: &[Crate] = &[
    Crate { name: "undermesh-common", may_use: &[], never: EDGES },
    Crate { name: "undermesh-core", may_use: &[], never: EDGES },
    Crate { name: "undermesh-ebpf", may_use: &["undermesh-common"], never: &["tokio", "kube", "clap"] },
    // The worlds are for its tests alone.
    Crate { name: "undermesh-proxy", may_use: &["undermesh-core", "undermesh-worlds"], never: AGENTS_OWN },
    Crate { name: "undermesh-redirect", may_use: &["undermesh-core", "undermesh-common"], never: AGENTS_OWN },
    Crate {
        name: "undermesh",
        // The worlds are for its benchmark alone, the API server for its tests.
        may_use: &[
            "undermesh-core",
            "undermesh-proxy",
            "undermesh-redirect",
            "undermesh-worlds",
            "undermesh-fake-api",
        ],
        never: &["aya-ebpf"],
    },
    // Above all of them.
    Crate {
        name: "undermesh-tests",
        may_use: &[
            "undermesh",
            "undermesh-core",
            "undermesh-proxy",
            "undermesh-redirect",
            "undermesh-common",
            "undermesh-fake-api",
            "undermesh-worlds",
        ],
        never: &[],
    },
    // An API server knows nothing of a mesh.
    Crate { name: "undermesh-fake-api", may_use: &[], never: AGENTS_OWN },
    Crate { name: "undermesh-worlds", may_use: &["undermesh-core"], never: EDGES },
    Crate {
        name: "undermesh-fuzz",
        may_use: &["undermesh", "undermesh-core", "undermesh-proxy", "undermesh-worlds"],
        never: &[],
    },
    // Kubernetes by its command lines alone: no client library. Its tests use the agent, for what that writes by itself.
    Crate {
        name: "undermesh-cluster",
        may_use: &["undermesh", "undermesh-tests"],
        never: &["kube", "k8s-openapi"],
    },
    // The types for the CRDs; Kubernetes' programs for helm and an API server; a node for those whose rights are tried.
    Crate {
        name: "undermesh-deploy",
        may_use: &["undermesh-core", "undermesh-cluster", "undermesh-tests"],
        never: &["kube", "k8s-openapi"],
    },
    Crate { name: "xtask", may_use: &["undermesh-cluster", "undermesh-tests"], never: &[] },
    // Load generator and backend: programs like any other to the mesh.
    Crate { name: "undermesh-bench", may_use: &[], never: &[] },
    // Tools that stand beside the mesh: they must not share its code, or its mistakes would measure themselves.
    Crate { name: "undermesh-bench", may_use: &[], never: &[] },
    // An application: it must not know that there is a mesh.
    Crate { name: "bookinfo", may_use: &[], never: &[] },
];

pub(crate) fn run(_: &Args) -> anyhow::Result<()> {
    let faults = faults(&metadata(true)?);
    for fault in &faults {
        println!("  {fault}");
    }
    if !faults.is_empty() {
        bail!(
            "{} forbidden dependencies (the table is in xtask/src/deps.rs, the reasons in ARCHITECTURE.md)",
            faults.len()
        );
    }
    println!("deps: all arrows of {} crates point down", CRATES.len());
    Ok(())
}

/// What is wrong with the workspace that `cargo metadata` describes.
fn faults(metadata: &Value) -> Vec<String> {
    let members: BTreeSet<&str> = items(metadata, "workspace_members").filter_map(Value::as_str).collect();
    let names: BTreeMap<&str, &str> =
        items(metadata, "packages").map(|p| (text(p, "id"), text(p, "name"))).collect();
    let below = edges(metadata);
    let mut faults = Vec::new();
    for package in items(metadata, "packages").filter(|p| members.contains(text(p, "id"))) {
        let name = text(package, "name");
        let Some(rule) = CRATES.iter().find(|c| c.name == name) else {
            faults.push(format!("{name} is not in the table of xtask/src/deps.rs"));
            continue;
        };
        for dependency in items(package, "dependencies").map(|d| text(d, "name")) {
            let ours = CRATES.iter().any(|c| c.name == dependency);
            if ours && !rule.may_use.contains(&dependency) {
                faults.push(format!("{name} must not depend on {dependency}"));
            }
        }
        for id in reachable(&below, text(package, "id")) {
            let other = names.get(id).copied().unwrap_or_default();
            if rule.never.contains(&other) {
                faults
                    .push(format!("{name} must not have {other} below it (cargo tree -p {name} -i {other})"));
            }
        }
    }
    faults
}

/// For each package the packages it is built with; what only its tests need is left out.
fn edges(metadata: &Value) -> BTreeMap<&str, Vec<&str>> {
    let nodes = metadata.get("resolve").map(|r| items(r, "nodes")).into_iter().flatten();
    nodes
        .map(|node| {
            let needed =
                items(node, "deps").filter(|d| items(d, "dep_kinds").any(|k| text(k, "kind") != "dev"));
            (text(node, "id"), needed.map(|d| text(d, "pkg")).collect())
        })
        .collect()
}

fn reachable<'a>(edges: &BTreeMap<&'a str, Vec<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&'a str> = edges.get(from).cloned().unwrap_or_default();
    while let Some(id) = next.pop() {
        if found.insert(id) {
            next.extend(edges.get(id).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A workspace of crates with their dependencies; a name that begins with `dev:` is needed by tests only.
    fn workspace(crates: &[(&str, &[&str])], outside: &[(&str, &[&str])]) -> Value {
        let package = |(name, needs): &(&str, &[&str])| {
            let needs: Vec<Value> =
                needs.iter().map(|n| json!({"name": n.trim_start_matches("dev:")})).collect();
            json!({"id": name, "name": name, "dependencies": needs})
        };
        let node = |(name, needs): &(&str, &[&str])| {
            let dependency = |n: &&str| match n.strip_prefix("dev:") {
                Some(n) => json!({"pkg": n, "dep_kinds": [{"kind": "dev"}]}),
                None => json!({"pkg": n, "dep_kinds": [{"kind": null}]}),
            };
            json!({"id": name, "deps": needs.iter().map(dependency).collect::<Vec<_>>()})
        };
        json!({
            "workspace_members": crates.iter().map(|c| c.0).collect::<Vec<_>>(),
            "packages": crates.iter().chain(outside).map(package).collect::<Vec<_>>(),
            "resolve": {"nodes": crates.iter().chain(outside).map(node).collect::<Vec<_>>()},
        })
    }

    #[test]
    fn arrows_that_point_down_are_fine() {
        let good = workspace(
            &[
                ("undermesh", &["undermesh-proxy", "undermesh-redirect", "undermesh-core", "kube"]),
                ("undermesh-proxy", &["undermesh-core", "tokio"]),
                ("undermesh-redirect", &["undermesh-core", "undermesh-common"]),
                ("undermesh-core", &["regex", "dev:tokio"]),
                ("undermesh-common", &[]),
            ],
            &[("tokio", &[]), ("kube", &["tokio"]), ("regex", &[])],
        );
        assert_eq!(faults(&good), Vec::<String>::new());
    }

    #[test]
    fn each_arrow_that_points_elsewhere_is_named() {
        for (from, to) in [
            ("undermesh-proxy", "undermesh-redirect"),
            ("undermesh-redirect", "undermesh-proxy"),
            ("undermesh-core", "undermesh-common"),
            ("undermesh-common", "undermesh-core"),
            ("undermesh-core", "undermesh-proxy"),
            ("undermesh-proxy", "undermesh"),
            ("undermesh-ebpf", "undermesh-core"),
            ("bookinfo", "undermesh-core"),
            ("undermesh", "undermesh-tests"),
        ] {
            let bad = workspace(&[(from, &[to]), (to, &[])], &[]);
            assert_eq!(faults(&bad), [format!("{from} must not depend on {to}")], "{from} -> {to}");
        }
    }

    #[test]
    fn the_pure_crates_have_no_runtime_below_them_however_deep() {
        let outside: &[(&str, &[&str])] =
            &[("regex", &["innocent"]), ("innocent", &["tokio"]), ("tokio", &[])];
        let bad = workspace(&[("undermesh-core", &["regex"])], outside);
        let faults = faults(&bad);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("undermesh-core") && faults[0].contains("tokio"), "{faults:?}");
    }

    #[test]
    fn a_crate_without_a_place_in_the_table_is_a_fault() {
        assert_eq!(faults(&workspace(&[("newcomer", &[])], &[])).len(), 1);
    }
}
