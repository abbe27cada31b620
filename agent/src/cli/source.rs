//! Where to read: the flags of every verb that does.

use std::path::PathBuf;

use crate::source::Place;
use crate::source::kubernetes::Access;

/// Files or a cluster, and one of them.
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
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A cluster.
#[derive(Debug, clap::Args)]
pub(super) struct ClusterArgs {
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

impl SourceArgs {
    /// What they say.
    pub(super) fn place(self) -> Place {
        match self.cluster.access() {
            Some(access) => Place::Kubernetes(access),
            None => Place::Files(self.config),
        }
    }
}

impl ClusterArgs {
    /// The cluster, if one is asked for.
    pub(super) fn access(self) -> Option<Access> {
        let is_asked = self.kubernetes || self.kubeconfig.is_some() || self.context.is_some();
        is_asked.then_some(Access { kubeconfig: self.kubeconfig, context: self.context })
    }
}
