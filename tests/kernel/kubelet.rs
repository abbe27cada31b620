//! Pods as a kubelet and a container runtime make them: nothing in their manifests says where they are. The agent finds them
//! by their uid in the names of cgroups, and by what happens there.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use undermesh_tests::{Agent, Binaries, Layout, Pod, PodSpec, Process, wait_until};

use crate::mesh::{ECHO, LIMIT, Mesh, WEB, field, mark};

/// The row of a pod in `workloads`.
fn row(mesh: &Mesh, pod: &Pod) -> anyhow::Result<Value> {
    let rows = mesh.agent().ask(&["workloads"])?;
    let name = format!("{}/{}", pod.namespace(), pod.name());
    let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["pod"] == *name));
    Ok(row.cloned().unwrap_or_default())
}

fn wait_for(mesh: &Mesh, pod: &Pod, capture: &str) -> anyhow::Result<Value> {
    wait_until(LIMIT, &format!("{} to be {capture:?}", pod.name()), || {
        let row = row(mesh, pod)?;
        Ok((field(&row, "capture") == capture).then_some(row))
    })
}

/// Something that runs, so that there is a process.
fn pause() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000000");
    command
}

fn unannotated(pod: &Pod) -> String {
    pod.manifest(&PodSpec::labelled([("app", pod.name())]).unannotated())
}

#[test]
fn pods_are_found_by_their_uid_under_both_cgroup_drivers_and_below_any_root() -> anyhow::Result<()> {
    for layout in [Layout::Cgroupfs, Layout::Systemd, Layout::Kind] {
        let Some(mut mesh) =
            Mesh::set("pods_are_found_by_their_uid_under_both_cgroup_drivers_and_below_any_root")?
        else {
            return Ok(());
        };
        // The other pods' root was made by another driver: with two roots, the programs are attached above both.
        if layout != Layout::Cgroupfs {
            mesh.agent.take().expect("it runs").terminate(LIMIT)?;
        }
        let found = mesh.node.pod_laid_out("mesh", "found", layout)?;
        let pause = found.spawn("pause", &pause())?;
        mesh.config.write("found.yaml", &unannotated(&found))?;
        if layout != Layout::Cgroupfs {
            let program = &Binaries::for_tests()?.undermesh;
            mesh.agent = Some(Agent::start(&mesh.node, program, mesh.config.folder(), &mesh.world.folder())?);
        }
        let row = wait_for(&mesh, &found, "yes")?;
        assert_eq!(field(&row, "cgroup"), found.cgroup().display().to_string(), "{row}");
        assert_eq!(field(&row, "uid"), found.uid());
        assert_eq!(mark(&mesh.get(&found, WEB)?), Some("for others"), "{layout:?}");
        pause.kill()?;
    }
    Ok(())
}

/// A pod that comes while the agent runs, and its first process, which talks to `web` from its first moment: how long it was
/// in its namespace before it was captured.
fn until_captured(mesh: &Mesh, name: &str) -> anyhow::Result<Duration> {
    let pod = mesh.node.pod("mesh", name)?;
    pod.end()?;
    let labels = PodSpec::labelled([("app", name)]).unannotated();
    mesh.config.write(&format!("{name}.yaml"), &pod.manifest(&labels.clone().pending()))?;
    let waiting = wait_for(mesh, &pod, "waiting")?;
    assert!(field(&waiting, "reason").contains(pod.uid()), "{waiting}");

    let url = format!("http://{WEB}/");
    let talk = Mesh::client(&["http", &url, "--count", "0", "--interval-ms", "1", "--new-connections"])?;
    let mut sandbox = pod.spawn_as_runc("sandbox", &talk, Duration::from_millis(30))?;
    let captured = wait_until(LIMIT, "the first captured connection", || {
        sandbox.must_run()?;
        let text = sandbox.stdout();
        let events = text.lines().skip(1).filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(events.into_iter().find(|event| mark(event).is_some()))
    })?;
    let joined: f64 = sandbox.stdout().lines().next().and_then(|line| line.parse().ok()).expect("the time");
    let ended = captured["at"].as_f64().expect("events say when");
    // Its addresses come after it, and change nothing of that.
    let id = wait_for(mesh, &pod, "yes")?["id"].clone();
    mesh.config.write(&format!("{name}.yaml"), &pod.manifest(&labels))?;
    wait_until(LIMIT, "its addresses", || {
        let row = row(mesh, &pod)?;
        Ok((row["addresses"].as_array().map(Vec::len) == Some(2)).then_some(()))
    })?;
    let row = row(mesh, &pod)?;
    assert_eq!((&row["capture"], &row["id"]), (&Value::from("yes"), &id), "{row}");
    let after = sandbox.stdout().lines().count();
    wait_until(LIMIT, "it to go on talking", || {
        Ok((sandbox.stdout().lines().count() > after + 20).then_some(()))
    })?;
    let text = sandbox.stdout();
    let events = text.lines().skip(1).filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let failed: Vec<_> =
        events.skip_while(|event| mark(event).is_none()).filter(|it| it["status"] != 200).collect();
    assert_eq!(failed, Vec::<Value>::new(), "once captured it stays so");
    Ok(Duration::from_secs_f64((ended - joined).max(0.0)))
}

