//! A program of the pod has the port on which the agent wants to listen. So the pod cannot be captured, and its fail mode is
//! in force: taking the port first is no way out of a mesh that is closed.

use std::process::Command;

use undermesh_tests::{Agent, Binaries, wait_until};

use crate::mesh::{LIMIT, Mesh, WEB, field, mark};

/// What `b` gets when it dials `web`, and what the kernel counted, with a program of its own on the listener's port since
/// before the agent came.
fn dial_with_the_port_taken(test: &str, fail_mode: &str) -> anyhow::Result<()> {
    let Some(mut mesh) = Mesh::set(test)? else { return Ok(()) };
    mesh.agent.take().expect("it runs").terminate(LIMIT)?;
    let pods = std::fs::read_to_string(mesh.config.folder().join("pods.yaml"))?;
    let netns = mesh.b.netns().path().display().to_string();
    let line = pods.lines().find(|line| line.contains(&netns)).expect("b's manifest names its namespace");
    let indent: String = line.chars().take_while(|c| *c == ' ').collect();
    let mode = format!("{line}\n{indent}undermesh.io/fail-mode: {fail_mode}");
    mesh.config.write("pods.yaml", &pods.replace(line, &mode))?;
    let mut serve = Command::new(&Binaries::for_tests()?.bookinfo);
    serve.args(["echo", "--listen", "127.0.0.1:15001"]);
    let mut squatter = mesh.b.spawn("squatter", &serve)?;
    squatter.wait_for_text("listening on", LIMIT)?;

    let program = &Binaries::for_tests()?.undermesh;
    let mut agent = Agent::start(&mesh.node, program, mesh.config.folder(), &mesh.world.folder())?;
    agent.wait_captured(4)?;
    mesh.agent = Some(agent);
    assert_eq!(mark(&mesh.get(&mesh.a, WEB)?), Some("for a"), "the others are captured");
    let (answer, counted) = mesh.counted(|| mesh.get(&mesh.b, WEB))?;
    let (kind, mode) = match fail_mode {
        "closed" => ("PermissionDenied", "fail_closed"),
        // As without a mesh: the address leads nowhere.
        _ => ("HostUnreachable", "fail_open"),
    };
    assert_eq!(field(&answer, "kind"), kind, "{answer} {counted:?}");
    assert_eq!((counted.get("no_listener"), counted.get(mode)), (Some(&1), Some(&1)), "{counted:?}");

    squatter.kill()?;
    wait_until(LIMIT, "b to be captured once the port is free", || {
        Ok((mark(&mesh.get(&mesh.b, WEB)?) == Some("for others")).then_some(()))
    })
}

#[test]
fn a_closed_pod_whose_program_took_the_listeners_port_cannot_go_past_the_mesh() -> anyhow::Result<()> {
    dial_with_the_port_taken(
        "a_closed_pod_whose_program_took_the_listeners_port_cannot_go_past_the_mesh",
        "closed",
    )
}

#[test]
fn an_open_pod_whose_program_took_the_listeners_port_goes_as_dialled_and_is_counted() -> anyhow::Result<()> {
    dial_with_the_port_taken(
        "an_open_pod_whose_program_took_the_listeners_port_goes_as_dialled_and_is_counted",
        "open",
    )
}
