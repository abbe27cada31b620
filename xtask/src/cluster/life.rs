//! Pods whose life is other than that of a server with one container.

use anyhow::Context as _;
use serde_json::Value;

use crate::cargo::root;
use crate::cluster::checks::{SERVICE1, ms};
use crate::cluster::stage::{Stage, wait};
use crate::demo::checks::{body, status, words};
use crate::demo::report::Finding;

const FILE: &str = "deploy/kubernetes/life.yaml";
/// Of `article/internal-mesh.yaml`, less what a clock may be off.
const DELAY_MS: f64 = 1990.0;
/// So many seconds the kubelet has probed the pod when its restarts are counted.
const PROBED: u32 = 5;

/// A Job whose init container is the first process of its pod and calls by the rules already, the kubelet's probes of a pod in
/// the mesh, and the pods of a StatefulSet by their names.
pub(crate) fn pods(stage: &mut Stage) -> anyhow::Result<Finding> {
    stage.apply_workloads(FILE)?;
    let timeout = stage.timeout(60);
    stage.kubectl(&["wait", "-n", "ns1", "job/report", "--for=condition=Complete", &timeout])?;
    let said = |container: &str| -> anyhow::Result<Value> {
        let log = stage.kubectl(&["logs", "-n", "ns1", "job/report", "-c", container])?;
        serde_json::from_str(&log).with_context(|| format!("container {container} said {log:?}"))
    };
    let (first, then) = (said("first")?, said("then")?);
    for (namespace, what) in [("ns1", "deployment/probed"), ("ns2", "statefulset/db")] {
        stage.kubectl(&["rollout", "status", "-n", namespace, what, &timeout])?;
    }
    let names: Vec<String> = ["db-0", "db-1"]
        .into_iter()
        .map(|pod| {
            let events =
                stage.http(SERVICE1, &format!("http://{pod}.db.ns2.svc.cluster.local:8080/"), &[])?;
            let event = events.first().context("the client said nothing")?;
            let answer: Option<Value> = serde_json::from_str(body(event)).ok();
            let name = answer.and_then(|it| Some(it.get("pod")?.as_str()?.to_owned()));
            anyhow::Ok(name.unwrap_or_else(|| words(event)))
        })
        .collect::<anyhow::Result<_>>()?;
    std::thread::sleep(stage.limit(PROBED));
    let probed = stage.json(&["get", "pods", "-n", "ns1", "-l", "app=probed"])?;
    let of = |field: &str| probed.pointer(&format!("/items/0/status/containerStatuses/0/{field}")).cloned();
    let (restarts, is_ready) = (of("restartCount"), of("ready"));
    stage.kubectl(&[
        "delete",
        "--ignore-not-found",
        "-f",
        &root().join(FILE).display().to_string(),
        &timeout,
    ])?;
    // Their pods end a while after; the next checks compare all pods with those of before.
    wait(stage.limit(60), "the pods to be gone", || {
        Ok(stage.pods()?.keys().eq(stage.pods_before.keys()).then_some(()))
    })?;
    let is_delayed = |event: &Value| status(event) == 200 && ms(event) >= DELAY_MS;
    Ok(Finding::new("A Job, its init container, probes, a StatefulSet")
        .asked("both containers of the Job by the rules (2 s), and it ends; no restart by probes; db-0 and db-1 by name")
        .seen(format!(
            "init container {} after {:.2} s, the other {} after {:.2} s, complete; {} restarts; {}",
            words(&first),
            ms(&first) / 1e3,
            words(&then),
            ms(&then) / 1e3,
            restarts.as_ref().unwrap_or(&Value::Null),
            names.join(", ")
        ))
        .holds(
            is_delayed(&first)
                && is_delayed(&then)
                && restarts == Some(0.into())
                && is_ready == Some(true.into())
                && names == ["db-0", "db-1"],
        ))
}
