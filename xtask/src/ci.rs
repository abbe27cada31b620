//! `cargo xtask ci`: what has to be green before a merge. The same as `cargo xtask test` on a CI machine, where nothing may be
//! skipped, and the demo on other kernels.

use std::process::Command;

use anyhow::Context as _;

use crate::cargo::{root, succeed};

/// Everything: lint, deps, tests on all rungs, proof that the committed BPF object is what the source builds, the demo on other kernels
#[derive(Debug, clap::Args)]
#[command(after_help = "Needs root (for the kernel's part). A test that cannot run here fails.")]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> anyhow::Result<()> {
    // In a process of its own: CI=true has to reach the tests, and a process should not change its own environment.
    let own = std::env::current_exe().context("cannot find this program")?;
    let run = |verb| succeed(Command::new(&own).current_dir(root()).arg(verb).env("CI", "true"));
    run("test")?;
    run("vm")
}
