//! Agents come and go; traffic stays, and nothing of them remains.

use std::time::Duration;

use serde_json::Value;
use undermesh_tests::{Process, still_loaded, wait_until};

use crate::mesh::{LIMIT, Mesh, WEB, mark};

const SOON: Duration = Duration::from_secs(10);

/// Requests on new connections to an address that works with and without a mesh, until stopped.
fn talk(mesh: &Mesh) -> anyhow::Result<Process> {
    let url = format!("http://{}/", mesh.web.at(8080));
    let forever = ["http", &url, "--count", "0", "--interval-ms", "5", "--new-connections"];
    mesh.a.spawn("talker", &Mesh::client(&forever)?)
}

/// What it saw so far; the last line may be half written.
fn seen(talker: &Process) -> Vec<Value> {
    talker.stdout().lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
}

/// Waits for an answer with this mark that is newer than the first `after`; gives how many there are by then.
fn wait_for_mark(talker: &mut Process, after: usize, want: Option<&str>) -> anyhow::Result<usize> {
    wait_until(LIMIT, &format!("an answer marked {want:?}"), || {
        talker.must_run()?;
        let seen = seen(talker);
        let found = seen.iter().skip(after).any(|e| e["status"] == 200 && mark(e) == want);
        Ok(found.then_some(seen.len()))
    })
}

fn failures(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|e| e["status"] != 200).collect()
}

#[test]
fn a_killed_agent_leaves_pods_talking_and_its_successor_captures_them_again() -> anyhow::Result<()> {
    let Some(mut mesh) =
        Mesh::set("a_killed_agent_leaves_pods_talking_and_its_successor_captures_them_again")?
    else {
        return Ok(());
    };
    let mut talker = talk(&mesh)?;
    let before = wait_for_mark(&mut talker, 0, Some("for a"))?;
    assert_eq!(failures(&seen(&talker)), Vec::<&Value>::new(), "before the kill");

    mesh.agent.take().expect("it runs").kill()?;
    let killed = wait_for_mark(&mut talker, before, None)?;
    let events = seen(&talker);
    // One request at a time is under way, so one can be lost, and one more while the kernel detaches the programs of a
    // process that no longer listens.
    assert!(failures(&events).len() <= 2, "around the kill: {:?}", failures(&events));
    let lost = failures(&events).len();
    let unreachable = mesh.get(&mesh.a, WEB)?;
    assert_eq!(mark(&unreachable), None, "nothing redirects any more: {unreachable}");

    mesh.start()?;
    let again = wait_for_mark(&mut talker, killed, Some("for a"))?;
    assert_eq!(mark(&mesh.get(&mesh.a, WEB)?), Some("for a"));
    // Enough further requests to see that it lasts.
    wait_until(SOON, "more answers", || Ok((seen(&talker).len() >= again + 50).then_some(())))?;
    let events = seen(&talker);
    assert_eq!(failures(&events).len(), lost, "after the restart: {:?}", failures(&events));
    assert!(events.iter().skip(again).all(|e| mark(e) == Some("for a")), "captured for good");
    talker.must_run()
}

#[test]
fn an_agent_that_is_told_to_end_loses_no_request() -> anyhow::Result<()> {
    let Some(mut mesh) = Mesh::set("an_agent_that_is_told_to_end_loses_no_request")? else { return Ok(()) };
    let mut talker = talk(&mesh)?;
    let before = wait_for_mark(&mut talker, 0, Some("for a"))?;
    mesh.agent.take().expect("it runs").terminate(SOON)?.success("agent")?;
    wait_for_mark(&mut talker, before, None)?;
    assert_eq!(failures(&seen(&talker)), Vec::<&Value>::new());
    Ok(())
}

#[test]
fn nothing_of_an_agent_remains_in_the_kernel_or_in_the_pods() -> anyhow::Result<()> {
    for how in ["terminate", "kill"] {
        let Some(mut mesh) = Mesh::set("nothing_of_an_agent_remains_in_the_kernel_or_in_the_pods")? else {
            return Ok(());
        };
        let agent = mesh.agent.take().expect("it runs");
        let programs = agent.program_ids()?;
        assert_eq!(still_loaded(&programs)?.len(), programs.len());
        assert!(
            programs.len() >= 7,
            "connect, getpeername and getsockname of both families, sock_ops: {programs:?}"
        );
        let listening = || mesh.a.netns().run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/tcp")?));
        let with_agent = listening()?;
        match how {
            "terminate" => agent.terminate(SOON)?.success("agent")?,
            _ => agent.kill()?,
        };
        wait_until(SOON, "the programs to be released", || {
            Ok(still_loaded(&programs)?.is_empty().then_some(()))
        })?;
        let left = listening()?;
        assert!(
            left.lines().count() < with_agent.lines().count(),
            "{how}: a listener remains in the pod:\n{left}"
        );
        assert_eq!(mesh.world.remove()?, Vec::<std::path::PathBuf>::new(), "{how}");
    }
    Ok(())
}

#[test]
fn two_worlds_do_not_see_each_other() -> anyhow::Result<()> {
    let Some(one) = Mesh::set("two_worlds_do_not_see_each_other")? else { return Ok(()) };
    let Some(two) = Mesh::set("two_worlds_do_not_see_each_other")? else { return Ok(()) };
    let (answer, counted) = two.counted(|| one.get(&one.a, WEB))?;
    assert_eq!(mark(&answer), Some("for a"), "{answer}");
    assert_eq!(counted, [].into(), "the other agent counts nothing of it");
    Ok(())
}
