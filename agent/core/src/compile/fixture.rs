//! Inputs from YAML, for tests.

use serde::Deserialize as _;

use super::{Compiled, compile};
use crate::api::origin::{Lines, Origin};
use crate::api::{Object, parse};
use crate::inputs::Inputs;

/// Two services with a pod for each version, a headless one, and clients' namespaces besides; without any rules.
pub(crate) const REGISTRY: &str = r"
{apiVersion: v1, kind: Service, metadata: {name: catalog, namespace: shop}, spec: {clusterIP: 10.96.0.1, selector: {app: catalog}, ports: [{name: http, port: 8080, targetPort: 9090}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: shop}, spec: {clusterIP: 10.96.0.2, clusterIPs: [10.96.0.2, 'fd00::2'], selector: {app: pay}, ports: [{name: http, port: 80, targetPort: web}, {name: tcp-admin, port: 9000}, {name: dns, port: 53, protocol: UDP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: None, selector: {app: db}, ports: [{name: tcp, port: 5432}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: catalog-1, namespace: shop, labels: {app: catalog, version: v1}}, spec: {containers: []}, status: {podIP: 10.244.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: catalog-2, namespace: shop, labels: {app: catalog, version: v2}}, spec: {containers: []}, status: {podIP: 10.244.0.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: pay-1, namespace: shop, labels: {app: pay}}, spec: {containers: [{name: c, ports: [{name: web, containerPort: 8000}]}]}, status: {podIP: 10.244.0.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db-0, namespace: shop, labels: {app: db}}, spec: {containers: []}, status: {podIP: 10.244.0.4}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db-1, namespace: shop, labels: {app: db}}, spec: {containers: []}, status: {podIP: 10.244.0.5}}
";

/// A DestinationRule with catalog's subsets v1 and v2.
pub(crate) const SUBSETS: &str = "
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: catalog, namespace: shop}, spec: {host: catalog, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}
";

pub(crate) fn objects(yaml: &str) -> Vec<Object> {
    serde_yaml_ng::Deserializer::from_str(yaml)
        .map(|document| serde_json::Value::deserialize(document).expect("valid YAML"))
        .filter(|value| !value.is_null())
        .map(|value| {
            let parsed = parse(value, Origin::new("test.yaml", Lines::at(1)));
            parsed.object.unwrap_or_else(|| panic!("{:?}", parsed.diagnostics))
        })
        .collect()
}

pub(crate) fn inputs(parts: &[&str]) -> Inputs {
    let mut inputs = Inputs::default();
    for object in parts.iter().flat_map(|part| objects(part)) {
        inputs.insert(object);
    }
    inputs
}

pub(crate) fn compiled(parts: &[&str]) -> Compiled {
    compile(&inputs(parts))
}

/// A VirtualService of namespace `shop` from the YAML of its spec.
pub(crate) fn virtual_service(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}"
    )
}
