//! What is redirected: connections of pods in the mesh to its services, whatever kind of socket they use, and without the
//! application or the server seeing that somebody stands between.

use std::net::SocketAddr;

use serde_json::json;

use crate::mesh::{ECHO, GREETING, Mesh, WEB, WEB_MAPPED, WEB_V6, field, mark, said};

#[test]
fn sockets_of_each_kind_are_redirected_and_counted_as_such() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("sockets_of_each_kind_are_redirected_and_counted_as_such")? else {
        return Ok(());
    };
    for (address, counter) in
        [(WEB, "redirected4"), (WEB_V6, "redirected6"), (WEB_MAPPED, "redirected_mapped")]
    {
        let (answer, counted) = mesh.counted(|| mesh.get(&mesh.a, address))?;
        assert_eq!(
            (answer["status"].as_u64(), mark(&answer)),
            (Some(200), Some("for a")),
            "{address}: {answer}"
        );
        assert_eq!(counted.get(counter), Some(&1), "{address}: {counted:?}");
        assert_eq!(counted.get("origin_inserted"), Some(&1), "{address}: {counted:?}");
        let kinds = counted.keys().filter(|k| k.starts_with("redirected")).count();
        assert_eq!(kinds, 1, "{address}: {counted:?}");
    }
    Ok(())
}

#[test]
fn the_application_sees_what_it_dialled_and_the_server_sees_the_pod() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("the_application_sees_what_it_dialled_and_the_server_sees_the_pod")? else {
        return Ok(());
    };
    let [v4, v6] = mesh.a.addresses();
    for (address, own) in
        [(WEB, v4.to_string()), (WEB_V6, v6.to_string()), (WEB_MAPPED, format!("::ffff:{v4}"))]
    {
        let answer = mesh.get(&mesh.a, address)?;
        assert_eq!(field(&answer, "peer"), address);
        let local: SocketAddr = field(&answer, "local").parse()?;
        assert_eq!(local.ip().to_string(), own, "{address}: {answer}");
        let client = said(&answer)["client"].clone();
        assert!(client == json!(v4) || client == json!(v6), "{address}: the server saw {client}");
    }
    Ok(())
}

#[test]
fn opaque_tcp_is_carried_and_a_server_may_speak_first() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("opaque_tcp_is_carried_and_a_server_may_speak_first")? else { return Ok(()) };
    let greeting = GREETING.len().to_string();
    let words = ["tcp", ECHO, "--greeting", &greeting, "--send", "hello", "--count", "3"];
    let (events, counted) = mesh.counted(|| mesh.events(&mesh.a, &words))?;
    let received: Vec<&str> = events.iter().skip(1).map(|e| field(e, "received")).collect();
    assert_eq!(received, [GREETING, "hello", "hello", "hello"], "{events:?}");
    assert_eq!(counted.get("redirected4"), Some(&1), "{counted:?}");
    // A wait for the client's first bytes would be seen here.
    let slowest = events.iter().filter_map(|e| e["ms"].as_f64()).fold(0.0, f64::max);
    assert!(slowest < 1000.0, "{events:?}");
    Ok(())
}

#[test]
fn a_headless_service_is_captured_by_its_pods_address() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_headless_service_is_captured_by_its_pods_address")? else { return Ok(()) };
    for address in [mesh.web.at(8080), mesh.web.at_v6(8080)] {
        let answer = mesh.get(&mesh.a, &address.to_string())?;
        assert_eq!(mark(&answer), Some("for a"), "{address}: {answer}");
        assert_eq!(field(&answer, "peer"), address.to_string());
    }
    Ok(())
}

#[test]
fn a_pod_in_the_nodes_namespace_is_captured_and_the_nodes_own_processes_are_not() -> anyhow::Result<()> {
    let Some(mesh) =
        Mesh::set("a_pod_in_the_nodes_namespace_is_captured_and_the_nodes_own_processes_are_not")?
    else {
        return Ok(());
    };
    let (answer, counted) = mesh.counted(|| mesh.get(&mesh.host, WEB))?;
    assert_eq!(mark(&answer), Some("for others"), "{answer}");
    assert_eq!(counted.get("redirected4"), Some(&1), "{counted:?}");

    let connect = Mesh::client(&["tcp", WEB])?;
    let (ended, counted) = mesh.counted(|| mesh.node.spawn("own", &connect)?.finish(crate::mesh::LIMIT))?;
    let events = ended.events()?;
    assert_eq!(field(&events[0], "kind"), "HostUnreachable", "{events:?}");
    assert_eq!(counted.get("redirected4"), None, "{counted:?}");
    Ok(())
}
