// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The maps. Their sizes here are defaults; user space sets them from its settings when it loads the object.
//!
//! Maps that only user space fills are not preallocated: they cost what they hold, so their limits can be generous.
//! `ORIGINS` is filled by the kernel in the middle of a connect and is preallocated, so that it fails only when full.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, RingBuf, SkStorage};
use aya_ebpf::macros::btf_map;
use undermesh_common::{
    CONNECTING_PLACES, Config, Counter, Event, Origin, OriginKey, PortKey, Service, ServiceKey, SocketOrigin,
    Workload,
};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub(super) static CONFIG: Array<Config, 1> = Array::new();

#[btf_map]
pub(super) static WORKLOADS: HashMap<u64, Workload, 4096, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(super) static WL_BY_CGROUP: HashMap<u64, Workload, 4096, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(super) static SERVICES: HashMap<ServiceKey, Service, 262_144, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(super) static PORTS: HashMap<PortKey, Service, 65_536, ON_DEMAND> = HashMap::new();

#[btf_map]
pub(super) static SOCKETS: SkStorage<SocketOrigin> = SkStorage::new();

#[btf_map]
pub(super) static ORIGINS: HashMap<OriginKey, Origin, 16_384> = HashMap::new();

#[btf_map]
pub(super) static CONNECTING: Array<u64, { CONNECTING_PLACES as usize }> = Array::new();

#[btf_map]
pub(super) static COUNTERS: PerCpuArray<u64, { Counter::COUNT }> = PerCpuArray::new();

#[btf_map]
pub(super) static EVENTS: RingBuf<Event, { 256 * 1024 }> = RingBuf::new();
