//! HTTP/2 without TLS (prior knowledge) and gRPC: the server side towards pods, the client side towards upstreams.
//!
//! ```text
//!   client ── h2::server ──▶ server.rs: one local task for each stream
//!                              head.rs      malformed heads refused; views and edits for `core`
//!                              exchange.rs  Http2Exchange: attempt · relay · answer · pause
//!                                body.rs      request body: read ahead, kept for a retry up to a bound
//!                                upstream/    the attempt's other end: an HTTP/2 stream or an HTTP/1.1 lease
//!                                reply.rs     the way back to the client
//!                            client.rs: h2::client, one connection shared by all requests to an endpoint
//! ```
//!
//! Built on the `h2` crate itself and not on hyper's wrapper: a proxy wants what hyper hides. It must see a client's
//! RST_STREAM while it waits for something else, tell REFUSED_STREAM from other resets (only then may a POST be sent
//! again), relay 1xx heads, hold back WINDOW_UPDATE until the other side took the bytes, and send GOAWAY when it drains.
//! Between hyper's `Body` and `h2` lies nothing that would save us code.
//!
//! gRPC needs nothing of its own here but what HTTP/2 has: trailers both ways, streams open both ways at once, and
//! header-only replies (`grpc-status` in the head, END_STREAM on it). That mapping is the request path's.
//!
//! Not done: CONNECT, plain (RFC 9113 section 8.5) and extended (RFC 8441, WebSocket over HTTP/2). Plain is answered with
//! 405; extended is not advertised in SETTINGS, and a stream that uses it regardless is reset with PROTOCOL_ERROR. Server
//! push is switched off towards upstreams and never used towards clients (browsers have dropped it).

mod body;
mod client;
mod deadline;
mod exchange;
mod head;
mod reply;
mod reset_guard;
mod rewind;
mod server;
mod settings;
mod upstream;

pub(crate) use body::{Next, Source};
pub use client::{DriverError, connect};
pub use exchange::Http2Exchange;
pub use server::{ServeError, serve};
pub use settings::{ClientSettings, KeepAlive, ServerSettings};
pub(crate) use upstream::{Attempt, Head};
