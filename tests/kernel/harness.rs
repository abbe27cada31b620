//! The harness itself: pods are connected and separate as pods should be, and nothing ever stays behind.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use undermesh_tests::{Pod, World, can_run_here, wait_until};

const SHORT: Duration = Duration::from_secs(10);

fn sleep_forever() -> Command {
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    sleep
}

/// Connects from one pod to a port of another and gives what the server saw as the client's address.
fn seen_client(client: &Pod, server: &Pod, at: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = server.netns().run(|| Ok(TcpListener::bind(at)?))?;
    let mut stream = client.netns().run(|| Ok(TcpStream::connect_timeout(&at, SHORT)?))?;
    let (mut accepted, peer) = listener.accept()?;
    accepted.write_all(b"hello")?;
    drop(accepted);
    let mut got = String::new();
    stream.read_to_string(&mut got)?;
    assert_eq!(got, "hello");
    Ok(peer)
}

#[test]
fn pods_reach_each_other_across_nodes_with_their_own_addresses() -> anyhow::Result<()> {
    if !can_run_here("pods_reach_each_other_across_nodes_with_their_own_addresses") {
        return Ok(());
    }
    let mut world = World::new()?;
    let (n1, n2) = (world.node("n1")?, world.node("n2")?);
    let (a, b, far) = (n1.pod("default", "a")?, n1.pod("default", "b")?, n2.pod("default", "far")?);
    let began = Instant::now();
    for server in [&b, &far, &a] {
        assert_eq!(seen_client(&a, server, server.at(8080))?.ip(), a.addresses()[0]);
        assert_eq!(seen_client(&a, server, server.at_v6(8080))?.ip(), a.addresses()[1]);
    }
    // A lost first packet (an address or a bridge port not ready yet) would cost a retransmission, which takes a second.
    assert!(began.elapsed() < Duration::from_millis(900), "took {:?}", began.elapsed());
    Ok(())
}

#[test]
fn service_addresses_fail_at_once_without_a_mesh() -> anyhow::Result<()> {
    if !can_run_here("service_addresses_fail_at_once_without_a_mesh") {
        return Ok(());
    }
    let mut world = World::new()?;
    let pod = world.node("n1")?.pod("default", "a")?;
    for service in ["10.96.0.11:80", "[fd00:10:96::11]:80", "[fd00:10:96::9:1]:80", "[::ffff:10.96.0.11]:80"]
    {
        let service: SocketAddr = service.parse()?;
        let began = Instant::now();
        let error = pod.netns().run(|| Ok(TcpStream::connect(service).err()))?.map(|e| e.kind());
        assert!(
            matches!(
                error,
                Some(std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable)
            ),
            "{service}: {error:?}"
        );
        assert!(began.elapsed() < Duration::from_millis(500), "{service} took {:?}", began.elapsed());
    }
    Ok(())
}

#[test]
fn a_process_lives_in_its_pods_namespace_and_cgroup_and_a_host_network_pod_in_its_nodes() -> anyhow::Result<()>
{
    if !can_run_here("a_process_lives_in_its_pods_namespace_and_cgroup_and_a_host_network_pod_in_its_nodes") {
        return Ok(());
    }
    let mut world = World::new()?;
    let node = world.node("n1")?;
    let (pod, host) = (node.pod("ns1", "a")?, node.host_network_pod("kube-system", "h")?);
    let mut show = Command::new("sh");
    show.args(["-c", "readlink /proc/self/ns/net; cat /proc/self/cgroup; echo $GREETING >&2"])
        .env("GREETING", "hi");
    for (pod, netns) in [(&pod, pod.netns()), (&host, node.netns())] {
        let seen = pod.run("show", &show, SHORT)?.success("show")?;
        let inside = netns.run(|| Ok(fs::read_link("/proc/thread-self/ns/net")?))?;
        assert!(seen.stdout.starts_with(&format!("{}\n", inside.display())), "{} in {inside:?}", seen.stdout);
        let unified = seen.stdout.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or_default().to_owned();
        let pod_cgroup = pod.cgroup().display().to_string();
        assert!(pod_cgroup.ends_with(unified.trim_end_matches("/main")), "{unified} is not in {pod_cgroup}");
        assert_eq!(seen.stderr, "hi\n");
    }
    assert_ne!(pod.cgroup(), host.cgroup());
    Ok(())
}

