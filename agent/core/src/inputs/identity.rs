//! Objects by kind and key, for a source that is told of one object at a time.

use std::sync::Arc;

use super::{Inputs, Objects};
use crate::api::destination_rule::DestinationRule;
use crate::api::gateway::Gateway;
use crate::api::mesh_config::MeshConfig;
use crate::api::meta::{Key, Kinded, Resource};
use crate::api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use crate::api::service_entry::{ServiceEntry, WorkloadEntry};
use crate::api::sidecar::Sidecar;
use crate::api::virtual_service::VirtualService;
use crate::api::{Identity, Object};
use crate::inventory::{EndpointSlice, Namespace, Node, Pod, Service};

/// Does the same with the objects of any kind that has a list of them; `None` for other kinds.
macro_rules! of_kind {
    ($inputs:expr, $kind:expr, $borrow:ident, $objects:ident => $do:expr) => {
        match $kind {
            VirtualService::KIND => {
                let $objects = $borrow!($inputs.virtual_services);
                Some($do)
            }
            DestinationRule::KIND => {
                let $objects = $borrow!($inputs.destination_rules);
                Some($do)
            }
            Gateway::KIND => {
                let $objects = $borrow!($inputs.gateways);
                Some($do)
            }
            ServiceEntry::KIND => {
                let $objects = $borrow!($inputs.service_entries);
                Some($do)
            }
            WorkloadEntry::KIND => {
                let $objects = $borrow!($inputs.workload_entries);
                Some($do)
            }
            Sidecar::KIND => {
                let $objects = $borrow!($inputs.sidecars);
                Some($do)
            }
            AuthorizationPolicy::KIND => {
                let $objects = $borrow!($inputs.authorization_policies);
                Some($do)
            }
            PeerAuthentication::KIND => {
                let $objects = $borrow!($inputs.peer_authentications);
                Some($do)
            }
            RequestAuthentication::KIND => {
                let $objects = $borrow!($inputs.request_authentications);
                Some($do)
            }
            Service::KIND => {
                let $objects = $borrow!($inputs.services);
                Some($do)
            }
            EndpointSlice::KIND => {
                let $objects = $borrow!($inputs.endpoint_slices);
                Some($do)
            }
            Pod::KIND => {
                let $objects = $borrow!($inputs.pods);
                Some($do)
            }
            Node::KIND => {
                let $objects = $borrow!($inputs.nodes);
                Some($do)
            }
            Namespace::KIND => {
                let $objects = $borrow!($inputs.namespaces);
                Some($do)
            }
            _ => None,
        }
    };
}

macro_rules! shared {
    ($objects:expr) => {
        &$objects
    };
}

macro_rules! exclusive {
    ($objects:expr) => {
        &mut $objects
    };
}

impl Inputs {
    /// Whether there is such an object.
    pub fn contains(&self, identity: &Identity) -> bool {
        if identity.kind == MeshConfig::KIND {
            return self.mesh.as_ref().is_some_and(|mesh| mesh.meta.key() == identity.key);
        }
        of_kind!(self, identity.kind, shared, objects => objects.contains_key(&identity.key)).unwrap_or(false)
    }

    /// The keys of the objects of a kind, by its name.
    pub fn keys_of(&self, kind: &str) -> Vec<Key> {
        if kind == MeshConfig::KIND {
            return self.mesh.iter().map(|mesh| mesh.meta.key()).collect();
        }
        of_kind!(self, kind, shared, objects => objects.keys().cloned().collect()).unwrap_or_default()
    }

    /// How many objects of a kind there are, by its name.
    pub fn count_of(&self, kind: &str) -> usize {
        if kind == MeshConfig::KIND {
            return usize::from(self.mesh.is_some());
        }
        of_kind!(self, kind, shared, objects => objects.len()).unwrap_or(0)
    }

    /// The object of this kind and key.
    pub fn get(&self, identity: &Identity) -> Option<Object> {
        let key = &identity.key;
        match identity.kind {
            MeshConfig::KIND => {
                self.mesh.clone().filter(|mesh| mesh.meta.key() == *key).map(Object::MeshConfig)
            }
            VirtualService::KIND => self.virtual_services.get(key).cloned().map(Object::VirtualService),
            DestinationRule::KIND => self.destination_rules.get(key).cloned().map(Object::DestinationRule),
            Gateway::KIND => self.gateways.get(key).cloned().map(Object::Gateway),
            ServiceEntry::KIND => self.service_entries.get(key).cloned().map(Object::ServiceEntry),
            WorkloadEntry::KIND => self.workload_entries.get(key).cloned().map(Object::WorkloadEntry),
            Sidecar::KIND => self.sidecars.get(key).cloned().map(Object::Sidecar),
            AuthorizationPolicy::KIND => {
                self.authorization_policies.get(key).cloned().map(Object::AuthorizationPolicy)
            }
            PeerAuthentication::KIND => {
                self.peer_authentications.get(key).cloned().map(Object::PeerAuthentication)
            }
            RequestAuthentication::KIND => {
                self.request_authentications.get(key).cloned().map(Object::RequestAuthentication)
            }
            Service::KIND => self.services.get(key).cloned().map(Object::Service),
            EndpointSlice::KIND => self.endpoint_slices.get(key).cloned().map(Object::EndpointSlice),
            Pod::KIND => self.pods.get(key).cloned().map(Object::Pod),
            Node::KIND => self.nodes.get(key).cloned().map(Object::Node),
            Namespace::KIND => self.namespaces.get(key).cloned().map(Object::Namespace),
            _ => None,
        }
    }

