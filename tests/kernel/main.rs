//! Tests that need root: real namespaces, real cgroups, the real kernel programs and the real agent binary.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

mod agent_config;
mod agent_fail_open;
mod agent_life;
mod bad_input;
mod capabilities;
mod capture;
mod doctor;
mod harness;
mod identity;
mod kubelet;
mod lifecycle;
mod listener_taken;
mod mesh;
mod on_kubernetes;
mod roll;
mod scale;
mod untouched;