#[test]
fn a_process_that_cannot_start_says_so() -> anyhow::Result<()> {
    if !can_run_here("a_process_that_cannot_start_says_so") {
        return Ok(());
    }
    let mut world = World::new()?;
    let pod = world.node("n1")?.pod("default", "a")?;
    let missing = pod.run("missing", &Command::new("/nonexistent/program"), SHORT)?;
    let error = missing.success("missing").expect_err("there is no such program").to_string();
    assert!(error.contains("/nonexistent/program"), "{error}");
    let mut server = pod.spawn("short", Command::new("sh").args(["-c", "echo last words >&2; exit 3"]))?;
    let error = server.wait_for_text("ready", SHORT).expect_err("it never says ready").to_string();
    assert!(error.contains("last words"), "{error}");
    Ok(())
}

#[test]
fn removing_a_world_ends_its_processes_and_leaves_nothing() -> anyhow::Result<()> {
    if !can_run_here("removing_a_world_ends_its_processes_and_leaves_nothing") {
        return Ok(());
    }
    let mut world = World::new()?;
    let node = world.node("n1")?;
    let pod = node.pod("default", "a")?;
    let mut processes = [pod.spawn("one", &sleep_forever())?, node.spawn("two", &sleep_forever())?];
    let (folder, cgroup) = (world.folder(), pod.cgroup());
    assert!(folder.exists() && cgroup.exists());
    assert_eq!(world.remove()?, Vec::<PathBuf>::new());
    assert!(!folder.exists() && !cgroup.exists());
    for process in &mut processes {
        let ended = wait_until(SHORT, "its end", || process.ended())?;
        assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()));
    }
    Ok(())
}

#[test]
fn a_panic_leaves_nothing() -> anyhow::Result<()> {
    if !can_run_here("a_panic_leaves_nothing") {
        return Ok(());
    }
    let mut place = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new().expect("require() was met");
        let pod = world.node("n1").and_then(|n| n.pod("default", "a")).expect("a fresh world takes a pod");
        let _process = pod.spawn("sleep", &sleep_forever()).expect("sleep starts");
        place = Some((world.folder(), pod.cgroup()));
        panic!("as a failing test does");
    }));
    assert!(outcome.is_err());
    let (folder, cgroup) = place.expect("set before the panic");
    assert!(!folder.exists() && !cgroup.exists());
    Ok(())
}

/// Not a test of its own: the process that the next two tests interrupt and kill.
#[test]
#[ignore = "run by the tests about signals, in a process of its own"]
fn a_world_that_waits() -> anyhow::Result<()> {
    let mut world = World::new()?;
    let pod = world.node("n1")?.pod("default", "a")?;
    let _process = pod.spawn("sleep", &sleep_forever())?;
    println!("world {}", world.folder().display());
    std::thread::sleep(Duration::from_secs(60));
    Ok(())
}

/// Starts the process above and waits for its world.
fn other_process() -> anyhow::Result<(Child, PathBuf)> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "harness::a_world_that_waits", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    // libtest may have written the test's name at the beginning of the line.
    let found = output.lines().map_while(Result::ok).find_map(|l| {
        let (_, folder) = l.split_once("world /")?;
        Some(PathBuf::from(format!("/{folder}")))
    });
    Ok((child, found.expect("it ends only after it has said its world")))
}

fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?).expect("a child's pid is not zero");
    Ok(kill_process(pid, signal)?)
}

#[test]
fn an_interrupted_process_leaves_nothing() -> anyhow::Result<()> {
    if !can_run_here("an_interrupted_process_leaves_nothing") {
        return Ok(());
    }
    let (mut child, folder) = other_process()?;
    assert!(folder.exists());
    signal(&child, Signal::INT)?;
    assert_eq!(child.wait()?.code(), Some(130));
    assert!(!folder.exists());
    Ok(())
}

#[test]
fn the_next_run_sweeps_what_a_killed_process_left_and_never_a_living_world() -> anyhow::Result<()> {
    if !can_run_here("the_next_run_sweeps_what_a_killed_process_left_and_never_a_living_world") {
        return Ok(());
    }
    let living = World::new()?;
    let (mut child, folder) = other_process()?;
    World::sweep_stale()?;
    assert!(folder.exists() && living.folder().exists(), "both are in use");
    signal(&child, Signal::KILL)?;
    child.wait()?;
    assert!(folder.exists(), "SIGKILL leaves no chance to clean up");
    World::sweep_stale()?;
    // Another test's sweep may have come first; what counts is that it is gone.
    wait_until(SHORT, "the sweep", || Ok((!folder.exists()).then_some(())))?;
    assert!(living.folder().exists());
    Ok(())
}
