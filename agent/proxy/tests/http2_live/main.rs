//! HTTP/2 on real sockets: a client and upstreams made with the `h2` crate (or with hand-made frames where they must break
//! the rules), the proxy's codec between them, and a small request path in place of the real one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod bridge;
mod frames;
mod hostile;
mod life;
mod retry;
mod streams;
mod support;
