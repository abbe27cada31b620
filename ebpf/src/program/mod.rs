// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Everything that exists only in the kernel.

mod connect;
mod maps;
mod names;
mod report;
mod sock_ops;

/// GPL-only helpers (ktime, ...) are open to us by this; the exact text is the kernel's list of compatible licences.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier rejects the endless loop if any path leads here.
    loop {}
}
