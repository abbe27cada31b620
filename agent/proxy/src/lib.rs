//! `undermesh-proxy`: the data path.
#![forbid(unsafe_code)]

pub mod exchange;
pub mod pool;
