//! A large cluster as its API server sends it: whole objects, with all that kubelets and controllers write into them and a
//! mesh has to read past.
//!
//! Applications have a Deployment for each of two versions and several Services: one for each of its ports, a headless one, and
//! so on. So one pod is an endpoint several times.

use serde_json::{Value, json};

use crate::scale::{address, name, namespace, virtual_service_manifest};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Services, spread over namespaces of a hundred.
    pub services: usize,
    /// So many services have the same pods.
    pub services_per_app: usize,
    /// Pods of each application, and endpoints of each of its services.
    pub pods_per_app: usize,
    /// The first services have a VirtualService and a DestinationRule each.
    pub rules: usize,
    /// Nodes, in three zones.
    pub nodes: usize,
}

impl Size {
    /// 10,000 Services with 100,000 endpoints, which are 20,000 pods.
    pub const LARGE: Self =
        Self { services: 10_000, services_per_app: 5, pods_per_app: 10, rules: 2_000, nodes: 1_000 };
    /// A cluster to try things in.
    pub const SMALL: Self = Self { services: 10, services_per_app: 1, pods_per_app: 3, rules: 5, nodes: 3 };
    /// Large enough for what goes wrong with many, small enough for a test.
    pub const SHORT: Self =
        Self { services: 200, services_per_app: 5, pods_per_app: 10, rules: 40, nodes: 20 };

    /// How many applications.
    pub fn apps(&self) -> usize {
        self.services.div_ceil(self.services_per_app)
    }

    /// How many pods.
    pub fn pods(&self) -> usize {
        self.apps() * self.pods_per_app
    }

    /// How many endpoints.
    pub fn endpoints(&self) -> usize {
        self.services * self.pods_per_app
    }

    fn app(&self, service: usize) -> usize {
        service / self.services_per_app
    }

    fn app_namespace(&self, app: usize) -> String {
        namespace(app * self.services_per_app)
    }
}

/// All objects, kind by kind.
pub fn objects(size: Size) -> impl Iterator<Item = Value> {
    let namespaces = (0..size.services).step_by(100).map(|service| {
        json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": namespace(service), "labels": {
            "kubernetes.io/metadata.name": namespace(service), "istio.io/dataplane-mode": "undermesh"},
            "managedFields": [managed("kubectl-client-side-apply", &["f:metadata"])]},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
    });
    namespaces
        .chain((0..size.nodes).map(node))
        .chain((0..size.apps()).flat_map(move |app| (0..size.pods_per_app).map(move |at| pod(size, app, at))))
        .chain((0..size.services).map(move |number| service(size, number)))
        .chain((0..size.services).map(move |number| slice(size, number, true)))
        .chain((0..size.rules).map(|number| istio(virtual_service_manifest(number, 90))))
        .chain((0..size.rules).map(|number| istio(crate::scale::destination_rule_manifest(number))))
}

/// Who wrote which fields: about as long as the fields.
fn managed(manager: &str, parts: &[&str]) -> Value {
    let fields: serde_json::Map<String, Value> = parts
        .iter()
        .map(|part| {
            let below = (0..8).map(|at| {
                (format!("k:{{\"name\":\"part-{at}\"}}"), json!({".": {}, "f:name": {}, "f:value": {}}))
            });
            ((*part).to_owned(), below.collect::<serde_json::Map<_, _>>().into())
        })
        .collect();
    json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2026-03-01T12:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": fields})
}

/// An object that somebody applied with kubectl.
fn istio(mut object: Value) -> Value {
    let text = object.to_string();
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": text});
    object["metadata"]["generation"] = json!(3);
    object["metadata"]["managedFields"] =
        json!([managed("kubectl-client-side-apply", &["f:metadata", "f:spec"])]);
    object
}

fn node_name(number: usize) -> String {
    format!("ip-10-0-{}-{}.eu-1.compute.internal", number / 256, number % 256)
}

