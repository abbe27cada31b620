//! From what the mesh knows to what the maps must hold, and from there to the fewest changes. Pure.
//!
//! ```text
//! captures of the snapshot ┐
//! workloads of this node   ├─▶ plan ─▶ DesiredMaps ─▶ diff against what is there ─▶ Changes ─▶ sync
//! facts about the node     ┘
//! ```
//!
//! Every entry carries the generation that last changed it, so that one can see in the kernel how far an update came; an
//! entry that stays the same keeps its generation and is not written again.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::time::Duration;

use undermesh_common as common;
use undermesh_common::{
    Config, FAIL_CLOSED, FAIL_OPEN, LAYOUT_VERSION, NetAddr, NetPort, PortKey, Service, ServiceKey,
    WORKLOAD_ENROLLED, WORKLOAD_FAIL_CLOSED, Workload,
};
use undermesh_core::capture::Capture;

use crate::cgroup::{AgentCgroup, CgroupId};
use crate::netns::NetnsCookie;

/// What happens to a connection of the mesh that cannot be brought to the proxy. Annotation `undermesh.io/fail-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailMode {
    /// It goes where it was dialled, past the mesh.
    #[default]
    Open,
    /// connect(2) fails with EPERM.
    Closed,
}

/// How the kernel recognises a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// A pod with a network namespace of its own.
    Netns(NetnsCookie),
    /// A pod or process in the node's network namespace: everything in this cgroup and below.
    Cgroup(CgroupId),
}

/// A pod of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalWorkload {
    /// The caller's number for it, which comes back in origins and events; 0 is kept for "unknown".
    pub id: u32,
    /// How the kernel recognises it.
    pub place: Place,
    /// Whether it is in the mesh. A pod that is known and not enrolled is left alone, as an unknown one may not be.
    pub is_enrolled: bool,
    /// The port on 127.0.0.1 in its namespace where the proxy listens.
    pub listener4: Option<NonZeroU16>,
    /// The port on `::1`.
    pub listener6: Option<NonZeroU16>,
    /// Its address, for getsockname.
    pub address4: Option<Ipv4Addr>,
    /// Its address, for getsockname.
    pub address6: Option<Ipv6Addr>,
    /// Its fail mode.
    pub fail_mode: FailMode,
    /// Destination ports that are never captured.
    pub excluded_ports: ExcludedPorts,
}

/// At most [`common::EXCLUDED_PORTS`] destination ports. Annotation `undermesh.io/exclude-outbound-ports`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExcludedPorts([NetPort; common::EXCLUDED_PORTS]);

/// More ports are excluded than a workload's entry has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{found} different ports are excluded, at most {} are possible", common::EXCLUDED_PORTS)]
pub struct TooManyExcludedPorts {
    /// How many there were.
    pub found: usize,
}

impl ExcludedPorts {
    /// From ports in any order; repeated ones count once.
    pub fn new(ports: impl IntoIterator<Item = NonZeroU16>) -> Result<Self, TooManyExcludedPorts> {
        let mut ports: Vec<u16> = ports.into_iter().map(NonZeroU16::get).collect();
        ports.sort_unstable();
        ports.dedup();
        let mut places = [NetPort::NONE; common::EXCLUDED_PORTS];
        if ports.len() > places.len() {
            return Err(TooManyExcludedPorts { found: ports.len() });
        }
        for (place, port) in places.iter_mut().zip(ports) {
            *place = NetPort::from_host(port);
        }
        Ok(Self(places))
    }
}

/// What holds for the whole node. [`Redirect::node`](crate::Redirect::node) fills in the facts, the caller its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// The node's own network namespace, where workloads are told apart by cgroup.
    pub host_netns: NetnsCookie,
    /// Where the agent runs, if that is below the attach point.
    pub agent_cgroup: Option<AgentCgroup>,
    /// For pods that no [`LocalWorkload`] names.
    pub unknown: FailMode,
    /// How long after the last [`Redirect::heartbeat`](crate::Redirect::heartbeat) the proxy counts as gone; `None`
    /// switches the check off.
    pub heartbeat_timeout: Option<Duration>,
    /// One of how many outcomes becomes an event; 0 for none.
    pub event_sample: u32,
}

