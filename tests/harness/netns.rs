//! A network namespace held by a file, as a container runtime holds a pod's: the file is a bind mount of the namespace,
//! so the namespace lives as long as the file, with or without processes in it.
//!
//! A namespace belongs to a thread, so everything "inside" happens on a thread made for it; a process started from such
//! a thread is born in the namespace. (`ip netns exec` would also remount /sys and hide the cgroups.)
#![expect(
    unsafe_code,
    reason = "unshare(2) is unsafe in rustix because of CLONE_FILES, which is not used here"
)]

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A network namespace and the file that holds it. Dropping this does not remove it: the [`World`](crate::World) does,
/// by the file's place, so that a panic or a kill cannot leave one behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetNs {
    path: PathBuf,
}

impl NetNs {
    /// Makes a new namespace, held by a new file at `path`.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        File::create_new(path).with_context(|| format!("cannot make {}", path.display()))?;
        on_own_thread(|| {
            // SAFETY: only CLONE_NEWNET; file descriptors stay shared, and the thread ends right after.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace")?;
            mount_bind("/proc/thread-self/ns/net", path)
                .with_context(|| format!("cannot hold a network namespace at {}", path.display()))
        })?;
        Ok(Self { path: path.to_owned() })
    }

    /// The file that holds the namespace; what `undermesh.io/netns` names.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread inside the namespace and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let file = File::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))?;
        on_own_thread(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter {}", self.path.display()))?;
            work()
        })
    }

    /// Lets go of the namespace that the file at `path` holds and removes the file. It ends with its last process.
    pub(crate) fn release(path: &Path) -> anyhow::Result<()> {
        match unmount(path, UnmountFlags::DETACH) {
            // Not a mount point: the run that made the file was killed before it could mount.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e).with_context(|| format!("cannot unmount {}", path.display())),
        }
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
    }
}

pub(crate) fn on_own_thread<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|s| s.spawn(work).join()).map_err(|panic| {
        let message = panic.downcast_ref::<&str>().map(ToString::to_string);
        let message = message.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        anyhow!("panic inside a network namespace: {message}")
    })?
}
