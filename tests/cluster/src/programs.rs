//! Kubernetes' own programs, built once per machine from the Go module proxy and kept in the user's cache by version.
//!
//! `go install k8s.io/kubernetes/cmd/...@v` is refused: the release's go.mod replaces its staging modules by folders that
//! the module's zip does not have. So the folder `programs` has a go.mod that states the same replaces with versions, with
//! the go.sum of everything below; the release's own list of names made it. etcd likewise. The other tools install as they are:
//! a version names one content, and the checksum database holds the proxy to it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::run::succeed;

/// Kubernetes' version. 1.36.5 has no entry in the checksum database, and later ones are not served.
pub const KUBERNETES: &str = "1.36.4";
const ETCD: &str = "3.6.16";
const HELM: &str = "3.22.0";
const COREDNS: &str = "1.15.0";
const KUBECONFORM: &str = "0.8.0";

/// The paths of all programs.
#[derive(Debug, Clone)]
pub struct Programs {
    cache: PathBuf,
}

/// What one entry of the cache is made of.
struct Build {
    /// Its folder in the cache.
    folder: String,
    /// Names of the binaries in it.
    binaries: &'static [&'static str],
    from: From,
    /// For the linker: versions that the programs tell.
    variables: Vec<(String, String)>,
    /// For people who wait.
    cost: &'static str,
}

enum From {
    /// A module of ours, in a folder of `programs`, and the packages to build in it.
    Module(&'static str, &'static [&'static str]),
    /// A package at a version.
    Package(String),
}

impl Programs {
    /// Those that were built before.
    ///
    /// # Errors
    /// One is missing; the message says which command builds it.
    pub fn cached() -> anyhow::Result<Self> {
        let programs = Self { cache: cache()? };
        for build in builds() {
            ensure!(
                build.is_in(&programs.cache),
                "{} is not in {}: `cargo xtask cluster --prepare` builds it (once per machine)",
                build.folder,
                programs.cache.display()
            );
        }
        Ok(programs)
    }

    /// Builds what is missing: some eight minutes of both cores the first time, nothing afterwards. `told` gets a line for each.
    pub fn prepare(told: impl Fn(&str)) -> anyhow::Result<Self> {
        let programs = Self { cache: cache()? };
        for build in builds() {
            if !build.is_in(&programs.cache) {
                told(&format!("building {} ({}, once per machine)", build.folder, build.cost));
                build.make(&programs.cache).with_context(|| format!("cannot build {}", build.folder))?;
            }
        }
        Ok(programs)
    }

    /// One of Kubernetes' own: `kube-apiserver`, `kubelet`, `kubectl`, ...
    pub fn kubernetes(&self, name: &str) -> PathBuf {
        self.cache.join(format!("kubernetes-{KUBERNETES}")).join(name)
    }

    /// kubectl, of the API server's version.
    pub fn kubectl(&self) -> PathBuf {
        self.kubernetes("kubectl")
    }

    /// The API server's database.
    pub fn etcd(&self) -> PathBuf {
        self.cache.join(format!("etcd-{ETCD}/etcd"))
    }

    /// helm
    pub fn helm(&self) -> PathBuf {
        self.cache.join(format!("helm-{HELM}/helm"))
    }

    /// The cluster's DNS server; static, for an image.
    pub fn coredns(&self) -> PathBuf {
        self.cache.join(format!("coredns-{COREDNS}/coredns"))
    }

    /// Compares manifests with schemas.
    pub fn kubeconform(&self) -> PathBuf {
        self.cache.join(format!("kubeconform-{KUBECONFORM}/kubeconform"))
    }
}

/// `$XDG_CACHE_HOME/undermesh`, by default in the home folder.
///
/// # Errors
/// Neither variable is set.
pub fn cache() -> anyhow::Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("undermesh"))
}

