// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Keys and values of the maps.

use crate::{NetAddr, NetPort};

/// How many outbound ports a workload can exclude: few enough to scan inline in every connect.
pub const EXCLUDED_PORTS: usize = 8;

/// [`Workload::flags`]: the workload is in the mesh.
pub const WORKLOAD_ENROLLED: u32 = 1;
/// [`Workload::flags`]: connections that cannot be captured are refused rather than let through.
pub const WORKLOAD_FAIL_CLOSED: u32 = 2;

/// A pod (or, in the node's network namespace, a cgroup) that the agent knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Workload {
    /// The snapshot that last changed this entry.
    pub generation: u64,
    /// User space's number for it, carried in events.
    pub id: u32,
    /// `WORKLOAD_*`.
    pub flags: u32,
    /// Its IPv4 address, which `getsockname` answers in place of 127.0.0.1; unspecified if it has none.
    pub address4: NetAddr,
    /// Its IPv6 address, likewise.
    pub address6: NetAddr,
    /// The agent's listener on 127.0.0.1 in its network namespace, or none.
    pub listener4: NetPort,
    /// The agent's listener on `::1`, or none.
    pub listener6: NetPort,
    /// Destination ports that are left alone; unused places hold none.
    pub excluded_ports: [NetPort; EXCLUDED_PORTS],
    /// Zero.
    pub padding: u32,
}
const _: () = assert!(size_of::<Workload>() == 72);

/// A destination of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct ServiceKey {
    /// The address as dialled.
    pub address: NetAddr,
    /// The port as dialled.
    pub port: NetPort,
    /// Zero: the kernel hashes it.
    pub padding: u16,
}
const _: () = assert!(size_of::<ServiceKey>() == 20);

/// A port claimed on any address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct PortKey {
    /// The port as dialled.
    pub port: NetPort,
    /// Zero: the kernel hashes it.
    pub padding: u16,
}
const _: () = assert!(size_of::<PortKey>() == 4);

/// What is known of a destination. Today: that it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Service {
    /// The snapshot that last changed this entry.
    pub generation: u64,
}
const _: () = assert!(size_of::<Service>() == 8);

/// What a redirected socket remembers for its life, in socket storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SocketOrigin {
    /// For the proxy.
    pub origin: Origin,
    /// The workload's own address, which `getsockname` answers in place of a loopback one; unspecified if it has none.
    pub local: NetAddr,
    /// The listener it was sent to: a socket that has since been connected elsewhere is not ours any more.
    pub listener: NetPort,
    /// 1 while it is counted in `CONNECTING`.
    pub is_connecting: u16,
    /// Zero.
    pub padding: u32,
}
const _: () = assert!(size_of::<SocketOrigin>() == 88);

/// Where a connection was meant to go, and whose it is: the value of `ORIGINS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Origin {
    /// The address as dialled.
    pub destination: NetAddr,
    /// The port as dialled.
    pub port: NetPort,
    /// Zero.
    pub padding: u16,
    /// [`Workload::id`] of the caller.
    pub workload: u32,
    /// The network namespace of the socket.
    pub netns_cookie: u64,
    /// The cgroup of the task that called connect.
    pub cgroup_id: u64,
    /// Tells this socket's entry from one that a later socket made with the same source port.
    pub socket_cookie: u64,
    /// [`Config::generation`](crate::Config::generation) at the time.
    pub generation: u64,
    /// CLOCK_MONOTONIC in nanoseconds at the time.
    pub connected_ns: u64,
}
const _: () = assert!(size_of::<Origin>() == 64);

/// How many redirected connections of one workload may wait for the answer to their SYN. The listener is in the same
/// namespace and answers within the call of connect, so this is many more than a busy application ever has; whoever sends
/// SYNs that nobody can answer (from an address that is not its own, or by another device than `lo`) must not fill
/// `ORIGINS` for the other pods.
pub const MAX_CONNECTING: u64 = 1024;
/// Places of the map `CONNECTING`; workloads whose ids are equal modulo this share one.
pub const CONNECTING_PLACES: u32 = 4096;

/// The place of the workload with this [`Workload::id`] in `CONNECTING`.
#[inline(always)]
pub const fn connecting_place(workload: u32) -> u32 {
    workload % CONNECTING_PLACES
}

/// A connection as its listener sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct OriginKey {
    /// The network namespace: 127.0.0.1 and a port repeat in every pod.
    pub netns_cookie: u64,
    /// The source address.
    pub source: NetAddr,
    /// The source port.
    pub port: NetPort,
    /// Zero: the kernel hashes it.
    pub padding: [u16; 3],
}
const _: () = assert!(size_of::<OriginKey>() == 32);

/// A sampled outcome of a connect, through the ring buffer `EVENTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Event {
    /// CLOCK_MONOTONIC in nanoseconds.
    pub at_ns: u64,
    /// The network namespace of the socket.
    pub netns_cookie: u64,
    /// The cgroup of the task.
    pub cgroup_id: u64,
    /// The address as dialled.
    pub destination: NetAddr,
    /// The port as dialled.
    pub port: NetPort,
    /// The [`Counter`](crate::Counter) of the outcome.
    pub outcome: u16,
    /// The process, as the node's root PID namespace numbers it.
    pub pid: u32,
    /// [`Workload::id`]; 0 when the workload is not known.
    pub workload: u32,
    /// 1 if the connect was refused with EPERM.
    pub refused: u32,
    /// The thread's name, NUL-terminated.
    pub comm: [u8; 16],
}
const _: () = assert!(size_of::<Event>() == 72);
