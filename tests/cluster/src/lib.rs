//! Real Kubernetes on one machine: the API server and its companions, and nodes with real kubelets, made of the same
//! namespaces and cgroups as the rest of the harness (`undermesh-tests`), so that they go away as surely.
//!
//! ```text
//!   fabric netns   172.30.0.254  etcd · kube-apiserver · kube-controller-manager · kube-scheduler      127.0.0.1:6443 ─▶
//!      │ br0
//!      ├── node n1 172.30.0.1    containerd · kubelet · kube-proxy    pods 10.244.0.0/24, fd00:10:244::/64
//!      └── node n2 172.30.0.2    its own namespaces for network, mounts and processes, and cgroups
//! ```
//!
//! Nodes and pods have addresses of both families; a Service has one of IPv4 if it does not ask otherwise.
//!
//! [`Upstream`] is all of it. [`ControlPlane`] alone serves what needs an API server and no pods.

mod authority;
mod control_plane;
pub mod dns;
mod forward;
mod image;
mod k3s;
pub mod kubeconfig;
mod machine;
mod node;
mod packages;
mod programs;
mod provider;
mod requirement;
pub mod run;
mod upstream;

pub use authority::{Authority, Identity, token_keys};
pub use control_plane::{ADDRESS, ControlPlane, POD_CIDR};
pub use image::{Image, sha256};
pub use k3s::K3s;
pub use kubeconfig::User;
pub use machine::CGROUP;
pub use node::Layout;
pub use programs::{KUBERNETES, Programs, cache};
pub use provider::{Existing, NodeProgram, Provider, Tools};
pub use requirement::{can_run_here, prepare};
pub use upstream::Upstream;
