//! `cargo xtask cluster`: real Kubernetes, the mesh installed on it by helm, the article's scenario driven by kubectl, and a
//! report that sets what was seen against what the YAML asks.

use undermesh_cluster::prepare;

use crate::demo::report::progress;

/// Run real Kubernetes on this machine with the mesh on it, drive it and report what was seen (needs root)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only install and build what is missing: Kubernetes from the Go module proxy, some ten minutes once per machine
    #[arg(long)]
    prepare: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    undermesh_tests::require()?;
    prepare(progress)?;
    if args.prepare {
        progress("all is there");
    }
    Ok(())
}
