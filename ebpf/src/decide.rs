// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! What becomes of a `connect()`: pure decisions over a view of the world.
//!
//! ```text
//! not TCP · no config · agent's own ──▶ untouched
//!   │ who connects: netns cookie, or in the node's netns the nearest enclosing cgroup
//! unknown pod ──▶ Config::unknown     host process · not enrolled ──▶ untouched
//!   │ where to
//! own loopback · excluded port · not a service ──▶ untouched
//!   │ it is ours from here on: what cannot be captured meets the workload's fail mode
//! no listener · stale heartbeat (· no memory) ──▶ open: untouched, closed: EPERM
//!   │
//! redirect to the workload's listener
//! ```
//!
//! Cheap tests come first, and whatever the mesh does not own returns before the last map look-up. Everything is inlined
//! into the entry points; the trait is there so that the host can test it with maps of its own.

use undermesh_common::{
    Config, Counter, FAIL_CLOSED, LAYOUT_VERSION, LEVEL_UNKNOWN, MAX_CGROUP_LEVEL, NetAddr, NetPort,
    OriginKey, PortKey, ServiceKey, SocketOrigin, WORKLOAD_ENROLLED, WORKLOAD_FAIL_CLOSED, Workload,
};

/// A `connect()` as the application made it.
#[derive(Debug, Clone, Copy)]
pub struct Connect {
    /// Where to.
    pub destination: NetAddr,
    /// Where to.
    pub port: NetPort,
    /// From which program, and in which form.
    pub form: Form,
    /// Whether it is a TCP socket.
    pub is_tcp: bool,
}

/// The form of the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// An IPv4 socket.
    V4,
    /// An IPv6 socket to an IPv6 address.
    V6,
    /// An IPv6 socket to a v4-mapped address.
    Mapped,
}

impl Form {
    /// The form of an IPv6 socket's destination.
    #[inline(always)]
    pub fn of_v6_socket(destination: NetAddr) -> Self {
        if destination.is_v4() { Self::Mapped } else { Self::V6 }
    }

    /// The loopback address on which the listener for this form is.
    #[inline(always)]
    pub fn loopback(self) -> NetAddr {
        match self {
            Self::V4 | Self::Mapped => NetAddr::from_v4_word(u32::from_ne_bytes([127, 0, 0, 1])),
            Self::V6 => NetAddr::from_words([0, 0, 0, 1u32.to_be()]),
        }
    }

    fn redirected(self) -> Counter {
        match self {
            Self::V4 => Counter::Redirected4,
            Self::V6 => Counter::Redirected6,
            Self::Mapped => Counter::RedirectedMapped,
        }
    }
}

/// What a decision may ask: helpers about the calling task and socket, and the maps.
pub trait World {
    /// Cookie of the socket's network namespace.
    fn netns_cookie(&self) -> u64;
    /// Id of the task's cgroup.
    fn cgroup_id(&self) -> u64;
    /// Id of the enclosing cgroup at `level` (0 is the root; the task's own at its own level); 0 below that.
    fn ancestor_cgroup_id(&self, level: u32) -> u64;
    /// CLOCK_MONOTONIC in nanoseconds.
    fn now_ns(&self) -> u64;
    /// Map `WORKLOADS`.
    fn workload_by_netns(&self, cookie: u64) -> Option<&Workload>;
    /// Map `WORKLOADS_BY_CGROUP`.
    fn workload_by_cgroup(&self, id: u64) -> Option<&Workload>;
    /// Map `SERVICES`.
    fn is_service(&self, key: &ServiceKey) -> bool;
    /// Map `PORTS`.
    fn is_claimed(&self, key: &PortKey) -> bool;
}

/// What to do with the connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Let it go where it was dialled.
    Untouched {
        /// What to count: why.
        why: Counter,
        /// The caller, when it is known.
        workload: u32,
    },
    /// It is ours and cannot be captured.
    Fail(Failure),
    /// Send it to `port` on [`Form::loopback`], after the socket's record has been stored.
    Redirect {
        /// What to count.
        why: Counter,
        /// The listener.
        listener: NetPort,
        /// The caller.
        workload: &'a Workload,
    },
}

/// A connect that the mesh should have taken and could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What to count: why.
    pub why: Counter,
    /// What to count besides: [`Counter::FailOpen`] or [`Counter::FailClosed`].
    pub mode: Counter,
    /// The caller; 0 when it is not known.
    pub workload: u32,
}

impl Failure {
    /// `why` under the fail mode of `workload`.
    #[inline(always)]
    pub fn of(workload: &Workload, why: Counter) -> Self {
        Self::new(workload.flags & WORKLOAD_FAIL_CLOSED != 0, why, workload.id)
    }

    #[inline(always)]
    fn new(closed: bool, why: Counter, workload: u32) -> Self {
        Self { why, mode: if closed { Counter::FailClosed } else { Counter::FailOpen }, workload }
    }

    /// Whether the connect gets EPERM.
    #[inline(always)]
    pub fn is_closed(&self) -> bool {
        matches!(self.mode, Counter::FailClosed)
    }
}

