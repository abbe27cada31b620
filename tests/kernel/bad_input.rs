//! What goes wrong in a cluster while there is traffic. The outcomes are in `docs/bad-input.md`, by the names of these tests.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use undermesh_tests::{Binaries, Pod, Process, wait_until};

use crate::mesh::{ECHO, GREETING, LIMIT, WEB, field, mark};
use crate::on_kubernetes::{OnKubernetes, events};

const ISTIO: &str = "networking.istio.io";
/// Longer than what is waited between two questions to an API server that is away, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// No single request may take longer: whatever happens is to be said, not waited for.
const PROMPT_MS: f64 = 5000.0;

/// Requests to an address without end: on one connection, and on a new one each.
fn talkers(from: &Pod, address: &str) -> anyhow::Result<[Process; 2]> {
    let url = format!("http://{address}/");
    let kept =
        ["http", &url, "--host", "web.mesh.svc.cluster.local:8080", "--count", "0", "--interval-ms", "5"];
    let fresh = [&kept[..], &["--new-connections"]].concat();
    let start = |name: &str, how: &[&str]| from.spawn(name, &crate::mesh::Mesh::client(how)?);
    Ok([start("kept", &kept)?, start("fresh", &fresh)?])
}

/// What each talker saw from now on until it saw `count` things that are what is wanted, one after the other.
fn until(
    talkers: &mut [Process],
    what: &str,
    count: usize,
    is_it: impl Fn(&Value) -> bool,
) -> anyhow::Result<Vec<Vec<Value>>> {
    let begun: Vec<usize> = talkers.iter().map(|talker| events(talker).len()).collect();
    let mut seen = Vec::new();
    for (talker, begun) in talkers.iter_mut().zip(begun) {
        let all = wait_until(PATIENCE, what, || {
            talker.must_run()?;
            let seen = events(talker).split_off(begun);
            let in_a_row = seen.iter().rev().take_while(|event| is_it(event)).count();
            Ok((in_a_row >= count).then_some(seen))
        });
        let all = all.map_err(|error| {
            let last: Vec<_> = events(talker).into_iter().rev().take(2).collect();
            error.context(format!("{} last saw {last:?}", talker.name()))
        })?;
        seen.push(all);
    }
    Ok(seen)
}

fn is_prompt(event: &Value) -> bool {
    event["ms"].as_f64().is_some_and(|ms| ms < PROMPT_MS)
}

fn failures(seen: &[Vec<Value>]) -> Vec<&Value> {
    seen.iter().flatten().filter(|event| event["status"] != 200).collect()
}