#[test]
fn a_pod_is_captured_within_milliseconds_of_its_sandbox() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_pod_is_captured_within_milliseconds_of_its_sandbox")? else {
        return Ok(());
    };
    let mut took = Vec::new();
    for n in 0..5 {
        took.push(until_captured(&mesh, &format!("late-{n}"))?);
    }
    took.sort();
    println!(
        "from the first process in the namespace to its first answer by the mesh, ms: {}",
        took.iter().map(|it| it.as_millis().to_string()).collect::<Vec<_>>().join(" ")
    );
    // On a busy machine the program's own start, which is in it, takes its time.
    assert!(took[1] < Duration::from_millis(500), "{took:?}");
    Ok(())
}

#[test]
fn a_pod_that_goes_is_let_go_of_and_its_successor_of_the_same_name_is_found() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_pod_that_goes_is_let_go_of_and_its_successor_of_the_same_name_is_found")?
    else {
        return Ok(());
    };
    let (pod, next) = (mesh.node.pod("mesh", "set-0")?, mesh.node.pod("mesh", "set-00")?);
    let _pause = pod.spawn("pause", &pause())?;
    mesh.config.write("set.yaml", &unannotated(&pod))?;
    wait_for(&mesh, &pod, "yes")?;
    assert!(held(&mesh, &pod)?, "its listeners are in it");

    // The kubelet ends it before the API server forgets it.
    pod.end()?;
    wait_for(&mesh, &pod, "waiting")?;
    wait_until(LIMIT, "its namespace to be let go of", || Ok((!held(&mesh, &pod)?).then_some(())))?;
    assert_eq!(mark(&mesh.get(&mesh.a, WEB)?), Some("for a"), "the others stay");

    // A StatefulSet's pod comes back under its name with another uid.
    let _pause = next.spawn("pause", &pause())?;
    let manifest = unannotated(&next).replace("set-00", "set-0");
    mesh.config.write("set.yaml", &manifest)?;
    let row = wait_for(&mesh, &pod, "yes")?;
    assert_eq!(field(&row, "uid"), next.uid());
    assert_eq!(mark(&mesh.get(&next, WEB)?), Some("for others"));
    Ok(())
}

/// Whether the agent holds a pod's network namespace.
fn held(mesh: &Mesh, pod: &Pod) -> anyhow::Result<bool> {
    let netns = fs::metadata(pod.netns().path())?;
    let pid = mesh.agent().pid();
    let held =
        fs::read_dir(format!("/proc/{pid}/fd"))?.flatten().filter_map(|fd| fs::metadata(fd.path()).ok());
    Ok(held.into_iter().any(|it| (it.dev(), it.ino()) == (netns.dev(), netns.ino())))
}

#[test]
fn a_sandbox_that_is_made_anew_is_captured_anew() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_sandbox_that_is_made_anew_is_captured_anew")? else { return Ok(()) };
    let (pod, other) = (mesh.node.pod("mesh", "again")?, mesh.node.pod("mesh", "netns-of-another")?);
    let first = pod.spawn("pause", &pause())?;
    mesh.config.write("again.yaml", &unannotated(&pod))?;
    let before = wait_for(&mesh, &pod, "yes")?;
    first.kill()?;
    // The same pod, the same cgroup, and a process in another namespace.
    let mut join = Command::new("nsenter");
    join.arg(format!("--net={}", other.netns().path().display())).args(["sleep", "1000000"]);
    let _second = pod.spawn("pause", &join)?;
    wait_until(LIMIT, "its other namespace to be found", || {
        let row = row(&mesh, &pod)?;
        Ok((row["capture"] == "yes" && row["netns_cookie"] != before["netns_cookie"]).then_some(()))
    })?;
    assert_eq!(mark(&mesh.get(&other, WEB)?), Some("for others"));
    Ok(())
}

#[test]
fn a_restarted_agent_finds_all_pods_again() -> anyhow::Result<()> {
    let Some(mut mesh) = Mesh::set("a_restarted_agent_finds_all_pods_again")? else { return Ok(()) };
    let pods: Vec<Pod> =
        (0..3).map(|n| mesh.node.pod("mesh", &format!("found-{n}"))).collect::<anyhow::Result<_>>()?;
    let _pauses: Vec<Process> =
        pods.iter().map(|pod| pod.spawn("pause", &pause())).collect::<anyhow::Result<_>>()?;
    mesh.config.write("found.yaml", &pods.iter().map(unannotated).collect::<Vec<_>>().join("---\n"))?;
    mesh.agent.as_mut().expect("it runs").wait_captured(8)?;
    // Killed, so that it could not leave anything in order.
    mesh.agent.take().expect("it runs").kill()?;
    let program = &Binaries::for_tests()?.undermesh;
    let mut agent = Agent::start(&mesh.node, program, mesh.config.folder(), &mesh.world.folder())?;
    agent.wait_captured(8)?;
    mesh.agent = Some(agent);
    for pod in &pods {
        assert_eq!(mark(&mesh.get(pod, WEB)?), Some("for others"), "{}", pod.name());
    }
    Ok(())
}

