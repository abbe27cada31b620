//! The API as users write it: Istio's resources, field for field, and our reading of Kubernetes objects.
//!
//! ```text
//! JSON value + lines ── parse ──> Object (+ diagnostics) ── validate ──> diagnostics ──> Inputs
//! ```
//!
//! Types in here are raw: strings are strings, both members of a oneof may be set, an absent scalar is protobuf's default.
//! They live until `compile` has made types of them that cannot be wrong.

use std::sync::Arc;

pub mod connection_pool;
pub mod destination_rule;
pub mod duration;
pub mod fault;
pub mod gateway;
pub mod http_match;
pub mod http_route;
pub mod load_balancer;
pub mod mesh_config;
pub mod meta;
pub mod names;
pub mod origin;
pub mod schema;
pub mod security;
pub mod service_entry;
pub mod sidecar;
pub mod spelling;
pub mod string_match;
pub mod timestamp;
pub mod virtual_service;

mod applied;
mod kubernetes;
mod normalize;
mod parse;
mod validate;

pub use parse::{Identity, MESH_CONFIG_MAP, Parsed, parse, parse_mesh_config};
pub use validate::validate;

use crate::inventory::{EndpointSlice, Namespace, Node, Pod, Service};
use destination_rule::DestinationRule;
use gateway::Gateway;
use mesh_config::MeshConfig;
use meta::{Key, Kinded, ObjectMeta, Resource};
use origin::Origin;
use security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use service_entry::{ServiceEntry, WorkloadEntry};
use sidecar::Sidecar;
use virtual_service::VirtualService;

/// An object of a kind that means something to us.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// Istio.
    VirtualService(Arc<Resource<VirtualService>>),
    /// Istio.
    DestinationRule(Arc<Resource<DestinationRule>>),
    /// Istio.
    Gateway(Arc<Resource<Gateway>>),
    /// Istio.
    ServiceEntry(Arc<Resource<ServiceEntry>>),
    /// Istio.
    WorkloadEntry(Arc<Resource<WorkloadEntry>>),
    /// Istio.
    Sidecar(Arc<Resource<Sidecar>>),
    /// Istio.
    AuthorizationPolicy(Arc<Resource<AuthorizationPolicy>>),
    /// Istio.
    PeerAuthentication(Arc<Resource<PeerAuthentication>>),
    /// Istio.
    RequestAuthentication(Arc<Resource<RequestAuthentication>>),
    /// Istio: ConfigMap `istio` in `istio-system`.
    MeshConfig(Arc<Resource<MeshConfig>>),
    /// Kubernetes.
    Service(Arc<Resource<Service>>),
    /// Kubernetes.
    EndpointSlice(Arc<Resource<EndpointSlice>>),
    /// Kubernetes.
    Pod(Arc<Resource<Pod>>),
    /// Kubernetes.
    Node(Arc<Resource<Node>>),
    /// Kubernetes.
    Namespace(Arc<Resource<Namespace>>),
}

/// Does the same with the resource of any kind.
macro_rules! each_kind {
    ($object:expr, $resource:ident => $do:expr) => {
        match $object {
            Object::VirtualService($resource) => $do,
            Object::DestinationRule($resource) => $do,
            Object::Gateway($resource) => $do,
            Object::ServiceEntry($resource) => $do,
            Object::WorkloadEntry($resource) => $do,
            Object::Sidecar($resource) => $do,
            Object::AuthorizationPolicy($resource) => $do,
            Object::PeerAuthentication($resource) => $do,
            Object::RequestAuthentication($resource) => $do,
            Object::MeshConfig($resource) => $do,
            Object::Service($resource) => $do,
            Object::EndpointSlice($resource) => $do,
            Object::Pod($resource) => $do,
            Object::Node($resource) => $do,
            Object::Namespace($resource) => $do,
        }
    };
}

fn kind_of<T: Kinded>(_: &Resource<T>) -> &'static str {
    T::KIND
}

impl Object {
    /// The kind as users write it.
    pub fn kind(&self) -> &'static str {
        each_kind!(self, resource => kind_of(resource))
    }

    /// The metadata.
    pub fn meta(&self) -> &ObjectMeta {
        each_kind!(self, resource => &resource.meta)
    }

    /// Where it was written.
    pub fn origin(&self) -> &Arc<Origin> {
        each_kind!(self, resource => &resource.origin)
    }

    /// Namespace and name.
    pub fn key(&self) -> Key {
        self.meta().key()
    }
}
