//! Where configuration comes from (DESIGN D10): a folder of YAML, or the Kubernetes API.
//!
//! A source yields [`Inputs`] and diagnostics, and says when there is something new. No code behind it may know which source
//! it was; what differs travels with what was loaded ([`Loaded::trusts_annotations`]).

pub mod files;
pub mod kubernetes;
pub mod yaml;

#[cfg(test)]
mod conformance;

use std::path::PathBuf;
use std::sync::Arc;

use undermesh_core::diagnostic::Diagnostic;
use undermesh_core::inputs::Inputs;

use files::FilesSource;
use kubernetes::KubernetesSource;

/// What a source knows at one moment.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The objects in force.
    pub inputs: Inputs,
    /// All that is to be said about what was read, in a stable order. References between objects are `compile`'s to check.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether a pod's annotations are believed when they say where on the node it is: who writes them must be who runs the
    /// node, as with files. In a cluster anybody who may make a pod writes them.
    pub trusts_annotations: bool,
}

/// Where to read.
#[derive(Debug, Clone)]
pub enum Place {
    /// Files and folders.
    Files(Vec<PathBuf>),
    /// A cluster.
    Kubernetes(kubernetes::Access),
}

/// Either of them.
#[derive(Debug)]
pub enum Source {
    /// See [`FilesSource`].
    Files(FilesSource),
    /// See [`KubernetesSource`].
    Kubernetes(KubernetesSource),
}

impl Source {
    /// Begins. Files are not read yet; a cluster is asked from now on.
    ///
    /// # Errors
    /// A path does not exist, or nothing says where the cluster is.
    pub fn start(place: &Place) -> anyhow::Result<Self> {
        match place {
            Place::Files(paths) => Ok(Self::Files(FilesSource::open(paths.clone())?)),
            Place::Kubernetes(access) => Ok(Self::Kubernetes(KubernetesSource::start(access)?)),
        }
    }

    /// What there is now. The first time it waits until everything has been read once. May be dropped and called again.
    pub async fn load(&mut self) -> Loaded {
        match self {
            Self::Files(source) => source.load(),
            Self::Kubernetes(source) => source.load().await,
        }
    }

    /// Waits until there is something that the last [`Self::load`] did not see. May be dropped and called again at any time.
    pub async fn changed(&mut self) {
        match self {
            Self::Files(source) => source.changed().await,
            Self::Kubernetes(source) => source.changed().await,
        }
    }

    /// How it is with the connection to where the objects come from, if there is one.
    pub fn link(&self) -> Option<Arc<kubernetes::Link>> {
        match self {
            Self::Files(_) => None,
            Self::Kubernetes(source) => Some(source.link().clone()),
        }
    }
}