/// Decides about one `connect()`.
#[inline(always)]
pub fn connect<'a>(connect: &Connect, config: &Config, world: &'a impl World) -> Verdict<'a> {
    if !connect.is_tcp {
        return untouched(Counter::NotTcp);
    }
    if config.layout != LAYOUT_VERSION {
        return untouched(Counter::NotConfigured);
    }
    if is_agent(config, world) {
        return untouched(Counter::OwnTraffic);
    }

    let netns = world.netns_cookie();
    let workload = if netns == config.host_netns_cookie {
        match enclosing_workload(world) {
            Some(workload) => workload,
            // Whatever `unknown` says: kubelet and sshd live here too.
            None => return untouched(Counter::HostProcess),
        }
    } else {
        match world.workload_by_netns(netns) {
            Some(workload) => workload,
            None if connect.destination.is_own_host() => return untouched(Counter::Loopback),
            None if config.unknown == FAIL_CLOSED => {
                return Verdict::Fail(Failure::new(true, Counter::UnknownPod, 0));
            }
            None => return untouched(Counter::UnknownPod),
        }
    };

    let why_not = if workload.flags & WORKLOAD_ENROLLED == 0 {
        Some(Counter::NotEnrolled)
    } else if connect.destination.is_own_host() {
        Some(Counter::Loopback)
    } else if excludes(workload, connect.port) {
        Some(Counter::ExcludedPort)
    } else if !is_mesh_destination(connect, world) {
        Some(Counter::NotAService)
    } else {
        None
    };
    if let Some(why) = why_not {
        return Verdict::Untouched { why, workload: workload.id };
    }

    let listener = match connect.form {
        Form::V4 | Form::Mapped => workload.listener4,
        Form::V6 => workload.listener6,
    };
    if listener.is_none() {
        return Verdict::Fail(Failure::of(workload, Counter::NoListener));
    }
    if is_stale(config, world) {
        return Verdict::Fail(Failure::of(workload, Counter::HeartbeatStale));
    }
    Verdict::Redirect { why: connect.form.redirected(), listener, workload }
}

#[inline(always)]
fn untouched<'a>(why: Counter) -> Verdict<'a> {
    Verdict::Untouched { why, workload: 0 }
}

/// Whether the task is in the agent's cgroup or below: its sockets must never come back to it.
#[inline(always)]
fn is_agent(config: &Config, world: &impl World) -> bool {
    let agent = config.agent_cgroup_id;
    if agent == 0 {
        return false;
    }
    if world.cgroup_id() == agent {
        return true;
    }
    if config.agent_cgroup_level != LEVEL_UNKNOWN {
        return world.ancestor_cgroup_id(config.agent_cgroup_level) == agent;
    }
    let mut level = 1;
    while level <= MAX_CGROUP_LEVEL {
        let id = world.ancestor_cgroup_id(level);
        if id == agent {
            return true;
        }
        if id == 0 {
            return false;
        }
        level += 1;
    }
    false
}

/// The workload of the nearest cgroup around the task that is one: a container's before its pod's.
#[inline(always)]
fn enclosing_workload(world: &impl World) -> Option<&Workload> {
    let mut level = MAX_CGROUP_LEVEL;
    while level > 0 {
        let id = world.ancestor_cgroup_id(level);
        if id != 0
            && let Some(workload) = world.workload_by_cgroup(id)
        {
            return Some(workload);
        }
        level -= 1;
    }
    None
}

#[inline(always)]
fn excludes(workload: &Workload, port: NetPort) -> bool {
    if port.is_none() {
        return false; // unused places hold no port
    }
    let mut found = false;
    for excluded in &workload.excluded_ports {
        found |= *excluded == port;
    }
    found
}

#[inline(always)]
fn is_mesh_destination(connect: &Connect, world: &impl World) -> bool {
    world.is_service(&ServiceKey { address: connect.destination, port: connect.port, padding: 0 })
        || world.is_claimed(&PortKey { port: connect.port, padding: 0 })
}

#[inline(always)]
fn is_stale(config: &Config, world: &impl World) -> bool {
    // A heartbeat newer than `now` (another CPU's clock, a write between the two reads) is fresh.
    config.heartbeat_timeout_ns != 0
        && world.now_ns().saturating_sub(config.heartbeat_ns) > config.heartbeat_timeout_ns
}

/// What `getpeername` answers for a socket with a record: what was dialled, if it still is connected to the listener.
#[inline(always)]
pub fn peer_name(record: &SocketOrigin, address: NetAddr, port: NetPort) -> Option<(NetAddr, NetPort)> {
    if is_ours(record, port) && address.is_own_host() {
        Some((record.origin.destination, record.origin.port))
    } else {
        None
    }
}

/// What `getsockname` answers for a socket with a record: the workload's own address in place of a loopback one. A
/// socket that was bound to some address keeps it.
#[inline(always)]
pub fn socket_name(record: &SocketOrigin, address: NetAddr, peer_port: NetPort) -> Option<NetAddr> {
    if is_ours(record, peer_port) && !record.local.is_unspecified() && address.is_own_host() {
        Some(record.local)
    } else {
        None
    }
}

/// Whether the socket with this record goes to our listener now. One that failed and was disconnected
/// (`connect(AF_UNSPEC)`, which no program sees) may be used for something else.
#[inline(always)]
pub fn is_ours(record: &SocketOrigin, peer_port: NetPort) -> bool {
    record.listener == peer_port
}

/// The key under which the proxy will look for the connection.
#[inline(always)]
pub fn origin_key(record: &SocketOrigin, source: NetAddr, port: NetPort) -> OriginKey {
    OriginKey { netns_cookie: record.origin.netns_cookie, source, port, padding: [0; 3] }
}

#[cfg(test)]
mod tests;