/// What the maps must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DesiredMaps {
    /// Without the heartbeat, which has its own rhythm.
    pub config: Config,
    /// Captured addresses.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Captured ports.
    pub ports: BTreeMap<PortKey, Service>,
    /// Pods by netns cookie.
    pub workloads: BTreeMap<u64, Workload>,
    /// Pods by cgroup id.
    pub workloads_by_cgroup: BTreeMap<u64, Workload>,
    /// What was asked for and cannot be; the rest is in force.
    pub skipped: Vec<Skipped>,
}

/// Something the maps cannot express.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Skipped {
    /// The kernel never captures a pod's own loopback.
    #[error(
        "{0:?} is a loopback or unspecified address: traffic to it never leaves the pod and is not captured"
    )]
    OwnHost(Capture),
    /// There is no such port.
    #[error("{0:?} has port 0, which nothing can be dialled on")]
    PortZero(Capture),
    /// Two workloads would be one to the kernel.
    #[error(
        "workload {second} is in the same place ({place:?}) as workload {first}, which is the one in force"
    )]
    SamePlace {
        /// The `id` in force.
        first: u32,
        /// The `id` left out.
        second: u32,
        /// Where both are.
        place: Place,
    },
}

/// What the maps must hold for these captures and workloads.
pub fn plan(
    captures: impl IntoIterator<Item = Capture>,
    workloads: &[LocalWorkload],
    node: &Node,
    generation: u64,
) -> DesiredMaps {
    let mut maps = destinations(captures, generation);
    let pods = self::workloads(workloads, node, generation);
    maps.skipped.extend(pods.skipped);
    DesiredMaps { services: maps.services, ports: maps.ports, skipped: maps.skipped, ..pods }
}

/// The part of [`plan`] that is about destinations: [`DesiredMaps::services`], [`DesiredMaps::ports`].
fn destinations(captures: impl IntoIterator<Item = Capture>, generation: u64) -> DesiredMaps {
    let mut maps = DesiredMaps::default();
    // Captures come in their order, which is nearly that of the keys: made of a sorted list a map costs far less than by
    // inserting a hundred thousand times.
    let (mut services, mut ports) = (Vec::new(), Vec::new());
    let service = Service { generation };
    for capture in captures {
        let port = match capture {
            Capture::Address { port, .. } | Capture::Port(port) => port,
        };
        if port == 0 {
            maps.skipped.push(Skipped::PortZero(capture));
            continue;
        }
        let port = NetPort::from_host(port);
        match capture {
            Capture::Address { address, .. } => {
                let address = NetAddr::from(address);
                if address.is_own_host() {
                    maps.skipped.push(Skipped::OwnHost(capture));
                } else {
                    services.push((ServiceKey { address, port, padding: 0 }, service));
                }
            }
            Capture::Port(_) => {
                ports.push((PortKey { port, padding: 0 }, service));
            }
        }
    }
    maps.services = services.into_iter().collect();
    maps.ports = ports.into_iter().collect();
    maps
}

/// The part of [`plan`] that is about this node and its pods: everything else.
pub fn workloads(workloads: &[LocalWorkload], node: &Node, generation: u64) -> DesiredMaps {
    let mut maps = DesiredMaps { config: config(node, generation), ..DesiredMaps::default() };
    for workload in workloads {
        let (table, key) = match workload.place {
            Place::Netns(cookie) => (&mut maps.workloads, cookie.0),
            Place::Cgroup(id) => (&mut maps.workloads_by_cgroup, id.0),
        };
        if let Some(first) = table.get(&key) {
            maps.skipped.push(Skipped::SamePlace {
                first: first.id,
                second: workload.id,
                place: workload.place,
            });
        } else {
            table.insert(key, entry(workload, generation));
        }
    }
    maps
}

