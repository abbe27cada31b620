//! See `undermesh_fuzz::yaml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| undermesh_fuzz::yaml(bytes));
