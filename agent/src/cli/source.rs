//! Where to read: the flags of every verb that does.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;

use crate::source::kubernetes::{Access, KubernetesSource};
use crate::source::{Loaded, Place};

/// A verb that reads once waits so long for the API server.
const PATIENCE: Duration = Duration::from_secs(30);

/// Files or a cluster, and one of them: of what runs.
#[derive(Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// A folder (or file) of configuration; may be given several times.
    #[arg(
        long,
        env = "UNDERMESH_CONFIG",
        value_name = "PATH",
        required_unless_present_any = ["kubernetes", "kubeconfig", "context"],
        conflicts_with_all = ["kubernetes", "kubeconfig", "context"]
    )]
    config: Vec<PathBuf>,
    /// Read from the Kubernetes API: as the service account of the pod this runs in, else as the kubeconfig says.
    #[arg(long, env = "UNDERMESH_KUBERNETES")]
    kubernetes: bool,
    /// The kubeconfig; implies --kubernetes. Default: $KUBECONFIG, else ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; implies --kubernetes. Default: its current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// A cluster, of verbs that read once. Within an agent's pod they ask the agent unless told otherwise: what is in the
/// environment is the agent's.
#[derive(Debug, clap::Args)]
pub(super) struct ClusterArgs {
    /// Read from the Kubernetes API: as the service account of the pod this runs in, else as the kubeconfig says.
    #[arg(long)]
    kubernetes: bool,
    /// The kubeconfig; implies --kubernetes. Default: $KUBECONFIG, else ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; implies --kubernetes. Default: its current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl SourceArgs {
    /// What they say.
    pub(super) fn place(self) -> Place {
        let Self { config, kubernetes, kubeconfig, context } = self;
        let cluster = ClusterArgs { kubernetes, kubeconfig, context };
        if cluster.is_asked() { Place::Kubernetes(cluster.access()) } else { Place::Files(config) }
    }
}

impl ClusterArgs {
    /// Whether any of them is given.
    pub(super) fn is_asked(&self) -> bool {
        self.kubernetes || self.kubeconfig.is_some() || self.context.is_some()
    }

    fn access(self) -> Access {
        Access { kubeconfig: self.kubeconfig, context: self.context }
    }

    /// Reads the cluster once.
    ///
    /// # Errors
    /// Nothing says where it is, or it cannot be read.
    pub(super) fn load(self) -> anyhow::Result<Loaded> {
        let mut source = KubernetesSource::start(&self.access())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(async { tokio::time::timeout(PATIENCE, source.load()).await }) {
            Ok(loaded) => Ok(loaded),
            Err(_) => bail!(
                "the cluster could not be read within {}s: {}",
                PATIENCE.as_secs(),
                source.link().trouble()
            ),
        }
    }
}
