//! From a pod's cgroup to its network namespace, by way of its processes.
//!
//! Two things can mislead. A runtime moves a process into the cgroup *before* that process joins the pod's namespace: for some
//! milliseconds it is in the node's, which therefore means "not yet". And a privileged container may run containers of its
//! own, in namespaces of their own: so each container of the pod has a say, and most of them win.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::layout::folders;
use crate::netns::{Netns, NetnsError};

/// How far below the pod's folder processes are looked for.
const DEPTH: usize = 4;

/// Why a pod's network namespace is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotFound {
    /// There is no process.
    #[error("it has no process yet")]
    Empty,
    /// There are processes, all in the node's namespace: of a pod that is to have its own, they are on their way.
    #[error("it has no process in a network namespace of its own yet")]
    NotYet,
    /// There are processes, which this process cannot see.
    #[error("the pod's processes are in a PID namespace that the agent cannot see: it needs hostPID: true")]
    Hidden,
    /// There are processes, whose namespaces this process may not see.
    #[error("the agent may not look at the pod's processes: it lacks CAP_SYS_PTRACE")]
    Forbidden,
    /// The pod's cgroup is gone.
    #[error("its cgroup is gone")]
    Gone,
    /// The namespace could not be opened.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// Opens the namespace of the pod whose cgroup is `pod`, which is not `node`. Processes are found in `proc`.
pub fn find(pod: &Path, proc: &Path, node: &Netns) -> Result<Netns, NotFound> {
    let (processes, winner) = vote(pod, proc, node)?;
    for process in processes.iter().filter(|process| process.netns == winner) {
        let Ok(netns) = Netns::open(process.path(proc)) else { continue };
        // The process may have ended meanwhile, and its number may be another's: then it is not where it was found.
        if netns.identity() == winner && process.is_there() {
            return Ok(netns);
        }
    }
    Err(NotFound::NotYet)
}

/// Which namespace [`find`] would find, as device and inode; cheap, as nothing is entered.
pub fn identity(pod: &Path, proc: &Path, node: &Netns) -> Result<(u64, u64), NotFound> {
    vote(pod, proc, node).map(|(_, winner)| winner)
}

fn vote(pod: &Path, proc: &Path, node: &Netns) -> Result<(Vec<Process>, (u64, u64)), NotFound> {
    let (mut hidden, mut forbidden) = (false, false);
    let mut processes = Vec::new();
    collect(pod, DEPTH, &mut |folder, pid| {
        hidden |= pid == 0;
        let metadata = match fs::metadata(proc.join(pid.to_string()).join("ns/net")) {
            Ok(metadata) => metadata,
            Err(error) => {
                forbidden |= error.kind() == io::ErrorKind::PermissionDenied;
                return false;
            }
        };
        let netns = (metadata.dev(), metadata.ino());
        processes.push(Process { folder: folder.to_owned(), pid, netns });
        true
    })
    .map_err(|_| NotFound::Gone)?;
    let is_empty = processes.is_empty();
    processes.retain(|process| process.netns != node.identity());
    let votes = |netns| processes.iter().filter(|process| process.netns == netns).count();
    // Of several with as many votes the first.
    let winner = processes.iter().rev().map(|process| process.netns).max_by_key(|netns| votes(*netns));
    match winner {
        Some(winner) => Ok((processes, winner)),
        None if hidden => Err(NotFound::Hidden),
        None if forbidden => Err(NotFound::Forbidden),
        None if is_empty => Err(NotFound::Empty),
        None => Err(NotFound::NotYet),
    }
}

/// A process that speaks for its container.
#[derive(Debug)]
struct Process {
    folder: PathBuf,
    pid: u32,
    netns: (u64, u64),
}

impl Process {
    fn path(&self, proc: &Path) -> PathBuf {
        proc.join(self.pid.to_string()).join("ns/net")
    }

    fn is_there(&self) -> bool {
        pids(&self.folder).is_ok_and(|pids| pids.contains(&self.pid))
    }
}

