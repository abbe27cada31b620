//! Nodes and pods without Kubernetes: network namespaces for isolation, cgroup2 folders for identity, plain processes
//! for containers. Tests, `cargo xtask demo` and benchmarks all stand on this one harness.
//!
//! ```text
//!                      "fabric" netns: br0, the wire between nodes
//!                       172.30.0.0/24       fd00:30::/64
//!                    n1 /                            \ n2
//!   node netns 172.30.0.1                              172.30.0.2      routes to the other nodes' pods,
//!     cni0 10.244.1.1/24                                 cni0 10.244.2.1/24      `unreachable` for service addresses
//!      |         |                                        |
//!   pod .2     pod .3                                  pod .2          default route to cni0, lo up
//! ```
//!
//! Service addresses ([`SERVICE_CIDR_V4`], [`SERVICE_CIDR_V6`]) lead nowhere: there is no kube-proxy, so a connect that
//! escapes the mesh fails at once and visibly instead of succeeding by another way.
//!
//! The agent needs what a real node gives it: a *path* to each pod's network namespace and cgroup. Both are files here,
//! as under a container runtime, and [`Pod::manifest`] writes them into the annotations the agent reads.
//!
//! Everything of one [`World`] carries the world's name and is found by it: dropping the world, a panic, Ctrl-C and even
//! a later run after SIGKILL remove it completely.

mod agent;
mod alone;
mod binaries;
mod bpf;
mod cgroup;
mod config;
mod interrupt;
mod leftovers;
mod link;
mod manifest;
mod netns;
mod node;
mod pod;
mod process;
mod requirement;
mod wait;
mod world;

pub use agent::Agent;
pub use alone::with_every_address;
pub use binaries::{Binaries, Profile};
pub use bpf::still_loaded;
pub use cgroup::v1_hierarchies;
pub use config::Config;
pub use interrupt::{stop_if_interrupted, wait_for_interrupt};
pub use link::{Prefix, Step, configure, settle};
pub use manifest::{PodSpec, Port};
pub use netns::NetNs;
pub use node::{FABRIC_BRIDGE, Node, SERVICE_CIDR_V4, SERVICE_CIDR_V6};
pub use pod::{Layout, Pod};
pub use process::{Finished, Process, last_lines};
pub use requirement::{Unmet, can_make_namespaces_here, can_run_here, require};
pub use wait::wait_until;
pub use world::World;
