//! A Deployment's roll under load: pods come, get ready, shut down and go, and no request fails, also while the only pods
//! left are shutting down.

use std::fmt::Write as _;
use std::process::Command;

use serde_json::Value;
use undermesh_tests::{Binaries, Pod, Process, wait_until};

use crate::mesh::{LIMIT, Mesh, mark};

const SERVICE: &str = "10.96.9.7:8080";

const YAML: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: rolled, namespace: mesh}
spec:
  clusterIP: 10.96.9.7
  ports: [{name: http, port: 8080}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: rolled, namespace: mesh}
spec:
  hosts: [rolled]
  http:
    - headers: {response: {set: {x-mesh: rolled}}}
      route: [{destination: {host: rolled}}]
"#;

/// As the endpoint slice controller writes a pod's state.
#[derive(Clone, Copy)]
enum State {
    NotReady,
    Ready,
    Serving,
}

/// Writes the slice, and waits until the agent has it in force.
fn publish(mesh: &Mesh, endpoints: &[(&Pod, State)]) -> anyhow::Result<()> {
    let before = mesh.status("/configuration/generation")?;
    let mut text =
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: rolled-1, namespace: mesh, \
                    labels: {kubernetes.io/service-name: rolled}}\naddressType: IPv4\n\
                    ports: [{name: http, port: 8080}]\nendpoints:\n"
            .to_owned();
    for (pod, state) in endpoints {
        let (ready, serving, terminating) = match state {
            State::NotReady => (false, false, false),
            State::Ready => (true, true, false),
            State::Serving => (false, true, true),
        };
        writeln!(
            text,
            "- {{addresses: [{}], conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}}}",
            pod.addresses()[0]
        )?;
    }
    mesh.config.write("slice.yaml", &text)?;
    wait_until(LIMIT, "the slice to be in force", || {
        Ok((mesh.status("/configuration/generation")? > before).then_some(()))
    })
}

fn serve(pod: &Pod) -> anyhow::Result<Process> {
    let mut command = Command::new(&Binaries::for_tests()?.bookinfo);
    command.arg("service2");
    let mut server = pod.spawn("server", &command)?;
    server.wait_for_text("listening on", LIMIT)?;
    Ok(server)
}

fn events(talker: &Process) -> Vec<Value> {
    talker.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits until each talker has had so many more answers.
fn go_on(talkers: &mut [Process], more: usize) -> anyhow::Result<()> {
    for talker in talkers {
        let before = events(talker).len();
        wait_until(LIMIT, "more answers", || {
            talker.must_run()?;
            Ok((events(talker).len() >= before + more).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn a_roll_under_load_fails_no_request() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_roll_under_load_fails_no_request")? else { return Ok(()) };
    let mut old = mesh.node.pod("plain", "rolled-0")?;
    let mut server = serve(&old)?;
    mesh.config.write("rolled.yaml", YAML)?;
    publish(&mesh, &[(&old, State::Ready)])?;
    wait_until(LIMIT, "the service", || {
        Ok((mark(&mesh.get(&mesh.a, SERVICE)?) == Some("rolled")).then_some(()))
    })?;

    let url = format!("http://{SERVICE}/");
    let kept = ["http", &url, "--host", "rolled:8080", "--count", "0", "--interval-ms", "2"];
    let fresh = [&kept[..], &["--new-connections"]].concat();
    let mut talkers = [&kept[..], &fresh[..]].map(|how| {
        let client = Mesh::client(how).expect("the client was built");
        mesh.b.spawn("talker", &client).expect("it starts")
    });
    for round in 1..=4 {
        let new = mesh.node.pod("plain", &format!("rolled-{round}"))?;
        let started = serve(&new)?;
        if round % 2 == 0 {
            // RollingUpdate: the new one is ready before the old one is told to end.
            publish(&mesh, &[(&old, State::Ready), (&new, State::NotReady)])?;
            publish(&mesh, &[(&old, State::Ready), (&new, State::Ready)])?;
            go_on(&mut talkers, 20)?;
        } else {
            // Recreate: for a while nobody is ready, and the old one still serves.
            publish(&mesh, &[(&old, State::Serving), (&new, State::NotReady)])?;
            go_on(&mut talkers, 20)?;
        }
        publish(&mesh, &[(&old, State::Serving), (&new, State::Ready)])?;
        go_on(&mut talkers, 20)?;
        server.terminate(LIMIT)?.success("server")?;
        go_on(&mut talkers, 20)?;
        publish(&mesh, &[(&new, State::Ready)])?;
        (old, server) = (new, started);
    }
    go_on(&mut talkers, 20)?;
    for talker in &talkers {
        let all = events(talker);
        let failed: Vec<_> =
            all.iter().filter(|it| it["status"] != 200 || mark(it) != Some("rolled")).collect();
        assert_eq!(failed, Vec::<&Value>::new(), "of {}", all.len());
    }
    // The negative twin: with nobody ready, and nobody who still serves, it is said at once.
    publish(&mesh, &[(&old, State::NotReady)])?;
    let answer = mesh.get(&mesh.a, SERVICE)?;
    assert_eq!(answer["status"], 503, "{answer}");
    Ok(())
}
