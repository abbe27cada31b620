//! `deploy/manifests`: the chart as helm renders it, for those who install with `kubectl apply`.

use std::process::Command;

use anyhow::Context as _;
use serde_json::Value;
use undermesh_cluster::Programs;
use undermesh_cluster::run::output;

use crate::{crds, repository};

/// The values of the committed manifests: the kinds are in a file of their own, which is applied first.
pub const COMMITTED: &[&str] = &["crds.install=false", "namespace.create=true"];
/// Everything that the chart can render.
pub const ALL: &[&str] = &[
    "namespace.create=true",
    "ingressGateway.replicas=2",
    "egressGateway.enabled=true",
    "egressGateway.replicas=2",
    "enrolment.istioInjectionLabel=true",
    "metrics.podMonitor.enabled=true",
];

/// helm: the cluster harness' own, else one in the PATH.
///
/// # Errors
/// There is none.
pub fn helm() -> anyhow::Result<Command> {
    if let Ok(programs) = Programs::cached() {
        return Ok(Command::new(programs.helm()));
    }
    output(Command::new("helm").arg("version"))
        .context("no helm in the PATH, and `cargo xtask cluster --prepare` has built none")?;
    Ok(Command::new("helm"))
}

/// The chart with these values, without a cluster.
///
/// # Errors
/// There is no helm, or it refuses.
pub fn rendered(values: &[&str]) -> anyhow::Result<String> {
    let mut helm = helm()?;
    helm.args(["template", "undermesh"]).arg(repository("deploy/chart"));
    helm.args(["--namespace", "undermesh-system", "--set", &values.join(",")]);
    output(&mut helm)
}

/// `deploy/manifests/crds.yaml`
///
/// # Errors
/// As [`crds::files`].
pub fn all_crds() -> anyhow::Result<String> {
    Ok(crds::files()?.values().map(|text| format!("---\n{text}")).collect())
}

/// The objects in a text of several documents.
///
/// # Errors
/// It is not YAML.
pub fn objects(text: &str) -> anyhow::Result<Vec<Value>> {
    use serde::Deserialize as _;
    let all = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    Ok(all.collect::<Result<Vec<_>, _>>()?.into_iter().filter(|object| !object.is_null()).collect())
}
