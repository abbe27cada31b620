// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! connect4 and connect6.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie,
    bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sk_storage_delete, bpf_sk_storage_get,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use undermesh_common::{
    Config, Counter, NetAddr, NetPort, Origin, PortKey, ServiceKey, SocketOrigin, Workload,
};
use undermesh_ebpf::decide::{self, Connect, Failure, Form, Verdict, World};

use super::maps::{CONFIG, PORTS, SERVICES, SOCKETS, WL_BY_CGROUP, WORKLOADS};
use super::report::{Outcome, count, event};

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;

/// The system call goes on / fails with EPERM.
const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

/// Reads or writes one field of the context: volatile, so that accesses stay as wide and as many as the verifier wants.
macro_rules! field {
    ($field:expr) => {
        // SAFETY: a field of the context that the kernel handed to this program, allowed for its attach type.
        unsafe { ::core::ptr::read_volatile(::core::ptr::addr_of!($field)) }
    };
    ($field:expr, $value:expr) => {
        // SAFETY: as above, and writable.
        unsafe { ::core::ptr::write_volatile(::core::ptr::addr_of_mut!($field), $value) }
    };
}
pub(super) use field;

#[cgroup_sock_addr(connect4)]
pub(super) fn undermesh_connect4(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    let destination = NetAddr::from_v4_word(field!((*sa).user_ip4));
    match connect(&ctx, destination, Form::V4) {
        Answer::Allow => ALLOW,
        Answer::Refuse => REFUSE,
        Answer::Redirect(listener) => {
            field!((*sa).user_ip4, Form::V4.loopback().v4_word());
            field!((*sa).user_port, listener.to_user_port());
            ALLOW
        }
    }
}

#[cgroup_sock_addr(connect6)]
pub(super) fn undermesh_connect6(ctx: SockAddrContext) -> i32 {
    let sa = ctx.sock_addr;
    let destination = NetAddr::from_words([
        field!((*sa).user_ip6[0]),
        field!((*sa).user_ip6[1]),
        field!((*sa).user_ip6[2]),
        field!((*sa).user_ip6[3]),
    ]);
    let form = Form::of_v6_socket(destination);
    match connect(&ctx, destination, form) {
        Answer::Allow => ALLOW,
        Answer::Refuse => REFUSE,
        Answer::Redirect(listener) => {
            let [a, b, c, d] = form.loopback().words();
            field!((*sa).user_ip6[0], a);
            field!((*sa).user_ip6[1], b);
            field!((*sa).user_ip6[2], c);
            field!((*sa).user_ip6[3], d);
            field!((*sa).user_port, listener.to_user_port());
            ALLOW
        }
    }
}

enum Answer {
    Allow,
    Refuse,
    Redirect(NetPort),
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, destination: NetAddr, form: Form) -> Answer {
    let Some(config) = CONFIG.get(0) else { return Answer::Allow };
    let sa = ctx.sock_addr;
    let dialled = Connect {
        destination,
        port: NetPort::from_user_port(field!((*sa).user_port)),
        form,
        // An MPTCP socket connects by a TCP socket of its own, which is the one seen here.
        is_tcp: field!((*sa).type_) == SOCK_STREAM && field!((*sa).protocol) == IPPROTO_TCP,
    };
    let kernel = Kernel { ctx };

    let (answer, why, mode, workload) = match decide::connect(&dialled, config, &kernel) {
        Verdict::Redirect { why, listener, workload } => {
            if kernel.remember(&dialled, config, workload, listener) {
                (Answer::Redirect(listener), why, None, workload.id)
            } else {
                failed(&Failure::of(workload, Counter::StorageFull))
            }
        }
        Verdict::Fail(failure) => failed(&failure),
        Verdict::Untouched { why, workload } => (Answer::Allow, why, None, workload),
    };
    if dialled.is_tcp && !matches!(answer, Answer::Redirect(_)) {
        kernel.forget();
    }
    if let Some(mode) = mode {
        count(mode);
    }
    count(why);
    if config.event_sample != 0 {
        let outcome = Outcome {
            counter: why,
            destination,
            port: dialled.port,
            netns_cookie: kernel.netns_cookie(),
            cgroup_id: kernel.cgroup_id(),
            workload,
            refused: matches!(answer, Answer::Refuse),
        };
        event(config, &outcome);
    }
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(
        ctx,
        "connect to {:i}:{} by workload {}: outcome {}",
        destination.octets(),
        dialled.port.to_host(),
        workload,
        why as u32
    );
    answer
}

