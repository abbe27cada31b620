//! `undermesh-proxy`: the data path.
#![forbid(unsafe_code)]

pub mod access_log;
pub mod buffer;
mod client_hello;
pub mod exchange;
pub mod flags;
pub mod http1;
pub mod http2;
pub mod metrics;
pub mod pool;
pub mod sniff;
mod tunnel;
