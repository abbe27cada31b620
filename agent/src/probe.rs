//! `undermesh probe`: from inside a pod, dial the address that only the proxy answers, and say what happened.
//!
//! Which connections the kernel programs see depends on the cgroup of the process that made the socket, and where they bring
//! them on its network namespace. So this is a process of its own, which moves into both before it makes its socket.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use undermesh_core::capture::Capture;
use undermesh_proxy::probe;
use undermesh_redirect::netns::Netns;

/// For each of connecting and reading the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The proxy's answer is a line with a pod's name.
const MAX_ANSWER: usize = 1024;

/// What a probe saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// `4` or `6`.
    pub family: u8,
    /// The pod that the proxy took it for, if the proxy answered.
    pub answered_as: Option<String>,
    /// The generation of the configuration that was in force there.
    pub generation: Option<u64>,
    /// Until the answer, in milliseconds.
    pub ms: f64,
    /// Why there was none.
    pub error: Option<String>,
}

/// Where a probe is made from.
#[derive(Debug, Clone)]
pub struct Place {
    /// The path of the pod's network namespace.
    pub netns: PathBuf,
    /// A cgroup below which the kernel programs see it.
    pub cgroup: PathBuf,
}

/// What the kernel programs have to capture for it.
pub fn captures() -> impl Iterator<Item = Capture> {
    probe::ADDRESSES.into_iter().map(|address| Capture::Address { address, port: probe::PORT })
}

/// Makes a probe by a process of its own. Takes some seconds at most.
pub fn run(place: &Place, family: u8) -> Seen {
    let failed = |error: anyhow::Error| Seen {
        family,
        answered_as: None,
        generation: None,
        ms: 0.0,
        error: Some(format!("the probe could not be made: {error:#}")),
    };
    let child = || -> anyhow::Result<Seen> {
        let output = Command::new("/proc/self/exe")
            .args(["probe", "--family", &family.to_string(), "--netns"])
            .arg(&place.netns)
            .arg("--cgroup")
            .arg(&place.cgroup)
            .stdin(Stdio::null())
            .output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    child().unwrap_or_else(failed)
}

/// What that process does: moves there, connects, reports.
///
/// # Errors
/// It cannot go there.
pub fn from_inside(netns: &Path, cgroup: &Path, family: u8) -> anyhow::Result<Seen> {
    if let Err(error) = see_all_cgroups() {
        // Where that is not needed, it does no harm; where it is, the next line fails.
        tracing::debug!(%error, "no view of the node's cgroups");
    }
    let procs = cgroup.join("cgroup.procs");
    std::fs::write(&procs, "0").with_context(|| format!("joining {}", procs.display()))?;
    let netns = Netns::open(netns)?;
    Ok(netns.enter(|| dial(family))?)
}

/// Enters the cgroup namespace of process 1, the node's. A cgroup2 that systemd mounted (`nsdelegate`) lets nobody move a
/// process to where the mover's own cgroup namespace does not reach (ENOENT), and a container has one of its own.
///
/// <https://docs.kernel.org/admin-guide/cgroup-v2.html#delegation-containment>
fn see_all_cgroups() -> std::io::Result<()> {
    let node = std::fs::File::open("/proc/1/ns/cgroup")?;
    Ok(move_into_link_name_space(node.as_fd(), Some(LinkNameSpaceType::ControlGroup))?)
}

fn dial(family: u8) -> Seen {
    let [v4, v6] = probe::ADDRESSES;
    let address = SocketAddr::new(if family == 6 { v6 } else { v4 }, probe::PORT);
    let started = Instant::now();
    let answer = (|| -> std::io::Result<String> {
        let mut io = TcpStream::connect_timeout(&address, PATIENCE)?;
        let mut text = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        // Where the programs do not see the pod, somebody may own the address and say anything, or one byte a second.
        while text.len() < MAX_ANSWER {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            io.set_read_timeout(Some(left))?;
            let mut buffer = [0; MAX_ANSWER];
            match io.read(&mut buffer)? {
                0 => break,
                count => text.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    })();
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let mut seen = Seen { family, answered_as: None, generation: None, ms, error: None };
    match answer.as_deref().map(probe::read) {
        Ok(Some((generation, pod))) => {
            seen.answered_as = Some(pod.to_owned());
            seen.generation = Some(generation);
        }
        Ok(None) => seen.error = Some("somebody else than the proxy answered".to_owned()),
        Err(error) => seen.error = Some(explain(error)),
    }
    seen
}

/// Nobody has the address: whoever is not brought to the proxy gets nowhere.
fn explain(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::TimedOut
        | ErrorKind::WouldBlock
        | ErrorKind::NetworkUnreachable
        | ErrorKind::HostUnreachable => {
            format!("not brought to the proxy ({error})")
        }
        ErrorKind::ConnectionRefused => format!("redirected, but nobody listens ({error})"),
        ErrorKind::PermissionDenied => {
            format!("refused by the kernel programs: its fail mode is closed ({error})")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_any_mesh_nobody_answers() {
        // Its own namespace, and no programs that know it: never the proxy's answer.
        let seen = dial(4);
        assert_eq!((seen.answered_as, seen.generation), (None, None));
        assert!(seen.error.is_some());
    }

    #[test]
    fn a_place_that_is_not_there_is_said_and_nothing_else_happens() {
        let error = from_inside(Path::new("/nowhere"), Path::new("/nowhere"), 4).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/cgroup.procs"), "{error:#}");
    }
}
