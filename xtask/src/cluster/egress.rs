//! The egress gateway, with the objects of Istio's task for it: <https://istio.io/latest/docs/tasks/traffic-management/egress/egress-gateway/>
//!
//! The host outside is a pod without the mesh, in a namespace that no rule names. Whoever answers there says who called, so
//! the way that a request took shows: by itself from the pod's address, by the gateway from the gateway's.

use serde_json::Value;

use crate::cargo::root;
use crate::cluster::checks::{PAGE, VISITOR, once};
use crate::cluster::stage::{READY, RELEASE, SYSTEM, Stage, wait};
use crate::demo::checks::{body, status, words};
use crate::demo::report::Finding;

const GATEWAY: &str = "istio-egressgateway";
const HOST: &str = "edition.example.com";
/// What DNS would give for that host. Nobody is there: it is Host that decides (TEST-NET-1, RFC 5737).
const ADDRESS: &str = "http://192.0.2.80/politics";

/// `helm upgrade` with the gateway, a ServiceEntry, then the way through the gateway.
pub(crate) fn gateway(stage: &mut Stage) -> anyhow::Result<Finding> {
    stage.apply_workloads("deploy/kubernetes/egress/internet.yaml")?;
    stage.wait_rolled_out("internet")?;
    let chart = root().join("deploy/chart").display().to_string();
    let timeout = stage.timeout(READY);
    let upgrade = [
        "upgrade",
        RELEASE,
        &chart,
        "--namespace",
        SYSTEM,
        "--reuse-values",
        "--set=egressGateway.enabled=true",
        "--wait",
        &timeout,
    ];
    stage.helm(&upgrade).map_err(|e| e.context(stage.troubles(SYSTEM)))?;
    stage.wait_rolled_out(SYSTEM)?;
    let address = |namespace: &str, app: &str| {
        let app = format!("app={app}");
        stage.kubectl(&["get", "pod", "-n", namespace, "-l", &app, "-o", "jsonpath={.items[0].status.podIP}"])
    };
    let (own, gateways) = (address("default", "productpage")?, address(SYSTEM, GATEWAY)?);

    stage.apply("deploy/kubernetes/egress/service-entry.yaml")?;
    let direct = wait(stage.limit(15), "the host outside to answer", || called_by(stage, &own))?;
    stage.apply("deploy/kubernetes/egress/gateway.yaml")?;
    let through = wait(stage.limit(15), "the egress gateway to carry it", || called_by(stage, &gateways));
    let through = through.unwrap_or_else(|e| format!("{e:#}"));
    let outside = once(stage.http(VISITOR, ADDRESS, &["--host", HOST, "--timeout-ms", "2000"])?)?;

    let pod =
        ["get", "pod", "-n", "default", "-l", "app=productpage", "-o", "jsonpath={.items[0].metadata.name}"];
    let pod = format!("default/{}", stage.kubectl(&pod)?);
    let explained = stage.plugin(&["explain", &format!("http://{HOST}/politics"), "--pod", &pod])?;
    let named = explained.said.contains(&format!("{GATEWAY}.{SYSTEM}.svc.cluster.local"));
    let series = series(stage, &gateways)?;
    Ok(Finding::new("Out by the egress gateway")
        .asked(format!(
            "{HOST} is called by the pod itself ({own}), then by the gateway ({gateways}), whose metrics and explain say so; \
             a pod outside of the mesh does not get there"
        ))
        .seen(format!(
            "by {direct}, then by {through}; explain {} it; metrics {}; the visitor: {}",
            if named { "names" } else { "does not name" },
            if series.is_some() { "there" } else { "missing" },
            words(&outside)
        ))
        .detail(format!("{}\n{}", explained.said, series.clone().unwrap_or_default()))
        .holds(direct == own && through == gateways && named && series.is_some() && status(&outside) != 200))
}

/// Who the host outside was called by, if that is `whom`.
fn called_by(stage: &Stage, whom: &str) -> anyhow::Result<Option<String>> {
    let event = once(stage.http(PAGE, ADDRESS, &["--host", HOST, "--timeout-ms", "2000"])?)?;
    let said: Value = serde_json::from_str(body(&event)).unwrap_or_default();
    let client = said.get("client").and_then(Value::as_str);
    anyhow::ensure!(client == Some(whom), "{}, called by {}", words(&event), client.unwrap_or("nobody"));
    Ok(client.map(str::to_owned))
}

/// What the gateway counted.
fn series(stage: &Stage, gateway: &str) -> anyhow::Result<Option<String>> {
    let answer = once(stage.http(VISITOR, &format!("http://{gateway}:15020/metrics"), &[])?)?;
    let want = [
        "istio_requests_total{",
        "source_workload=\"istio-egressgateway\"",
        "destination_service=\"edition.example.com\"",
        "response_code=\"200\"",
    ];
    let line = body(&answer).lines().find(|line| want.iter().all(|w| line.contains(w)));
    Ok(line.map(str::to_owned))
}