#[test]
fn a_deleted_rule_and_a_deleted_service_are_said_at_once_and_back_when_they_are() -> anyhow::Result<()> {
    let test = "a_deleted_rule_and_a_deleted_service_are_said_at_once_and_back_when_they_are";
    let Some(world) = OnKubernetes::set(test)? else { return Ok(()) };
    let (rule, service) =
        (world.object(ISTIO, "virtualservices", "mark"), world.object("", "services", "web"));
    // `mark` sends what is for `web-direct` to `web`, so the one can be dialled while the other is gone.
    let direct = world.mesh.web.at(8080).to_string();
    let mut to_web = talkers(&world.mesh.a, WEB)?;
    let mut to_direct = talkers(&world.mesh.b, &direct)?;
    until(&mut to_web, "answers by the rule", 20, |it| mark(it) == Some("for a"))?;
    until(&mut to_direct, "answers by the rule", 20, |it| mark(it) == Some("for others"))?;

    // The rule alone: nothing fails, the service's own default holds.
    world.api.delete(ISTIO, "virtualservices", "mesh", "mark");
    let seen =
        until(&mut to_web, "answers without the rule", 20, |it| it["status"] == 200 && mark(it).is_none())?;
    assert_eq!(failures(&seen), Vec::<&Value>::new());
    world.api.apply(rule);
    let seen = until(&mut to_web, "the rule again", 20, |it| mark(it) == Some("for a"))?;
    assert_eq!(failures(&seen), Vec::<&Value>::new());

    // The service: who dials its address is told at once, by the kernel or by the proxy; a rule that leads to it answers 503.
    world.api.delete("", "services", "mesh", "web");
    let seen = until(&mut to_direct, "503 by the rule", 20, |it| it["status"] == 503)?;
    assert!(
        seen.iter().flatten().all(|it| is_prompt(it) && matches!(it["status"].as_u64(), Some(200 | 503))),
        "{seen:?}"
    );
    let seen = until(&mut to_web, "an end of the service", 20, |it| it["status"] != 200)?;
    assert!(seen.iter().flatten().all(is_prompt), "nothing hangs: {seen:?}");
    let [kept, fresh] = seen.as_slice() else { unreachable!("two talkers") };
    let last = |seen: &[Value]| seen.last().cloned().unwrap_or_default();
    // Nobody answers for the address any more: as without a mesh, on the connection that is open by way of the proxy.
    assert_eq!(last(kept)["status"], 503, "{}", last(kept));
    assert_eq!(field(&last(fresh), "kind"), "HostUnreachable", "{}", last(fresh));

    world.api.apply(service);
    for (talkers, want) in [(&mut to_web, "for a"), (&mut to_direct, "for others")] {
        let seen = until(talkers, "the service again", 20, |it| mark(it) == Some(want))?;
        assert!(seen.iter().flatten().all(is_prompt), "{seen:?}");
    }
    Ok(())
}

#[test]
fn a_node_without_its_api_server_goes_on_and_catches_up() -> anyhow::Result<()> {
    let Some(mut world) = OnKubernetes::set("a_node_without_its_api_server_goes_on_and_catches_up")? else {
        return Ok(());
    };
    let second = world.pod("web-2")?;
    let mut command = Command::new(&Binaries::for_tests()?.bookinfo);
    command.arg("service2");
    let mut server = second.spawn("web", &command)?;
    server.wait_for_text("listening on", LIMIT)?;
    world.after(|_| world.endpoints("web", 8080, &[&world.mesh.web, &second]))?;
    // Without it, two retries may by chance find the dead endpoint again, as they may in Envoy.
    world.after(|api| {
        api.apply(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": "web", "namespace": "mesh"},
            "spec": {"host": "web", "trafficPolicy": {"outlierDetection": {
                "consecutive5xxErrors": 1, "baseEjectionTime": "300s", "maxEjectionPercent": 50}}},
        }));
    })?;
    let mut talkers = talkers(&world.mesh.a, WEB)?;
    until(&mut talkers, "answers", 20, |it| mark(it) == Some("for a"))?;
    assert_eq!(world.mesh.agent().ask(&["status"])?.pointer("/source/connected"), Some(&json!(true)));

    world.api.faults(|faults| faults.is_down = true);
    let source = |pointer: &str| -> anyhow::Result<Value> {
        let status = world.mesh.agent().ask(&["status"])?;
        Ok(status.pointer(&format!("/source/{pointer}")).cloned().unwrap_or_default())
    };
    wait_until(PATIENCE, "it to be noticed", || Ok((source("connected")? == json!(false)).then_some(())))?;
    // One of the two endpoints goes, and nobody can say so.
    let lost = server.kill()?;
    assert!(!lost.status.success());
    // What was under way on its connections is not known not to have been done, and not repeated (as in Istio).
    let seen = until(&mut talkers, "answers again", 50, |it| it["status"] == 200)?;
    let failed = failures(&seen);
    assert!(failed.len() <= 2 && failed.iter().all(|it| it["status"] == 503 && is_prompt(it)), "{failed:?}");
    // From then on it is passed over.
    let seen = until(&mut talkers, "answers all the while", 200, |it| it["status"] == 200)?;
    assert_eq!(failures(&seen), Vec::<&Value>::new());
    // A new pod's connection, too.
    assert_eq!(mark(&world.mesh.get(&world.mesh.b, WEB)?), Some("for others"));
    let age = wait_until(PATIENCE, "its age to be shown", || {
        Ok(source("last_contact_seconds")?.as_u64().filter(|age| *age >= 2))
    })?;
    assert!(source("since_seconds")?.as_u64() >= Some(age - 2), "{}", source("since_seconds")?);

    // Meanwhile the world has gone on, and the server has forgotten how.
    let mut rule = world.object(ISTIO, "virtualservices", "mark");
    rule["spec"]["http"][0]["headers"]["response"]["set"]["x-mesh"] = json!("meanwhile");
    world.api.apply(rule);
    world.endpoints("web", 8080, &[&world.mesh.web]);
    world.api.compact();
    assert_eq!(mark(&world.mesh.get(&world.mesh.a, WEB)?), Some("for a"), "as it was");
    world.api.faults(|faults| faults.is_down = false);
    let seen = until(&mut talkers, "what happened meanwhile", 20, |it| mark(it) == Some("meanwhile"))?;
    assert_eq!(failures(&seen), Vec::<&Value>::new());
    wait_until(PATIENCE, "it to be connected", || Ok((source("connected")? == json!(true)).then_some(())))?;
    wait_until(PATIENCE, "the endpoint to be gone", || {
        let rows = world.mesh.agent().ask(&["endpoints"])?;
        let gone = second.addresses()[0].to_string();
        Ok((!rows.to_string().contains(&gone)).then_some(()))
    })
}

