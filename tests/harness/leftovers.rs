//! Removing worlds by name alone: what lies under the run folder and the cgroup root is the whole truth, no memory of the
//! process that made it is needed. So one function serves the orderly end, a panic, Ctrl-C and the run after a SIGKILL.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::netns::NetNs;
use crate::{cgroup, requirement};

/// Where worlds keep their files: a namespace per file, logs, configuration, sockets.
const RUN: &str = "/run/undermesh-test";
/// Where worlds keep what is too large for memory, which /run often is: container images, a cluster's database.
const DISK: &str = "/var/tmp/undermesh-test";
/// Held (flock) by the process that made the world, for as long as it lives. Safer than its pid, which is used again.
const LOCK: &str = "lock";
/// Folder of the files that hold namespaces.
pub(crate) const NETNS: &str = "netns";
/// How the names of worlds begin.
pub(crate) const PREFIX: &str = "um-";

/// The run folder of the world `name`.
pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(RUN).join(name)
}

/// Its folder on disk; made by whoever needs one.
pub(crate) fn disk(name: &str) -> PathBuf {
    Path::new(DISK).join(name)
}

/// Makes the run folder of a new world and locks it as alive until the file is closed.
pub(crate) fn claim(name: &str) -> anyhow::Result<File> {
    let folder = folder(name);
    // The lock is taken before the folder has its name: a sweep never sees it unlocked.
    let unnamed = Path::new(RUN).join(format!(".{name}"));
    fs::create_dir_all(unnamed.join(NETNS)).with_context(|| format!("cannot make {}", unnamed.display()))?;
    let lock = File::create(unnamed.join(LOCK))?;
    lock.lock().context("cannot lock a new file")?;
    fs::rename(&unnamed, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(lock)
}

/// Ends every process of the world `name` and removes its namespaces, cgroups and files.
pub(crate) fn remove(name: &str) -> anyhow::Result<()> {
    let root = requirement::require()?;
    cgroup::remove(&root.join(name))?;
    cgroup::remove_v1(name)?;
    let folder = folder(name);
    for file in entries(&folder.join(NETNS))? {
        NetNs::release(&file)?;
    }
    remove_folder(&disk(name))?;
    let _ = fs::remove_dir(DISK);
    // The lock goes last: an interrupted removal can be taken up again.
    for entry in entries(&folder)?.into_iter().filter(|e| !e.ends_with(LOCK)) {
        let removed = if entry.is_dir() { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) };
        removed.with_context(|| format!("cannot remove {}", entry.display()))?;
    }
    remove_folder(&folder)?;
    // The last world takes the common folder along; while others live this fails, as it should.
    let _ = fs::remove_dir(RUN);
    Ok(())
}

fn remove_folder(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Removes the worlds of processes that no longer live, and gives their names.
pub(crate) fn sweep() -> anyhow::Result<Vec<String>> {
    let mut swept = Vec::new();
    for folder in entries(Path::new(RUN))? {
        let Some(name) = folder.file_name().and_then(|n| n.to_str()).filter(|n| n.starts_with(PREFIX)) else {
            continue;
        };
        // Held until the removal is done: of two sweeps at once only one does it.
        if let Some(_lock) = lock_if_stale(&folder) {
            remove(name).with_context(|| format!("cannot remove what an earlier run left as {name}"))?;
            swept.push(name.to_owned());
        }
    }
    Ok(swept)
}

/// The lock of a world whose maker no longer lives; `None` if it is in use or being removed.
fn lock_if_stale(folder: &Path) -> Option<File> {
    let lock = File::open(folder.join(LOCK)).ok()?;
    match lock.try_lock() {
        Ok(()) => Some(lock),
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => None,
    }
}

/// What of the world `name` is still there: paths, or nothing.
pub(crate) fn of(name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut left = vec![folder(name), disk(name), requirement::require()?.join(name)];
    left.extend(cgroup::v1_hierarchies()?.into_iter().map(|root| root.join(name)));
    left.retain(|p| p.exists());
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let inside = format!("{}/", folder(name).display());
    left.extend(
        mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|m| m.starts_with(&inside)).map(Into::into),
    );
    Ok(left)
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(list) => Ok(list.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(|| format!("cannot list {}", folder.display())),
    }
}
