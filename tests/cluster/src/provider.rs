//! Whence a cluster comes. Everything after "the cluster is up" is the same for all of them, and done with kubectl and helm.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::programs::Programs;

/// A cluster that is up.
pub trait Provider {
    /// For an administrator anywhere on this machine.
    fn kubeconfig(&self) -> &Path;

    /// What it is, for people.
    fn description(&self) -> String;

    /// For a command on a node, in its network and among its files: what follows is program and arguments. `None` where the nodes
    /// are not of this machine.
    fn on_a_node(&self) -> Option<Command> {
        None
    }

    /// Whether somebody else made it, who keeps it.
    fn is_given(&self) -> bool {
        false
    }

    /// Makes the images of an archive known to every node.
    fn import(&self, archive: &Path) -> anyhow::Result<()>;

    /// Where the chart has to be told that cgroup2 is on the nodes, if it is not where it usually is.
    fn cgroup(&self) -> Option<&str>;

    /// Whether somebody gives addresses to Services of type LoadBalancer.
    fn has_load_balancers(&self) -> bool;

    /// Those of the programs `programs` that the nodes' kernel still holds; none where it cannot be asked.
    fn still_loaded(&self, programs: &[u32]) -> anyhow::Result<Vec<u32>>;

    /// Ends a program on every node and starts it anew, while the pods go on. False where the nodes are somebody else's.
    fn restart(&mut self, _: NodeProgram) -> anyhow::Result<bool> {
        Ok(false)
    }

    /// How much longer than on a machine of its own things may take here.
    fn patience(&self) -> u32 {
        1
    }

    /// Leads a port of this machine, `preferred` if it is free, to a service's address and port, as long as the cluster is up.
    /// `None` where the machine reaches services by itself, or not at all.
    fn forward(
        &mut self,
        preferred: u16,
        to: std::net::SocketAddr,
    ) -> anyhow::Result<Option<std::net::SocketAddr>>;

    /// An error with the reason if a part of it has ended.
    fn must_run(&mut self) -> anyhow::Result<()>;

    /// Ends it, if it was made here, and gives what is left.
    fn end(self: Box<Self>) -> anyhow::Result<Vec<PathBuf>>;
}

/// What carries a node's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeProgram {
    /// Its kubelet.
    Kubelet,
    /// Its containerd; the pods' processes are children of its shims, not of it.
    Containerd,
}

impl NodeProgram {
    /// Its name, as a program and as a unit of systemd.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::Containerd => "containerd",
        }
    }
}

/// kubectl and helm.
#[derive(Debug, Clone)]
pub struct Tools {
    /// kubectl
    pub kubectl: PathBuf,
    /// helm
    pub helm: PathBuf,
}

impl Tools {
    /// Those built from the module proxy.
    pub fn of(programs: &Programs) -> Self {
        Self { kubectl: programs.kubectl(), helm: programs.helm() }
    }

    /// Those on the PATH: what a user of an existing cluster has.
    ///
    /// # Errors
    /// One is missing.
    pub fn installed() -> anyhow::Result<Self> {
        let one =
            |name: &str| on_path(name).with_context(|| format!("{name} is not on the PATH: install it"));
        Ok(Self { kubectl: one("kubectl")?, helm: one("helm")? })
    }

    /// kubectl for a cluster.
    pub fn kubectl(&self, cluster: &dyn Provider) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", cluster.kubeconfig());
        command
    }

    /// helm for a cluster.
    pub fn helm(&self, cluster: &dyn Provider) -> Command {
        let mut command = Command::new(&self.helm);
        command.env("KUBECONFIG", cluster.kubeconfig());
        command
    }
}

/// The program of that name on the PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A cluster that somebody else made.
#[derive(Debug)]
pub struct Existing {
    kubeconfig: PathBuf,
}

impl Existing {
    /// The one that `kubeconfig` leads to.
    ///
    /// # Errors
    /// There is no such file.
    pub fn new(kubeconfig: &Path) -> anyhow::Result<Self> {
        ensure!(kubeconfig.is_file(), "there is no kubeconfig {}", kubeconfig.display());
        Ok(Self { kubeconfig: kubeconfig.canonicalize()? })
    }
}

impl Provider for Existing {
    fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn description(&self) -> String {
        format!("the cluster of {}", self.kubeconfig.display())
    }

    fn is_given(&self) -> bool {
        true
    }

    fn import(&self, _: &Path) -> anyhow::Result<()> {
        // Its nodes pull what the manifests name, or have it: `cargo xtask image` makes the archives.
        Ok(())
    }

    fn cgroup(&self) -> Option<&str> {
        None
    }

    fn has_load_balancers(&self) -> bool {
        true
    }

    fn still_loaded(&self, _: &[u32]) -> anyhow::Result<Vec<u32>> {
        Ok(Vec::new())
    }

    fn forward(&mut self, _: u16, _: std::net::SocketAddr) -> anyhow::Result<Option<std::net::SocketAddr>> {
        Ok(None)
    }

    fn must_run(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn end(self: Box<Self>) -> anyhow::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_cluster_needs_a_kubeconfig_that_exists() {
        let error = Existing::new(Path::new("/nowhere/config")).expect_err("there is none");
        assert!(error.to_string().contains("/nowhere/config"));
    }
}
