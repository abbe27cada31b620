//! Linux capabilities: the agent works with those that the DaemonSet names, and not without any of them.

use serde::Deserialize as _;
use serde_json::Value;
use undermesh_tests::{Agent, Binaries, Pod, PodSpec, Process, wait_until};

use crate::mesh::{ECHO, LIMIT, Mesh, WEB, field, mark};

/// What the manifests add to none.
fn granted() -> anyhow::Result<Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/manifests/undermesh.yaml");
    let text = std::fs::read_to_string(path)?;
    let objects = serde_yaml_ng::Deserializer::from_str(&text).map(Value::deserialize);
    let objects = objects.collect::<Result<Vec<_>, _>>()?;
    let agent = objects.iter().find(|it| it["kind"] == "DaemonSet").expect("the manifests have an agent");
    let security = &agent["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    assert_eq!(security["capabilities"]["drop"], serde_json::json!(["ALL"]));
    assert_eq!(security["allowPrivilegeEscalation"], false);
    let added = security["capabilities"]["add"].as_array().expect("it has some");
    Ok(added.iter().filter_map(|it| it.as_str().map(str::to_ascii_lowercase)).collect())
}

/// A pod that is found by its processes, as in a cluster, and one for the agent.
struct Pods {
    found: Pod,
    _pause: Process,
    agents: Pod,
}

fn pods(mesh: &mut Mesh) -> anyhow::Result<Pods> {
    mesh.agent.take().expect("it runs").terminate(LIMIT)?.success("agent")?;
    let (found, agents) = (mesh.node.pod("mesh", "found")?, mesh.node.pod("plain", "agent")?);
    let manifest = |pod: &Pod| pod.manifest(&PodSpec::labelled([("app", pod.name())]).unannotated());
    mesh.config.write("found.yaml", &format!("{}---\n{}", manifest(&found), manifest(&agents)))?;
    let mut pause = std::process::Command::new("sleep");
    pause.arg("1000000");
    let _pause = found.spawn("pause", &pause)?;
    Ok(Pods { found, _pause, agents })
}

/// The agent as a container has it: no capability but `capabilities`, and no way to more.
fn start(mesh: &Mesh, pods: &Pods, capabilities: &[&str]) -> anyhow::Result<Agent> {
    let set = capabilities.iter().fold("-all".to_owned(), |set, one| format!("{set},+{one}"));
    let wrapper = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set", &set];
    let program = &Binaries::for_tests()?.undermesh;
    Agent::start_in_by(&pods.agents, &wrapper, program, mesh.config.folder(), &mesh.world.folder())
}

fn row(agent: &Agent, pod: &str) -> anyhow::Result<Value> {
    let rows = agent.ask(&["workloads"])?;
    Ok(rows.as_array().into_iter().flatten().find(|row| row["pod"] == pod).cloned().unwrap_or_default())
}

#[test]
fn the_capabilities_of_the_manifests_are_enough() -> anyhow::Result<()> {
    let Some(mut mesh) = Mesh::set("the_capabilities_of_the_manifests_are_enough")? else { return Ok(()) };
    let granted = granted()?;
    let granted: Vec<_> = granted.iter().map(String::as_str).collect();
    let pods = pods(&mut mesh)?;
    let mut agent = start(&mesh, &pods, &granted)?;
    agent.wait_captured(6)?;
    // It has these and no other.
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let effective =
        status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("procfs has it").trim();
    let count = u64::from_str_radix(effective, 16)?.count_ones();
    assert_eq!(count as usize, granted.len(), "{effective}");
    mesh.agent = Some(agent);
    for (pod, want) in [(&mesh.a, "for a"), (&pods.found, "for others"), (&mesh.host, "for others")] {
        assert_eq!(mark(&mesh.get(pod, WEB)?), Some(want), "{}", pod.name());
    }
    let greeting = mesh.events(&mesh.a, &["tcp", ECHO])?;
    assert!(greeting.iter().all(|event| event.get("error").is_none()), "{greeting:?}");
    // A configuration that changes, a pod that comes and one that goes.
    let doctor = mesh.agent().cli(&["doctor"])?;
    assert!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));
    std::fs::remove_file(mesh.config.folder().join("found.yaml"))?;
    mesh.agent.as_mut().expect("it runs").wait_captured(5)?;
    mesh.agent.take().expect("it runs").terminate(LIMIT)?.success("agent")?;
    Ok(())
}

#[test]
fn each_capability_of_the_manifests_is_missed() -> anyhow::Result<()> {
    let Some(mut mesh) = Mesh::set("each_capability_of_the_manifests_is_missed")? else { return Ok(()) };
    let granted = granted()?;
    let pods = pods(&mut mesh)?;
    for dropped in &granted {
        let rest: Vec<_> = granted.iter().filter(|it| *it != dropped).map(String::as_str).collect();
        let said = match start(&mesh, &pods, &rest) {
            // It starts, and a pod is not captured for want of it.
            Ok(agent) => wait_until(LIMIT, &format!("{dropped} to be missed"), || {
                let row = row(&agent, "mesh/found")?;
                let is_missed = row["capture"] != "yes" && field(&row, "reason").contains("CAP_");
                Ok(is_missed.then(|| field(&row, "reason").to_owned()))
            })?,
            Err(error) => format!("{error:#}"),
        };
        assert!(said.contains(&format!("lacks CAP_{}", dropped.to_ascii_uppercase())), "{dropped}: {said}");
    }
    Ok(())
}