/// Connections, by the rows and by the count, and entries of the kernel's maps by name.
type Held = (usize, u64, Vec<(String, u64)>);

/// What the proxy and the kernel hold.
fn held(world: &OnKubernetes) -> anyhow::Result<Held> {
    let rows = |verb: &str| world.mesh.agent().ask(&[verb]);
    let connections = rows("connections")?.as_array().map_or(0, Vec::len);
    let bpf = rows("bpf")?;
    let maps = bpf["maps"].as_array().into_iter().flatten();
    let maps = maps.filter_map(|map| Some((field(map, "name").to_owned(), map["entries"].as_u64()?)));
    Ok((
        connections,
        world.mesh.status("/traffic/connections")?,
        maps.filter(|(name, _)| is_of_pods(name)).collect(),
    ))
}

fn is_of_pods(map: &str) -> bool {
    ["WORKLOADS", "ORIGINS"].iter().any(|name| map.to_ascii_uppercase().starts_with(name))
}

#[test]
fn a_client_pod_that_is_deleted_leaves_no_connection_and_no_entry() -> anyhow::Result<()> {
    let test = "a_client_pod_that_is_deleted_leaves_no_connection_and_no_entry";
    let Some(mut world) = OnKubernetes::set(test)? else { return Ok(()) };
    let before = held(&world)?;
    assert!(!before.2.is_empty(), "the maps are found");
    let pod = world.pod("leaver")?;
    let mut http = talkers(&pod, WEB)?;
    let greeting = GREETING.len().to_string();
    let echo = ["tcp", ECHO, "--greeting", &greeting, "--send", "x", "--count", "0", "--interval-ms", "20"];
    let mut tcp = pod.spawn("tcp", &crate::mesh::Mesh::client(&echo)?)?;
    until(&mut http, "answers", 10, |it| it["status"] == 200)?;
    until(std::slice::from_mut(&mut tcp), "echoes", 10, |it| it["received"] == "x")?;
    let during = held(&world)?;
    assert!(during.0 >= before.0 + 2 && during.2 != before.2, "{before:?} {during:?}");

    // As the kubelet does: its processes are killed, then the object goes.
    pod.end()?;
    world.api.delete("", "pods", "mesh", "leaver");
    wait_until(PATIENCE, "all to be as it was before it", || {
        let now = held(&world)?;
        Ok((now == before).then_some(()))
    })
    .map_err(|error| error.context(format!("{before:?}, then {:?}", held(&world))))?;
    // The others stay.
    assert_eq!(mark(&world.mesh.get(&world.mesh.a, WEB)?), Some("for a"));
    Ok(())
}

