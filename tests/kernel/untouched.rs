//! What is left alone: all that is not a connection of a pod in the mesh to a service of the mesh. Each of these works (or
//! fails) exactly as it would without us, and is counted by its reason.

use crate::mesh::{Mesh, WEB, WEB_V6, field, mark};

#[test]
fn a_destination_that_is_no_service_is_untouched() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_destination_that_is_no_service_is_untouched")? else { return Ok(()) };
    for address in [mesh.outsider.at(7000), mesh.outsider.at_v6(7000)] {
        let tcp = ["tcp", &address.to_string(), "--send", "hi"];
        let (events, counted) = mesh.counted(|| mesh.events(&mesh.a, &tcp))?;
        assert_eq!(field(&events[1], "received"), "hi", "{events:?}");
        assert_eq!(field(&events[0], "peer"), address.to_string());
        assert_eq!(counted.get("not_a_service"), Some(&1), "{counted:?}");
        assert!(!counted.keys().any(|k| k.starts_with("redirected")), "{counted:?}");
    }
    // The address of a service on a port that it does not have.
    let (events, counted) = mesh.counted(|| mesh.events(&mesh.a, &["tcp", "10.96.9.1:8081"]))?;
    assert_eq!(field(&events[0], "kind"), "HostUnreachable", "{events:?}");
    assert_eq!(counted.get("not_a_service"), Some(&1), "{counted:?}");
    Ok(())
}

#[test]
fn udp_is_untouched_connected_or_not() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("udp_is_untouched_connected_or_not")? else { return Ok(()) };
    let address = mesh.outsider.at(7000).to_string();
    for more in [&["--send", "x"][..], &["--send", "x", "--connected"]] {
        let udp = [&["udp", &address], more].concat();
        let (events, counted) = mesh.counted(|| mesh.events(&mesh.a, &udp))?;
        assert_eq!(
            (field(&events[0], "received"), field(&events[0], "from")),
            ("x", &*address),
            "{events:?}"
        );
        assert!(!counted.keys().any(|k| k.starts_with("redirected")), "{more:?}: {counted:?}");
    }
    // To the very address and port of a TCP service.
    let (events, counted) = mesh.counted(|| mesh.events(&mesh.a, &["udp", WEB, "--connected"]))?;
    assert_eq!(field(&events[0], "kind"), "HostUnreachable", "{events:?}");
    assert_eq!(counted.get("not_tcp"), Some(&1), "{counted:?}");
    Ok(())
}

#[test]
fn a_pods_own_loopback_is_untouched() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_pods_own_loopback_is_untouched")? else { return Ok(()) };
    for address in ["127.0.0.1:7001", "[::1]:7001", "[::ffff:127.0.0.1]:7001"] {
        let tcp = ["tcp", address, "--send", "hi"];
        let (events, counted) = mesh.counted(|| mesh.events(&mesh.a, &tcp))?;
        assert_eq!(field(&events[1], "received"), "hi", "{events:?}");
        assert_eq!(counted.get("loopback"), Some(&1), "{address}: {counted:?}");
        assert!(!counted.keys().any(|k| k.starts_with("redirected")), "{address}: {counted:?}");
    }
    Ok(())
}

#[test]
fn a_pod_that_is_not_enrolled_is_untouched() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_pod_that_is_not_enrolled_is_untouched")? else { return Ok(()) };
    for address in [WEB, WEB_V6] {
        let (answer, counted) = mesh.counted(|| mesh.get(&mesh.outsider, address))?;
        assert_eq!(field(&answer, "kind"), "HostUnreachable", "no mesh, no kube-proxy: {answer}");
        assert_eq!(counted.get("not_enrolled"), Some(&1), "{counted:?}");
        assert!(!counted.keys().any(|k| k.starts_with("redirected")), "{counted:?}");
    }
    let direct = mesh.get(&mesh.outsider, &mesh.web.at(8080).to_string())?;
    assert_eq!((direct["status"].as_u64(), mark(&direct)), (Some(200), None), "{direct}");
    Ok(())
}

#[test]
fn a_pod_leaves_and_joins_the_mesh_by_its_label_without_a_restart() -> anyhow::Result<()> {
    let Some(mut mesh) = Mesh::set("a_pod_leaves_and_joins_the_mesh_by_its_label_without_a_restart")? else {
        return Ok(());
    };
    let pods = std::fs::read_to_string(mesh.config.folder().join("pods.yaml"))?;
    let out = pods.replace("\"app\": \"b\"", "\"app\": \"b\"\n    \"istio.io/dataplane-mode\": \"none\"");
    assert_ne!(out, pods);
    assert_eq!(mark(&mesh.get(&mesh.b, WEB)?), Some("for others"));
    for (text, captured, want) in [(&out, 4, None), (&pods, 5, Some("for others"))] {
        mesh.config.write("pods.yaml", text)?;
        mesh.agent.as_mut().expect("it runs").wait_captured(captured)?;
        assert_eq!(mark(&mesh.get(&mesh.b, WEB)?), want);
        assert_eq!(mark(&mesh.get(&mesh.a, WEB)?), Some("for a"), "the others stay");
    }
    Ok(())
}