fn node(number: usize) -> Value {
    let zone = format!("eu-1{}", ['a', 'b', 'c'][number % 3]);
    let images = (0..40).map(|at| json!({"names": [
        format!("registry.example/team/application-{at}@sha256:9b1d3f6e5c0a8e7b4d2c1f0e9d8c7b6a5f4e3d2c1b0a99887766554433221100"),
        format!("registry.example/team/application-{at}:1.2.{at}")], "sizeBytes": 123_456_789}));
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node_name(number), "labels": {
                "kubernetes.io/hostname": node_name(number), "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "node.kubernetes.io/instance-type": "m6i.2xlarge", "topology.kubernetes.io/region": "eu-1",
                "topology.kubernetes.io/zone": zone},
            "managedFields": [managed("kubelet", &["f:metadata", "f:status"])]},
        "spec": {"podCIDR": format!("10.{}.{}.0/24", 128 + number / 256, number % 256)},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("10.0.{}.{}", number / 256, number % 256)},
                {"type": "Hostname", "address": node_name(number)}],
            "capacity": {"cpu": "8", "memory": "32386544Ki", "pods": "110"},
            "conditions": conditions(&["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]),
            "images": images.collect::<Vec<_>>()}})
}

fn conditions(kinds: &[&str]) -> Value {
    kinds
        .iter()
        .map(|kind| {
            json!({"type": kind, "status": if kind.ends_with("Pressure") { "False" } else { "True" },
            "lastProbeTime": null, "lastTransitionTime": "2026-03-01T12:00:00Z"})
        })
        .collect()
}

/// `service-00042-v1`
fn deployment(size: Size, app: usize, at: usize) -> String {
    format!("{}-v{}", name(app * size.services_per_app), at % 2 + 1)
}

fn pod_name(size: Size, app: usize, at: usize) -> String {
    format!("{}-6f5d8c7b9-{at:05}", deployment(size, app, at))
}

fn pod_uid(size: Size, app: usize, at: usize) -> String {
    format!("8d7f2c1e-0000-4a6b-9c3d-{:012x}", app * size.pods_per_app + at)
}

fn pod_address(size: Size, app: usize, at: usize) -> String {
    let number = (app * size.pods_per_app + at) as u32;
    std::net::Ipv4Addr::from_bits(u32::from(std::net::Ipv4Addr::new(10, 128, 0, 1)) + number).to_string()
}

fn pod_node(size: Size, app: usize, at: usize) -> usize {
    (app * 7 + at * 131) % size.nodes.max(1)
}

/// As a Deployment, a scheduler and a kubelet make it.
pub fn pod(size: Size, app: usize, at: usize) -> Value {
    let name = name(app * size.services_per_app);
    let namespace = size.app_namespace(app);
    let env =
        (0..12).map(|at| json!({"name": format!("SETTING_{at}"), "value": "some value of this setting"}));
    let container = json!({"name": "app", "image": "registry.example/team/app:1.2.3", "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"name": "metrics", "containerPort": 9090, "protocol": "TCP"}],
        "env": env.collect::<Vec<_>>(),
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
            "successThreshold": 1, "failureThreshold": 3},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
            "successThreshold": 1, "failureThreshold": 3},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/app"},
            {"name": "kube-api-access-x7k2p", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}],
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"});
    let address = pod_address(size, app, at);
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod_name(size, app, at), "namespace": namespace,
            "generateName": format!("{}-6f5d8c7b9-", deployment(size, app, at)), "uid": pod_uid(size, app, at),
            "labels": {"app": name, "version": format!("v{}", at % 2 + 1), "pod-template-hash": "6f5d8c7b9",
                "app.kubernetes.io/name": name, "app.kubernetes.io/instance": name, "app.kubernetes.io/part-of": namespace,
                "app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "app-1.2.3"},
            "annotations": {"checksum/config": "9b1d3f6e5c0a8e7b4d2c1f0e9d8c7b6a5f4e3d2c1b0a99887766554433221100",
                "prometheus.io/scrape": "true", "prometheus.io/port": "9090"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{}-6f5d8c7b9", deployment(size, app, at)),
                "uid": "5b1c2d3e-1111-4f5a-8b7c-0123456789ab", "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [managed("kube-controller-manager", &["f:metadata", "f:spec"]), managed("kubelet", &["f:status"])]},
        "spec": {"nodeName": node_name(pod_node(size, app, at)), "serviceAccountName": name, "serviceAccount": name,
            "containers": [container], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
                {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "volumes": [{"name": "config", "configMap": {"name": "app-config", "defaultMode": 420}},
                {"name": "kube-api-access-x7k2p", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}]},
        "status": {"phase": "Running", "hostIP": "10.0.1.2", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": conditions(&["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]),
            "containerStatuses": [{"name": "app", "ready": true, "started": true, "restartCount": 0, "image": "registry.example/team/app:1.2.3",
                "imageID": "registry.example/team/app@sha256:9b1d3f6e5c0a8e7b4d2c1f0e9d8c7b6a5f4e3d2c1b0a99887766554433221100",
                "containerID": "containerd://1f0e9d8c7b6a5f4e3d2c1b0a998877665544332211009b1d3f6e5c0a8e7b4d2c",
                "state": {"running": {"startedAt": "2026-03-01T12:00:00Z"}}, "lastState": {}}],
            "qosClass": "Burstable", "startTime": "2026-03-01T12:00:00Z"}})
}

