//! Debian's part of a node: containerd, runc, CNI plugins, iptables.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::run::succeed;

/// Package, and a file by which to know that it is there.
const PACKAGES: [(&str, &str); 6] = [
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("iptables", "/usr/sbin/iptables"),
    ("util-linux", "/usr/bin/nsenter"),
    // For pods of tests that need a shell.
    ("busybox-static", "/bin/busybox"),
];

/// The packages that are missing.
pub(crate) fn missing() -> Vec<&'static str> {
    PACKAGES.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect()
}

/// Installs what is missing. No daemon is started: nodes run their own.
pub(crate) fn install(told: impl Fn(&str)) -> anyhow::Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "nodes are made with Debian's {}, and there is no apt-get here: install them, or use a Debian 12 container",
        missing.join(", ")
    );
    told(&format!("installing {} (about 10 s)", missing.join(" ")));
    let install = || {
        let mut command = Command::new("apt-get");
        // In single-user mode the packages' scripts leave their services alone.
        command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        command.args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing).stdout(Stdio::null());
        command
    };
    if succeed(&mut install()).is_err() {
        told("the package lists may be old: apt-get update");
        succeed(Command::new("apt-get").args(["update", "-q"]).stdout(Stdio::null()))?;
        succeed(&mut install()).context("are you root, and is this Debian 12 or newer?")?;
    }
    Ok(())
}