#[test]
fn host_network_pods_share_a_listener_and_are_told_apart_by_their_cgroups() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("host_network_pods_share_a_listener_and_are_told_apart_by_their_cgroups")?
    else {
        return Ok(());
    };
    let pods: Vec<Pod> = (0..8)
        .map(|n| mesh.node.host_network_pod("mesh", &format!("host-{n}")))
        .collect::<anyhow::Result<_>>()?;
    let spec = |pod: &Pod| {
        // The rules know pods labelled `a`; half of these are.
        let app = if pod.name().ends_with(['0', '2', '4', '6']) { "a" } else { "other" };
        let mode = if pod.name() == "host-7" { "none" } else { "undermesh" };
        PodSpec::labelled([("app", app), ("istio.io/dataplane-mode", mode)]).unannotated()
    };
    let manifests =
        |pods: &[Pod]| pods.iter().map(|pod| pod.manifest(&spec(pod))).collect::<Vec<_>>().join("---\n");
    mesh.config.write("hosts.yaml", &manifests(&pods))?;
    for pod in &pods[..7] {
        wait_for(&mesh, pod, "yes")?;
    }
    for pod in &pods {
        let want = match pod.name() {
            "host-7" => None,
            "host-0" | "host-2" | "host-4" | "host-6" => Some("for a"),
            _ => Some("for others"),
        };
        assert_eq!(mark(&mesh.get(pod, WEB)?), want, "{}", pod.name());
    }
    // The first, for which the listener was opened, goes.
    pods[0].end()?;
    mesh.config.write("hosts.yaml", &manifests(&pods[1..]))?;
    wait_until(LIMIT, "the first to be forgotten", || Ok(row(&mesh, &pods[0])?.is_null().then_some(())))?;
    for (pod, want) in [(&pods[1], "for others"), (&pods[2], "for a"), (&mesh.host, "for others")] {
        assert_eq!(mark(&mesh.get(pod, WEB)?), Some(want), "{}", pod.name());
    }
    Ok(())
}

#[test]
fn a_pod_with_a_sidecar_is_left_alone_and_said_to_be() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_pod_with_a_sidecar_is_left_alone_and_said_to_be")? else { return Ok(()) };
    let pod = mesh.node.pod("mesh", "istio")?;
    let _pause = pod.spawn("pause", &pause())?;
    let spec = PodSpec::labelled([("app", "a")]).unannotated().container("istio-proxy");
    mesh.config.write("istio.yaml", &pod.manifest(&spec))?;
    let row = wait_for(&mesh, &pod, "no")?;
    assert_eq!(field(&row, "reason"), "it has a sidecar: container istio-proxy", "{row}");
    let (answer, counted) = mesh.counted(|| mesh.get(&pod, WEB))?;
    assert_eq!(field(&answer, "kind"), "HostUnreachable", "{answer}");
    assert_eq!((counted.get("not_enrolled"), counted.get("redirected4")), (Some(&1), None), "{counted:?}");
    Ok(())
}

#[test]
fn an_agent_in_a_pod_of_its_own_captures_the_others_and_never_itself() -> anyhow::Result<()> {
    let Some(mut mesh) = Mesh::set("an_agent_in_a_pod_of_its_own_captures_the_others_and_never_itself")?
    else {
        return Ok(());
    };
    // Beside the pods' cgroups its connections never meet the programs.
    let (answer, counted) = mesh.counted(|| mesh.get(&mesh.a, WEB))?;
    assert_eq!((mark(&answer), counted.get("own_traffic")), (Some("for a"), None), "{counted:?}");
    mesh.agent.take().expect("it runs").terminate(LIMIT)?.success("agent")?;

    let own = mesh.node.pod("mesh", "agent")?;
    mesh.config.write("agent.yaml", &unannotated(&own))?;
    let program = &Binaries::for_tests()?.undermesh;
    mesh.agent = Some(Agent::start_in(&own, program, mesh.config.folder(), &mesh.world.folder())?);
    mesh.agent.as_mut().expect("just started").wait_captured(5)?;
    // The endpoint's address is captured too (headless web-direct): an agent that met itself would go round in circles.
    let (answer, counted) = mesh.counted(|| mesh.get(&mesh.a, WEB))?;
    assert_eq!((answer["status"].as_u64(), mark(&answer)), (Some(200), Some("for a")), "{answer}");
    assert_eq!((counted.get("redirected4"), counted.get("own_traffic")), (Some(&1), Some(&1)), "{counted:?}");
    // The node's namespace is not the agent's own, and pods in it are captured all the same.
    assert_eq!(mark(&mesh.get(&mesh.host, WEB)?), Some("for others"));
    let row = row(&mesh, &own)?;
    assert_eq!((field(&row, "capture"), field(&row, "reason")), ("no", "it is the agent's own"), "{row}");
    let greeting = mesh.events(&mesh.a, &["tcp", ECHO])?;
    assert!(greeting.iter().all(|event| event.get("error").is_none()), "{greeting:?}");
    Ok(())
}
