//! The rules of Istio's admission: what an object must be to be let in, one object at a time.
//!
//! Messages are Istio's where it has some (istio/istio `pkg/config/validation`), since people search for them. References to
//! other objects are not looked at; `compile` does that. Where Istio refuses a whole route table because of one value that its
//! admission lets through, `compile` refuses that one route (DESIGN D8).

mod authentication;
mod authorization;
mod connection_pool;
mod destination_rule;
mod gateway;
mod header_value;
mod headers;
mod http_match;
mod http_route;
mod l4;
mod load_balancer;
mod reachability;
mod service_entry;
mod sidecar;
mod values;
mod virtual_service;

use std::sync::Arc;

use super::Object;
use super::meta::{Kinded, ObjectMeta, Resource};
use super::origin::{Origin, push_index, push_key};
use crate::diagnostic::{Code, Diagnostic, Severity};

/// All that Istio's admission would say, in the order of the fields. An error among them: the object must not be applied.
pub fn validate(object: &Object) -> Vec<Diagnostic> {
    match object {
        Object::VirtualService(resource) => run(resource, "spec", virtual_service::check),
        Object::DestinationRule(resource) => run(resource, "spec", destination_rule::check),
        Object::Gateway(resource) => run(resource, "spec", gateway::check),
        Object::ServiceEntry(resource) => run(resource, "spec", service_entry::check),
        Object::WorkloadEntry(resource) => run(resource, "spec", |check, spec| {
            service_entry::workload_entry(check, spec, None, true);
        }),
        Object::Sidecar(resource) => run(resource, "spec", sidecar::check),
        Object::AuthorizationPolicy(resource) => run(resource, "spec", authorization::check),
        Object::PeerAuthentication(resource) => run(resource, "spec", authentication::peer),
        Object::RequestAuthentication(resource) => run(resource, "spec", authentication::request),
        Object::MeshConfig(resource) => run(resource, "", |check, mesh| {
            check.field("connectTimeout", |check| values::duration(check, mesh.connect_timeout));
            check.field("defaultHttpRetryPolicy", |check| {
                http_route::retries(check, mesh.default_http_retry_policy.as_ref());
            });
            check.field("defaultTrafficPolicy", |check| {
                destination_rule::traffic_policy(check, mesh.default_traffic_policy.as_ref());
            });
            check.field("localityLbSetting", |check| {
                load_balancer::locality(check, mesh.locality_lb_setting.as_ref(), true);
            });
        }),
        // Kubernetes has validated its own objects; what routing needs of them was checked by parse.
        Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::Pod(_)
        | Object::Node(_)
        | Object::Namespace(_) => Vec::new(),
    }
}

fn run<T: Kinded>(
    resource: &Resource<T>,
    root: &str,
    rules: impl FnOnce(&mut Checker<'_>, &T),
) -> Vec<Diagnostic> {
    let mut checker = Checker {
        kind: T::KIND,
        meta: &resource.meta,
        origin: &resource.origin,
        path: root.to_owned(),
        diagnostics: Vec::new(),
    };
    rules(&mut checker, &resource.spec);
    checker.diagnostics
}

/// Collects what is wrong, and knows which field it is at.
struct Checker<'a> {
    kind: &'static str,
    meta: &'a ObjectMeta,
    origin: &'a Arc<Origin>,
    path: String,
    diagnostics: Vec<Diagnostic>,
}

impl Checker<'_> {
    /// Goes down to the field `name`; `a.b` goes down two.
    fn field<R>(&mut self, name: &str, inside: impl FnOnce(&mut Self) -> R) -> R {
        let end = self.path.len();
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
        let result = inside(self);
        self.path.truncate(end);
        result
    }

    /// Goes down to an entry of a map whose keys are the user's.
    fn key<R>(&mut self, key: &str, inside: impl FnOnce(&mut Self) -> R) -> R {
        let end = self.path.len();
        push_key(&mut self.path, key);
        let result = inside(self);
        self.path.truncate(end);
        result
    }

    /// Goes through the items of the list `name`.
    fn items<T>(&mut self, name: &str, items: &[T], mut inside: impl FnMut(&mut Self, &T)) {
        self.field(name, |check| {
            let end = check.path.len();
            for (index, item) in items.iter().enumerate() {
                push_index(&mut check.path, index);
                inside(check, item);
                check.path.truncate(end);
            }
        });
    }

    fn error(&mut self, code: Code, message: impl Into<String>) {
        self.say(Severity::Error, code, message);
    }

    fn warn(&mut self, code: Code, message: impl Into<String>) {
        self.say(Severity::Warning, code, message);
    }

    /// A warning about the field `name` below.
    fn warn_at(&mut self, name: &str, code: Code, message: impl Into<String>) {
        self.field(name, |check| check.warn(code, message));
    }

    /// An error about the field `name` below.
    fn error_at(&mut self, name: &str, code: Code, message: impl Into<String>) {
        self.field(name, |check| check.error(code, message));
    }

    fn say(&mut self, severity: Severity, code: Code, message: impl Into<String>) {
        self.diagnostics.push(Diagnostic {
            severity,
            code,
            kind: self.kind.to_owned(),
            namespace: self.meta.namespace.to_string(),
            name: self.meta.name.to_string(),
            field: self.path.clone(),
            file: self.origin.file().map(str::to_owned),
            line: self.origin.line(&self.path),
            message: message.into(),
            hint: String::new(),
        });
    }

    /// An error about the object's name, which is outside of the content.
    fn error_at_name(&mut self, code: Code, message: impl Into<String>) {
        let path = std::mem::replace(&mut self.path, "metadata.name".to_owned());
        self.error(code, message);
        self.path = path;
    }

    /// Adds advice to the last remark.
    fn hint(&mut self, hint: impl Into<String>) {
        if let Some(last) = self.diagnostics.last_mut() {
            last.hint = hint.into();
        }
    }
}

#[cfg(test)]
mod tests;
