// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What holds for the whole node.

/// A connection that cannot be captured goes where it was dialled.
pub const FAIL_OPEN: u32 = 0;
/// A connection that cannot be captured is refused with EPERM.
pub const FAIL_CLOSED: u32 = 1;

/// The deepest cgroup that the programs look at; the root is level 0. Kubernetes needs 4 to 6, Kubernetes in a container
/// twice that.
pub const MAX_CGROUP_LEVEL: u32 = 12;

/// [`Config::agent_cgroup_level`] when user space sees only a part of the hierarchy (a cgroup namespace, a bind mount):
/// every level is compared.
pub const LEVEL_UNKNOWN: u32 = u32::MAX;

/// The single entry of the map `CONFIG`. All zero, as before the agent's first write, means: touch nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Config {
    /// The snapshot from which the maps were last made complete.
    pub generation: u64,
    /// CLOCK_MONOTONIC in nanoseconds when the agent last said that it serves its listeners.
    pub heartbeat_ns: u64,
    /// Nanoseconds after which a heartbeat is stale; 0 switches the check off.
    pub heartbeat_timeout_ns: u64,
    /// The agent's own cgroup, whose traffic is never touched; 0 when it does not lie below the attach point.
    pub agent_cgroup_id: u64,
    /// The cookie of the node's own network namespace: there workloads are told apart by cgroup.
    pub host_netns_cookie: u64,
    /// The level of the agent's cgroup, so that its children are found with one comparison; or [`LEVEL_UNKNOWN`].
    pub agent_cgroup_level: u32,
    /// What happens to connections of pods the agent has not heard of: [`FAIL_OPEN`] or [`FAIL_CLOSED`].
    pub unknown: u32,
    /// One of how many outcomes becomes an event, at random; 0 for none, 1 for all.
    pub event_sample: u32,
    /// [`LAYOUT_VERSION`](crate::LAYOUT_VERSION) of the writer.
    pub layout: u32,
}
const _: () = assert!(size_of::<Config>() == 56);
