//! Who is calling is the kernel's word, not the caller's: nobody gets into the proxy but by a redirected connect of his own
//! socket, and nobody passes as another pod.

use std::time::Duration;

use undermesh_tests::{Pod, wait_until};

use crate::mesh::{Mesh, WEB, field, mark, said};

/// The port of the proxy's listeners in the pods.
fn listener_port(mesh: &Mesh) -> anyhow::Result<u16> {
    let bpf = mesh.agent().ask(&["bpf"])?;
    // In no order, and a pod that is not enrolled has none.
    let workloads = bpf["workloads"].as_array().map(Vec::as_slice).unwrap_or_default();
    let port = workloads.iter().filter_map(|one| one["listener4"].as_u64()).find(|&port| port > 0);
    Ok(u16::try_from(port.unwrap_or_else(|| panic!("no listener in {bpf}")))?)
}

fn refused(mesh: &Mesh) -> anyhow::Result<u64> {
    mesh.status("/traffic/refused_no_origin")
}

#[test]
fn a_pod_that_dials_its_listener_itself_is_refused_and_counted() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_pod_that_dials_its_listener_itself_is_refused_and_counted")? else {
        return Ok(());
    };
    let port = listener_port(&mesh)?;
    for (n, address) in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")].iter().enumerate() {
        let answer = mesh.get(&mesh.a, address)?;
        assert!(!field(&answer, "error").is_empty() && answer.get("status").is_none(), "{address}: {answer}");
        let wanted = n as u64 + 1;
        let counted = wait_until(Duration::from_secs(5), "the refusal to be counted", || {
            Ok((refused(&mesh)? == wanted).then_some(()))
        });
        assert!(
            counted.is_ok(),
            "{address}: {} refused, wanted {wanted}; the client saw {answer}",
            refused(&mesh)?
        );
    }
    Ok(())
}

#[test]
fn a_redirected_connect_is_not_counted_as_refused() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_redirected_connect_is_not_counted_as_refused")? else { return Ok(()) };
    assert_eq!(mark(&mesh.get(&mesh.a, WEB)?), Some("for a"));
    assert_eq!(refused(&mesh)?, 0);
    Ok(())
}

#[test]
fn nobody_reaches_the_listener_of_another_pod() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("nobody_reaches_the_listener_of_another_pod")? else { return Ok(()) };
    let port = listener_port(&mesh)?;
    let dial = |from: &Pod, address: String| -> anyhow::Result<String> {
        let events = mesh.events(from, &["tcp", &address])?;
        Ok(field(&events[0], "kind").to_owned())
    };
    for from in [&mesh.outsider, &mesh.b] {
        for address in [mesh.a.at(port), mesh.a.at_v6(port)] {
            assert_eq!(dial(from, address.to_string())?, "ConnectionRefused", "{} -> {address}", from.name());
        }
    }
    // Its own loopback has no listener at all.
    assert_eq!(dial(&mesh.outsider, format!("127.0.0.1:{port}"))?, "ConnectionRefused");
    Ok(())
}

#[test]
fn rules_for_one_pod_do_not_apply_to_another_whatever_it_says() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("rules_for_one_pod_do_not_apply_to_another_whatever_it_says")? else {
        return Ok(());
    };
    let [address, _] = mesh.a.addresses();
    let url = format!("http://{WEB}/");
    let forwarded = format!("x-forwarded-for: {address}");
    let forged = [
        "http",
        &url,
        "--host",
        "web:8080",
        "--header",
        &forwarded,
        "--header",
        "x-envoy-peer-metadata-id: a",
    ];
    let by_b = mesh.events(&mesh.b, &forged)?;
    assert_eq!(mark(&by_b[0]), Some("for others"), "{by_b:?}");
    assert_eq!(said(&by_b[0])["client"], serde_json::json!(mesh.b.addresses()[0]), "{by_b:?}");
    let by_a = mesh.events(&mesh.a, &["http", &url, "--host", "web:8080"])?;
    assert_eq!(mark(&by_a[0]), Some("for a"), "{by_a:?}");
    Ok(())
}
