//! The harness of real Kubernetes itself: an API server to be had by one call, nodes that are ready, and nothing left behind.

use std::time::{Duration, Instant};

use undermesh_cluster::run::output;
use undermesh_cluster::{ControlPlane, Layout, Provider as _, Upstream, can_run_here};

#[test]
fn a_control_plane_is_up_by_one_call_answers_and_leaves_nothing() -> anyhow::Result<()> {
    let Some(programs) = can_run_here("a_control_plane_is_up_by_one_call") else { return Ok(()) };
    let began = Instant::now();
    let mut plane = ControlPlane::start(&programs)?;
    println!("API server ready after {:.1} s", began.elapsed().as_secs_f64());
    let mut create = plane.kubectl();
    output(create.args(["create", "configmap", "there", "--from-literal=a=b"]))?;

    // The token of an account of no rights is accepted, and gets none.
    output(plane.kubectl().args(["create", "serviceaccount", "nobody"]))?;
    let token = output(plane.kubectl().args(["create", "token", "nobody"]))?;
    let nobody = plane.kubeconfig_by_token("nobody", token.trim())?;
    let get = |plane: &ControlPlane| {
        let mut command = plane.kubectl();
        command.env("KUBECONFIG", &nobody).args(["get", "configmap", "there"]);
        output(&mut command)
    };
    let refused = get(&plane).expect_err("it may not").to_string();
    assert!(refused.contains("Forbidden"), "{refused}");
    let role = ["create", "role", "reader", "--verb=get", "--resource=configmaps"];
    output(plane.kubectl().args(role))?;
    let binding = ["create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:nobody"];
    output(plane.kubectl().args(binding))?;
    get(&plane)?;

    // It can go and come back, and remembers.
    plane.stop_api_server()?;
    assert!(output(plane.kubectl().args(["get", "--raw", "/readyz"])).is_err());
    plane.start_api_server()?;
    output(plane.kubectl().args(["get", "configmap", "there"]))?;
    plane.must_run()?;
    let left = plane.end()?;
    assert!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

#[test]
fn two_nodes_run_pods_that_reach_each_other_by_name_and_leave_nothing() -> anyhow::Result<()> {
    let Some(programs) = can_run_here("two_nodes_run_pods") else { return Ok(()) };
    for layout in [Layout::Upstream, Layout::K3s] {
        let began = Instant::now();
        let mut cluster = Upstream::start(&programs, 2, layout, |what| {
            println!("[{:5.1} s] {what}", began.elapsed().as_secs_f64());
        })?;
        println!("[{:5.1} s] {} is ready", began.elapsed().as_secs_f64(), cluster.description());
        cluster.must_run()?;
        let left = Box::new(cluster).end()?;
        println!("[{:5.1} s] removed", began.elapsed().as_secs_f64());
        assert!(left.is_empty(), "left behind: {left:?}");
        assert!(began.elapsed() < Duration::from_secs(300));
    }
    Ok(())
}
