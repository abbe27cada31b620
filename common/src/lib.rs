// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The structs that the kernel programs and the agent share, byte for byte.
//!
//! The programs (`undermesh-ebpf`) and user space (`undermesh-redirect`) are compiled by different compilers at different
//! times: the BPF object is committed. So what crosses the border is `repr(C)`, integers only (a `bool`, `enum` or
//! `Option` has invalid bit patterns that the other side could produce), every byte of padding is a named field, and the
//! size of each struct is asserted beside it. Network byte order lives only in [`NetAddr`] and [`NetPort`].
//!
//! With the feature `user`, every struct is [`bytemuck::Pod`], so user space reads maps without unsafe code.
#![no_std]

mod addr;
mod config;
mod counter;
mod maps;
#[cfg(feature = "user")]
mod pod;

pub use addr::{NetAddr, NetPort};
pub use config::{Config, FAIL_CLOSED, FAIL_OPEN, LEVEL_UNKNOWN, MAX_CGROUP_LEVEL};
pub use counter::Counter;
pub use maps::{
    CONNECTING_PLACES, EXCLUDED_PORTS, Event, MAX_CONNECTING, Origin, OriginKey, PortKey, Service,
    ServiceKey, SocketOrigin, WORKLOAD_ENROLLED, WORKLOAD_FAIL_CLOSED, Workload, connecting_place,
};

/// The version of everything in this crate as bytes. Raise it with any change of a struct or of a map's type: the
/// programs compare it with [`Config::layout`] and leave all traffic alone when it differs, and pinned maps of another
/// version are never adopted.
pub const LAYOUT_VERSION: u32 = 2;

/// The names of the maps, as the object spells them.
pub mod names {
    /// One [`Config`](crate::Config).
    pub const CONFIG: &str = "CONFIG";
    /// Netns cookie → [`Workload`](crate::Workload), for pods with a network namespace of their own.
    pub const WORKLOADS: &str = "WORKLOADS";
    /// Cgroup id → [`Workload`](crate::Workload), for pods and processes in the node's network namespace.
    pub const WORKLOADS_BY_CGROUP: &str = "WL_BY_CGROUP";
    /// [`ServiceKey`](crate::ServiceKey) → [`Service`](crate::Service).
    pub const SERVICES: &str = "SERVICES";
    /// [`PortKey`](crate::PortKey) → [`Service`](crate::Service): ports claimed on any address.
    pub const PORTS: &str = "PORTS";
    /// Socket → [`SocketOrigin`](crate::SocketOrigin): kept for the life of a redirected socket.
    pub const SOCKETS: &str = "SOCKETS";
    /// [`OriginKey`](crate::OriginKey) → [`Origin`](crate::Origin): connections on their way to the proxy.
    pub const ORIGINS: &str = "ORIGINS";
    /// [`connecting_place`](crate::connecting_place) → `u64`: connections whose SYN has no answer yet.
    pub const CONNECTING: &str = "CONNECTING";
    /// [`Counter`](crate::Counter) → `u64` for each CPU.
    pub const COUNTERS: &str = "COUNTERS";
    /// Ring buffer of [`Event`](crate::Event).
    pub const EVENTS: &str = "EVENTS";
}