fn builds() -> Vec<Build> {
    let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
    let variable = |package: &str, name: &str, value: &str| (format!("{package}.{name}"), value.to_owned());
    let version = |package: &str| {
        [
            variable(package, "gitVersion", &format!("v{KUBERNETES}")),
            variable(package, "gitMajor", "1"),
            variable(package, "gitMinor", minor),
            variable(package, "gitTreeState", "clean"),
        ]
    };
    // Offline, helm otherwise believes in Kubernetes 1.20 and refuses charts that ask for more.
    let believed = |package: &str| {
        let package = format!("helm.sh/helm/v3/pkg/{package}");
        [variable(&package, "k8sVersionMajor", "1"), variable(&package, "k8sVersionMinor", minor)]
    };
    let package = |name: &str, version: &str| From::Package(format!("{name}@v{version}"));
    vec![
        Build {
            folder: format!("etcd-{ETCD}"),
            binaries: &["etcd"],
            from: From::Module("etcd", &["go.etcd.io/etcd/server/v3"]),
            variables: vec![variable("go.etcd.io/etcd/api/v3/version", "GitSHA", &format!("v{ETCD}"))],
            cost: "about a minute",
        },
        Build {
            folder: format!("kubernetes-{KUBERNETES}"),
            binaries: &[
                "kube-apiserver",
                "kube-controller-manager",
                "kube-scheduler",
                "kubelet",
                "kube-proxy",
                "kubectl",
            ],
            from: From::Module(
                "kubernetes",
                &[
                    "k8s.io/kubernetes/cmd/kube-apiserver",
                    "k8s.io/kubernetes/cmd/kube-controller-manager",
                    "k8s.io/kubernetes/cmd/kube-scheduler",
                    "k8s.io/kubernetes/cmd/kubelet",
                    "k8s.io/kubernetes/cmd/kube-proxy",
                    "k8s.io/kubernetes/cmd/kubectl",
                ],
            ),
            variables: [version("k8s.io/component-base/version"), version("k8s.io/client-go/pkg/version")]
                .concat(),
            cost: "about five minutes and 4 GB of Go's caches",
        },
        Build {
            folder: format!("helm-{HELM}"),
            binaries: &["helm"],
            from: package("helm.sh/helm/v3/cmd/helm", HELM),
            variables: [believed("chartutil"), believed("lint/rules")].concat(),
            cost: "about a minute",
        },
        Build {
            folder: format!("kubeconform-{KUBECONFORM}"),
            binaries: &["kubeconform"],
            from: package("github.com/yannh/kubeconform/cmd/kubeconform", KUBECONFORM),
            variables: Vec::new(),
            cost: "some seconds",
        },
        Build {
            folder: format!("coredns-{COREDNS}"),
            binaries: &["coredns"],
            from: package("github.com/coredns/coredns", COREDNS),
            variables: Vec::new(),
            cost: "about two minutes",
        },
    ]
}

impl Build {
    fn is_in(&self, cache: &Path) -> bool {
        self.binaries.iter().all(|name| cache.join(&self.folder).join(name).is_file())
    }

    /// Builds into a folder of another name first: what is in the cache is whole.
    fn make(&self, cache: &Path) -> anyhow::Result<()> {
        let (folder, part) =
            (cache.join(&self.folder), cache.join(format!("{}.{}.part", self.folder, std::process::id())));
        std::fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        for mut command in self.commands(&part) {
            succeed(&mut command).context("is Go 1.26 or newer installed?")?;
        }
        for name in self.binaries {
            ensure!(part.join(name).is_file(), "go built no binary {name}");
        }
        if self.is_in(cache) {
            // Another process was quicker.
            std::fs::remove_dir_all(&part)?;
        } else if let Err(e) = std::fs::rename(&part, &folder) {
            bail!("cannot move {} to {}: {e}", part.display(), folder.display());
        }
        Ok(())
    }

    fn commands(&self, out: &Path) -> Vec<Command> {
        let flags = self
            .variables
            .iter()
            .fold("-s -w".to_owned(), |all, (name, value)| format!("{all} -X {name}={value}"));
        let go = |verb: &str| {
            let mut command = Command::new("go");
            command.args([verb, "-trimpath", "-ldflags", &flags]);
            // Static, and the same whatever the caller's settings are.
            command.env("CGO_ENABLED", "0").env("GOWORK", "off").env("GOFLAGS", "-buildvcs=false");
            command
        };
        match &self.from {
            From::Module(module, packages) => packages
                .iter()
                .zip(self.binaries)
                .map(|(package, binary)| {
                    let mut command = go("build");
                    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(module);
                    command.current_dir(folder).env("GOFLAGS", "-buildvcs=false -mod=readonly");
                    command.arg("-o").arg(out.join(binary)).arg(package);
                    command
                })
                .collect(),
            From::Package(package) => {
                let mut command = go("install");
                // Outside any module.
                command.current_dir("/").env("GOBIN", out).arg(package);
                vec![command]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_has_a_package_for_each_binary_and_pins_its_version() {
        for build in builds() {
            if let From::Module(module, packages) = build.from {
                assert_eq!(packages.len(), build.binaries.len(), "{module}");
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(module);
                let pinned = std::fs::read_to_string(folder.join("go.mod")).expect("a go.mod");
                let version = build.folder.rsplit('-').next().unwrap_or_default();
                assert!(pinned.contains(&format!(" v{version}")), "{module} is not at {version}");
                assert!(folder.join("go.sum").is_file(), "{module}");
            }
        }
    }

    #[test]
    fn an_entry_counts_only_when_it_is_whole() {
        let cache = std::env::temp_dir().join(format!("um-programs-{}", std::process::id()));
        let build = &builds()[1];
        assert!(!build.is_in(&cache));
        std::fs::create_dir_all(cache.join(&build.folder)).expect("a folder");
        std::fs::write(cache.join(&build.folder).join("kubectl"), "").expect("a file");
        assert!(!build.is_in(&cache), "kubectl alone is not Kubernetes");
        std::fs::remove_dir_all(&cache).expect("removed");
    }

    #[test]
    fn programs_are_static_and_tell_their_version() {
        for build in builds() {
            for command in build.commands(Path::new("/out")) {
                let line = format!("{command:?}");
                assert!(line.contains("CGO_ENABLED=\"0\"") && line.contains("-trimpath"), "{line}");
                if build.folder.starts_with("kubernetes") {
                    assert!(line.contains("component-base/version.gitVersion=v1.36.4"), "{line}");
                }
            }
        }
    }
}
