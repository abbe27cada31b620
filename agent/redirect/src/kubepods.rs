//! The pods' part of the cgroup2 hierarchy: which folder is which pod's, and news of pods that come and go.
//!
//! ```text
//! cgroupfs driver    kubepods/burstable/pod<uid>/<container>
//! systemd driver     kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope
//! --cgroup-root=/k   k/kubepods/pod<uid>/<container>        k.slice/k-kubepods.slice/k-kubepods-pod<uid>.slice/crio-<id>.scope
//! ```
//!
//! The kubelet makes a pod's folder before its sandbox, so that a pod can be taken in before its first container runs. News
//! come by inotify: of folders, and of `cgroup.events`, which changes when a pod gets its first process. Nothing is polled;
//! [`PodCgroups::rescan`] is for what inotify may have dropped.

mod layout;
mod sandbox;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use undermesh_core::inventory::PodUid;

use layout::Folder;
pub use layout::pod_of_path;
pub use sandbox::{NotFound, find, identity};

/// How far below the given folder the pods' root is looked for: `docker/<id>/kubelet.slice/kubelet-kubepods.slice` is four.
const DEPTH: usize = 4;

/// The folders of all pods of the node, kept in step with the kernel.
#[derive(Debug)]
pub struct PodCgroups {
    top: PathBuf,
    pods: BTreeMap<PodUid, PathBuf>,
    watches: HashMap<i32, Watched>,
    inotify: Option<AsyncFd<OwnedFd>>,
}

/// What a watch is on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Watched {
    /// A folder that pods may be in.
    Folder(PathBuf),
    /// A pod's folder, or its `cgroup.events`.
    Pod(PodUid),
}

/// The folders below `top` that pods are in, one for each kubelet or driver; none if `top` is one itself.
pub(crate) fn roots(top: &Path) -> Vec<PathBuf> {
    if layout::holds_pods(top) { Vec::new() } else { layout::roots(top, DEPTH) }
}

/// Where the kernel's news will come from.
///
/// Made early: when the process dies, what it has open is released last first, and to release this takes the kernel some
/// milliseconds, which should not be between the listeners and the programs that lead to them.
#[derive(Debug)]
pub struct News(io::Result<OwnedFd>);

impl News {
    /// None yet.
    pub fn open() -> Self {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        Self(inotify::init(flags).map_err(io::Error::from))
    }
}

