//! What this machine must offer before a node can be built on it, and what happens to a test when it does not.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::cgroup;

/// Why nodes and pods cannot be built here; the message says what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet(String);

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unmet {}

/// Checks that this process may make network namespaces and cgroups, and that the kernel can load our programs.
/// Gives the folder where cgroup2 is mounted. The answer is found once per process.
pub fn require() -> Result<PathBuf, Unmet> {
    static ANSWER: OnceLock<Result<PathBuf, Unmet>> = OnceLock::new();
    ANSWER.get_or_init(examine).clone()
}

fn examine() -> Result<PathBuf, Unmet> {
    if !rustix::process::geteuid().is_root() {
        return Err(Unmet("needs root (network namespaces, cgroups, BPF): run it with sudo".into()));
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(Unmet(
            "the kernel has no BTF (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF=y, as distribution kernels have".into(),
        ));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts")
        .map_err(|e| Unmet(format!("cannot read /proc/self/mounts: {e}")))?;
    let root = cgroup::mount_point(&mounts)
        .ok_or_else(|| Unmet("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified".into()))?;
    // The proof that it is writable is to make a folder in it; mode bits say nothing in a container.
    let probe = root.join(format!("um-probe-{}", std::process::id()));
    std::fs::create_dir(&probe)
        .and_then(|()| std::fs::remove_dir(&probe))
        .map_err(|e| Unmet(format!("cgroup2 at {} cannot be written: {e}", root.display())))?;
    Ok(root)
}

/// True when the calling test can run. When it cannot, prints the reason past the test harness' capture, so that a
/// skipped test never looks like a passed one; in CI (`CI=true`) it panics instead.
#[must_use]
pub fn can_run_here(test: &str) -> bool {
    can(test, require().map(drop))
}

/// As [`can_run_here`], for tests that need namespaces but no cgroups and no BPF.
#[must_use]
pub fn can_make_namespaces_here(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    can(
        test,
        is_root
            .then_some(())
            .ok_or_else(|| Unmet("needs root (network namespaces): run it with sudo".into())),
    )
}

fn can(test: &str, met: Result<(), Unmet>) -> bool {
    match met {
        Ok(()) => true,
        Err(reason) => {
            assert!(!in_ci(std::env::var("CI").ok().as_deref()), "{test} cannot run in CI: {reason}");
            // Not eprintln!: libtest captures that, and hides it when the test "passes".
            let _ = writeln!(std::io::stderr(), "SKIP {test}: {reason}");
            false
        }
    }
}

fn in_ci(value: Option<&str>) -> bool {
    matches!(value, Some("true" | "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_is_true_only_when_it_says_so() {
        for (value, want) in [
            (Some("true"), true),
            (Some("1"), true),
            (Some("false"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(in_ci(value), want, "CI={value:?}");
        }
    }
}
