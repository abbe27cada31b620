// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Counters and sampled events.

use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_prandom_u32, bpf_ktime_get_ns,
};
use undermesh_common::{Config, Counter, Event, NetAddr, NetPort};

use super::maps::{COUNTERS, EVENTS};

/// Adds one. Atomic although the array is per CPU: a task may be preempted here by another that runs the same program.
#[inline(always)]
pub(super) fn count(counter: Counter) {
    if let Some(cell) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: `cell` is a live, aligned u64 of the map.
        unsafe { add(cell, 1) };
    }
}

/// Adds in one step; rustc's BPF target has no read-modify-write atomics, the instruction set has this one.
///
/// # Safety
/// `cell` must be a live, aligned u64 of a map.
#[inline(always)]
pub(super) unsafe fn add(cell: *mut u64, by: i64) {
    // SAFETY: the caller's.
    unsafe {
        core::arch::asm!("lock *(u64 *)({cell} + 0) += {by}", cell = in(reg) cell, by = in(reg) by);
    }
}

/// Reports an outcome of a connect to the ring buffer, if the sample falls on it.
#[inline(always)]
pub(super) fn event(config: &Config, outcome: &Outcome) {
    let sample = config.event_sample;
    // SAFETY: takes nothing, gives a number.
    if sample == 0 || (sample != 1 && unsafe { bpf_get_prandom_u32() } % sample != 0) {
        return;
    }
    let event = Event {
        // SAFETY: takes nothing, gives a number.
        at_ns: unsafe { bpf_ktime_get_ns() },
        netns_cookie: outcome.netns_cookie,
        cgroup_id: outcome.cgroup_id,
        destination: outcome.destination,
        port: outcome.port,
        outcome: outcome.counter as u16,
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        workload: outcome.workload,
        refused: outcome.refused as u32,
        comm: bpf_get_current_comm().unwrap_or([0; 16]),
    };
    match EVENTS.reserve(0) {
        Some(mut place) => {
            place.write(event);
            place.submit(0);
        }
        None => count(Counter::EventLost),
    }
}

/// What an event tells of a connect.
pub(super) struct Outcome {
    pub(super) counter: Counter,
    pub(super) destination: NetAddr,
    pub(super) port: NetPort,
    pub(super) netns_cookie: u64,
    pub(super) cgroup_id: u64,
    pub(super) workload: u32,
    pub(super) refused: bool,
}
