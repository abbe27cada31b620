//! Finding the place in the cgroup2 hierarchy: where to attach, and where the agent itself is.
//!
//! A container sees the hierarchy through a cgroup namespace or a bind mount, so neither the path that
//! `/proc/self/cgroup` gives nor the depth of a path below the mount can be taken as it stands: the agent's cgroup is
//! confirmed by finding our own process in it, and its level counts only when the mount shows the true root.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use undermesh_common::LEVEL_UNKNOWN;
use undermesh_core::inventory::PodUid;

use crate::error::Error;
use crate::kubepods;

/// The kernel's number for a cgroup: the inode of its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupId(pub u64);

impl CgroupId {
    /// The id of the cgroup whose directory this is.
    pub fn of_path(path: &Path) -> io::Result<Self> {
        Ok(Self(fs::metadata(path)?.ino()))
    }
}

/// The cgroup in which the agent runs, when it lies below the attach point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentCgroup {
    /// Its id.
    pub id: CgroupId,
    /// Its depth below the root of the hierarchy, or [`LEVEL_UNKNOWN`].
    pub level: u32,
}

/// Where the programs go.
#[derive(Debug)]
pub(crate) struct AttachPoint {
    pub(crate) path: PathBuf,
    pub(crate) directory: File,
    pub(crate) agent: Option<AgentCgroup>,
    /// The pod in which the agent runs, by the names of its cgroup.
    pub(crate) agent_pod: Option<PodUid>,
    /// Where pods may come: `path`, or above it.
    pub(crate) top: PathBuf,
}

impl AttachPoint {
    /// The pods' part of the hierarchy below `top`, wherever the kubelet has it; without one, all of `top`. Without `top`, of
    /// the mount.
    pub(crate) fn find(top: Option<&Path>) -> Result<Self, Error> {
        let mount =
            mount(&read("/proc/self/mountinfo", "where cgroup2 is mounted")?).ok_or(Error::NoCgroup2)?;
        let top = top.unwrap_or(&mount).to_owned();
        let path = match kubepods::roots(&top).as_slice() {
            [root] => root.clone(),
            // Of several (the kubelet's driver was changed, and the old ones are still there) all count.
            _ => top.clone(),
        };
        let unreadable = |cause| Error::CgroupUnreadable { path: path.clone(), cause };
        let directory = File::open(&path).map_err(unreadable)?;
        if !is_cgroup2(&directory) {
            return Err(Error::NotCgroup2 { path, mount });
        }
        let id = CgroupId(directory.metadata().map_err(unreadable)?.ino());

        let own = own(&path)?;
        let agent_pod = own.as_deref().and_then(kubepods::pod_of_path);
        let agent = match own {
            None => None,
            Some(own) => {
                let own_id = CgroupId::of_path(&own)
                    .map_err(|cause| Error::CgroupUnreadable { path: own.clone(), cause })?;
                if own_id == id {
                    return Err(Error::OwnCgroup { path });
                }
                let level = level(&mount, &own).unwrap_or(LEVEL_UNKNOWN);
                Some(AgentCgroup { id: own_id, level })
            }
        };
        Ok(Self { path, directory, agent, agent_pod, top })
    }
}

fn read(path: &str, what: &'static str) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|cause| Error::Environment { what, cause })
}

fn is_cgroup2(directory: &File) -> bool {
    rustix::fs::fstatfs(directory).is_ok_and(|stat| stat.f_type as u64 == libc::CGROUP2_SUPER_MAGIC as u64)
}

/// The cgroup2 mount that shows most of the hierarchy: the shortest root wins (a container may have both its own part and
/// the host's), then the first.
fn mount(mountinfo: &str) -> Option<PathBuf> {
    // 36 35 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let kind = right.split(' ').next()?;
            let mut fields = left.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| (breadth(root), unescape(point)))
        })
        .min_by_key(|(breadth, _)| *breadth)
        .map(|(_, point)| PathBuf::from(point))
}

/// Orders mount roots: `/../..` (above our cgroup namespace) before `/` before `/a` before `/a/b`.
fn breadth(root: &str) -> isize {
    root.split('/').filter(|part| !part.is_empty()).map(|part| if part == ".." { -1 } else { 1 }).sum()
}

/// mountinfo writes space, tab, newline and backslash as `\040` and the like.
fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        match escape.get(1..4).and_then(|octal| u8::from_str_radix(octal, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = escape.get(4..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = escape.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

/// The directory at or below `top` in whose `cgroup.procs` this process is.
fn own(top: &Path) -> Result<Option<PathBuf>, Error> {
    find_process(top, &std::process::id().to_string())
        .map_err(|cause| Error::Environment { what: "the agent's own cgroup", cause })
}

fn find_process(directory: &Path, pid: &str) -> io::Result<Option<PathBuf>> {
    match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(pids) if pids.lines().any(|line| line == pid) => return Ok(Some(directory.to_owned())),
        Ok(_) => {}
        // Removed while we look, or a threaded cgroup (EOPNOTSUPP), whose processes are listed in its domain.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) => {}
        Err(error) => return Err(error),
    }
    let children = match fs::read_dir(directory) {
        Ok(children) => children,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for child in children.flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir())
            && let Some(found) = find_process(&child.path(), pid)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The depth of `cgroup` below the root of the hierarchy, if `mount` shows the root: only the root has no `cgroup.events`.
fn level(mount: &Path, cgroup: &Path) -> Option<u32> {
    if mount.join("cgroup.events").exists() {
        return None;
    }
    u32::try_from(cgroup.strip_prefix(mount).ok()?.components().count()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 30 0:23 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
26 25 0:24 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
27 25 0:25 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd";

    #[test]
    fn the_mount_that_shows_most_of_the_hierarchy_is_taken() {
        for (name, mountinfo, want) in [
            ("hybrid", HYBRID, Some("/sys/fs/cgroup/unified")),
            ("pure", "1 2 0:3 / /sys/fs/cgroup rw - cgroup2 none rw", Some("/sys/fs/cgroup")),
            ("v1 only", "1 2 0:3 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu", None),
            (
                "own part and the host's",
                "1 2 0:3 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n\
                 4 2 0:3 /../../.. /host/cgroup rw - cgroup2 cgroup2 rw",
                Some("/host/cgroup"),
            ),
            (
                "a bind mount of a part",
                "1 2 0:3 /pods /run/part rw - cgroup2 cgroup2 rw\n4 2 0:3 / /cg rw - cgroup2 cgroup2 rw",
                Some("/cg"),
            ),
            ("a space in the path", r"1 2 0:3 / /my\040cgroup rw - cgroup2 none rw", Some("/my cgroup")),
            ("cut off", "1 2 0:3 / - cgroup2", None),
        ] {
            assert_eq!(mount(mountinfo), want.map(PathBuf::from), "{name}");
        }
    }

    #[test]
    fn an_escape_that_is_none_stays() {
        assert_eq!(unescape(r"a\"), r"a\");
        assert_eq!(unescape(r"a\9z\040b"), r"a\9z b");
    }

    #[test]
    fn a_path_outside_cgroup2_is_no_attach_point() {
        let error = AttachPoint::find(Some(Path::new("/proc"))).unwrap_err();
        assert!(matches!(error, Error::NotCgroup2 { .. } | Error::NoCgroup2), "{error}");
    }
}
