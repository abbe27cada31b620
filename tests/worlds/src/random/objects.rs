//! Manifests of the registry and of Istio's kinds.

use serde_json::{Value, json};

use super::rules;
use crate::chance::Chance;

pub(super) const NAMESPACES: [&str; 3] = ["shop", "ops", "istio-system"];
pub(super) const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];
const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn at<'a>(chance: &mut Chance, of: &[&'a str]) -> &'a str {
    of[chance.below(of.len())]
}

fn place(text: &str, among: &[&str]) -> usize {
    among.iter().position(|it| *it == text).unwrap_or_default()
}

/// The address of a service, always the same.
pub(super) fn cluster_ip(namespace: &str, name: &str) -> String {
    format!("10.96.{}.{}", place(namespace, &NAMESPACES), place(name, &NAMES) + 1)
}

fn pod_ip(namespace: &str, number: usize) -> String {
    format!("10.244.{}.{}", place(namespace, &NAMESPACES), number + 1)
}

/// Something to begin with, so that no world is empty: three services with pods.
pub(super) fn registry(chance: &mut Chance) -> Vec<Value> {
    let mut all = Vec::new();
    for name in ["a", "b", "c"] {
        all.push(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIP": cluster_ip("shop", name), "selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}));
    }
    all.extend((0..6).map(|number| pod(chance, "shop", number)));
    all
}

pub(super) fn any(chance: &mut Chance) -> Value {
    match chance.below(32) {
        0..=4 => pod_of_any(chance),
        5..=8 => slice(chance),
        9..=11 => service(chance),
        12 => node(chance),
        13 => workload_entry(chance),
        14..=15 => service_entry(chance),
        16..=24 => rules::virtual_service(chance),
        25..=28 => destination_rule(chance),
        29 => gateway(chance),
        30 => sidecar(chance),
        _ => namespace(chance),
    }
}

fn pod_of_any(chance: &mut Chance) -> Value {
    let (namespace, number) = (at(chance, &NAMESPACES), chance.below(6));
    pod(chance, namespace, number)
}

fn pod(chance: &mut Chance, namespace: &str, number: usize) -> Value {
    let ready = if chance.once_in(6) { "False" } else { "True" };
    let mut metadata = json!({"name": format!("p{number}"), "namespace": namespace,
        "labels": {"app": at(chance, &NAMES), "version": at(chance, &VERSIONS)}});
    if chance.once_in(10) {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {"nodeName": at(chance, &NODES), "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": pod_ip(namespace, number), "conditions": [{"type": "Ready", "status": ready}]}})
}

fn service(chance: &mut Chance) -> Value {
    let (namespace, name) = (at(chance, &NAMESPACES), at(chance, &NAMES));
    let mut spec = match chance.below(8) {
        0 => json!({"clusterIP": "None"}),
        1 => json!({"type": "ExternalName", "externalName": host(chance)}),
        _ => json!({"clusterIP": cluster_ip(namespace, name)}),
    };
    if spec.get("externalName").is_none() && !chance.once_in(5) {
        spec["selector"] = json!({"app": name});
    }
    let ports = json!([
        {"name": "http", "port": 80, "targetPort": if chance.once_in(2) { json!("web") } else { json!(8080) }},
        {"name": "tcp-x", "port": 9000},
        {"name": "x", "port": 8080},
    ]);
    let count = 1 + chance.below(3);
    spec["ports"] =
        ports.as_array().map(|ports| ports.iter().take(count).cloned().collect()).unwrap_or_default();
    let mut metadata = json!({"name": name, "namespace": namespace});
    if chance.once_in(6) {
        metadata["annotations"] = json!({"networking.istio.io/exportTo": at(chance, &[".", "*", "shop"])});
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
}

fn slice(chance: &mut Chance) -> Value {
    let (namespace, name) = (at(chance, &NAMESPACES), at(chance, &NAMES));
    let endpoints = (0..chance.below(4)).map(|_| {
        let number = chance.below(6);
        // The pod of another namespace: nobody writes that, and it must not confuse anything.
        let of = if chance.once_in(8) { at(chance, &NAMESPACES) } else { namespace };
        json!({"addresses": [pod_ip(of, number)], "nodeName": at(chance, &NODES), "zone": at(chance, &["", "z9"]),
            "conditions": {"ready": !chance.once_in(5), "terminating": chance.once_in(9)},
            "targetRef": {"kind": "Pod", "name": format!("p{number}"), "namespace": of}})
    });
    let endpoints: Vec<_> = endpoints.collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{}-{}", at(chance, &NAMES), chance.below(2)), "namespace": namespace,
                     "labels": {"kubernetes.io/service-name": name}},
        "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}, {"name": "tcp-x", "port": 9000}]})
}

fn node(chance: &mut Chance) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": at(chance, &NODES), "labels": {
        "topology.kubernetes.io/region": at(chance, &["r1", "r2"]), "topology.kubernetes.io/zone": at(chance, &["z1", "z2"])}}})
}

