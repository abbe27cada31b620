//! A large mesh, as a cluster has it: namespaces of services, a slice and pods for each, rules and policies for some.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde_json::{Value, json};
use undermesh_core::api::meta::{Key, ObjectMeta, Resource};
use undermesh_core::api::origin::Origin;
use undermesh_core::api::{Object, parse};
use undermesh_core::inputs::Inputs;
use undermesh_core::inventory::{
    ContainerPort, Endpoint, EndpointPort, EndpointSlice, Namespace, Node, Pod, Service, ServicePort,
    TargetPort, Transport,
};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Services, spread over namespaces of a hundred.
    pub services: usize,
    /// Endpoints of each service, each a pod.
    pub endpoints: usize,
    /// The first services have a VirtualService each.
    pub virtual_services: usize,
    /// The first services have a DestinationRule each.
    pub destination_rules: usize,
    /// Nodes, in three zones.
    pub nodes: usize,
}

impl Size {
    /// What docs/scale.md is about.
    pub const LARGE: Self = Self {
        services: 10_000,
        endpoints: 10,
        virtual_services: 2_000,
        destination_rules: 2_000,
        nodes: 1_000,
    };
}

/// The namespace of a service.
pub fn namespace(service: usize) -> String {
    format!("team-{:03}", service / 100)
}

/// The name of a service.
pub fn name(service: usize) -> String {
    format!("service-{service:05}")
}

/// The cluster IP of a service; it has port 80.
pub fn address(service: usize) -> IpAddr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 96, 0, 1)) + service as u32).into()
}

/// The pod of an endpoint.
pub fn pod(service: usize, endpoint: usize) -> Key {
    let version = endpoint % 2 + 1;
    Key::new(namespace(service), format!("{}-v{version}-6f5d8c7b9-{endpoint:05}", name(service)))
}

/// All of it.
pub fn inputs(size: Size) -> Inputs {
    let mut inputs = Inputs::default();
    for number in 0..size.nodes {
        let zone = format!("eu-1{}", ['a', 'b', 'c'][number % 3]);
        let spec = Node { region: "eu-1".into(), zone, ..Node::default() };
        inputs.insert(Object::Node(resource("", &format!("node-{number:04}"), &[], spec)));
    }
    for service in 0..size.services {
        if service % 100 == 0 {
            let labels = [("istio.io/dataplane-mode", "undermesh".to_owned())];
            inputs.insert(Object::Namespace(resource(
                "",
                &namespace(service),
                &labels,
                Namespace::default(),
            )));
        }
        inputs.insert(Object::Service(self::service(service)));
        inputs.insert(Object::EndpointSlice(slice(service, size.endpoints, size.nodes)));
        for endpoint in 0..size.endpoints {
            inputs.insert(Object::Pod(running(service, endpoint, size.nodes)));
        }
    }
    for service in 0..size.virtual_services.min(size.services) {
        inputs.insert(virtual_service(service, 90));
    }
    for service in 0..size.destination_rules.min(size.services) {
        inputs.insert(object(destination_rule_manifest(service)));
    }
    inputs
}

fn resource<T>(namespace: &str, name: &str, labels: &[(&str, String)], spec: T) -> Arc<Resource<T>> {
    let labels: BTreeMap<_, _> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let meta = ObjectMeta {
        name: name.into(),
        namespace: namespace.into(),
        labels: labels.into(),
        ..ObjectMeta::default()
    };
    Arc::new(Resource { meta, spec, origin: Arc::default() })
}

/// A service.
pub fn service(service: usize) -> Arc<Resource<Service>> {
    let port = ServicePort {
        name: "http".into(),
        number: 80,
        target_port: TargetPort::Number(8080),
        transport: Transport::Tcp,
        app_protocol: None,
    };
    let spec = Service {
        cluster_ips: address(service).into(),
        ports: [port].into(),
        selector: BTreeMap::from([("app".to_owned(), name(service))]).into(),
        ..Service::default()
    };
    resource(&namespace(service), &name(service), &[], spec)
}

/// The node that an endpoint is on.
fn node(service: usize, endpoint: usize, nodes: usize) -> usize {
    (service * 7 + endpoint * 131) % nodes.max(1)
}

fn pod_address(service: usize, endpoint: usize) -> IpAddr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + (service * 64 + endpoint) as u32).into()
}

/// The EndpointSlice of a service with so many endpoints, all ready.
pub fn slice(service: usize, endpoints: usize, nodes: usize) -> Arc<Resource<EndpointSlice>> {
    let endpoint = |endpoint| Endpoint {
        addresses: pod_address(service, endpoint).into(),
        is_ready: true,
        is_serving: true,
        is_terminating: false,
        hostname: Arc::default(),
        node: format!("node-{:04}", node(service, endpoint, nodes)).into(),
        zone: Arc::default(),
        pod: Some(pod(service, endpoint)),
    };
    let spec = EndpointSlice {
        service: name(service).into(),
        endpoints: (0..endpoints).map(endpoint).collect(),
        ports: [EndpointPort { name: "http".into(), number: Some(8080), transport: Transport::Tcp }].into(),
    };
    resource(&namespace(service), &format!("{}-x7k2p", name(service)), &[], spec)
}

