//! What the names of folders say. Names are the kubelet's and its cgroup driver's; below a pod they are the runtime's, and of
//! no interest.

use std::path::{Path, PathBuf};

use undermesh_core::inventory::PodUid;

/// What a folder at or below the pods' root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Folder {
    /// Pods are in it: the root, or a class of quality of service.
    Pods,
    /// A pod's.
    Pod(PodUid),
}

/// By its last name; `None` for containers and whatever else.
pub(crate) fn folder(path: &Path) -> Option<Folder> {
    let name = path.file_name()?.to_str()?;
    let Some(slice) = name.strip_suffix(".slice") else {
        return match name {
            "kubepods" | "besteffort" | "burstable" | "guaranteed" => Some(Folder::Pods),
            _ => name.strip_prefix("pod")?.parse().ok().map(Folder::Pod),
        };
    };
    // systemd names a slice by its parents and itself, joined by `-`; the uid's own `-` is written `_`.
    if is_pods(slice) {
        return Some(Folder::Pods);
    }
    let (parent, uid) = slice.rsplit_once("-pod")?;
    if is_pods(parent) { uid.parse().ok().map(Folder::Pod) } else { None }
}

fn is_pods(slice: &str) -> bool {
    let root =
        slice.strip_suffix("-besteffort").or_else(|| slice.strip_suffix("-burstable")).unwrap_or(slice);
    root == "kubepods" || root.ends_with("-kubepods")
}

/// Whether the folder is the pods' root, or in it.
pub(crate) fn holds_pods(path: &Path) -> bool {
    folder(path) == Some(Folder::Pods)
}

/// The pod that a cgroup is in, by its path: a container's, or one further below.
pub fn pod_of_path(path: &Path) -> Option<PodUid> {
    path.ancestors().find_map(|path| match folder(path) {
        Some(Folder::Pod(uid)) => Some(uid),
        _ => None,
    })
}

/// The folders below `top` that pods are in, the uppermost of each branch, at most `depth` folders down.
pub(crate) fn roots(top: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Some(depth) = depth.checked_sub(1) else { return found };
    for child in folders(top) {
        match folder(&child) {
            Some(Folder::Pods) if is_root(&child) => found.push(child),
            // What a container has of its own below (kind in docker) is another node's.
            Some(Folder::Pod(_)) => {}
            _ => found.extend(roots(&child, depth)),
        }
    }
    found
}

/// `burstable` and the like are common words, and mean something only below the root.
fn is_root(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

/// The folders in a folder; none if it is gone.
pub(crate) fn folders(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f6d5b2e-93a1-4c1e-8d55-0123456789ab";
    const SLICE: &str = "pod0f6d5b2e_93a1_4c1e_8d55_0123456789ab.slice";
    const STATIC: &str = "pod5f2b7e3c9a1d4e6f8091a2b3c4d5e6f7";

    #[test]
    fn pods_are_known_by_the_names_of_both_drivers_below_any_root() {
        let uid = || UID.parse().ok();
        for (path, want) in [
            (format!("kubepods/besteffort/pod{UID}"), uid()),
            (format!("kubepods/pod{UID}"), uid()),
            (format!("kubepods/burstable/pod{UID}/0a1b2c"), uid()),
            (format!("kubepods/burstable/pod{UID}/0a1b2c/init.scope/x"), uid()),
            (format!("kubepods.slice/kubepods-{SLICE}"), uid()),
            (
                format!(
                    "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-{SLICE}/cri-containerd-0a.scope"
                ),
                uid(),
            ),
            (
                format!(
                    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{SLICE}/crio-0a.scope/container"
                ),
                uid(),
            ),
            // kind, and --cgroup-root.
            (
                format!(
                    "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-{SLICE}"
                ),
                uid(),
            ),
            (format!("k8s-node1/kubepods/besteffort/pod{UID}/x"), uid()),
            (format!("kubepods/burstable/{STATIC}/x"), "5f2b7e3c9a1d4e6f8091a2b3c4d5e6f7".parse().ok()),
            ("kubepods/burstable".into(), None),
            ("kubepods/burstable/podless".into(), None),
            ("system.slice/podman.service".into(), None),
            // Not of Kubernetes, whatever follows.
            (format!("machine.slice/machine-{SLICE}"), None),
            (format!("kubepods.slice/kubepods-{SLICE}.service"), None),
        ] {
            assert_eq!(pod_of_path(Path::new(&path)), want, "{path}");
        }
    }

    #[test]
    fn folders_with_pods_in_them_are_the_root_and_the_classes() {
        for (name, want) in [
            ("kubepods", true),
            ("besteffort", true),
            ("kubepods.slice", true),
            ("kubepods-burstable.slice", true),
            ("kubelet-kubepods.slice", true),
            ("kubelet-kubepods-besteffort.slice", true),
            ("kubelet.slice", false),
            ("system.slice", false),
            ("mykubepods.slice", false),
            ("cri-containerd-0a.scope", false),
        ] {
            assert_eq!(holds_pods(Path::new(name)), want, "{name}");
        }
    }

    #[test]
    fn roots_are_found_below_others_but_not_inside_pods() {
        let top = std::env::temp_dir().join(format!("undermesh-roots-{}", std::process::id()));
        let outer = format!("docker/0a/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-{SLICE}");
        for folder in [&*outer, "burstable/x", "deep/er/and/deep/er/kubepods"] {
            std::fs::create_dir_all(top.join(folder)).unwrap();
        }
        std::fs::create_dir_all(top.join(&outer).join("x/kubepods")).unwrap();
        assert_eq!(roots(&top, 4), [top.join("docker/0a/kubelet.slice/kubelet-kubepods.slice")]);
        assert_eq!(roots(&top, 3), [""; 0].map(PathBuf::from));
        std::fs::remove_dir_all(&top).unwrap();
    }
}
