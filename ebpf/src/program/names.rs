// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! getpeername and getsockname: the application sees the connection it asked for.
//!
//! The alternative for its own address, `bpf_bind` to the pod's address in connect, was rejected: it locks the socket to
//! that address, so that a later connect of the same socket (to loopback, to another family) behaves differently.
//!
//! A known limit: an MPTCP socket is redirected by the TCP socket inside it, which holds the record; the outer one, which is
//! what these programs are asked about, shows the listener.

use core::ptr::{addr_of, null_mut};

use aya_ebpf::helpers::bpf_sk_storage_get;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use undermesh_common::{Counter, NetAddr, NetPort, SocketOrigin};
use undermesh_ebpf::decide;

use super::connect::field;
use super::maps::SOCKETS;
use super::report::count;

/// These programs only rewrite the answer.
const DONE: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
pub(super) fn undermesh_getpeername4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    if let Some(record) = record(&ctx)
        && let Some((address, port)) = decide::peer_name(
            record,
            NetAddr::from_v4_word(field!((*sa).user_ip4)),
            NetPort::from_user_port(field!((*sa).user_port)),
        )
    {
        field!((*sa).user_ip4, address.v4_word());
        field!((*sa).user_port, port.to_user_port());
        count(Counter::Peername);
    }
    DONE
}

#[cgroup_sock_addr(getpeername6)]
pub(super) fn undermesh_getpeername6(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    if let Some(record) = record(&ctx)
        && let Some((address, port)) =
            decide::peer_name(record, address6(&ctx), NetPort::from_user_port(field!((*sa).user_port)))
    {
        set_address6(&ctx, address);
        field!((*sa).user_port, port.to_user_port());
        count(Counter::Peername);
    }
    DONE
}

#[cgroup_sock_addr(getsockname4)]
pub(super) fn undermesh_getsockname4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    if let Some(record) = record(&ctx)
        && let Some(address) =
            decide::socket_name(record, NetAddr::from_v4_word(field!((*sa).user_ip4)), peer_port(&ctx))
    {
        field!((*sa).user_ip4, address.v4_word());
        count(Counter::Sockname);
    }
    DONE
}

#[cgroup_sock_addr(getsockname6)]
pub(super) fn undermesh_getsockname6(ctx: SockAddrContext) -> i32 {
    if let Some(record) = record(&ctx)
        && let Some(address) = decide::socket_name(record, address6(&ctx), peer_port(&ctx))
    {
        set_address6(&ctx, address);
        count(Counter::Sockname);
    }
    DONE
}

/// The socket's record, if it was redirected.
#[inline(always)]
fn record(ctx: &SockAddrContext) -> Option<&SocketOrigin> {
    // SAFETY: the socket is the context's own; the map is a socket storage of this value type, whose values live as long
    // as the program runs.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        bpf_sk_storage_get(addr_of!(SOCKETS).cast_mut().cast(), socket.cast(), null_mut(), 0)
            .cast::<SocketOrigin>()
            .as_ref()
    }
}

/// The port to which the socket is connected now.
#[inline(always)]
fn peer_port(ctx: &SockAddrContext) -> NetPort {
    // SAFETY: the context's socket is never null for these attach types, and `dst_port` is readable.
    let port =
        unsafe { core::ptr::read_volatile(addr_of!((*(*ctx.sock_addr).__bindgen_anon_1.sk).dst_port)) };
    NetPort::from_user_port(u32::from(port))
}

#[inline(always)]
fn address6(ctx: &SockAddrContext) -> NetAddr {
    let sa = ctx.sock_addr;
    NetAddr::from_words([
        field!((*sa).user_ip6[0]),
        field!((*sa).user_ip6[1]),
        field!((*sa).user_ip6[2]),
        field!((*sa).user_ip6[3]),
    ])
}

#[inline(always)]
fn set_address6(ctx: &SockAddrContext, address: NetAddr) {
    let sa = ctx.sock_addr;
    let [a, b, c, d] = address.words();
    field!((*sa).user_ip6[0], a);
    field!((*sa).user_ip6[1], b);
    field!((*sa).user_ip6[2], c);
    field!((*sa).user_ip6[3], d);
}
