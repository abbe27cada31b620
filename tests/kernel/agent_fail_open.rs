//! Traffic survives us: where a service address leads somewhere without the mesh too (kube-proxy in a cluster, here an
//! address of the server pod), connections to it go on past a killed agent, and what we never touch takes that way always.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use undermesh_tests::{Binaries, Pod, still_loaded, wait_until};

use crate::mesh::{ECHO, GREETING, LIMIT, Mesh, WEB, field, mark, said};

const SOON: Duration = Duration::from_secs(10);

fn ip(address: &str) -> IpAddr {
    address.parse::<std::net::SocketAddr>().expect("it is a constant of the mesh").ip()
}

/// Makes a service address lead to the pod `web` for those who go past the mesh.
fn route_past(mesh: &Mesh, service: &str, clients: &[&Pod]) -> anyhow::Result<()> {
    mesh.web.add_address(ip(service))?;
    for client in clients {
        client.add_route(ip(service), mesh.web.addresses()[0])?;
    }
    Ok(())
}

/// All a long-running client saw so far; the last line may be half written.
fn seen(client: &undermesh_tests::Process) -> Vec<Value> {
    client.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn a_service_address_that_is_routed_works_past_a_killed_agent_and_is_captured_by_the_next()
-> anyhow::Result<()> {
    let Some(mut mesh) =
        Mesh::set("a_service_address_that_is_routed_works_past_a_killed_agent_and_is_captured_by_the_next")?
    else {
        return Ok(());
    };
    route_past(&mesh, WEB, &[&mesh.a])?;
    // One process and one kept connection through all of it: pods are not touched.
    let url = format!("http://{WEB}/");
    let forever = ["http", &url, "--count", "0", "--interval-ms", "10"];
    let mut client = mesh.a.spawn("long-lived", &Mesh::client(&forever)?)?;
    assert_eq!(mark(&mesh.get(&mesh.a, WEB)?), Some("for a"), "captured although it is routed");

    let agent = mesh.agent.take().expect("it runs");
    let programs = agent.program_ids()?;
    agent.kill()?;
    wait_until(SOON, "the programs to be released", || {
        Ok(still_loaded(&programs)?.is_empty().then_some(()))
    })?;
    let past = mesh.get(&mesh.a, WEB)?;
    assert_eq!((past["status"].as_u64(), mark(&past)), (Some(200), None), "{past}");
    assert_eq!(field(&past, "peer"), WEB);
    assert_eq!(said(&past)["client"], json!(mesh.a.addresses()[0]));
    let direct = wait_until(SOON, "the long-lived client to go past the mesh", || {
        client.must_run()?;
        Ok(seen(&client).into_iter().rfind(|e| e["status"] == 200 && mark(e).is_none()))
    })?;

    let before = seen(&client).len();
    mesh.start()?;
    assert_eq!(mark(&mesh.get(&mesh.a, WEB)?), Some("for a"), "captured again");
    wait_until(SOON, "more answers", || Ok((seen(&client).len() > before + 20).then_some(())))?;
    client.must_run()?;
    // The connection it made past the mesh is its own: capture is decided at connect() and breaks nothing that is open.
    let since: Vec<Value> = seen(&client).into_iter().skip(before).collect();
    let undisturbed = |e: &&Value| e["status"] == 200 && field(e, "local") == field(&direct, "local");
    let other: Vec<&Value> = since.iter().filter(|e| !undisturbed(e)).collect();
    assert_eq!(other, Vec::<&Value>::new());
    Ok(())
}

#[test]
fn udp_to_a_service_address_goes_its_way_and_tcp_to_the_same_is_captured() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("udp_to_a_service_address_goes_its_way_and_tcp_to_the_same_is_captured")?
    else {
        return Ok(());
    };
    route_past(&mesh, ECHO, &[&mesh.a])?;
    let mut serve = Command::new(&Binaries::for_tests()?.bookinfo);
    serve.args(["echo", "--listen", ECHO, "--greeting", "not by the mesh"]);
    let mut server = mesh.web.spawn("echo", &serve)?;
    server.wait_for_text("listening on", LIMIT)?;
    for more in [&["--send", "x"][..], &["--send", "x", "--connected"]] {
        let udp = [&["udp", ECHO], more].concat();
        let (events, counted) = mesh.counted(|| mesh.events(&mesh.a, &udp))?;
        assert_eq!((field(&events[0], "received"), field(&events[0], "from")), ("x", ECHO), "{events:?}");
        assert!(!counted.keys().any(|k| k.starts_with("redirected")), "{more:?}: {counted:?}");
    }
    let length = GREETING.len().to_string();
    let (events, counted) = mesh.counted(|| mesh.events(&mesh.a, &["tcp", ECHO, "--greeting", &length]))?;
    assert_eq!(field(&events[1], "received"), GREETING, "{events:?}");
    assert_eq!(counted.get("redirected4"), Some(&1), "{counted:?}");
    Ok(())
}

#[test]
fn a_pod_that_is_not_enrolled_reaches_a_routed_service_address_itself() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_pod_that_is_not_enrolled_reaches_a_routed_service_address_itself")? else {
        return Ok(());
    };
    route_past(&mesh, WEB, &[&mesh.a, &mesh.outsider])?;
    let (answer, counted) = mesh.counted(|| mesh.get(&mesh.outsider, WEB))?;
    assert_eq!((answer["status"].as_u64(), mark(&answer)), (Some(200), None), "{answer}");
    assert_eq!(field(&answer, "peer"), WEB);
    assert_eq!((counted.get("not_enrolled"), counted.get("redirected4")), (Some(&1), None), "{counted:?}");
    // Its negative twin has the same route and the label.
    assert_eq!(mark(&mesh.get(&mesh.a, WEB)?), Some("for a"));
    Ok(())
}