fn labels_of_service(size: Size, number: usize) -> Value {
    json!({"app": name(size.app(number) * size.services_per_app), "app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "app-1.2.3"})
}

fn service(size: Size, number: usize) -> Value {
    let ip = address(number).to_string();
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name(number), "namespace": namespace(number), "labels": labels_of_service(size, number),
            "annotations": {"meta.helm.sh/release-name": "app", "meta.helm.sh/release-namespace": namespace(number)},
            "managedFields": [managed("helm", &["f:metadata", "f:spec"])]},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "selector": {"app": name(size.app(number) * size.services_per_app)},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]},
        "status": {"loadBalancer": {}}})
}

/// The EndpointSlice of a service. The first endpoint is ready or not.
pub fn slice(size: Size, number: usize, is_first_ready: bool) -> Value {
    let app = size.app(number);
    let endpoint = |at: usize| {
        let is_ready = at > 0 || is_first_ready;
        let node = pod_node(size, app, at);
        json!({"addresses": [pod_address(size, app, at)],
            "conditions": {"ready": is_ready, "serving": is_ready, "terminating": false},
            "nodeName": node_name(node), "zone": format!("eu-1{}", ['a', 'b', 'c'][node % 3]),
            "targetRef": {"kind": "Pod", "namespace": namespace(number), "name": pod_name(size, app, at), "uid": pod_uid(size, app, at)}})
    };
    let mut labels = labels_of_service(size, number);
    labels["kubernetes.io/service-name"] = json!(name(number));
    labels["endpointslice.kubernetes.io/managed-by"] = json!("endpointslice-controller.k8s.io");
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{}-x7k2p", name(number)), "namespace": namespace(number), "generateName": format!("{}-", name(number)),
            "labels": labels, "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2026-03-01T12:00:00Z"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name(number),
                "uid": "5b1c2d3e-2222-4f5a-8b7c-0123456789ab", "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [managed("kube-controller-manager", &["f:metadata", "f:endpoints"])]},
        "endpoints": (0..size.pods_per_app).map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
}

#[cfg(test)]
mod tests {
    use undermesh_core::api::parse;
    use undermesh_core::compile::compile;
    use undermesh_core::inputs::Inputs;

    use super::*;

    #[test]
    fn the_cluster_is_as_large_as_asked_and_sound() {
        let size = Size { nodes: 7, ..Size::SHORT };
        let mut inputs = Inputs::default();
        for object in objects(size) {
            let parsed = parse(object, Default::default()).validated();
            assert_eq!(parsed.diagnostics, []);
            inputs.insert(parsed.object.expect("an object that is read"));
        }
        let counts =
            (inputs.services.len(), inputs.pods.len(), inputs.nodes.len(), inputs.virtual_services.len());
        assert_eq!(counts, (size.services, size.pods(), size.nodes, size.rules));
        let compiled = compile(&inputs);
        assert_eq!(compiled.diagnostics, []);
        let endpoints = compiled.snapshot.services().iter().map(|service| service.ports[0].endpoints.len());
        assert_eq!(endpoints.sum::<usize>(), size.endpoints());
    }
}
