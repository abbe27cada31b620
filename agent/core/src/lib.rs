//! `undermesh-core`: the meaning of the API.
//!
//! Istio resources and the Kubernetes inventory go in (`Inputs`), one immutable `Snapshot` comes out (`compile`), and
//! from it every decision the data path takes: which service an address means, which route a request matches, which
//! endpoint serves it, and why (`explain` runs the same functions with an observer).
//!
//! Everything here is pure: no sockets, files, environment, clock or randomness of its own; time and rng are arguments.
#![forbid(unsafe_code)]

pub mod api;
pub mod balance;
pub mod capture;
pub mod client;
pub mod cluster;
pub mod compile;
pub mod coverage;
pub mod diagnostic;
pub mod edits;
pub mod explain;
pub mod host;
pub mod inputs;
pub mod inventory;
pub mod outlier;
pub mod path;
pub mod policy;
pub mod pool;
pub mod retry_budget;
pub mod route;
pub mod snapshot;
pub mod view;
pub mod vocabulary;
