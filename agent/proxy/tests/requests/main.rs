//! The life of a request through a whole proxy in this process: real sockets, real tables compiled from the resources a user
//! would write, scripted upstreams. What the kernel would say (where a connection was going) is the one double.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    unreachable_pub,
    reason = "what fails here fails the test; json!() is handed over as it is"
)]

mod balancing;
mod cors;
mod failures;
mod grpc;
mod headers;
mod limits;
mod mirror;
mod names;
mod opaque;
mod outlier;
mod policy;
mod pools;
mod proxies;
mod recorder;
mod retries;
mod routing;
mod server_name;
mod share;
mod world;