#[inline(always)]
fn failed(failure: &Failure) -> (Answer, Counter, Option<Counter>, u32) {
    let answer = if failure.is_closed() { Answer::Refuse } else { Answer::Allow };
    (answer, failure.why, Some(failure.mode), failure.workload)
}

/// The world as the kernel's helpers and the maps show it.
struct Kernel<'a> {
    ctx: &'a SockAddrContext,
}

impl Kernel<'_> {
    /// Stores the socket's record; false when the kernel has no memory for it.
    #[inline(always)]
    fn remember(&self, dialled: &Connect, config: &Config, workload: &Workload, listener: NetPort) -> bool {
        let mut record = SocketOrigin {
            origin: Origin {
                destination: dialled.destination,
                port: dialled.port,
                padding: 0,
                workload: workload.id,
                netns_cookie: self.netns_cookie(),
                cgroup_id: self.cgroup_id(),
                // SAFETY: the context of this program.
                socket_cookie: unsafe { bpf_get_socket_cookie(self.ctx.as_ptr()) },
                generation: config.generation,
                connected_ns: self.now_ns(),
            },
            local: match dialled.form {
                Form::V4 | Form::Mapped => workload.address4,
                Form::V6 => workload.address6,
            },
            listener,
            is_connecting: 0,
            padding: 0,
        };
        // SAFETY: the socket is the context's own; the map is a socket storage of this value type.
        let place = unsafe {
            bpf_sk_storage_get(
                addr_of!(SOCKETS).cast_mut().cast(),
                self.socket(),
                addr_of_mut!(record).cast(),
                u64::from(BPF_SK_STORAGE_GET_F_CREATE),
            )
        }
        .cast::<SocketOrigin>();
        if place.is_null() {
            return false;
        }
        // A socket that failed to connect and tries again already has a record, which the helper leaves as it was.
        // SAFETY: not null, so it is this socket's value; only its own connect, under the socket's lock, writes it.
        unsafe { *place = record };
        true
    }

    /// Removes the record that an earlier connect of this socket may have left: it goes elsewhere now.
    #[inline(always)]
    fn forget(&self) {
        // SAFETY: as in `remember`; a socket without a record gives ENOENT, which is as good.
        let _ = unsafe { bpf_sk_storage_delete(addr_of!(SOCKETS).cast_mut().cast(), self.socket()) };
    }

    #[inline(always)]
    fn socket(&self) -> *mut core::ffi::c_void {
        // SAFETY: the context's socket is never null for these attach types.
        unsafe { (*self.ctx.sock_addr).__bindgen_anon_1.sk }.cast()
    }
}

impl World for Kernel<'_> {
    #[inline(always)]
    fn netns_cookie(&self) -> u64 {
        // SAFETY: the context of this program.
        unsafe { bpf_get_netns_cookie(self.ctx.as_ptr()) }
    }

    #[inline(always)]
    fn cgroup_id(&self) -> u64 {
        // SAFETY: takes nothing, gives a number.
        unsafe { bpf_get_current_cgroup_id() }
    }

    #[inline(always)]
    fn ancestor_cgroup_id(&self, level: u32) -> u64 {
        // SAFETY: takes and gives a number.
        unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: takes nothing, gives a number.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn workload_by_netns(&self, cookie: u64) -> Option<&Workload> {
        // SAFETY: programs never write this map; user space replaces whole entries, and the old one lives on until the
        // RCU read section around this program ends. Not preallocated, so it is not reused before that either.
        unsafe { WORKLOADS.get(cookie) }
    }

    #[inline(always)]
    fn workload_by_cgroup(&self, id: u64) -> Option<&Workload> {
        // SAFETY: as above.
        unsafe { WL_BY_CGROUP.get(id) }
    }

    #[inline(always)]
    fn is_service(&self, key: &ServiceKey) -> bool {
        SERVICES.get_ptr(key).is_some()
    }

    #[inline(always)]
    fn is_claimed(&self, key: &PortKey) -> bool {
        PORTS.get_ptr(key).is_some()
    }
}