fn config(node: &Node, generation: u64) -> Config {
    Config {
        generation,
        heartbeat_ns: 0,
        heartbeat_timeout_ns: node
            .heartbeat_timeout
            .map_or(0, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX).max(1)),
        agent_cgroup_id: node.agent_cgroup.map_or(0, |agent| agent.id.0),
        host_netns_cookie: node.host_netns.0,
        agent_cgroup_level: node.agent_cgroup.map_or(0, |agent| agent.level),
        unknown: match node.unknown {
            FailMode::Open => FAIL_OPEN,
            FailMode::Closed => FAIL_CLOSED,
        },
        event_sample: node.event_sample,
        layout: LAYOUT_VERSION,
    }
}

fn entry(workload: &LocalWorkload, generation: u64) -> Workload {
    let mut flags = 0;
    if workload.is_enrolled {
        flags |= WORKLOAD_ENROLLED;
    }
    if workload.fail_mode == FailMode::Closed {
        flags |= WORKLOAD_FAIL_CLOSED;
    }
    let port = |port: Option<NonZeroU16>| port.map_or(NetPort::NONE, |port| NetPort::from_host(port.get()));
    Workload {
        generation,
        id: workload.id,
        flags,
        address4: workload.address4.map_or(NetAddr::UNSPECIFIED, NetAddr::from),
        address6: workload.address6.map_or(NetAddr::UNSPECIFIED, NetAddr::from),
        listener4: port(workload.listener4),
        listener6: port(workload.listener6),
        excluded_ports: workload.excluded_ports.0,
        padding: 0,
    }
}

/// What has to be written to one map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableChanges<K, V> {
    /// New or different entries.
    pub upserts: Vec<(K, V)>,
    /// How many of `upserts` are new.
    pub inserts: usize,
    /// Entries to remove.
    pub removals: Vec<K>,
}

impl<K, V> Default for TableChanges<K, V> {
    fn default() -> Self {
        Self { upserts: Vec::new(), inserts: 0, removals: Vec::new() }
    }
}

impl<K, V> TableChanges<K, V> {
    /// Whether nothing has to be written.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
    }
}

/// An entry that knows which generation changed it.
pub trait Generational: Copy + PartialEq {
    /// The same with another generation.
    #[must_use]
    fn with_generation(self, generation: u64) -> Self;

    /// Whether both say the same, of whatever generation.
    fn says_the_same(self, other: Self) -> bool {
        self.with_generation(0) == other.with_generation(0)
    }
}

impl Generational for Service {
    fn with_generation(self, generation: u64) -> Self {
        Self { generation }
    }
}

impl Generational for Workload {
    fn with_generation(self, generation: u64) -> Self {
        Self { generation, ..self }
    }
}

/// The fewest writes that turn `current` into `desired`.
pub fn diff<K: Ord + Copy, V: Generational>(
    current: &BTreeMap<K, V>,
    desired: &BTreeMap<K, V>,
) -> TableChanges<K, V> {
    let mut changes = TableChanges::default();
    // Side by side: both are in order.
    let mut current = current.iter().peekable();
    for (key, value) in desired {
        while let Some((gone, _)) = current.next_if(|(there, _)| *there < key) {
            changes.removals.push(*gone);
        }
        match current.next_if(|(there, _)| *there == key) {
            Some((_, there)) if there.says_the_same(*value) => {}
            Some(_) => changes.upserts.push((*key, *value)),
            None => {
                changes.inserts += 1;
                changes.upserts.push((*key, *value));
            }
        }
    }
    changes.removals.extend(current.map(|(gone, _)| *gone));
    changes
}

#[cfg(test)]
mod tests;
