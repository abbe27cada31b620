//! `cargo xtask ci`: what has to be green before a merge: the tests as on a CI machine, where nothing may be skipped, then the same
//! programs on other kernels and on real kubelets.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::cargo::{root, succeed};

/// Everything: `test` with nothing skipped, the demo on Debian's kernels, the article's scenario on real Kubernetes
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Needs root (for the kernel's part). A test that cannot run here fails. About twenty minutes on two CPUs; \
                  thirty more once, for what `cargo xtask cluster --prepare` and `cargo xtask vm` keep."
)]
pub(crate) struct Args {}

/// Each is run, whatever became of the one before: one failure should not hide another.
const STEPS: [&[&str]; 3] = [&["test"], &["vm"], &["cluster", "--dev"]];

pub(crate) fn run(_: &Args) -> anyhow::Result<()> {
    // In processes of their own: CI=true has to reach the tests, and a process should not change its own environment.
    let own = std::env::current_exe().context("cannot find this program")?;
    let began = Instant::now();
    let mut failed = Vec::new();
    for step in STEPS {
        let name = step.join(" ");
        println!("\n==== cargo xtask {name} ====");
        if let Err(error) = succeed(Command::new(&own).current_dir(root()).args(step).env("CI", "true")) {
            println!("FAILED cargo xtask {name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    println!("all passed in {:.0?}", began.elapsed());
    Ok(())
}
