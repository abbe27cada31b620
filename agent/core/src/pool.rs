//! What many objects have in common, kept once: texts (namespaces, nodes, zones, names that others refer to), labels, lists of
//! ports.
//!
//! A cluster of a hundred thousand endpoints says the same few thousand things over and over. Whoever keeps many objects takes
//! each through a pool; what equals something it knows then *is* that. Nothing depends on it but memory: objects compare by what
//! they say.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::api::Object;
use crate::api::meta::{Key, Labels, Resource};
use crate::api::origin::Origin;
use crate::inventory::{ContainerPort, EndpointPort, EndpointSlice, Pod, Service, TargetPort};

/// See the module's text.
#[derive(Debug, Default)]
pub struct Pool {
    texts: Known<str>,
    labels: HashSet<Labels>,
    container_ports: Known<[ContainerPort]>,
    endpoint_ports: Known<[EndpointPort]>,
    /// Of what was read from no file.
    nowhere: Arc<Origin>,
    /// How many there were after the last sweep.
    kept: usize,
}

type Known<T> = HashSet<Arc<T>>;

/// Before so many new things it is not looked for those that nobody has any more.
const SLACK: usize = 1024;

impl Pool {
    /// An object with its texts, labels and ports shared. One that is in use elsewhere already stays as it is.
    pub fn share(&mut self, object: &mut Object) {
        match object {
            Object::Service(it) => self.resource(it, Self::service),
            Object::EndpointSlice(it) => self.resource(it, Self::slice),
            Object::Pod(it) => self.resource(it, Self::pod),
            Object::VirtualService(it) => self.resource(it, |_, _| ()),
            Object::DestinationRule(it) => self.resource(it, |_, _| ()),
            // Of the others there are few.
            _ => {}
        }
        self.sweep();
    }

    fn resource<T>(&mut self, object: &mut Arc<Resource<T>>, spec: impl FnOnce(&mut Self, &mut T)) {
        if let Some(object) = Arc::get_mut(object) {
            // The name too: an endpoint refers to its pod, a rule has its service's.
            self.text(&mut object.meta.name);
            self.text(&mut object.meta.namespace);
            shared(&mut self.labels, &mut object.meta.labels);
            if object.origin == self.nowhere {
                object.origin = self.nowhere.clone();
            }
            spec(self, &mut object.spec);
        }
    }

    fn service(&mut self, service: &mut Service) {
        shared(&mut self.labels, &mut service.selector);
        for port in &mut service.ports {
            self.text(&mut port.name);
            if let TargetPort::Name(name) = &mut port.target_port {
                self.text(name);
            }
        }
    }

    fn slice(&mut self, slice: &mut EndpointSlice) {
        self.text(&mut slice.service);
        for endpoint in &mut slice.endpoints {
            self.text(&mut endpoint.hostname);
            self.text(&mut endpoint.node);
            self.text(&mut endpoint.zone);
            if let Some(Key { namespace, name }) = &mut endpoint.pod {
                self.text(namespace);
                self.text(name);
            }
        }
        shared(&mut self.endpoint_ports, &mut slice.ports);
    }

    fn pod(&mut self, pod: &mut Pod) {
        self.text(&mut pod.node);
        self.text(&mut pod.service_account);
        self.text(&mut pod.hostname);
        shared(&mut self.container_ports, &mut pod.ports);
    }

    fn text(&mut self, text: &mut Arc<str>) {
        shared(&mut self.texts, text);
    }

    /// The text, as it is known.
    pub(crate) fn known(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.texts.insert(new.clone());
        new
    }

    /// Forgets what nobody else has any more, if much has come since the last time.
    pub(crate) fn sweep(&mut self) {
        if self.len() > 2 * self.kept + SLACK {
            retain(&mut self.texts);
            retain(&mut self.labels);
            retain(&mut self.container_ports);
            retain(&mut self.endpoint_ports);
            self.kept = self.len();
        }
    }

    fn len(&self) -> usize {
        self.texts.len() + self.labels.len() + self.container_ports.len() + self.endpoint_ports.len()
    }
}

/// Becomes the one of these that is equal, or one of them.
fn shared<T: ?Sized + Eq + Hash>(known: &mut Known<T>, one: &mut Arc<T>) {
    match known.get(&**one) {
        Some(same) => *one = same.clone(),
        None => {
            known.insert(one.clone());
        }
    }
}

fn retain<T: ?Sized + Eq + Hash>(known: &mut Known<T>) {
    known.retain(|one| Arc::strong_count(one) > 1);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api;

    fn object(value: Value) -> Object {
        api::parse(value, Default::default()).object.unwrap()
    }

    fn pod(name: &str, app: &str) -> Object {
        object(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "n", "labels": {"app": app}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}}))
    }

    fn is_same<T: ?Sized>(a: &Arc<T>, b: &Arc<T>) -> bool {
        Arc::ptr_eq(a, b)
    }

    #[test]
    fn what_is_said_twice_is_kept_once_and_says_the_same() {
        let mut pool = Pool::default();
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "s-1", "namespace": "n", "labels": {"kubernetes.io/service-name": "s"}},
            "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "a"}}],
            "ports": [{"name": "http", "port": 80}]});
        let [mut a, mut b, mut c, mut s] = [pod("a", "x"), pod("b", "x"), pod("c", "y"), object(slice)];
        let before = [a.clone(), b.clone(), c.clone(), s.clone()].map(|it| format!("{it:?}"));
        for object in [&mut a, &mut b, &mut c, &mut s] {
            pool.share(object);
        }
        assert_eq!([&a, &b, &c, &s].map(|it| format!("{it:?}")), before);
        let (Object::Pod(a), Object::Pod(b), Object::Pod(c), Object::EndpointSlice(s)) = (a, b, c, s) else {
            panic!("kinds change");
        };
        assert!(is_same(&a.meta.labels, &b.meta.labels) && !is_same(&a.meta.labels, &c.meta.labels));
        assert!(is_same(&a.meta.namespace, &c.meta.namespace) && is_same(&a.spec.ports, &c.spec.ports));
        let endpoint = &s.spec.endpoints[0];
        let of = endpoint.pod.as_ref().unwrap();
        assert!(is_same(&endpoint.node, &a.spec.node) && is_same(&of.name, &a.meta.name));
    }

    #[test]
    fn what_is_in_use_elsewhere_is_left_alone() {
        let mut pool = Pool::default();
        let (mut a, mut b) = (pod("a", "x"), pod("b", "x"));
        let _user = b.clone();
        pool.share(&mut a);
        pool.share(&mut b);
        let (Object::Pod(a), Object::Pod(b)) = (a, b) else { panic!("kinds change") };
        assert!(!is_same(&a.meta.labels, &b.meta.labels));
    }

    #[test]
    fn what_nobody_has_any_more_is_forgotten() {
        let mut pool = Pool::default();
        let mut kept = pod("kept", "x");
        pool.share(&mut kept);
        for number in 0..10 * SLACK {
            pool.share(&mut pod(&format!("a-{number}"), "x"));
        }
        assert!(pool.len() < 4 * SLACK, "{}", pool.len());
        let mut again = pod("kept", "x");
        pool.share(&mut again);
        let (Object::Pod(kept), Object::Pod(again)) = (kept, again) else { panic!("kinds change") };
        assert!(is_same(&kept.meta.name, &again.meta.name));
    }
}
