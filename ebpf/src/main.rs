// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The kernel programs: thin entry points over the decisions in `decide.rs`.
//!
//! ```text
//! connect4 connect6 ──▶ decide ──▶ record in socket storage, address rewritten to the workload's listener
//!                                      │
//! sock_ops TCP_CONNECT_CB ◀────────────┘  source port known, SYN not yet sent: record ──▶ ORIGINS
//!          TCP_CLOSE          the origin of a connection that failed is removed
//! getpeername getsockname     answer as if there were no proxy
//! ```
//!
//! Built by `cargo xtask bpf` for `bpfel-unknown-none`; on the host this is an empty program, so that `cargo build` of
//! the workspace needs no BPF toolchain.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![cfg_attr(
    target_arch = "bpf",
    allow(unsafe_code, reason = "kernel helpers and the kernel's context are raw pointers")
)]

#[cfg(target_arch = "bpf")]
mod program;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
