//! The `kubernetes` source against an API server in memory: what is read, what becomes of it when the server or an object
//! misbehaves, and what the server is asked for. No root.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

mod check;
mod export;
mod faults;
mod kinds;
mod reading;
mod scale;
mod world;
