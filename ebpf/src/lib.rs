// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The decisions of the kernel programs, as a library that also compiles for the host, where they are tested.
//!
//! The programs themselves are in `main.rs`: they read the kernel's context, ask [`decide`], and write the answer back.
#![cfg_attr(not(test), no_std)]

pub mod decide;
