//! See `undermesh_fuzz::head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| undermesh_fuzz::head(bytes));
