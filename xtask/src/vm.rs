//! `cargo xtask vm`: other kernels in QEMU. The demo and the kernel tests start from an initramfs that holds the programs and
//! nothing else; Kubernetes ([`kubernetes`]) from a saved machine with Debian in it. cgroup2 is pure there, as on a user's node.
//!
//! ```text
//!   Debian's kernel package ─┬─ vmlinuz ────────────────┐
//!                            └─ bridge, veth ─┐          ├─▶ QEMU ─▶ serial console ─▶ what was asked for ended with ...
//!   undermesh, bookinfo, xtask, kernel tests ─┴─▶ initrd ┘
//! ```

mod boot;
mod channel;
mod disk;
mod emulator;
mod guest;
mod initramfs;
mod kubernetes;
mod monitor;
mod packages;
mod saved;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use undermesh_tests::{Binaries, Profile};

use crate::cargo::{cargo, items, text};

/// Run the demo, the kernel tests or Kubernetes on Debian's kernels 6.1 and 6.12, in QEMU
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask vm                             the demo on both kernels
  cargo xtask vm --kernel 6.12 --run tests   the kernel tests on one
  cargo xtask vm --run tests -- untouched    only those whose name contains `untouched`
  cargo xtask vm --run kubernetes            Kubernetes, the mesh by helm, the scenario of cargo xtask cluster, on both

Kernels and QEMU are Debian packages, unpacked into $XDG_CACHE_HOME/undermesh/vm (300 MB, once). With --kvm the machine's own
virtualisation is used; without it every instruction is emulated, and a second takes ten.")]
pub(crate) struct Args {
    /// Which kernels; both if not given
    #[arg(long, value_enum)]
    kernel: Vec<Kernel>,
    /// What to run there
    #[arg(long, value_enum, default_value = "demo")]
    run: What,
    /// Use /dev/kvm
    #[arg(long)]
    kvm: bool,
    /// k3s's binary, to run it instead of Kubernetes' own programs; with --run kubernetes
    #[arg(long, value_name = "PATH")]
    k3s: Option<PathBuf>,
    /// Leave the machine running and say how to use it, until Ctrl-C; with --run kubernetes
    #[arg(long)]
    keep: bool,
    /// Optimised programs: slower to build, quicker to run; with --run kubernetes
    #[arg(long)]
    release: bool,
    /// The longest a kernel may take, in minutes; not with --run kubernetes
    #[arg(long, default_value_t = 20, value_name = "MINUTES")]
    limit: u64,
    /// For the test program: a filter, --nocapture, ...
    #[arg(last = true)]
    filter: Vec<String>,
}

/// A series of kernels that Debian 12 has packages of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's own.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's, built for Debian 12.
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    /// The Debian that comes with it.
    fn suite(self) -> &'static str {
        match self {
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
        }
    }

    fn series(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// What is run in the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// `cargo xtask demo`: two nodes, Bookinfo, a gateway, and a report.
    Demo,
    /// The kernel tests.
    Tests,
    /// Kubernetes, the mesh on it by helm, and the scenario of `cargo xtask cluster`.
    Kubernetes,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let kernels =
        if args.kernel.is_empty() { vec![Kernel::V6_1, Kernel::V6_12] } else { args.kernel.clone() };
    sweep(&folder());
    let cache = packages::cache()?;
    let qemu = packages::qemu(&cache)?;
    let failures = match args.run {
        What::Kubernetes => kubernetes::run(&cache, &qemu, &kernels, args)?,
        What::Demo => {
            let own = std::env::current_exe().context("cannot find this program")?;
            alone(&cache, &qemu, &kernels, args, &own, &["demo".to_owned()])?
        }
        // One at a time: side by side their time-outs would measure the emulator.
        What::Tests => {
            let mut arguments = vec!["--test-threads=1".to_owned()];
            arguments.extend(args.filter.iter().cloned());
            alone(&cache, &qemu, &kernels, args, &kernel_tests()?, &arguments)?
        }
    };
    ensure!(failures.is_empty(), "not as asked on {}", failures.join(", "));
    Ok(())
}

/// For files of a run; each in a folder that ends with the number of its process.
fn folder() -> PathBuf {
    crate::cargo::root().join("target/vm")
}

/// Removes what processes left that were killed, Ctrl-C among the reasons. (Their machines ended with them.)
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.rsplit('-').next().and_then(|number| number.parse::<u32>().ok());
        if process.is_some_and(|number| !Path::new(&format!("/proc/{number}")).exists()) {
            // Another process may be quicker.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Runs one program on one kernel after the other, with nothing else on it, and gives those on which it failed.
fn alone(
    cache: &Path,
    qemu: &packages::Qemu,
    kernels: &[Kernel],
    args: &Args,
    program: &Path,
    arguments: &[String],
) -> anyhow::Result<Vec<String>> {
    let binaries = Binaries::build(Profile::Dev)?;
    let mut failures = Vec::new();
    for kernel in kernels {
        let began = Instant::now();
        let unpacked = packages::kernel(cache, *kernel)?;
        let initrd = initramfs::build(&initramfs::Content {
            modules: &unpacked.modules,
            program,
            arguments,
            undermesh: &binaries.undermesh,
            bookinfo: &binaries.bookinfo,
        })?;
        println!("== {} ({} MB of initramfs) ==", unpacked.release, initrd.size() / 1_000_000);
        let limit = Duration::from_secs(60 * args.limit);
        let code = boot::run(qemu, &unpacked.image, initrd.path(), args.kvm, limit)?;
        println!("== {}: exit code {code} after {:.0?} ==", unpacked.release, began.elapsed());
        if code != 0 {
            failures.push(unpacked.release);
        }
    }
    Ok(failures)
}

/// The test program `kernel`, as cargo builds it.
fn kernel_tests() -> anyhow::Result<PathBuf> {
    let mut command = cargo([
        "test",
        "--package",
        "undermesh-tests",
        "--test",
        "kernel",
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    let output = command.stderr(std::process::Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the kernel tests do not build");
    let messages: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let is_it = |message: &&serde_json::Value| {
        message.get("target").is_some_and(|target| {
            text(target, "name") == "kernel" && items(target, "kind").any(|kind| kind == "test")
        })
    };
    let path = messages
        .iter()
        .filter(is_it)
        .map(|message| text(message, "executable"))
        .find(|path| !path.is_empty());
    path.map(PathBuf::from).context("cargo names no test program `kernel`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_processes_left_goes_and_all_else_stays() -> anyhow::Result<()> {
        let folder = std::env::temp_dir().join(format!("um-vm-{}", std::process::id()));
        let own = format!("kubernetes-{}", std::process::id());
        // No process has this number: it is above the largest that Linux gives.
        for name in ["kubernetes-4194305", "4194305", own.as_str(), "else"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        sweep(&folder);
        let mut left = std::fs::read_dir(&folder)?.flatten().map(|e| e.file_name()).collect::<Vec<_>>();
        left.sort();
        assert_eq!(left, ["else", own.as_str()]);
        std::fs::remove_dir_all(folder)?;
        Ok(())
    }
}
