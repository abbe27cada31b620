//! Configuration that changes under traffic: what is written takes effect on connections that are open, what is broken
//! disturbs nothing, and pods come and go by their manifests.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use undermesh_tests::{PodSpec, Process, wait_until};

use crate::mesh::{LIMIT, Mesh, WEB, field, mark};

/// What the files source promises, from the write to the effect.
const EFFECT: Duration = Duration::from_secs(1);
/// Not YAML.
const BROKEN: &str =
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: [x\nspec: {\n";

/// Requests on one connection, until stopped.
fn talk_on_one_connection(mesh: &Mesh) -> anyhow::Result<Process> {
    let url = format!("http://{WEB}/");
    mesh.a.spawn("kept", &Mesh::client(&["http", &url, "--count", "0", "--interval-ms", "5"])?)
}

/// What it saw so far; the last line may be half written.
fn seen(talker: &Process) -> Vec<Value> {
    talker.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Waits for the first answer with this mark.
fn first_marked(talker: &mut Process, want: &str) -> anyhow::Result<Value> {
    wait_until(LIMIT, &format!("an answer marked {want:?}"), || {
        talker.must_run()?;
        Ok(seen(talker).into_iter().find(|event| mark(event) == Some(want)))
    })
}

fn mesh_yaml(mesh: &Mesh) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(mesh.config.folder().join("mesh.yaml"))?)
}

fn wait_for_errors(mesh: &Mesh, count: u64) -> anyhow::Result<()> {
    wait_until(LIMIT, &format!("{count} errors in the status"), || {
        Ok((mesh.status("/configuration/errors")? == count).then_some(()))
    })
}

#[test]
fn a_change_takes_effect_within_a_second_on_an_open_connection_beside_a_broken_document() -> anyhow::Result<()>
{
    let Some(mesh) =
        Mesh::set("a_change_takes_effect_within_a_second_on_an_open_connection_beside_a_broken_document")?
    else {
        return Ok(());
    };
    let mut talker = talk_on_one_connection(&mesh)?;
    let first = first_marked(&mut talker, "for a")?;
    mesh.config.write("broken.yaml", BROKEN)?;
    wait_for_errors(&mesh, 1)?;

    let changed = mesh_yaml(&mesh)?.replace("\"for a\"", "\"changed\"");
    let written = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    mesh.config.write("mesh.yaml", &changed)?;
    let effect = first_marked(&mut talker, "changed")?;
    let took = effect["at"].as_f64().expect("events say when") - written;
    assert!(took < EFFECT.as_secs_f64(), "{took} s");
    assert_eq!(field(&effect, "local"), field(&first, "local"), "it is the same connection");
    let failed: Vec<Value> = seen(&talker).into_iter().filter(|event| event["status"] != 200).collect();
    assert_eq!(failed, Vec::<Value>::new());
    Ok(())
}

#[test]
fn the_last_good_version_of_a_broken_object_stays_in_force() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("the_last_good_version_of_a_broken_object_stays_in_force")? else {
        return Ok(());
    };
    let good = mesh_yaml(&mesh)?;
    // One object is wrong in a field, and its neighbour in the same file has changed for good.
    let bad = good.replace("sourceLabels: {app: a}", "uri: {regex: \"/bad(\"}");
    assert_ne!(bad, good);
    mesh.config.write("mesh.yaml", &bad)?;
    wait_for_errors(&mesh, 1)?;
    assert_eq!(mark(&mesh.get(&mesh.a, WEB)?), Some("for a"));
    assert_eq!(mark(&mesh.get(&mesh.b, WEB)?), Some("for others"));

    // Mended, it is in force again without a restart.
    mesh.config.write("mesh.yaml", &good.replace("\"for a\"", "\"mended\""))?;
    wait_for_errors(&mesh, 0)?;
    assert_eq!(mark(&mesh.get(&mesh.a, WEB)?), Some("mended"));
    Ok(())
}