/// The pod of an endpoint.
pub fn running(service: usize, endpoint: usize, nodes: usize) -> Arc<Resource<Pod>> {
    let version = endpoint % 2 + 1;
    let labels = [
        ("app", name(service)),
        ("version", format!("v{version}")),
        ("pod-template-hash", "6f5d8c7b9".to_owned()),
        ("app.kubernetes.io/part-of", namespace(service)),
    ];
    let spec = Pod {
        ips: pod_address(service, endpoint).into(),
        node: format!("node-{:04}", node(service, endpoint, nodes)).into(),
        service_account: name(service).into(),
        is_ready: true,
        ports: [ContainerPort { name: "http".into(), number: 8080, transport: Transport::Tcp }].into(),
        ..Pod::default()
    };
    let key = pod(service, endpoint);
    resource(&key.namespace, &key.name, &labels, spec)
}

/// The VirtualService of a service: a canary by header, a path rewritten, and the rest split by weight.
pub fn virtual_service(service: usize, weight: u32) -> Object {
    object(virtual_service_manifest(service, weight))
}

/// The same as it is written.
pub fn virtual_service_manifest(service: usize, weight: u32) -> Value {
    let to = |subset: &str| json!({"host": name(service), "subset": subset});
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name(service), "namespace": namespace(service)},
        "spec": {"hosts": [name(service)], "http": [
            {"match": [{"headers": {"x-canary": {"exact": "yes"}}}], "route": [{"destination": to("v2")}]},
            {"match": [{"uri": {"prefix": "/v1/"}}, {"uri": {"exact": "/v1"}}], "rewrite": {"uri": "/"},
             "headers": {"request": {"set": {"x-version": "1"}}}, "route": [{"destination": to("v1")}]},
            {"timeout": "10s", "retries": {"attempts": 3, "perTryTimeout": "2s", "retryOn": "5xx"},
             "route": [{"destination": to("v1"), "weight": weight}, {"destination": to("v2"), "weight": 100 - weight}]},
        ]},
    })
}

/// The DestinationRule of a service: limits for all of it, and two subsets.
pub fn destination_rule_manifest(service: usize) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": name(service), "namespace": namespace(service)},
        "spec": {
            "host": name(service),
            "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 100}, "http": {"http2MaxRequests": 1000}},
                              "outlierDetection": {"consecutive5xxErrors": 7}},
            "subsets": [{"name": "v1", "labels": {"version": "v1"}},
                        {"name": "v2", "labels": {"version": "v2"}, "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}],
        },
    })
}

/// A VirtualService of namespace `team-000` for the first service, with so many rules for paths and a last one for the rest:
/// of ten rules seven have an exact path, two a prefix, one an expression if `with_expressions`.
pub fn many_routes(routes: usize, with_expressions: bool) -> Object {
    let rule = |number: usize| {
        let uri = match number % 10 {
            9 if with_expressions => json!({"regex": format!("/api/v1/users/[0-9]+/{number}")}),
            7..=9 => json!({"prefix": format!("/api/v1/group-{number:05}/")}),
            _ => json!({"exact": format!("/api/v1/items/{number:05}")}),
        };
        json!({"match": [{"uri": uri}], "route": [{"destination": {"host": name(0)}}]})
    };
    let mut rules: Vec<Value> = (0..routes.saturating_sub(1)).map(rule).collect();
    rules.push(json!({"route": [{"destination": {"host": name(0)}}]}));
    object(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name(0), "namespace": namespace(0)},
        "spec": {"hosts": [name(0)], "http": rules},
    }))
}

/// The object of a manifest.
///
/// # Panics
/// If it is refused.
pub fn object(manifest: Value) -> Object {
    let parsed = parse(manifest, Origin::default());
    parsed.object.unwrap_or_else(|| panic!("{:?}", parsed.diagnostics))
}

#[cfg(test)]
mod tests {
    use undermesh_core::compile::compile;

    use super::*;

    #[test]
    fn the_mesh_is_as_large_as_asked_and_sound() {
        let size =
            Size { services: 210, endpoints: 3, virtual_services: 20, destination_rules: 20, nodes: 9 };
        let inputs = inputs(size);
        let sizes = (inputs.services.len(), inputs.pods.len(), inputs.namespaces.len());
        assert_eq!(sizes, (210, 630, 3));
        let compiled = compile(&inputs);
        assert_eq!(compiled.diagnostics, []);
        let endpoints = compiled.snapshot.services().iter().map(|service| service.ports[0].endpoints.len());
        assert_eq!(endpoints.sum::<usize>(), 630);
    }
}
