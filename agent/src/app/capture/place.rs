//! Where a pod of this node is in the kernel: its network namespace, and its cgroup.
//!
//! A pod is found by its uid, in the names of the kubelet's cgroups; the files source may say where it is by annotations. What
//! is not there yet is told apart from what is wrong: a pod has no cgroup until the kubelet begins with it, and no process in
//! its namespace until the runtime has made its sandbox.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use undermesh_core::inventory::PodUid;
use undermesh_redirect::CgroupId;
use undermesh_redirect::kubepods::{self, NotFound, PodCgroups};
use undermesh_redirect::netns::Netns;
use undermesh_redirect::plan::Place;

use crate::app::enrolment::LocalPod;

/// Where pods are looked for.
pub struct Surroundings<'a> {
    /// The pods' cgroups.
    pub cgroups: &'a PodCgroups,
    /// The pods of which there is news since the last time; those captured before are looked at again.
    pub touched: &'a BTreeSet<PodUid>,
}

/// What does not change of the node.
pub(super) struct Ground {
    /// The node's processes.
    pub(super) proc: PathBuf,
    /// The node's network namespace.
    pub(super) netns: Arc<Netns>,
}

/// Where a pod is.
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) netns: Arc<Netns>,
    /// Its cgroup, if that is how it was found.
    pub(super) cgroup: Option<PathBuf>,
}

/// Why a pod is not found.
pub(super) enum Missing {
    /// It may come by itself.
    Yet(String),
    /// Somebody has to do something.
    Wrong(anyhow::Error),
}

impl From<anyhow::Error> for Missing {
    fn from(error: anyhow::Error) -> Self {
        Self::Wrong(error)
    }
}

impl Ground {
    pub(super) fn find(&self, pod: &LocalPod, around: &Surroundings<'_>) -> Result<Found, Missing> {
        let cgroup = cgroup(pod, around)?;
        let netns = match (&pod.netns, &cgroup) {
            (Some(path), _) => Arc::new(Netns::open(path).map_err(anyhow::Error::from)?),
            (None, _) if pod.is_host_network => self.netns.clone(),
            (None, Some(cgroup)) => self.of_cgroup(pod, cgroup)?,
            (None, None) => return Err(anyhow::anyhow!(NOWHERE).into()),
        };
        let cookie = netns.cookie();
        let place = if pod.is_host_network || cookie == self.netns.cookie() {
            let path = cgroup.as_deref().context(
                "a pod in the node's network namespace is told apart by its cgroup: annotation undermesh.io/cgroup is missing",
            )?;
            let id = CgroupId::of_path(path).with_context(|| format!("its cgroup {}", path.display()))?;
            Place::Cgroup(id)
        } else {
            Place::Netns(cookie)
        };
        Ok(Found { place, netns, cgroup })
    }

    fn of_cgroup(&self, pod: &LocalPod, cgroup: &Path) -> Result<Arc<Netns>, Missing> {
        match kubepods::find(cgroup, &self.proc, &self.netns) {
            Ok(netns) => Ok(Arc::new(netns)),
            // What files put into the mesh need not be a pod: a service of the node itself stays in the node's namespace.
            Err(NotFound::NotYet) if pod.cgroup.is_some() => Ok(self.netns.clone()),
            Err(why @ (NotFound::NotYet | NotFound::Empty | NotFound::Gone)) if pod.cgroup.is_none() => {
                Err(Missing::Yet(format!("{why}: {}", cgroup.display())))
            }
            Err(why) => {
                let context = format!("looking for a process in its cgroup {}", cgroup.display());
                Err(Missing::Wrong(anyhow::Error::from(why).context(context)))
            }
        }
    }

    /// Whether a pod still is where it was found. In doubt it is: between two sandboxes it is nowhere.
    pub(super) fn is_still(&self, found: &Found, pod: &LocalPod, around: &Surroundings<'_>) -> bool {
        let (Some(uid), Some(path)) = (pod.uid.filter(|_| pod.cgroup.is_none()), &found.cgroup) else {
            return true;
        };
        if around.cgroups.of(uid) != Some(path) {
            return false;
        }
        match found.place {
            Place::Cgroup(id) => CgroupId::of_path(path).is_ok_and(|now| now == id),
            Place::Netns(_) => match kubepods::identity(path, &self.proc, &self.netns) {
                Ok(now) => now == found.netns.identity(),
                Err(NotFound::Gone) => false,
                Err(_) => true,
            },
        }
    }
}

const NOWHERE: &str = "nothing says where it is: its manifest has no uid of Kubernetes; in files, give annotation \
                       undermesh.io/netns (path of its network namespace) or undermesh.io/cgroup";

fn cgroup(pod: &LocalPod, around: &Surroundings<'_>) -> Result<Option<PathBuf>, Missing> {
    if pod.cgroup.is_some() || pod.netns.is_some() {
        return Ok(pod.cgroup.clone());
    }
    let Some(uid) = pod.uid else { return Ok(None) };
    match around.cgroups.of(uid) {
        Some(path) => Ok(Some(path.to_owned())),
        None => Err(Missing::Yet(format!("the kubelet has no cgroup for it yet (uid {uid})"))),
    }
}