#[test]
fn a_pod_is_captured_from_its_manifest_on_and_left_alone_without() -> anyhow::Result<()> {
    let Some(mut mesh) = Mesh::set("a_pod_is_captured_from_its_manifest_on_and_left_alone_without")? else {
        return Ok(());
    };
    let late = mesh.node.pod("mesh", "late")?;
    let all = mesh.agent.as_mut().expect("it runs").ask(&["status"])?;
    let captured = all.pointer("/workloads/captured").and_then(Value::as_u64).expect("status counts pods");
    let manifest = late.manifest(&PodSpec::labelled([("app", "late")]));
    for is_there in [false, true, false] {
        if is_there {
            mesh.config.write("late.yaml", &manifest)?;
        } else if mesh.config.folder().join("late.yaml").exists() {
            std::fs::remove_file(mesh.config.folder().join("late.yaml"))?;
        }
        let began = Instant::now();
        mesh.agent.as_mut().expect("it runs").wait_captured(captured + u64::from(is_there))?;
        assert!(began.elapsed() < 3 * EFFECT, "noticed after {:?}", began.elapsed());
        let (answer, counted) = mesh.counted(|| mesh.get(&late, WEB))?;
        if is_there {
            assert_eq!(mark(&answer), Some("for others"), "{answer}");
            assert_eq!(counted.get("redirected4"), Some(&1), "{counted:?}");
        } else {
            assert_eq!(field(&answer, "kind"), "HostUnreachable", "{answer}");
            assert_eq!(
                (counted.get("unknown_pod"), counted.get("redirected4")),
                (Some(&1), None),
                "{counted:?}"
            );
        }
        assert_eq!(mark(&mesh.get(&mesh.a, WEB)?), Some("for a"), "the others stay");
    }
    Ok(())
}

#[test]
fn a_pod_that_opts_out_of_its_namespace_is_untouched_and_counted() -> anyhow::Result<()> {
    let Some(mut mesh) = Mesh::set("a_pod_that_opts_out_of_its_namespace_is_untouched_and_counted")? else {
        return Ok(());
    };
    let out = mesh.node.pod("mesh", "out")?;
    let labels = [("app", "out"), ("istio.io/dataplane-mode", "none")];
    mesh.config.write("out.yaml", &out.manifest(&PodSpec::labelled(labels)))?;
    // It is known from the moment its connections are no longer those of an unknown pod.
    let counted = wait_until(LIMIT, "the manifest to be read", || {
        let (answer, counted) = mesh.counted(|| mesh.get(&out, WEB))?;
        assert_eq!(field(&answer, "kind"), "HostUnreachable", "{answer}");
        Ok((!counted.contains_key("unknown_pod")).then_some(counted))
    })?;
    assert_eq!((counted.get("not_enrolled"), counted.get("redirected4")), (Some(&1), None), "{counted:?}");
    let rows = mesh.agent.as_mut().expect("it runs").ask(&["workloads"])?;
    let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["pod"] == "mesh/out"));
    assert_eq!(row.map(|row| field(row, "reason")), Some("the pod's label opts out"), "{rows}");
    Ok(())
}

#[test]
fn a_namespace_that_leaves_the_mesh_and_comes_back_fails_no_request() -> anyhow::Result<()> {
    let Some(mesh) = Mesh::set("a_namespace_that_leaves_the_mesh_and_comes_back_fails_no_request")? else {
        return Ok(());
    };
    // An address that works with and without a mesh.
    let url = format!("http://{}/", mesh.web.at(8080));
    let kept = ["http", &url, "--count", "0", "--interval-ms", "5"];
    let fresh = [&kept[..], &["--new-connections"]].concat();
    let mut talkers = [
        mesh.a.spawn("kept", &Mesh::client(&kept)?)?,
        mesh.a.spawn("fresh", &Mesh::client(&fresh)?)?,
        mesh.host.spawn("fresh", &Mesh::client(&fresh)?)?,
    ];
    let inside = mesh_yaml(&mesh)?;
    let outside = inside.replace("labels: {istio.io/dataplane-mode: undermesh}", "labels: {}");
    assert_ne!(inside, outside);
    for (text, is_inside, first) in [(&inside, true, 0), (&outside, false, 0), (&inside, true, 1)] {
        mesh.config.write("mesh.yaml", text)?;
        // In the end without the kept connection: what was made past the mesh goes on past it.
        for talker in talkers.iter_mut().skip(first) {
            let begun = seen(talker).len();
            wait_until(LIMIT, "answers by the other way", || {
                talker.must_run()?;
                let last = seen(talker).into_iter().skip(begun).next_back();
                Ok(last.filter(|event| event["status"] == 200 && mark(event).is_some() == is_inside))
            })?;
        }
    }
    let failed =
        |talker: &Process| seen(talker).into_iter().filter(|it| it["status"] != 200).collect::<Vec<_>>();
    let [kept, fresh, host] = &talkers;
    assert_eq!((failed(kept), failed(fresh), failed(host)), (Vec::new(), Vec::new(), Vec::new()));
    Ok(())
}
