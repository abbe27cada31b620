//! `cargo xtask cluster`: real Kubernetes, the mesh installed on it by helm, the article's scenario driven by kubectl, and a
//! report that sets what was seen against what the YAML asks. With `--docs`, the commands of the guide instead.
//!
//! Where the cluster comes from is the provider's part (`undermesh-cluster`); everything after it is the same for all.

mod checks;
mod doctor;
mod drive;
mod dual_stack;
mod egress;
mod guide;
mod keep;
mod leaving;
mod life;
mod restarts;
mod rolls;
pub(crate) mod stage;
mod walk;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use undermesh_cluster::{Existing, K3s, Layout, Provider, Tools, Upstream, prepare};

use crate::cluster::stage::Stage;
use crate::demo::report::{Finding, Report, progress};
use crate::image::{self, Which};

/// Run real Kubernetes on this machine with the mesh on it, drive it and report what was seen (needs root)
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask cluster                                two nodes with real kubelets; the whole scenario
  cargo xtask cluster --layout k3s                   the same with k3s's paths on the nodes
  cargo xtask cluster --docs                         what docs/kubernetes.md says, command by command
  cargo xtask cluster --keep                         leaves it running, with the mesh on it, until Ctrl-C
  cargo xtask cluster --bare --keep                  the cluster alone
  cargo xtask cluster --provider k3s --k3s ./k3s     k3s itself, from a binary
  cargo xtask cluster --provider existing --kubeconfig ~/.kube/config
                                                     a cluster that is there and has the images
  cargo xtask cluster --prepare                      only install and build what is missing

Exit code 1 if anything seen differs from what the YAML asks. Everything made is removed: also after Ctrl-C.")]
pub(crate) struct Args {
    /// Where the cluster comes from
    #[arg(long, value_enum, default_value = "upstream")]
    provider: From,
    /// Whose paths the nodes have; of `upstream` alone
    #[arg(long, value_enum, default_value = "upstream")]
    layout: Paths,
    /// How many nodes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// k3s's binary; otherwise K3S_BIN, or the one on the PATH
    #[arg(long, value_name = "PATH")]
    k3s: Option<PathBuf>,
    /// Get a pinned release of k3s, checked against its published sha256
    #[arg(long)]
    download: bool,
    /// Of `existing`
    #[arg(long, value_name = "PATH", env = "KUBECONFIG", required_if_eq("provider", "existing"))]
    kubeconfig: Option<PathBuf>,
    /// A value for helm, as helm takes it; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Leave it running and say how to use it, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// The commands of docs/kubernetes.md in place of the scenario, on a node with k3s's paths
    #[arg(long, conflicts_with = "bare")]
    docs: bool,
    /// The cluster and the images, without the mesh
    #[arg(long)]
    bare: bool,
    /// Build the images without optimisation: quicker to build, slower to run
    #[arg(long)]
    dev: bool,
    /// Only install and build what is missing: Kubernetes from the Go module proxy, some ten minutes once per machine
    #[arg(long)]
    prepare: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    /// Kubernetes' own programs, on nodes made of namespaces and cgroups.
    Upstream,
    /// k3s' server and agents, on the same kind of nodes.
    K3s,
    /// One that is there.
    Existing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Paths {
    Upstream,
    K3s,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(
        !(args.docs && args.provider == From::Existing),
        "--docs needs a node to type on, which an existing cluster does not give"
    );
    if args.provider != From::Existing {
        // Before the builds: nobody should wait minutes for the word that root is missing.
        undermesh_tests::require()?;
    }
    if args.prepare {
        prepare(progress)?;
        progress("all is there");
        return Ok(());
    }
    let tools = match args.provider {
        From::Existing => Tools::installed()?,
        From::Upstream | From::K3s => Tools::of(&prepare(progress)?),
    };
    // Found before the images are built, for the same reason.
    let k3s = (args.provider == From::K3s).then(|| K3s::find(args.k3s.as_deref(), args.download, progress));
    let k3s = k3s.transpose()?;
    let images = if args.provider == From::Existing { Vec::new() } else { images(args.dev)? };
    let plugin = plugin(args.dev)?;
    let began = Instant::now();
    let cluster: Box<dyn Provider> = match (args.provider, k3s, &args.kubeconfig) {
        (From::K3s, Some(binary), _) => Box::new(K3s::start(&binary, args.nodes, progress)?),
        (From::Existing, _, Some(kubeconfig)) => Box::new(Existing::new(kubeconfig)?),
        (From::Existing, _, None) => bail!("--provider existing needs --kubeconfig"),
        _ => {
            let layout = match args.layout {
                Paths::Upstream if !args.docs => Layout::Upstream,
                _ => Layout::K3s,
            };
            Box::new(Upstream::start(&undermesh_cluster::Programs::cached()?, args.nodes, layout, progress)?)
        }
    };
    let part = match (args.docs, args.bare) {
        (true, _) => Part::Guide,
        (false, true) => Part::Nothing,
        (false, false) => Part::Scenario,
    };
    let stage = Stage::new(cluster, tools, plugin, args.set.clone());
    let outcome = perform(stage, &images, What { part, keep: args.keep });
    println!("\n{:.0} s from the end of the builds", began.elapsed().as_secs_f64());
    outcome
}

/// What is done on a cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct What {
    pub(crate) part: Part,
    /// It stays until Ctrl-C.
    pub(crate) keep: bool,
}

