//! The authors of objects learn what became of them: from the real API server's status and Events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use undermesh::app::publish::Published;
use undermesh::report::{Settings, Writer};
use undermesh::source::files::load_text;
use undermesh::source::kubernetes::Access;
use undermesh_cluster::run::output;
use undermesh_cluster::{ControlPlane, can_run_here};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: undermesh-system}\n---\n";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
";

fn rules(subset: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: default}}
spec:
  hosts: [reviews]
  http: [{{route: [{{destination: {{host: reviews{subset}}}}}]}}]
"
    )
}

/// Our condition of the VirtualService.
fn condition(plane: &ControlPlane) -> anyhow::Result<Option<Value>> {
    let mut get = plane.kubectl();
    get.args(["get", "virtualservices.networking.istio.io", "reviews", "-o", "json"]);
    let object: Value = serde_json::from_str(&output(&mut get)?)?;
    let conditions =
        object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(conditions.into_iter().find(|it| it["type"] == "undermesh.io/InForce"))
}

fn wait(plane: &ControlPlane, what: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
    let began = Instant::now();
    loop {
        let have = condition(plane)?;
        if let Some(found) = have.as_ref().filter(|it| holds(it)) {
            return Ok(found.clone());
        }
        anyhow::ensure!(began.elapsed() < Duration::from_secs(60), "{what}: {have:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_status_says_what_is_wrong_and_that_it_is_well_again_by_one_of_two_writers() -> anyhow::Result<()> {
    let Some(programs) = can_run_here("a_status_says_what_is_wrong") else { return Ok(()) };
    let plane = ControlPlane::start(&programs)?;
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/chart/files/crds");
    output(plane.kubectl().args(["apply", "--server-side", "-f", crds]))?;
    output(plane.kubectl().args([
        "wait",
        "--for=condition=Established",
        "crd/virtualservices.networking.istio.io",
        "--timeout=30s",
    ]))?;
    let bad = rules(", subset: v9");
    plane.apply(&format!("{NAMESPACE}{SERVICE}{bad}"))?;

    let published = Arc::new(Published::new());
    let text = |rules: &str| load_text("mesh.yaml", &format!("{SERVICE}{rules}"));
    published.publish(text(&bad));
    let access = Access { kubeconfig: Some(plane.kubeconfig().to_owned()), context: None };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for identity in ["a", "b"] {
        let settings = Settings { namespace: "undermesh-system".into(), identity: identity.into() };
        let (access, published) = (access.clone(), published.clone());
        runtime.spawn(async move {
            if let Ok(writer) = Writer::connect(&access, settings, published, Arc::default()).await {
                writer.run().await;
            }
        });
    }
    let said = wait(&plane, "the warning in the status", |it| it["reason"] == "InForceWithWarnings")?;
    assert_eq!(said["status"], "True");
    assert!(said["message"].as_str().is_some_and(|text| text.contains("v9")), "{said}");
    let table = output(plane.kubectl().args(["get", "virtualservices"]))?;
    let row = table.lines().find(|line| line.starts_with("reviews")).unwrap_or_default();
    assert!(table.contains("UNDERMESH") && row.contains("InForceWithWarnings"), "{table}");
    published.publish(text(&rules("")));
    let healed = wait(&plane, "the status to be well again", |it| it["reason"] == "InForce")?;
    assert_eq!((&healed["status"], &healed["message"]), (&"True".into(), &"".into()));
    let mut get = plane.kubectl();
    get.args([
        "get",
        "lease",
        "-n",
        "undermesh-system",
        "undermesh-diagnostics",
        "-o",
        "jsonpath={.spec.holderIdentity}",
    ]);
    let holder = output(&mut get)?;
    assert!(["a", "b"].contains(&holder.as_str()), "{holder}");
    runtime.shutdown_background();
    let left = plane.end()?;
    assert!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
