//! The loaded and attached programs, as the agent holds them.

use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::RingBuf;
use undermesh_common::{Counter, names};

use crate::attach::{Attached, attach};
use crate::cgroup::AttachPoint;
use crate::error::Error;
use crate::events::{Counters, Events};
use crate::map::access;
use crate::netns::{Netns, NetnsCookie};
use crate::object::{self, Limits};
use crate::origin::Origins;
use crate::plan::{DesiredMaps, FailMode, Node};
use crate::preflight;
use crate::sync::{Applied, MapSync};

/// How to load.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The cgroup at which to attach: the root of the pods' part of cgroup2, by its path in the agent's file system.
    /// Without it, `kubepods.slice` or `kubepods` below the cgroup2 mount, else the mount itself.
    pub cgroup: Option<PathBuf>,
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
    host_netns: NetnsCookie,
    pub(crate) object: Ebpf,
}

impl Redirect {
    /// Checks what the kernel and the process must have, loads the object and attaches its programs. They touch nothing
    /// before the first [`apply`](Self::apply). The calling thread must be in the node's network namespace.
    ///
    /// Blocks for some tens of milliseconds (verifier).
    pub fn load(settings: &Settings) -> Result<Self, Error> {
        preflight::check()?;
        let point = AttachPoint::find(settings.cgroup.as_deref())?;
        let host_netns = Netns::current()?.cookie();
        let mut object = object::load(&settings.limits)?;
        let sync = MapSync::open(&object)?;
        let origins = Origins::open(&object)?;
        let counters = Counters::open(&object)?;
        let attached = attach(&mut object, &point)?;
        tracing::info!(cgroup = %point.path.display(), agent = ?point.agent, "programs attached");
        Ok(Self { attached, sync, origins, counters, point, host_netns, object })
    }

    /// Where the programs are attached.
    pub fn cgroup(&self) -> &Path {
        &self.point.path
    }

    /// The facts about this node, with every setting at its default: unknown pods are let through, no heartbeat, no
    /// events.
    pub fn node(&self) -> Node {
        Node {
            host_netns: self.host_netns,
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