#[test]
fn a_server_pod_that_is_deleted_ends_its_connections_and_its_share_goes_elsewhere() -> anyhow::Result<()> {
    let test = "a_server_pod_that_is_deleted_ends_its_connections_and_its_share_goes_elsewhere";
    let Some(mut world) = OnKubernetes::set(test)? else { return Ok(()) };
    let pod = world.pod("web-2")?;
    let program = &Binaries::for_tests()?.bookinfo;
    let mut servers = Vec::new();
    for role in [&["service2"][..], &["echo", "--listen", "[::]:7000"]] {
        let mut command = Command::new(program);
        command.args(role);
        let mut server = pod.spawn("server", &command)?;
        server.wait_for_text("listening on", LIMIT)?;
        servers.push(server);
    }
    world.after(|_| world.endpoints("web", 8080, &[&world.mesh.web, &pod]))?;
    // A service whose only endpoint it is, opaque.
    let mut echo = world.object("", "services", "echo");
    echo["metadata"] = json!({"name": "leaver", "namespace": "mesh"});
    echo["spec"] = json!({"clusterIP": "10.96.9.12", "clusterIPs": ["10.96.9.12"], "ports": [{"name": "tcp", "port": 7000}]});
    world.after(|api| {
        api.apply(echo);
        api.apply(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "leaver-1", "namespace": "mesh", "labels": {"kubernetes.io/service-name": "leaver"}},
            "ports": [{"name": "tcp", "port": 7000}], "endpoints": [{"addresses": [pod.addresses()[0]]}],
        }));
    })?;
    let mut http = talkers(&world.mesh.a, WEB)?;
    let opaque = ["tcp", "10.96.9.12:7000", "--send", "x", "--count", "0", "--interval-ms", "20"];
    let mut tcp = world.mesh.b.spawn("tcp", &crate::mesh::Mesh::client(&opaque)?)?;
    until(&mut http, "answers", 20, |it| it["status"] == 200)?;
    until(std::slice::from_mut(&mut tcp), "echoes", 10, |it| it["received"] == "x")?;

    pod.end()?;
    // Before the API server knows, and after.
    let seen = until(&mut http, "answers by the other", 50, |it| it["status"] == 200)?;
    assert!(seen.iter().flatten().all(is_prompt), "{seen:?}");
    let failed = failures(&seen);
    // Only what was under way at that moment on its connection may be lost, and says so.
    assert!(failed.len() <= 2, "{failed:?}");
    let ended = tcp.finish(LIMIT)?.success("client")?.events()?;
    let last = ended.last().cloned().unwrap_or_default();
    assert!(
        !field(&last, "error").is_empty() && field(&last, "kind") != "TimedOut" && is_prompt(&last),
        "{last}"
    );
    world.api.delete("", "pods", "mesh", "web-2");
    world.endpoints("web", 8080, &[&world.mesh.web]);
    let seen = until(&mut http, "answers", 50, |it| it["status"] == 200)?;
    assert_eq!(failures(&seen), Vec::<&Value>::new());
    // Its service has nobody left: new connections are refused at once, and nothing of the old one remains.
    let events = world
        .mesh
        .events(&world.mesh.b, &["tcp", "10.96.9.12:7000", "--send", "x", "--timeout-ms", "5000"])?;
    let last = events.last().cloned().unwrap_or_default();
    assert!(!field(&last, "error").is_empty() && field(&last, "kind") != "TimedOut", "{last}");
    wait_until(PATIENCE, "its connections to be gone", || {
        let rows = world.mesh.agent().ask(&["connections"])?;
        Ok((!rows.to_string().contains("10.96.9.12")).then_some(()))
    })?;
    Ok(())
}
