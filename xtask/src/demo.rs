//! `cargo xtask demo`: a whole mesh on this machine, driven by real requests, and a report that sets what was seen against
//! what the YAML asks.
//!
//! ```text
//!   n1: ingress gateway · productpage · reviews v1 · ratings · service1     n2: details · reviews v2, v3 · service2
//!       visitor (not in the mesh)                                           an agent on each node
//! ```

pub(crate) mod checks;
mod drive;
mod keep;
pub(crate) mod report;
mod stage;

use std::time::Instant;

use anyhow::{Context as _, bail};
use undermesh_tests::{Binaries, Profile, still_loaded, stop_if_interrupted, wait_until};

use crate::demo::report::{Finding, Report, progress};
use crate::demo::stage::Stage;

/// Run a mesh of two nodes on this machine, drive it and report what was seen (needs root)
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask demo
  cargo xtask demo --keep      leaves it running; Ctrl-C ends it and cleans up

Exit code 1 if anything seen differs from what the YAML asks. Everything made is removed: also after Ctrl-C.")]
pub(crate) struct Args {
    /// Leave it running and say how to use it, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Build without optimisation: quicker to build, slower to run
    #[arg(long)]
    dev: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    // Before the build: nobody should wait minutes for the word that root is missing.
    undermesh_tests::require()?;
    let binaries = match Binaries::given() {
        Some(given) => given,
        None => {
            progress("building the agent and the example application");
            Binaries::build(if args.dev { Profile::Dev } else { Profile::Release })?
        }
    };
    let began = Instant::now();
    let mut report = Report::default();
    let stage = Stage::set(binaries);
    // What failed because all was removed is no finding.
    stop_if_interrupted();
    let stage = stage?;
    drive::all(&stage, &mut report)?;
    stop_if_interrupted();
    print!("{}", report.text());
    if args.keep {
        keep::until_interrupted(&stage)?;
    }
    let removed = clean_up(stage)?;
    print!("{}", removed.text());
    println!("\n{:.0} s from the end of the build", began.elapsed().as_secs_f64());
    let differences = report.differences() + usize::from(!removed.is_as_asked());
    if differences > 0 {
        bail!("{differences} of the findings differ from what was asked (marked above)");
    }
    Ok(())
}

/// Ends everything and looks for what is left.
fn clean_up(stage: Stage) -> anyhow::Result<Finding> {
    progress("cleaning up");
    let programs = stage.program_ids()?;
    let (nodes, pods, processes) = stage.counts();
    let mut left: Vec<String> = stage.end()?.iter().map(|p| p.display().to_string()).collect();
    let unloaded = wait_until(std::time::Duration::from_secs(10), "BPF programs to be released", || {
        Ok(still_loaded(&programs)?.is_empty().then_some(()))
    });
    if unloaded.is_err() {
        left.push(format!(
            "BPF programs {:?}",
            still_loaded(&programs).context("cannot look for BPF programs")?
        ));
    }
    Ok(Finding::new("Cleaned up")
        .asked(format!(
            "{nodes} nodes, {pods} pods, {processes} processes, {} BPF programs all gone",
            programs.len()
        ))
        .seen(if left.is_empty() {
            "nothing left".into()
        } else {
            format!("left behind: {}", left.join(", "))
        })
        .holds(left.is_empty()))
}
