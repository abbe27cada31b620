//! The HTTP/1.1 engine: the hot path of the proxy.
//!
//! ```text
//!   framing · header · request · response     heads and bodies, without I/O
//!   message                                   a pipe and where its message stands
//!   exchange                                  one request and its response, both directions polled by one task
//!   connection                                a client's connection: head → plan → run → next
//!   tunnel · linger · to_http2 · tee          the rarer ways an exchange goes on
//!   client                                    the upstream side alone, for requests that came over HTTP/2
//! ```
//!
//! A head is parsed once and written once; bodies are relayed from the block they were read into; nothing is allocated
//! per request and nothing is held while a connection is idle. Measured against hyper, nginx and HAProxy in DESIGN D12.

use std::time::Duration;

use undermesh_core::path::Normalization;

mod alarm;
mod answer;
mod bridge;
pub mod client;
mod connection;
mod exchange;
pub mod framing;
pub mod header;
mod io;
mod linger;
mod message;
mod reason;
mod receive;
mod relay;
pub mod request;
pub mod response;
#[cfg(test)]
mod split;
mod tee;
mod to_http2;
mod tunnel;

pub use connection::serve;
pub use io::ClientIo;
pub use reason::reason;

/// Settings of the HTTP/1.1 side of a listener.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Scheme of the transport: `http`, or `https` behind TLS.
    pub scheme: &'static str,
    /// Whether `x-forwarded-proto` of the client decides the scheme: true in the mesh, where it is the application's own.
    pub trusts_forwarded_proto: bool,
    /// How paths are normalised before anything looks at them.
    pub normalization: Normalization,
    /// How long a connection may wait between two requests. Envoy: `idle_timeout`, default 1 h.
    pub idle_timeout: Duration,
    /// How long a head may take once its first byte has come. Envoy: `request_headers_timeout` (off there; a slow head
    /// holds a block, so it has a limit here).
    pub head_timeout: Duration,
    /// How long what a client still sends is read away after an early answer, so that the answer is not lost to a reset.
    /// Envoy: `delayed_close_timeout`, default 1 s.
    pub linger: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scheme: "http",
            trusts_forwarded_proto: true,
            normalization: Normalization::default(),
            idle_timeout: Duration::from_secs(3600),
            head_timeout: Duration::from_secs(60),
            linger: Duration::from_secs(1),
        }
    }
}