    /// All of them, kind by kind.
    pub fn objects(&self) -> Vec<Object> {
        let mut all: Vec<Object> = self.mesh.iter().cloned().map(Object::MeshConfig).collect();
        all.extend(self.virtual_services.values().cloned().map(Object::VirtualService));
        all.extend(self.destination_rules.values().cloned().map(Object::DestinationRule));
        all.extend(self.gateways.values().cloned().map(Object::Gateway));
        all.extend(self.service_entries.values().cloned().map(Object::ServiceEntry));
        all.extend(self.workload_entries.values().cloned().map(Object::WorkloadEntry));
        all.extend(self.sidecars.values().cloned().map(Object::Sidecar));
        all.extend(self.authorization_policies.values().cloned().map(Object::AuthorizationPolicy));
        all.extend(self.peer_authentications.values().cloned().map(Object::PeerAuthentication));
        all.extend(self.request_authentications.values().cloned().map(Object::RequestAuthentication));
        all.extend(self.services.values().cloned().map(Object::Service));
        all.extend(self.endpoint_slices.values().cloned().map(Object::EndpointSlice));
        all.extend(self.pods.values().cloned().map(Object::Pod));
        all.extend(self.nodes.values().cloned().map(Object::Node));
        all.extend(self.namespaces.values().cloned().map(Object::Namespace));
        all
    }

    /// Takes an object out; whether it was there.
    pub fn remove(&mut self, identity: &Identity) -> bool {
        if identity.kind == MeshConfig::KIND {
            return self.mesh.take_if(|mesh| mesh.meta.key() == identity.key).is_some();
        }
        of_kind!(self, identity.kind, exclusive, objects => objects.remove(&identity.key).is_some())
            .unwrap_or(false)
    }

    /// As [`Self::insert`], but an object that says what the one in its place says leaves that one there, so that nobody has
    /// to look at it again. Whether anything changed.
    pub fn put(&mut self, object: Object) -> bool {
        match object {
            Object::MeshConfig(object) => {
                let is_new = self.mesh.as_ref() != Some(&object);
                if is_new {
                    self.mesh = Some(object);
                }
                is_new
            }
            Object::VirtualService(object) => put(&mut self.virtual_services, object),
            Object::DestinationRule(object) => put(&mut self.destination_rules, object),
            Object::Gateway(object) => put(&mut self.gateways, object),
            Object::ServiceEntry(object) => put(&mut self.service_entries, object),
            Object::WorkloadEntry(object) => put(&mut self.workload_entries, object),
            Object::Sidecar(object) => put(&mut self.sidecars, object),
            Object::AuthorizationPolicy(object) => put(&mut self.authorization_policies, object),
            Object::PeerAuthentication(object) => put(&mut self.peer_authentications, object),
            Object::RequestAuthentication(object) => put(&mut self.request_authentications, object),
            Object::Service(object) => put(&mut self.services, object),
            Object::EndpointSlice(object) => put(&mut self.endpoint_slices, object),
            Object::Pod(object) => put(&mut self.pods, object),
            Object::Node(object) => put(&mut self.nodes, object),
            Object::Namespace(object) => put(&mut self.namespaces, object),
        }
    }
}

fn put<T: PartialEq>(objects: &mut Objects<T>, object: Arc<Resource<T>>) -> bool {
    let key = object.meta.key();
    let is_new = objects.get(&key).is_none_or(|there| **there != *object);
    if is_new {
        objects.insert(key, object);
    }
    is_new
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api;

    fn service(port: u16) -> Object {
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n"},
            "spec": {"ports": [{"port": port}]}});
        api::parse(value, Default::default()).object.unwrap()
    }

    fn mesh(namespace: &str) -> Object {
        let meta =
            api::meta::ObjectMeta { name: "istio".into(), namespace: namespace.into(), ..Default::default() };
        api::parse_mesh_config(json!({}), &meta, Default::default()).object.unwrap()
    }

    #[test]
    fn what_says_the_same_stays_where_it_is_and_what_says_another_thing_takes_its_place() {
        let mut inputs = Inputs::default();
        assert!(inputs.put(service(80)));
        let before = inputs.services.clone();
        assert!(!inputs.put(service(80)));
        assert!(inputs.services.is_same(&before));
        assert!(inputs.put(service(81)));
        assert!(!inputs.services.is_same(&before));
    }

    #[test]
    fn an_object_is_found_and_removed_by_kind_and_key() {
        let mut inputs = Inputs::default();
        for object in [service(80), mesh("istio-system")] {
            let identity = Identity { kind: object.kind(), key: object.key() };
            let other = Identity { kind: object.kind(), key: Key::new("n", "b") };
            assert!(!inputs.contains(&identity) && !inputs.remove(&identity));
            inputs.put(object);
            assert!(inputs.contains(&identity) && !inputs.contains(&other));
            assert_eq!(inputs.get(&identity).as_slice(), inputs.objects());
            assert_eq!(inputs.get(&other), None);
            assert_eq!((inputs.keys_of(identity.kind).len(), inputs.count_of(identity.kind)), (1, 1));
            assert!(!inputs.remove(&other) && inputs.remove(&identity) && !inputs.contains(&identity));
        }
        assert_eq!(inputs, Inputs::default());
        assert_eq!((inputs.count_of("Deployment"), inputs.keys_of("Deployment").len()), (0, 0));
    }
}
