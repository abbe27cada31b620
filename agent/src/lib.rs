//! `undermesh`: the node agent, the gateway and their command line. The only crate with Kubernetes, clap and anyhow.

pub mod admin;
pub mod app;
pub mod cli;
pub mod probe;
pub mod report;
pub mod shutdown;
pub mod source;
pub mod telemetry;
