//! What the children do: a line comes in on stdin, the work is done, a line goes out on stdout.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::thread::UnshareFlags;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use undermesh_redirect::netns::Netns;
use undermesh_redirect::{Counter, Redirect, Settings, plan};

use crate::world;

/// The variable that tells this binary to be a child.
pub(crate) const ROLE: &str = "UNDERMESH_TEST_ROLE";

pub(crate) fn run(role: &str) -> ExitCode {
    // The first line comes when we are in our cgroup.
    let mut lines = io::stdin().lock().lines();
    let Some(Ok(_)) = lines.next() else { return ExitCode::FAILURE };
    if role == "pod" {
        // SAFETY: leaves descriptors and the file system as they are.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("unshare");
        world::loopback_up();
        world::add_address(world::POD4);
        world::add_address(world::POD6);
    }
    answer("ready");
    let mut held = Vec::new();
    for line in lines.map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let reply = match words.as_slice() {
            ["connect", kind, target] => connect(kind, target.parse().expect("an address"), &mut held)
                .unwrap_or_else(|error| format!("err {}", error.raw_os_error().unwrap_or_default())),
            ["flood", count, target] => {
                flood(count.parse().expect("a number"), target.parse().expect("an IPv6 address"), &mut held)
                    .map_or_else(|error| format!("err {error}"), |()| "flooded".to_owned())
            }
            ["own-traffic", top, pod] => own_traffic(Some(top.into()), pod.into()),
            ["own-traffic-in-part", top, pod] => {
                world::see_only(top.as_ref());
                own_traffic(None, pod.into())
            }
            ["load", cgroup] => load(cgroup.into()),
            ["release"] => {
                held.clear();
                "released".to_owned()
            }
            other => panic!("unknown command {other:?}"),
        };
        answer(&reply);
    }
    ExitCode::SUCCESS
}

fn answer(line: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").expect("stdout");
    out.flush().expect("stdout");
}

/// Dials and says `ok PEER LOCAL GREETING`.
fn connect(kind: &str, target: SocketAddr, held: &mut Vec<Socket>) -> io::Result<String> {
    const MPTCP: i32 = 262;
    let mapped = match target.ip() {
        IpAddr::V4(v4) => SocketAddrV6::new(v4.to_ipv6_mapped(), target.port(), 0, 0).into(),
        IpAddr::V6(_) => target,
    };
    let domain = Domain::for_address(target);
    let (socket, target) = match kind {
        "mapped" => (Socket::new(Domain::IPV6, Type::STREAM, None)?, mapped),
        "udp" => (Socket::new(domain, Type::DGRAM, None)?, target),
        "mptcp" => (Socket::new(domain, Type::STREAM, Some(Protocol::from(MPTCP)))?, target),
        _ => (Socket::new(domain, Type::STREAM, None)?, target),
    };
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    match kind {
        "fastopen" => fast_open(&socket, target)?,
        "bound" => {
            // As a client does that names its own address.
            let own: IpAddr = if target.is_ipv4() { world::POD4 } else { world::POD6 };
            socket.bind(&SocketAddr::new(own, 0).into())?;
            socket.connect(&target.into())?;
        }
        "again" => {
            // First somewhere that fails, then to the target, with one socket.
            let refused = SocketAddr::new(Ipv4Addr::new(10, 96, 0, 99).into(), 80);
            let first = socket.connect(&refused.into());
            assert!(first.is_err(), "nobody listens for 10.96.0.99:80");
            socket.connect(&target.into())?;
        }
        _ => socket.connect(&target.into())?,
    }
    match kind {
        "udp" => return Ok(format!("ok {} {} -", show(&socket.peer_addr()?), show(&socket.local_addr()?))),
        "abort" => {
            socket.set_linger(Some(Duration::ZERO))?;
            return Ok("ok".to_owned());
        }
        "send-and-close" => {
            (&socket).write_all(b"last words")?;
            return Ok("ok".to_owned());
        }
        "hold" => {
            let reply = format!("ok {} {} -", show(&socket.peer_addr()?), show(&socket.local_addr()?));
            held.push(socket);
            return Ok(reply);
        }
        _ => {}
    }
    let reply = format!("ok {} {}", show(&socket.peer_addr()?), show(&socket.local_addr()?));
    let mut greeting = String::new();
    BufReader::new((&socket).take(64)).read_line(&mut greeting)?;
    Ok(format!("{reply} {}", greeting.trim_end()))
}

/// Dials from addresses that are nobody's, so that no answer to a SYN arrives; any process may.
fn flood(count: u16, target: SocketAddr, held: &mut Vec<Socket>) -> io::Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all)?;
    for number in 1..=count {
        let socket = Socket::new(Domain::IPV6, Type::STREAM.nonblocking(), None)?;
        socket.set_freebind_v6(true)?;
        let nobody = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number]);
        socket.bind(&SocketAddr::new(nobody, 0).into())?;
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => held.push(socket),
            Err(error) => return Err(error),
            Ok(()) => return Err(io::Error::other("somebody answered")),
        }
    }
    Ok(())
}

fn show(address: &SockAddr) -> SocketAddr {
    address.as_socket().expect("an IP address")
}

/// connect(2) by sendto(2).
fn fast_open(socket: &Socket, target: SocketAddr) -> io::Result<()> {
    let address = SockAddr::from(target);
    // SAFETY: an open socket, an empty buffer, an address with its length.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            b"x".as_ptr().cast(),
            1,
            libc::MSG_FASTOPEN,
            address.as_ptr().cast(),
            address.len(),
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// As the agent: attach above our own cgroup (given, or found), capture a service for `pod`, and dial that service in the pod's namespace.
fn own_traffic(cgroup: Option<PathBuf>, pod: PathBuf) -> String {
    let mut redirect = Redirect::load(&Settings { cgroup, ..Settings::default() }).expect("load");
    let pod = Netns::open(pod).expect("the pod's namespace");
    let workload = world::workload(1, plan::Place::Netns(pod.cookie()));
    let desired = plan::plan(world::captures(), &[workload], &redirect.node(), 1);
    redirect.apply(&desired).expect("apply");
    let socket = pod.socket(Domain::IPV4).expect("a socket in the pod");
    socket.set_nonblocking(false).expect("blocking");
    let outcome = socket.connect(&world::SERVICE4.into()).map_err(|error| error.raw_os_error());
    let own = world::count(&redirect, Counter::OwnTraffic);
    let redirected = world::count(&redirect, Counter::Redirected4);
    let level = redirect.node().agent_cgroup.map(|agent| agent.level);
    format!("{outcome:?} own={own} redirected={redirected} level={level:?}")
}

fn load(cgroup: PathBuf) -> String {
    match Redirect::load(&Settings { cgroup: Some(cgroup), ..Settings::default() }) {
        Ok(_) => "loaded".to_owned(),
        Err(error) => error.to_string(),
    }
}
