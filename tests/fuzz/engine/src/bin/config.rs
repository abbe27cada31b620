//! See `undermesh_fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| undermesh_fuzz::config(bytes));
