// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! sock_ops: hands the origin of a redirected connection to the proxy.
//!
//! TCP_CONNECT_CB is the one moment at which the source port is chosen and the SYN not yet sent, so the entry is there
//! before any accept can see the connection. If the map is full the connect cannot be made to fail from here; the proxy
//! finds no origin and refuses the connection, and `origin_full` says why.
//!
//! A connect whose SYN is never answered keeps its entry for minutes, and an application can make such ones by the thousand
//! (from an address that is not its own, or by a device other than `lo`). So that one pod cannot fill the map for all, each
//! has a share: `CONNECTING` counts, per workload, the connections in SYN_SENT. Those beyond that are bounded by the backlog
//! of the listener, and taken by the proxy.

use core::ffi::c_void;
use core::mem::offset_of;
use core::ptr::{addr_of, null_mut};

use aya_ebpf::bindings::{BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock_ops};
use aya_ebpf::helpers::{bpf_sk_storage_get, bpf_sock_ops_cb_flags_set};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use undermesh_common::{
    Counter, MAX_CONNECTING, NetAddr, NetPort, OriginKey, SocketOrigin, connecting_place,
};
use undermesh_ebpf::decide;

use super::maps::{CONNECTING, ORIGINS, SOCKETS};
use super::report::{add, count};

const TCP_CONNECT_CB: u32 = 3;
const STATE_CB: u32 = 10;
const TCP_ESTABLISHED: u32 = 1;
const TCP_SYN_SENT: u32 = 2;
const TCP_CLOSE: u32 = 7;
const AF_INET: u32 = 2;

/// Loads one word of the context at a constant offset. With ordinary loads, even volatile ones, LLVM merges two branches
/// into one load through a computed pointer, and the verifier refuses "dereference of modified ctx ptr".
macro_rules! word {
    ($ops:expr, $field:ident $(+ $more:literal)?) => {{
        let value: u64;
        // SAFETY: reads four bytes of the context, at the offset of a field that these callbacks may read.
        unsafe {
            core::arch::asm!(
                "{value} = *(u32 *)({ops} + {offset})",
                value = out(reg) value,
                ops = in(reg) $ops,
                offset = const offset_of!(bpf_sock_ops, $field) $(+ 4 * $more)?,
                options(nostack, preserves_flags, readonly),
            );
        }
        value as u32
    }};
}

// Not `sock_ops`: bpf-linker refuses a program named like its section.
#[sock_ops]
pub(super) fn undermesh_sockops(ctx: SockOpsContext) -> u32 {
    let ops = ctx.ops;
    let op = word!(ops, op);
    if op == TCP_CONNECT_CB {
        hand_over(ops);
    } else if op == STATE_CB {
        let (from, to) = (word!(ops, __bindgen_anon_1), word!(ops, __bindgen_anon_1 + 1));
        if from == TCP_SYN_SENT {
            connected(ops);
        }
        // Refused, timed out or aborted: nobody will serve it. After an orderly close the proxy may still have it in its
        // backlog, with all the application wrote: that origin stays.
        if to == TCP_CLOSE && (from == TCP_SYN_SENT || from == TCP_ESTABLISHED) {
            drop_unclaimed(ops);
        }
    }
    0
}

#[inline(always)]
fn hand_over(ops: *mut bpf_sock_ops) {
    let Some(record) = record(ops) else { return };
    // The kernel's word holds the port in its upper half, in network order; the lower half is zero.
    let peer_port = NetPort::from_host(u32::from_be(word!(ops, remote_port)) as u16);
    if !decide::is_ours(record, peer_port) {
        return;
    }
    let Some(connecting) = CONNECTING.get_ptr_mut(connecting_place(record.origin.workload)) else { return };
    // A little more when several CPUs see the last place free: it is a bound, not a ticket.
    // SAFETY: a live u64 of the map; other CPUs change it by atomic additions only.
    if unsafe { connecting.read_volatile() } >= MAX_CONNECTING {
        count(Counter::OriginQuota);
        return;
    }
    // By value, not BPF_NOEXIST: if a socket with the same source port left an entry behind, the newest is right.
    if ORIGINS.insert(key(ops, record), record.origin, 0).is_err() {
        count(Counter::OriginFull);
        return;
    }
    count(Counter::OriginInserted);
    let flags = word!(ops, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
    // SAFETY: the context of this program. Fails only for unknown flags; then the sweep removes what close would have.
    if unsafe { bpf_sock_ops_cb_flags_set(ops, flags as i32) } == 0 {
        record.is_connecting = 1;
        // SAFETY: a live, aligned u64 of the map.
        unsafe { add(connecting, 1) };
    }
}

/// Its SYN has been answered, or it gave up: the workload may make one more.
#[inline(always)]
fn connected(ops: *mut bpf_sock_ops) {
    let Some(record) = record(ops) else { return };
    if record.is_connecting == 0 {
        return;
    }
    record.is_connecting = 0;
    if let Some(connecting) = CONNECTING.get_ptr_mut(connecting_place(record.origin.workload)) {
        // SAFETY: a live, aligned u64 of the map.
        unsafe { add(connecting, -1) };
    }
}

#[inline(always)]
fn drop_unclaimed(ops: *mut bpf_sock_ops) {
    let Some(record) = record(ops) else { return };
    let key = key(ops, record);
    // SAFETY: entries are read here and not kept.
    let Some(entry) = (unsafe { ORIGINS.get(&key) }) else { return };
    // The same port may already belong to a newer socket, whose entry this is then.
    if entry.socket_cookie == record.origin.socket_cookie && ORIGINS.remove(&key).is_ok() {
        count(Counter::OriginDroppedOnClose);
    }
}

#[inline(always)]
fn key(ops: *mut bpf_sock_ops, record: &SocketOrigin) -> OriginKey {
    let source = if word!(ops, family) == AF_INET {
        NetAddr::from_v4_word(word!(ops, local_ip4))
    } else {
        // Of a v4-mapped socket this is the mapped form: the same key as for IPv4.
        NetAddr::from_words([
            word!(ops, local_ip6),
            word!(ops, local_ip6 + 1),
            word!(ops, local_ip6 + 2),
            word!(ops, local_ip6 + 3),
        ])
    };
    decide::origin_key(record, source, NetPort::from_host(word!(ops, local_port) as u16))
}

/// The socket's record, if it was redirected.
#[inline(always)]
fn record<'a>(ops: *mut bpf_sock_ops) -> Option<&'a mut SocketOrigin> {
    // SAFETY: the socket is the context's own and checked for null, as the verifier wants; the map is a socket storage of
    // this value type, whose values live as long as the program runs. Only this socket's own programs write it, under its
    // lock, and each caller lets go of the reference before another asks.
    unsafe {
        let socket: *mut c_void = (*ops).__bindgen_anon_2.sk.cast();
        if socket.is_null() {
            return None;
        }
        bpf_sk_storage_get(addr_of!(SOCKETS).cast_mut().cast(), socket, null_mut(), 0)
            .cast::<SocketOrigin>()
            .as_mut()
    }
}
