//! `undermesh doctor` says of each pod whether its connections arrive, because it made one.

use serde_json::Value;
use undermesh_tests::wait_until;

use crate::mesh::{LIMIT, Mesh};

/// Pod, verdict and what was probed.
type Verdict = (String, String, String);

/// The verdict on each pod, and the exit code.
fn verdicts(mesh: &Mesh) -> anyhow::Result<(Vec<Verdict>, Option<i32>)> {
    let output = mesh.agent().cli(&["doctor", "--output", "json"])?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let pods = report["pods"].as_array().into_iter().flatten();
    let text = |pod: &Value, field: &str| pod[field].as_str().unwrap_or_default().to_owned();
    let verdicts =
        pods.map(|pod| (text(pod, "pod"), text(pod, "verdict"), format!("{}", pod["probes"]))).collect();
    Ok((verdicts, output.status.code()))
}

#[test]
fn every_captured_pod_is_reached_and_known_and_one_that_is_not_reached_is_named() -> anyhow::Result<()> {
    let Some(mesh) =
        Mesh::set("every_captured_pod_is_reached_and_known_and_one_that_is_not_reached_is_named")?
    else {
        return Ok(());
    };
    let (pods, code) = verdicts(&mesh)?;
    for (pod, verdict, probes) in &pods {
        let want = if pod == "plain/outsider" { "not enrolled" } else { "captured" };
        assert_eq!(verdict, want, "{pod}: {probes}");
        // Both families.
        assert_eq!(
            probes.matches("\"answered_as\"").count(),
            if want == "captured" { 2 } else { 0 },
            "{probes}"
        );
    }
    assert_eq!((pods.len(), code), (6, Some(0)), "{pods:?}");

    // A pod whose probe is left alone looks just like one that the programs do not see.
    let manifests = std::fs::read_to_string(mesh.config.folder().join("pods.yaml"))?;
    let netns = mesh.b.netns().path().display().to_string();
    let line =
        manifests.lines().find(|line| line.contains(&netns)).expect("b's manifest names its namespace");
    let indent: String = line.chars().take_while(|c| *c == ' ').collect();
    let excluded = format!("{line}\n{indent}undermesh.io/exclude-outbound-ports: \"15999\"");
    mesh.config.write("pods.yaml", &manifests.replace(line, &excluded))?;
    wait_until(LIMIT, "b not to be reached", || {
        let (pods, code) = verdicts(&mesh)?;
        let of =
            |name: &str| pods.iter().find(|(pod, ..)| pod == name).map(|(_, verdict, _)| verdict.clone());
        let is_named = of("mesh/b").as_deref() == Some("not reached");
        assert_eq!(of("mesh/a").as_deref(), Some("captured"), "{pods:?}");
        Ok((is_named && code == Some(1)).then_some(()))
    })
}
