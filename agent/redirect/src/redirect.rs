//! The loaded and attached programs, as the agent holds them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::RingBuf;
use undermesh_common::{Counter, names};
use undermesh_core::inventory::PodUid;

use crate::attach::{Attached, attach};
use crate::cgroup::AttachPoint;
use crate::error::Error;
use crate::events::{Counters, Events};
use crate::kubepods::{News, PodCgroups};
use crate::map::access;
use crate::netns::Netns;
use crate::object::{self, Limits};
use crate::origin::Origins;
use crate::plan::{DesiredMaps, FailMode, Node};
use crate::preflight;
use crate::sync::{Applied, MapSync};

/// How to load.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where the node's cgroup2 is, or a part of it, by its path in the agent's file system; without it, the mount that is
    /// there. The programs are attached at the pods' root in it (`kubepods.slice` and the like), else at this itself.
    pub cgroup: Option<PathBuf>,
    /// The node's network namespace (`/proc/1/ns/net`); without it, that of the calling thread.
    pub node_netns: Option<PathBuf>,
    /// Sizes of the maps.
    pub limits: Limits,
}

/// The programs, attached, and their maps. Dropping it detaches them.
#[derive(Debug)]
pub struct Redirect {
    // Fields drop in this order: the programs that redirect go before anything they need.
    pub(crate) attached: Vec<Attached>,
    pub(crate) sync: MapSync,
    pub(crate) origins: Origins,
    counters: Counters,
    pub(crate) point: AttachPoint,
    node_netns: Arc<Netns>,
    news: Option<News>,
    pub(crate) object: Ebpf,
}

impl Redirect {
    /// Checks what the kernel and the process must have, loads the object and attaches its programs. They touch nothing
    /// before the first [`apply`](Self::apply).
    ///
    /// Blocks for some tens of milliseconds (verifier).
    pub fn load(settings: &Settings) -> Result<Self, Error> {
        preflight::check()?;
        let news = Some(News::open());
        let point = AttachPoint::find(settings.cgroup.as_deref())?;
        let node_netns = Arc::new(match &settings.node_netns {
            Some(path) => Netns::open(path)?,
            None => Netns::current()?,
        });
        let mut object = object::load(&settings.limits)?;
        let sync = MapSync::open(&object)?;
        let origins = Origins::open(&object)?;
        let counters = Counters::open(&object)?;
        let attached = attach(&mut object, &point)?;
        tracing::info!(cgroup = %point.path.display(), agent = ?point.agent, "programs attached");
        Ok(Self { attached, sync, origins, counters, point, node_netns, news, object })
    }

    /// Where the programs are attached.
    pub fn cgroup(&self) -> &Path {
        &self.point.path
    }

    /// The pods' folders in the hierarchy. Call it in a tokio runtime.
    pub fn pod_cgroups(&mut self) -> PodCgroups {
        PodCgroups::open(&self.point.top, self.news.take().unwrap_or_else(News::open))
    }

    /// The node's own network namespace.
    pub fn node_netns(&self) -> &Arc<Netns> {
        &self.node_netns
    }

    /// The pod in which this process is, if it is in one.
    pub fn own_pod(&self) -> Option<PodUid> {
        self.point.agent_pod
    }

    /// The facts about this node, with every setting at its default: unknown pods are let through, no heartbeat, no
    /// events.
    pub fn node(&self) -> Node {
        Node {
            host_netns: self.node_netns.cookie(),
            agent_cgroup: self.point.agent,
            unknown: FailMode::Open,
            heartbeat_timeout: None,
            event_sample: 0,
        }
    }

    /// Brings the maps to `desired`, in an order in which every state between is safe. The listeners that it names must
    /// be open already, and those it no longer names must stay open until this returns.
    ///
    /// # Errors
    /// [`Error::MapFull`] before anything was written. After [`Error::MapAccess`] a part is written; the next call
    /// completes it.
    pub fn apply(&mut self, desired: &DesiredMaps) -> Result<Applied, Error> {
        self.sync.apply(desired)
    }

    /// As [`apply`](Self::apply), where destinations are what they were: [`DesiredMaps::services`] and
    /// [`DesiredMaps::ports`] are not looked at. The maps must be in step with the last [`apply`](Self::apply).
    ///
    /// # Errors
    /// As of [`apply`](Self::apply).
    pub fn apply_workloads(&mut self, desired: &DesiredMaps) -> Result<Applied, Error> {
        self.sync.apply_workloads(desired)
    }

    /// Says that the proxy serves its listeners; so does every [`apply`](Self::apply). With [`Node::heartbeat_timeout`]
    /// call it at least twice in that time, and only after a sign of life from the runtime that accepts connections.
    pub fn heartbeat(&mut self) -> Result<(), Error> {
        self.sync.heartbeat()
    }

    /// Where accepted connections were meant to go.
    pub fn origins(&self) -> Origins {
        self.origins.clone()
    }

    /// Every counter of the programs, summed over the CPUs. They only ever grow, and start at zero with the agent.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, Error> {
        self.counters.read()
    }

    /// The stream of sampled events; there is one, and `None` when it was taken before. Call it in a tokio runtime.
    pub fn take_events(&mut self) -> Result<Option<Events>, Error> {
        let Some(map) = self.object.take_map(names::EVENTS) else { return Ok(None) };
        let ring = RingBuf::try_from(map)
            .map_err(|error| access(names::EVENTS, "open")(std::io::Error::other(error)))?;
        Events::open(ring).map(Some).map_err(access(names::EVENTS, "poll"))
    }

    /// The log lines of the programs; `None` if the object has none, or they were taken before. Call it in a tokio
    /// runtime.
    #[cfg(feature = "log")]
    pub fn take_program_log(&mut self) -> Result<Option<crate::program_log::ProgramLog>, Error> {
        crate::program_log::ProgramLog::open(&mut self.object).map_err(access("AYA_LOGS", "open"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_can_be_shared_as_the_agent_needs() {
        fn sent<T: Send + 'static>() {}
        fn shared<T: Clone + Send + Sync + 'static>() {}
        sent::<Redirect>();
        sent::<Events>();
        shared::<Origins>();
    }
}