/// What is shown on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Nothing,
    /// The mesh is installed, and the scenario run.
    Scenario,
    /// The guide is followed.
    Guide,
}

/// Does it on a cluster that is up, prints what was found, and ends the cluster. An error if anything differs from what was asked.
pub(crate) fn perform(mut stage: Stage, images: &[PathBuf], what: What) -> anyhow::Result<()> {
    progress(&format!("{} is ready", stage.cluster.description()));
    for image in images {
        stage.cluster.import(image)?;
    }
    let mut report = Report::default();
    match what.part {
        Part::Nothing => {}
        Part::Guide => walk::all(&stage, &mut report)?,
        Part::Scenario => drive::all(&mut stage, &mut report, what.keep)?,
    }
    if what.part != Part::Nothing {
        print!("{}", report.text());
    }
    if what.keep {
        keep::until_interrupted(&mut stage)?;
    }
    let mut removed = None;
    if !(what.keep && stage.cluster.is_given()) {
        removed = Some(clean_up(stage)?);
    }
    print!("{}", removed.iter().map(Finding::text).collect::<String>());
    let differences = report.differences() + usize::from(removed.is_some_and(|it| !it.is_as_asked()));
    ensure!(differences == 0, "{differences} of the findings differ from what was asked (marked above)");
    Ok(())
}

/// The folder of `kubectl-undermesh`.
pub(crate) fn plugin(dev: bool) -> anyhow::Result<PathBuf> {
    let plugin = image::command(Which::Undermesh, dev)?;
    Ok(plugin.parent().context("a program is in a folder")?.to_owned())
}

/// Both archives.
pub(crate) fn images(dev: bool) -> anyhow::Result<Vec<PathBuf>> {
    progress("building the images");
    [Which::Undermesh, Which::Bookinfo].into_iter().map(|which| image::build(which, dev)).collect()
}

/// Ends the cluster and looks for what is left of it.
fn clean_up(stage: Stage) -> anyhow::Result<Finding> {
    progress("cleaning up");
    if stage.cluster.is_given() {
        stage.take_back()?;
        return Ok(Finding::new("Cleaned up")
            .asked("what was applied is deleted, and the kinds are left as by any uninstall")
            .seen("deleted")
            .holds(true));
    }
    let what = stage.cluster.description();
    let left: Vec<String> = stage.cluster.end()?.iter().map(|p| p.display().to_string()).collect();
    Ok(Finding::new("Cleaned up")
        .asked(format!("nothing left of {what}"))
        .seen(if left.is_empty() {
            "nothing left".into()
        } else {
            format!("left behind: {}", left.join(", "))
        })
        .holds(left.is_empty()))
}
