//! `undermesh-proxy`: the data path.
#![forbid(unsafe_code)]

pub mod access_log;
pub mod exchange;
pub mod flags;
pub mod metrics;
pub mod pool;
pub mod sniff;
mod tunnel;
