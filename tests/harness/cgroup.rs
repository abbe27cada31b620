//! cgroup2 folders: the identity of a pod's processes, and the sure way to end them all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::process;
use crate::wait::wait_until;

/// The first cgroup2 mount in the text of /proc/self/mounts. On hybrid hosts that is not /sys/fs/cgroup itself.
pub(crate) fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let target = fields.nth(1)?;
        // Spaces in a path are written \040; a cgroup mount with one is not worth a decoder.
        (fields.next()? == "cgroup2").then(|| PathBuf::from(target))
    })
}

/// Where the hierarchies of cgroup v1 are mounted: none on a host that has cgroup2 alone.
pub fn v1_hierarchies() -> anyhow::Result<Vec<PathBuf>> {
    Ok(v1_mounts(&fs::read_to_string("/proc/self/mounts")?))
}

fn v1_mounts(mounts: &str) -> Vec<PathBuf> {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter_map(|f| (f.get(2) == Some(&"cgroup")).then(|| f.get(1).map(PathBuf::from))?).collect()
}

/// Makes a cgroup folder and its missing parents.
pub(crate) fn create(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make cgroup {}", path.display()))
}

/// Kills every process below `path` and removes the folders, deepest first. A path that does not exist is done.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    kill(path)?;
    let gone = wait_until(Duration::from_secs(20), "cgroup to empty", || {
        process::reap_ended();
        Ok((!populated(path)?).then_some(()))
    });
    gone.with_context(|| format!("processes in {} outlive SIGKILL", path.display()))?;
    remove_folders(path).with_context(|| format!("cannot remove cgroup {}", path.display()))
}

/// Removes the folders `name` of the v1 hierarchies. Their processes were ended by way of cgroup2.
pub(crate) fn remove_v1(name: &str) -> anyhow::Result<()> {
    for path in v1_hierarchies()?.iter().map(|root| root.join(name)).filter(|path| path.exists()) {
        // A process that has just ended still counts for a moment.
        let gone = wait_until(Duration::from_secs(5), "cgroup to empty", || match remove_folders(&path) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => Ok(None),
            other => Ok(Some(other?)),
        });
        gone.with_context(|| format!("cannot remove cgroup {}", path.display()))?;
    }
    Ok(())
}

/// `cgroup.kill` ends the whole subtree at once and without races; kernels before 5.14 lack it.
fn kill(path: &Path) -> anyhow::Result<()> {
    let whole = path.join("cgroup.kill");
    if whole.exists() {
        return fs::write(&whole, "1").with_context(|| format!("cannot write {}", whole.display()));
    }
    for folder in folders(path)? {
        for pid in fs::read_to_string(folder.join("cgroup.procs"))?.lines() {
            let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) else { continue };
            match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
                // It ended by itself between the two lines.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(e) => bail!("cannot kill process {pid:?}: {e}"),
            }
        }
    }
    Ok(())
}

fn populated(path: &Path) -> anyhow::Result<bool> {
    Ok(fs::read_to_string(path.join("cgroup.events"))?.lines().any(|l| l == "populated 1"))
}

/// `path` and all folders below it, parents before children.
fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(folder) = found.get(next).cloned() {
        next += 1;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

fn remove_folders(path: &Path) -> io::Result<()> {
    for folder in folders(path)?.iter().rev() {
        fs::remove_dir(folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_on_hybrid_and_pure_hosts_and_nowhere_else() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_point(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"), Some("/sys/fs/cgroup".into()));
        // A source named cgroup2 on another file system is not cgroup2.
        assert_eq!(mount_point("cgroup2 /sys/fs/cgroup tmpfs rw 0 0\ncgroup /x cgroup rw 0 0\n"), None);
    }

    #[test]
    fn finds_all_hierarchies_of_v1_and_not_cgroup2() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(v1_mounts(hybrid), ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/pids"].map(PathBuf::from));
        assert_eq!(v1_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"), Vec::<PathBuf>::new());
    }
}
