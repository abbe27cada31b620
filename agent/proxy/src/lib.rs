//! `undermesh-proxy`: the data path: accept → origin → sniff → route → pick → connect → forward → record.
//!
//! ```text
//!   listener     accept; where was it going?; which worker takes it
//!   connection   which protocol ── http1 · http2 · opaque
//!   request      the life of a request, once for all codecs (`exchange` is the seam); forward: its tries
//!   outlet       tables of a snapshot bound to live state
//!   live, pool   connections to endpoints and their limits
//!   mirror       copies of requests, sent beside them
//!   names        upstreams' names as addresses
//!   record       access log and metrics, exactly once
//! ```
//!
//! What it needs from its surroundings (where a captured socket was going; sockets in a pod's network namespace; addresses
//! of names) are the small traits of [`inlet`] and [`names`]; it knows neither the kernel half nor Kubernetes.
#![forbid(unsafe_code)]

pub mod access_log;
pub mod buffer;
mod client_hello;
mod connection;
mod date;
mod digits;
pub mod exchange;
pub mod flags;
mod forward;
mod forwarded;
mod grpc_timeout;
pub mod http1;
pub mod http2;
pub mod inlet;
mod listener;
mod live;
mod local;
pub mod metrics;
pub mod mirror;
pub mod names;
mod opaque;
mod outlet;
mod outlier;
pub mod pool;
pub mod probe;
mod proxy;
mod proxy_protocol;
mod record;
mod request;
mod resolution;
mod share;
pub mod sniff;
mod tunnel;
mod warmup;
mod worker;

pub use connection::ConnectionRow;
pub use outlier::OutlierRow;
pub use proxy::{InletHandle, Proxy, Settings};