impl PodCgroups {
    /// Those below `top`, which is the pods' root, or above it, or will be. Needs a tokio runtime with I/O around it.
    pub fn open(top: &Path, news: News) -> Self {
        let inotify = news
            .0
            // SAFETY: the descriptor is owned by what is registered, and stays open for as long as that lives.
            .and_then(|fd| Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?))
            .inspect_err(|error| {
                tracing::warn!(%error, "no news of cgroups (inotify): new pods are found by looking now and then");
            })
            .ok();
        let mut all = Self { top: top.to_owned(), pods: BTreeMap::new(), watches: HashMap::new(), inotify };
        all.rescan();
        all
    }

    /// The folder of a pod.
    pub fn of(&self, pod: PodUid) -> Option<&Path> {
        self.pods.get(&pod).map(PathBuf::as_path)
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = (PodUid, &Path)> {
        self.pods.iter().map(|(uid, path)| (*uid, path.as_path()))
    }

    /// Waits for news, and answers which pods they are about: folders that came or went, containers that came or went, the
    /// first process or the end of the last. Cancel safe. Never returns if there is no inotify.
    pub async fn changed(&mut self) -> BTreeSet<PodUid> {
        loop {
            let Some(inotify) = &self.inotify else { return std::future::pending().await };
            match inotify.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                // The runtime ends.
                Err(_) => return std::future::pending().await,
            }
            // Cleared first: what comes while we read makes it readable again.
            let touched = self.read();
            if !touched.is_empty() {
                return touched;
            }
        }
    }

    /// Looks through all folders, and answers which pods are new or gone.
    pub fn rescan(&mut self) -> BTreeSet<PodUid> {
        let before = std::mem::take(&mut self.pods);
        let mut touched = BTreeSet::new();
        if layout::holds_pods(&self.top) {
            self.enter(&self.top.clone(), &mut touched);
        } else {
            self.watch_folder(&self.top.clone());
            for root in roots(&self.top) {
                self.enter(&root, &mut touched);
            }
        }
        let is_new = |uid: &PodUid| before.get(uid) != self.pods.get(uid);
        let gone = before.keys().filter(|uid| !self.pods.contains_key(uid));
        self.pods.keys().filter(|uid| is_new(uid)).chain(gone).copied().collect()
    }

    /// Takes in a folder that holds pods: watched first, then listed, so that nothing is missed between.
    fn enter(&mut self, folder: &Path, touched: &mut BTreeSet<PodUid>) {
        self.watch_folder(folder);
        for child in layout::folders(folder) {
            self.take_in(child, touched);
        }
    }

    fn take_in(&mut self, path: PathBuf, touched: &mut BTreeSet<PodUid>) {
        match layout::folder(&path) {
            Some(Folder::Pod(uid)) => {
                self.watch(
                    &path,
                    WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR,
                    Watched::Pod(uid),
                );
                self.watch(&path.join("cgroup.events"), WatchFlags::MODIFY, Watched::Pod(uid));
                self.pods.insert(uid, path);
                touched.insert(uid);
            }
            Some(Folder::Pods) => self.enter(&path, touched),
            None => {}
        }
    }

    fn watch_folder(&mut self, path: &Path) {
        let flags = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        self.watch(path, flags, Watched::Folder(path.to_owned()));
    }

    fn watch(&mut self, path: &Path, flags: WatchFlags, what: Watched) {
        let Some(inotify) = &self.inotify else { return };
        match inotify::add_watch(inotify.as_fd(), path, flags) {
            // The same folder has the same number again.
            Ok(watch) => {
                self.watches.insert(watch, what);
            }
            // It went meanwhile.
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "a cgroup cannot be watched: its pods are found by looking now and then");
            }
        }
    }

    fn read(&mut self) -> BTreeSet<PodUid> {
        let mut touched = BTreeSet::new();
        let Some(inotify) = self.inotify.take() else { return touched };
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = inotify::Reader::new(inotify.as_fd(), &mut buffer);
        // Applied after all are read, and with the descriptor back in its place.
        let mut news: Vec<(i32, ReadFlags, Option<PathBuf>)> = Vec::new();
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| PathBuf::from(name.to_string_lossy().into_owned()));
            news.push((event.wd(), event.events(), name));
        }
        self.inotify = Some(inotify);
        for (watch, what, name) in news {
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                touched.extend(self.rescan());
            } else if what.contains(ReadFlags::IGNORED) {
                self.watches.remove(&watch);
            } else {
                self.follow(watch, what, name, &mut touched);
            }
        }
        touched
    }

    fn follow(&mut self, watch: i32, what: ReadFlags, name: Option<PathBuf>, touched: &mut BTreeSet<PodUid>) {
        match self.watches.get(&watch).cloned() {
            Some(Watched::Pod(uid)) => {
                touched.insert(uid);
            }
            Some(Watched::Folder(folder)) => {
                let Some(path) = name.map(|name| folder.join(name)) else { return };
                if what.contains(ReadFlags::CREATE) {
                    self.take_in(path, touched);
                } else if let Some(Folder::Pod(uid)) = layout::folder(&path)
                    && self.pods.get(&uid) == Some(&path)
                {
                    self.pods.remove(&uid);
                    touched.insert(uid);
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f6d5b2e-93a1-4c1e-8d55-0123456789ab";

    /// A folder of files that look like a hierarchy: names are all that matters here.
    fn tree(test: &str) -> PathBuf {
        let top = std::env::temp_dir().join(format!("undermesh-kubepods-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&top);
        std::fs::create_dir_all(&top).unwrap();
        top
    }

    fn pod(folder: &Path) -> PathBuf {
        let path = folder.join(format!("pod{UID}"));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("cgroup.events"), "populated 0\n").unwrap();
        path
    }

    async fn news(cgroups: &mut PodCgroups) -> Vec<String> {
        let touched = tokio::time::timeout(std::time::Duration::from_secs(10), cgroups.changed()).await;
        touched.expect("news").iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn pods_come_fill_and_go_and_all_of_it_is_news() {
        let top = tree("news");
        let class = top.join("kubepods/burstable");
        std::fs::create_dir_all(&class).unwrap();
        let mut cgroups = PodCgroups::open(&top, News::open());
        let path = pod(&class);
        let uid = UID.parse().unwrap();
        assert_eq!(news(&mut cgroups).await, [UID]);
        assert_eq!(cgroups.of(uid), Some(&*path));
        std::fs::create_dir(path.join("container")).unwrap();
        assert_eq!(news(&mut cgroups).await, [UID]);
        std::fs::write(path.join("cgroup.events"), "populated 1\n").unwrap();
        assert_eq!(news(&mut cgroups).await, [UID]);
        std::fs::remove_dir_all(&path).unwrap();
        while cgroups.of(uid).is_some() {
            assert_eq!(news(&mut cgroups).await, [UID]);
        }
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[tokio::test]
    async fn a_root_and_a_class_that_come_later_are_followed() {
        let top = tree("later");
        let mut cgroups = PodCgroups::open(&top, News::open());
        pod(&top.join("kubepods/besteffort"));
        assert_eq!(news(&mut cgroups).await, [UID]);
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[tokio::test]
    async fn pods_that_are_there_at_the_start_are_found_and_looked_for_again() {
        let top = tree("start");
        let path = pod(&top.join("kubelet/kubepods"));
        let mut cgroups = PodCgroups::open(&top, News::open());
        assert_eq!(cgroups.pods().map(|(uid, _)| uid.to_string()).collect::<Vec<_>>(), [UID]);
        assert!(cgroups.rescan().is_empty());
        std::fs::remove_dir_all(&path).unwrap();
        assert_eq!(cgroups.rescan().len(), 1);
        // The pods' root itself may be what is given.
        pod(&top.join("kubelet/kubepods"));
        assert_eq!(PodCgroups::open(&top.join("kubelet/kubepods"), News::open()).pods().count(), 1);
        std::fs::remove_dir_all(&top).unwrap();
    }
}
