//! Where a distribution keeps its node's files. They are the true paths: each node has a mount namespace of its own.

use std::os::unix::fs::symlink;
use std::path::Path;

/// The paths of one distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// As kubeadm and most others.
    #[default]
    Upstream,
    /// As k3s, whose containerd, CNI and data lie elsewhere: what an agent on the node would stumble over.
    /// <https://docs.k3s.io/cli/agent#data>
    K3s,
}

impl Layout {
    /// containerd's lasting files.
    pub(crate) fn containerd_root(self) -> &'static str {
        match self {
            Self::Upstream => "/var/lib/containerd",
            Self::K3s => "/var/lib/rancher/k3s/agent/containerd",
        }
    }

    /// containerd's files of the moment.
    pub(crate) fn containerd_state(self) -> &'static str {
        match self {
            Self::Upstream => "/run/containerd",
            Self::K3s => "/run/k3s/containerd",
        }
    }

    /// containerd's socket.
    pub(crate) fn containerd_socket(self) -> String {
        format!("{}/containerd.sock", self.containerd_state())
    }

    /// The pod network's configuration.
    pub(crate) fn cni_config(self) -> &'static str {
        match self {
            Self::Upstream => "/etc/cni/net.d",
            Self::K3s => "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        }
    }

    /// The pod network's plugins.
    pub(crate) fn cni_plugins(self) -> &'static str {
        match self {
            Self::Upstream => "/usr/lib/cni",
            Self::K3s => "/var/lib/rancher/k3s/data/current/bin",
        }
    }

    /// Where containerd and its companions are, if not on the ordinary PATH.
    pub(crate) fn programs(self) -> Option<&'static str> {
        match self {
            Self::Upstream => None,
            Self::K3s => Some("/var/lib/rancher/k3s/data/current/bin"),
        }
    }

    /// The path or name of containerd or one of its companions.
    pub(crate) fn program(self, name: &str) -> String {
        self.programs().map_or(name.to_owned(), |folder| format!("{folder}/{name}"))
    }

    /// Puts what the distribution brings along into what will be the node's /var/lib, in its folder `disk`.
    pub(crate) fn prepare(self, disk: &Path) -> anyhow::Result<()> {
        let Some(folder) = self.programs().and_then(|f| f.strip_prefix("/var/lib/")) else { return Ok(()) };
        let folder = disk.join("var-lib").join(folder);
        std::fs::create_dir_all(&folder)?;
        let plugins = std::fs::read_dir(Self::Upstream.cni_plugins())?.flatten().map(|e| e.path());
        let programs = ["bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr", "sbin/runc"];
        for program in plugins.chain(programs.map(|p| Path::new("/usr").join(p))) {
            symlink(&program, folder.join(program.file_name().unwrap_or_default()))?;
        }
        Ok(())
    }

    /// The administrator's kubeconfig on the node, where there is one.
    pub(crate) fn kubeconfig(self) -> Option<&'static str> {
        match self {
            Self::Upstream => None,
            Self::K3s => Some("/etc/rancher/k3s/k3s.yaml"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_k3s_lies_where_upstream_has_it() {
        let paths = |l: Layout| {
            [l.containerd_root(), l.containerd_state(), l.cni_config(), l.cni_plugins()].map(str::to_owned)
        };
        for (k3s, upstream) in paths(Layout::K3s).iter().zip(paths(Layout::Upstream)) {
            assert_ne!(*k3s, upstream);
        }
        assert_eq!(Layout::K3s.containerd_socket(), "/run/k3s/containerd/containerd.sock");
        assert_eq!(Layout::Upstream.containerd_socket(), "/run/containerd/containerd.sock");
    }
}
