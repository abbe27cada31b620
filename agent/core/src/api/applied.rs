//! What becomes of an object that is there when another version of it is applied, as `kubectl apply` would.

use std::sync::Arc;

use super::Object;
use super::meta::Resource;

impl Object {
    /// This object applied over `there`, which has the same kind and key; `None`: nothing would change.
    ///
    /// What others have written stays: labels and annotations that this one does not name, the addresses that the API server
    /// gave a Service, the time of creation. Endpoints, Nodes and Pods that are there stay as they are: controllers write
    /// them, and almost nothing of a Pod may change.
    pub fn applied_over(&self, there: &Self) -> Option<Self> {
        match (self, there) {
            (Object::MeshConfig(mine), Object::MeshConfig(there)) => {
                over(mine, there).map(Object::MeshConfig)
            }
            (Object::VirtualService(mine), Object::VirtualService(there)) => {
                over(mine, there).map(Object::VirtualService)
            }
            (Object::DestinationRule(mine), Object::DestinationRule(there)) => {
                over(mine, there).map(Object::DestinationRule)
            }
            (Object::Gateway(mine), Object::Gateway(there)) => over(mine, there).map(Object::Gateway),
            (Object::ServiceEntry(mine), Object::ServiceEntry(there)) => {
                over(mine, there).map(Object::ServiceEntry)
            }
            (Object::WorkloadEntry(mine), Object::WorkloadEntry(there)) => {
                over(mine, there).map(Object::WorkloadEntry)
            }
            (Object::Sidecar(mine), Object::Sidecar(there)) => over(mine, there).map(Object::Sidecar),
            (Object::AuthorizationPolicy(mine), Object::AuthorizationPolicy(there)) => {
                over(mine, there).map(Object::AuthorizationPolicy)
            }
            (Object::PeerAuthentication(mine), Object::PeerAuthentication(there)) => {
                over(mine, there).map(Object::PeerAuthentication)
            }
            (Object::RequestAuthentication(mine), Object::RequestAuthentication(there)) => {
                over(mine, there).map(Object::RequestAuthentication)
            }
            (Object::Namespace(mine), Object::Namespace(there)) => over(mine, there).map(Object::Namespace),
            (Object::Service(mine), Object::Service(there)) => {
                let mut mine = Resource::clone(mine);
                if mine.spec.cluster_ips.is_empty()
                    && !mine.spec.headless
                    && mine.spec.external_name.is_none()
                {
                    mine.spec.cluster_ips.clone_from(&there.spec.cluster_ips);
                }
                over(&mine, there).map(Object::Service)
            }
            _ => None,
        }
    }
}

fn over<T: Clone + PartialEq>(mine: &Resource<T>, there: &Resource<T>) -> Option<Arc<Resource<T>>> {
    let mut meta = there.meta.clone();
    Arc::make_mut(&mut meta.labels)
        .extend(mine.meta.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
    meta.annotations.extend(mine.meta.annotations.clone());
    if meta == there.meta && mine.spec == there.spec {
        return None;
    }
    Some(Arc::new(Resource { meta, spec: mine.spec.clone(), origin: mine.origin.clone() }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::parse;
    use super::*;

    fn object(value: Value) -> Object {
        parse(value, Default::default()).object.unwrap()
    }

    fn service(spec: &Value) -> Object {
        object(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n"}, "spec": spec}),
        )
    }

    #[test]
    fn what_others_wrote_stays_and_is_no_change() {
        let there = object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a",
            "labels": {"x": "1", "y": "2"}, "creationTimestamp": "2026-01-01T00:00:00Z"}}));
        let file = |labels: Value| {
            object(
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "labels": labels}}),
            )
        };
        assert_eq!(file(json!({"x": "1"})).applied_over(&there), None);
        let after = file(json!({"x": "3"})).applied_over(&there).unwrap();
        assert_eq!(
            after.meta().labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(),
            [("x", "3"), ("y", "2")]
        );
        assert_eq!(after.meta().creation_timestamp, there.meta().creation_timestamp);
    }

    #[test]
    fn a_service_keeps_the_address_it_was_given_unless_told_otherwise() {
        let there = service(&json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
        assert_eq!(service(&json!({"ports": [{"port": 80}]})).applied_over(&there), None);
        for spec in [json!({"ports": [{"port": 81}]}), json!({"clusterIP": "None", "ports": [{"port": 80}]})]
        {
            assert!(service(&spec).applied_over(&there).is_some(), "{spec}");
        }
    }
}
