//! `Inputs`: everything a source knows, the one argument of `compile`.
//!
//! Objects are ordered by namespace and name, so the same objects always come in the same order, whoever brought them. They
//! are shared: a source that reads one object anew changes a copy of the old `Inputs`, which costs that object's share only,
//! and keeps the `Arc`s of the others, by which `compile` knows that they are what they were.
//!
//! An object in here has passed [`crate::api::parse`] and [`crate::api::validate`] ([`crate::api::Parsed::validated`]); references to other
//! objects are not checked, as in Istio (compile does that).
//!
//! A Service with a selector that no EndpointSlice belongs to gets its endpoints from the Pods that the selector matches: a
//! folder of files has no controller that would write slices. In a cluster slices always exist.

use std::sync::Arc;

use crate::api::Object;
use crate::api::destination_rule::DestinationRule;
use crate::api::gateway::Gateway;
use crate::api::mesh_config::MeshConfig;
use crate::api::meta::Resource;
use crate::api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use crate::api::service_entry::{ServiceEntry, WorkloadEntry};
use crate::api::sidecar::Sidecar;
use crate::api::virtual_service::VirtualService;
use crate::inventory::{EndpointSlice, Namespace, Node, Pod, Service};

pub use objects::{Change, Objects};

mod identity;
mod objects;

/// All objects of all kinds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inputs {
    /// Mesh settings; `None` means Istio's defaults ([`Inputs::mesh_config`]).
    pub mesh: Option<Arc<Resource<MeshConfig>>>,
    /// VirtualServices.
    pub virtual_services: Objects<VirtualService>,
    /// DestinationRules.
    pub destination_rules: Objects<DestinationRule>,
    /// Gateways.
    pub gateways: Objects<Gateway>,
    /// ServiceEntries.
    pub service_entries: Objects<ServiceEntry>,
    /// WorkloadEntries.
    pub workload_entries: Objects<WorkloadEntry>,
    /// Sidecars.
    pub sidecars: Objects<Sidecar>,
    /// AuthorizationPolicies. Nothing acts on them, nor on the two kinds below; `check` fails because of those that restrict.
    pub authorization_policies: Objects<AuthorizationPolicy>,
    /// PeerAuthentications.
    pub peer_authentications: Objects<PeerAuthentication>,
    /// RequestAuthentications.
    pub request_authentications: Objects<RequestAuthentication>,
    /// Services.
    pub services: Objects<Service>,
    /// EndpointSlices.
    pub endpoint_slices: Objects<EndpointSlice>,
    /// Pods.
    pub pods: Objects<Pod>,
    /// Nodes; their keys have no namespace.
    pub nodes: Objects<Node>,
    /// Namespaces; their keys have no namespace.
    pub namespaces: Objects<Namespace>,
}

impl Inputs {
    /// The mesh settings, or the defaults.
    pub fn mesh_config(&self) -> MeshConfig {
        self.mesh.as_ref().map(|mesh| mesh.spec.clone()).unwrap_or_default()
    }

    /// How many objects there are, mesh settings included.
    pub fn count(&self) -> usize {
        let Self {
            mesh,
            virtual_services,
            destination_rules,
            gateways,
            service_entries,
            workload_entries,
            sidecars,
            authorization_policies,
            peer_authentications,
            request_authentications,
            services,
            endpoint_slices,
            pods,
            nodes,
            namespaces,
        } = self;
        usize::from(mesh.is_some())
            + virtual_services.len()
            + destination_rules.len()
            + gateways.len()
            + service_entries.len()
            + workload_entries.len()
            + sidecars.len()
            + authorization_policies.len()
            + peer_authentications.len()
            + request_authentications.len()
            + services.len()
            + endpoint_slices.len()
            + pods.len()
            + nodes.len()
            + namespaces.len()
    }

    /// Adds an object, in place of one of the same kind and key.
    pub fn insert(&mut self, object: Object) {
        match object {
            Object::MeshConfig(object) => self.mesh = Some(object),
            Object::VirtualService(object) => insert(&mut self.virtual_services, object),
            Object::DestinationRule(object) => insert(&mut self.destination_rules, object),
            Object::Gateway(object) => insert(&mut self.gateways, object),
            Object::ServiceEntry(object) => insert(&mut self.service_entries, object),
            Object::WorkloadEntry(object) => insert(&mut self.workload_entries, object),
            Object::Sidecar(object) => insert(&mut self.sidecars, object),
            Object::AuthorizationPolicy(object) => insert(&mut self.authorization_policies, object),
            Object::PeerAuthentication(object) => insert(&mut self.peer_authentications, object),
            Object::RequestAuthentication(object) => insert(&mut self.request_authentications, object),
            Object::Service(object) => insert(&mut self.services, object),
            Object::EndpointSlice(object) => insert(&mut self.endpoint_slices, object),
            Object::Pod(object) => insert(&mut self.pods, object),
            Object::Node(object) => insert(&mut self.nodes, object),
            Object::Namespace(object) => insert(&mut self.namespaces, object),
        }
    }
}

fn insert<T>(objects: &mut Objects<T>, object: Arc<Resource<T>>) {
    objects.insert(object.meta.key(), object);
}