fn workload_entry(chance: &mut Chance) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
        "metadata": {"name": format!("w{}", chance.below(2)), "namespace": at(chance, &NAMESPACES)},
        "spec": {"address": format!("192.0.2.{}", chance.below(4) + 1), "labels": {"app": at(chance, &NAMES), "version": at(chance, &VERSIONS)}}})
}

fn service_entry(chance: &mut Chance) -> Value {
    let mut spec = json!({"hosts": [at(chance, &["ext.example", "other.example", "*.wild.example", "a.shop.svc.cluster.local"])],
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}, {"number": 443, "name": "tls", "protocol": "TLS"}],
        "location": at(chance, &["MESH_EXTERNAL", "MESH_INTERNAL"])});
    match chance.below(4) {
        0 => spec["resolution"] = json!("NONE"),
        1 => {
            spec["resolution"] = json!("STATIC");
            spec["workloadSelector"] = json!({"labels": {"app": at(chance, &NAMES)}});
        }
        2 => {
            spec["resolution"] = json!("STATIC");
            spec["endpoints"] = json!([{"address": "198.51.100.1"}, {"address": "198.51.100.2", "labels": {"version": "v1"}}]);
        }
        _ => spec["resolution"] = json!("DNS"),
    }
    match chance.below(3) {
        0 => spec["addresses"] = json!(["240.0.0.1"]),
        1 if spec["resolution"] == "NONE" => spec["addresses"] = json!(["240.1.0.0/16"]),
        _ => {}
    }
    export_to(chance, &mut spec);
    json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": format!("e{}", chance.below(3)), "namespace": at(chance, &NAMESPACES)}, "spec": spec})
}

pub(super) fn export_to(chance: &mut Chance, spec: &mut Value) {
    if chance.once_in(5) {
        spec["exportTo"] = json!([at(chance, &[".", "*", "ops"])]);
    }
}

/// A host as rules write it.
pub(super) fn host(chance: &mut Chance) -> String {
    let (namespace, name) = (at(chance, &NAMESPACES), at(chance, &NAMES));
    match chance.below(10) {
        0..=4 => name.to_owned(),
        5..=7 => format!("{name}.{namespace}.svc.cluster.local"),
        8 => format!("{name}.{namespace}"),
        _ => at(chance, &["ext.example", "x.wild.example", "nobody.example"]).to_owned(),
    }
}

fn destination_rule(chance: &mut Chance) -> Value {
    let wildcard = chance.once_in(8);
    let host = if wildcard { "*.shop.svc.cluster.local".to_owned() } else { host(chance) };
    let mut spec = json!({"host": host});
    let mut subsets = Vec::new();
    for version in VERSIONS {
        let mut subset = json!({"name": version, "labels": {"version": version}});
        if chance.once_in(3) {
            subset["trafficPolicy"] = policy(chance);
        }
        if !chance.once_in(5) {
            subsets.push(subset);
        }
    }
    if !wildcard {
        spec["subsets"] = json!(subsets);
    }
    if chance.once_in(2) {
        spec["trafficPolicy"] = policy(chance);
    }
    export_to(chance, &mut spec);
    json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": format!("r{}", chance.below(6)), "namespace": at(chance, &NAMESPACES), "creationTimestamp": created(chance)},
        "spec": spec})
}

/// Few times, so that age sometimes leaves it to the names.
pub(super) fn created(chance: &mut Chance) -> String {
    format!("2026-01-0{}T00:00:00Z", chance.below(3) + 1)
}

fn policy(chance: &mut Chance) -> Value {
    match chance.below(4) {
        0 => json!({"loadBalancer": {"simple": at(chance, &["ROUND_ROBIN", "RANDOM", "LEAST_REQUEST"])}}),
        1 => {
            json!({"connectionPool": {"http": {"http2MaxRequests": 10}}, "portLevelSettings": [{"port": {"number": 80}, "loadBalancer": {"simple": "RANDOM"}}]})
        }
        2 => json!({"tls": {"mode": "DISABLE"}}),
        _ => json!({"outlierDetection": {"consecutive5xxErrors": 3}}),
    }
}

fn gateway(chance: &mut Chance) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": at(chance, &NAMESPACES)},
        "spec": {"selector": {"istio": "in"}, "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"},
                 "hosts": [at(chance, &["*", "*.example", "shop/*", "./ext.example"])]}]}})
}

fn sidecar(chance: &mut Chance) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": "default", "namespace": at(chance, &NAMESPACES)},
        "spec": {"egress": [{"hosts": [at(chance, &["*/*", "./*", "shop/*", "*/a.shop.svc.cluster.local"])]}]}})
}

fn namespace(chance: &mut Chance) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": at(chance, &NAMESPACES)}})
}

/// Mesh settings.
pub(super) fn mesh(chance: &mut Chance) -> Value {
    match chance.below(5) {
        0 => json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}),
        1 => json!({"defaultVirtualServiceExportTo": ["."], "defaultDestinationRuleExportTo": ["."]}),
        2 => json!({"rootNamespace": "ops", "defaultHttpRetryPolicy": {"attempts": 1}}),
        3 => json!({"defaultServiceExportTo": [".", "shop"]}),
        _ => json!({}),
    }
}