/// Offers the processes of each folder until one is taken; then those of the folders in it are not asked.
fn collect(folder: &Path, depth: usize, take: &mut dyn FnMut(&Path, u32) -> bool) -> io::Result<()> {
    let own = pids(folder)?;
    if own.into_iter().any(|pid| take(folder, pid)) {
        return Ok(());
    }
    if let Some(depth) = depth.checked_sub(1) {
        for child in folders(folder) {
            // One that goes while we look is of no interest.
            let _ = collect(&child, depth, take);
        }
    }
    Ok(())
}

fn pids(folder: &Path) -> io::Result<Vec<u32>> {
    match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(list) => Ok(list.lines().filter_map(|line| line.parse().ok()).collect()),
        // A threaded cgroup, whose processes are listed in its domain.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A pod's folder and a /proc, made of files: `containers` are names with the processes in them, each in a namespace.
    struct Fake(PathBuf);

    impl Fake {
        fn new(test: &str, containers: &[(&str, &[(u32, &str)])]) -> Self {
            let top = std::env::temp_dir().join(format!("undermesh-sandbox-{test}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&top);
            for (folder, processes) in containers {
                let folder = top.join("pod").join(folder);
                fs::create_dir_all(&folder).unwrap();
                let list: Vec<_> = processes.iter().map(|(pid, _)| pid.to_string()).collect();
                fs::write(folder.join("cgroup.procs"), list.join("\n")).unwrap();
                for (pid, netns) in *processes {
                    fs::write(top.join(netns), "").unwrap();
                    let ns = top.join("proc").join(pid.to_string()).join("ns");
                    fs::create_dir_all(&ns).unwrap();
                    symlink(top.join(netns), ns.join("net")).unwrap();
                }
            }
            Self(top)
        }

        /// The name of the namespace found.
        fn found(&self) -> Result<String, NotFound> {
            let node = Netns::current().unwrap();
            let found = identity(&self.0.join("pod"), &self.0.join("proc"), &node)?;
            let names = fs::read_dir(&self.0).unwrap().flatten();
            let is_it = |path: &Path| fs::metadata(path).is_ok_and(|it| (it.dev(), it.ino()) == found);
            Ok(names
                .map(|it| it.path())
                .find(|path| is_it(path))
                .unwrap()
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into())
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn most_containers_win_and_each_has_one_vote() {
        let fake = Fake::new(
            "votes",
            &[
                ("", &[]),
                ("sandbox", &[(11, "pods")]),
                ("app", &[(12, "pods")]),
                ("docker", &[(13, "inner"), (14, "inner"), (15, "inner")]),
            ],
        );
        assert_eq!(fake.found().unwrap(), "pods");
    }

    #[test]
    fn processes_further_down_are_found_where_a_container_has_none_itself() {
        let fake = Fake::new("below", &[("", &[]), ("app", &[]), ("app/init.scope", &[(21, "pods")])]);
        assert_eq!(fake.found().unwrap(), "pods");
    }

    #[test]
    fn a_pod_without_a_process_is_not_there_yet() {
        let fake = Fake::new("empty", &[("", &[]), ("sandbox", &[])]);
        assert!(matches!(fake.found(), Err(NotFound::Empty)));
        let fake = Fake::new("hidden", &[("", &[]), ("sandbox", &[])]);
        fs::write(fake.0.join("pod/sandbox/cgroup.procs"), "0\n0\n").unwrap();
        assert!(matches!(fake.found(), Err(NotFound::Hidden)));
        let fake = Fake::new("gone", &[]);
        assert!(matches!(fake.found(), Err(NotFound::Gone)));
    }

    #[test]
    fn the_nodes_own_namespace_is_never_a_pods() {
        let fake = Fake::new("node", &[("", &[]), ("sandbox", &[(31, "unused")])]);
        let link = fake.0.join("proc/31/ns/net");
        fs::remove_file(&link).unwrap();
        symlink("/proc/thread-self/ns/net", &link).unwrap();
        assert!(matches!(fake.found(), Err(NotFound::NotYet)));
    }
}
