//! What `connect()` costs in one cgroup and in another, by turns: below an agent's programs and beside them.
//!
//! One process does both and moves between the cgroups, so that the network namespace, the code and the state of the caches are
//! the same. The listener is its own, on an address of the pod: the kernel completes the handshake inside `connect()`, so its
//! time is all there is, and no other process' turn on the CPU gets into it. Socket programs (`sock_ops`) that run for the
//! connecting side are included. The accepting side's belong to the listener's cgroup, the same in both.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Between rounds, so that a real-time process never meets the kernel's throttle for such.
const PAUSE: Duration = Duration::from_millis(2);

/// The median `connect()` of one round in both cgroups, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// In the first cgroup.
    pub first_ns: u64,
    /// In the second.
    pub second_ns: u64,
}

/// Measures `rounds` rounds of `count` connects in each of the two cgroups, from and to `address`, which must be local.
pub fn run(
    address: SocketAddr,
    cgroups: [&Path; 2],
    rounds: usize,
    count: usize,
) -> anyhow::Result<Vec<Round>> {
    let home = own_cgroup()?;
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let mut measured = Vec::with_capacity(rounds);
    let mut times = Vec::with_capacity(count);
    for round in 0..rounds {
        // First, second, second, first, ...: a drift of the machine falls on both alike.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut medians = [0; 2];
        for which in order {
            let (Some(cgroup), Some(median)) = (cgroups.get(which), medians.get_mut(which)) else { continue };
            enter(cgroup)?;
            times.clear();
            for _ in 0..count {
                times.push(one(&listener, address)?);
            }
            times.sort_unstable();
            *median = times.get(times.len() / 2).copied().unwrap_or(0);
        }
        measured.push(Round { first_ns: medians[0], second_ns: medians[1] });
        std::thread::sleep(PAUSE);
    }
    if let Some(home) = home {
        enter(&home)?;
    }
    Ok(measured)
}

/// One `connect()` in nanoseconds; the connection is gone afterwards.
fn one(listener: &TcpListener, address: SocketAddr) -> anyhow::Result<u64> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A reset at close leaves no TIME_WAIT, whose growing number would make each connect look longer for a port.
    socket.set_linger(Some(Duration::ZERO))?;
    let address = address.into();
    let begun = Instant::now();
    socket.connect(&address)?;
    let took = begun.elapsed();
    let (accepted, _) = listener.accept()?;
    SockRef::from(&accepted).set_linger(Some(Duration::ZERO))?;
    drop(accepted);
    Ok(u64::try_from(took.as_nanos())?)
}

fn enter(cgroup: &Path) -> anyhow::Result<()> {
    // 0 is whoever writes.
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("cannot enter {}", cgroup.display()))
}

/// Where this process was started, to go back to; `None` if its cgroup2 mount is not found.
fn own_cgroup() -> anyhow::Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let target = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(target))
    });
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(mount.zip(own).map(|(mount, own)| mount.join(own)))
}
