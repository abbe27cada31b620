//! Kubernetes objects, as far as routing needs them: the JSON of the API server to [`crate::inventory`].
//!
//! Only the fields named here are read; all others are Kubernetes' business and not reported.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{self, Deserializer};

use super::meta::{Key, Labels, ObjectMeta};
use super::origin::push_index;
use crate::inventory::{
    ContainerPort, Endpoint, EndpointPort, EndpointSlice, ISTIO_PROXY, Namespace, Node, Pod, PodPhase,
    PodUid, Service, ServicePort, ServiceType, TargetPort, TrafficDistribution, Transport,
};

/// A value that Kubernetes would refuse: its field and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) field: String,
    pub(super) message: String,
}

impl Unfit {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// An object as the API server writes it, and the way to what we keep of it.
pub(super) trait Raw: for<'de> Deserialize<'de> {
    /// What is kept.
    type Kept;
    /// Whether its labels mean something to others once it is read.
    const KEEPS_LABELS: bool = true;
    /// Reads the rest of the object.
    fn keep(self, meta: &ObjectMeta) -> Result<Self::Kept, Unfit>;
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawService {
    spec: RawServiceSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawServiceSpec {
    #[serde(rename = "type")]
    service_type: String,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    ports: Vec<RawServicePort>,
    selector: BTreeMap<String, String>,
    external_name: String,
    traffic_distribution: Option<String>,
    publish_not_ready_addresses: bool,
    internal_traffic_policy: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawServicePort {
    name: String,
    port: i64,
    target_port: Option<IntOrString>,
    protocol: Option<String>,
    app_protocol: Option<String>,
}

impl Raw for RawService {
    type Kept = Service;

    fn keep(self, meta: &ObjectMeta) -> Result<Service, Unfit> {
        let spec = self.spec;
        let service_type = match spec.service_type.as_str() {
            "" | "ClusterIP" => ServiceType::ClusterIp,
            "NodePort" => ServiceType::NodePort,
            "LoadBalancer" => ServiceType::LoadBalancer,
            "ExternalName" => ServiceType::ExternalName,
            other => {
                let message = format!("{other:?} is none of ClusterIP, NodePort, LoadBalancer, ExternalName");
                return Err(Unfit::new("spec.type", message));
            }
        };
        let headless = spec.cluster_ip == "None" || spec.cluster_ips.first().is_some_and(|ip| ip == "None");
        let is_alias = service_type == ServiceType::ExternalName;
        let mut cluster_ips = Vec::new();
        if !headless && !is_alias {
            if spec.cluster_ips.is_empty() && !spec.cluster_ip.is_empty() {
                cluster_ips.push(address(&spec.cluster_ip, || "spec.clusterIP".into())?);
            }
            for (index, ip) in spec.cluster_ips.iter().enumerate() {
                cluster_ips.push(address(ip, || indexed("spec.clusterIPs", index, ""))?);
            }
        }
        let mut ports = Vec::with_capacity(spec.ports.len());
        for (index, port) in spec.ports.into_iter().enumerate() {
            let number = port_number(port.port, || indexed("spec.ports", index, ".port"))?;
            let target = || indexed("spec.ports", index, ".targetPort");
            let target_port = match port.target_port {
                // Kubernetes takes 0 and "" as absent.
                None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
                Some(IntOrString::Int(target_number)) => {
                    TargetPort::Number(port_number(target_number, target)?)
                }
                Some(IntOrString::String(name)) if name.is_empty() => TargetPort::Number(number),
                Some(IntOrString::String(name)) => TargetPort::Name(name.into()),
            };
            ports.push(ServicePort {
                name: port.name.into(),
                number,
                target_port,
                transport: transport(port.protocol.as_deref(), || indexed("spec.ports", index, ".protocol"))?,
                app_protocol: port.app_protocol.filter(|text| !text.is_empty()).map(Into::into),
            });
        }
        if is_alias && spec.external_name.is_empty() {
            return Err(Unfit::new(
                "spec.externalName",
                "a service of type ExternalName needs an externalName",
            ));
        }
        Ok(Service {
            service_type,
            cluster_ips: cluster_ips.into(),
            headless: headless && !is_alias,
            ports: ports.into(),
            // Kubernetes ignores the selector of an ExternalName service.
            selector: if is_alias { Labels::default() } else { spec.selector.into() },
            external_name: is_alias.then_some(spec.external_name),
            traffic_distribution: TrafficDistribution::of(
                &meta.annotations,
                spec.traffic_distribution.as_deref(),
            ),
            publish_not_ready_addresses: spec.publish_not_ready_addresses,
            internal_traffic_is_local: spec.internal_traffic_policy == "Local",
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawEndpointSlice {
    address_type: String,
    endpoints: Vec<RawEndpoint>,
    ports: Vec<RawEndpointPort>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEndpoint {
    addresses: Vec<String>,
    conditions: RawConditions,
    hostname: String,
    node_name: String,
    zone: String,
    target_ref: Option<RawReference>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawReference {
    kind: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawEndpointPort {
    name: String,
    port: Option<i64>,
    protocol: Option<String>,
}

impl Raw for RawEndpointSlice {
    type Kept = EndpointSlice;
    /// They name its service, and repeat that one's labels.
    const KEEPS_LABELS: bool = false;

    fn keep(self, meta: &ObjectMeta) -> Result<EndpointSlice, Unfit> {
        let service = meta.labels.get("kubernetes.io/service-name").map_or("", String::as_str).into();
        if self.address_type == "FQDN" {
            // Deprecated, without a defined meaning, and no address to dial.
            return Ok(EndpointSlice { service, ..Default::default() });
        }
        let mut endpoints = Vec::with_capacity(self.endpoints.len());
        for (index, endpoint) in self.endpoints.into_iter().enumerate() {
            let addresses = addresses(&endpoint.addresses, |at| {
                indexed("endpoints", index, &indexed(".addresses", at, ""))
            })?;
            // Kubernetes: an unknown condition is to be read as ready.
            let is_ready = endpoint.conditions.ready.unwrap_or(true);
            endpoints.push(Endpoint {
                addresses: addresses.into(),
                is_ready,
                is_serving: endpoint.conditions.serving.unwrap_or(is_ready),
                is_terminating: endpoint.conditions.terminating.unwrap_or(false),
                hostname: endpoint.hostname.into(),
                node: endpoint.node_name.into(),
                zone: endpoint.zone.into(),
                pod: endpoint.target_ref.filter(|reference| reference.kind == "Pod").map(|reference| {
                    let is_own = reference.namespace.is_empty();
                    let namespace = if is_own { meta.namespace.clone() } else { reference.namespace.into() };
                    Key::new(namespace, reference.name)
                }),
            });
        }
        let mut ports = Vec::with_capacity(self.ports.len());
        for (index, port) in self.ports.into_iter().enumerate() {
            let number = port
                .port
                .map(|number| port_number(number, || indexed("ports", index, ".port")))
                .transpose()?;
            let transport = transport(port.protocol.as_deref(), || indexed("ports", index, ".protocol"))?;
            ports.push(EndpointPort { name: port.name.into(), number, transport });
        }
        Ok(EndpointSlice { service, endpoints: endpoints.into(), ports: ports.into() })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawPod {
    metadata: RawPodMeta,
    spec: RawPodSpec,
    status: RawPodStatus,
}

/// The part of the metadata that is not in [`ObjectMeta`].
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodMeta {
    uid: String,
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawDeletion {
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodSpec {
    node_name: String,
    service_account_name: String,
    host_network: bool,
    hostname: String,
    containers: Vec<RawContainer>,
    init_containers: Vec<RawContainer>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainer {
    name: String,
    ports: Vec<RawContainerPort>,
    restart_policy: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainerPort {
    name: String,
    container_port: i64,
    protocol: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<RawPodIp>,
    conditions: Vec<RawPodCondition>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPodIp {
    ip: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPodCondition {
    #[serde(rename = "type")]
    condition: String,
    status: String,
}

impl Raw for RawPod {
    type Kept = Pod;

    fn keep(self, meta: &ObjectMeta) -> Result<Pod, Unfit> {
        let mut ips = Vec::new();
        if self.status.pod_ips.is_empty() && !self.status.pod_ip.is_empty() {
            ips.push(address(&self.status.pod_ip, || "status.podIP".into())?);
        }
        for (index, ip) in self.status.pod_ips.iter().enumerate() {
            ips.push(address(&ip.ip, || indexed("status.podIPs", index, ".ip"))?);
        }
        let phase = match self.status.phase.as_str() {
            "" | "Running" => PodPhase::Running,
            "Pending" => PodPhase::Pending,
            "Succeeded" => PodPhase::Succeeded,
            "Failed" => PodPhase::Failed,
            _ => PodPhase::Unknown,
        };
        let mut ports = Vec::new();
        let mut has_sidecar = false;
        let lists =
            [("spec.containers", self.spec.containers), ("spec.initContainers", self.spec.init_containers)];
        for (list, containers) in lists {
            for (at, container) in containers.into_iter().enumerate() {
                has_sidecar |= container.name == ISTIO_PROXY;
                // An init container that restarts is a sidecar and stays; the others are gone when the pod serves.
                if list == "spec.initContainers" && container.restart_policy != "Always" {
                    continue;
                }
                for (index, port) in container.ports.into_iter().enumerate() {
                    let field = |name: &str| indexed(list, at, &indexed(".ports", index, name));
                    ports.push(ContainerPort {
                        number: port_number(port.container_port, || field(".containerPort"))?,
                        transport: transport(port.protocol.as_deref(), || field(".protocol"))?,
                        name: port.name.into(),
                    });
                }
            }
        }
        let ready = self.status.conditions.iter().find(|condition| condition.condition == "Ready");
        Ok(Pod {
            ips: ips.into(),
            node: self.spec.node_name.into(),
            service_account: if self.spec.service_account_name.is_empty() {
                "default".into()
            } else {
                self.spec.service_account_name.into()
            },
            is_host_network: self.spec.host_network,
            phase,
            is_ready: match ready {
                Some(condition) => condition.status == "True",
                None => self.status.conditions.is_empty() && phase == PodPhase::Running,
            },
            is_terminating: self.metadata.deletion_timestamp.is_some(),
            hostname: self.spec.hostname.into(),
            ports: ports.into(),
            uid: pod_uid(&self.metadata.uid, meta),
            has_sidecar,
        })
    }
}

/// The object of a static pod is a mirror with a uid of its own; the kubelet names cgroups by that of the original. Anybody who
/// may make a pod can write the annotation: only a static pod's uid is taken from it.
fn pod_uid(own: &str, meta: &ObjectMeta) -> Option<PodUid> {
    let original = meta.annotations.get("kubernetes.io/config.mirror");
    let original = original.and_then(|uid| uid.parse().ok()).filter(|uid: &PodUid| uid.is_static());
    original.or_else(|| own.parse().ok())
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawNode {
    status: RawNodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeStatus {
    addresses: Vec<RawNodeAddress>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeAddress {
    address: String,
}

impl Raw for RawNode {
    type Kept = Node;

    fn keep(self, meta: &ObjectMeta) -> Result<Node, Unfit> {
        let label = |names: &[&str]| {
            names.iter().find_map(|&name| meta.labels.get(name)).cloned().unwrap_or_default()
        };
        Ok(Node {
            region: label(&["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"]),
            zone: label(&["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"]),
            subzone: label(&["topology.istio.io/subzone"]),
            // Host names are among them.
            addresses: self
                .status
                .addresses
                .iter()
                .filter_map(|address| address.address.parse().ok())
                .collect(),
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct RawNamespace {
    metadata: RawDeletion,
}

impl Raw for RawNamespace {
    type Kept = Namespace;

    fn keep(self, _: &ObjectMeta) -> Result<Namespace, Unfit> {
        Ok(Namespace { is_terminating: self.metadata.deletion_timestamp.is_some() })
    }
}

/// `intstr.IntOrString`.
#[derive(Debug)]
enum IntOrString {
    Int(i64),
    String(String),
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = IntOrString;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number or name")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<IntOrString, E> {
                Ok(IntOrString::Int(number))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<IntOrString, E> {
                Ok(IntOrString::Int(i64::try_from(number).unwrap_or(i64::MAX)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<IntOrString, E> {
                Ok(IntOrString::String(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn indexed(list: &str, index: usize, rest: &str) -> String {
    let mut path = list.to_owned();
    push_index(&mut path, index);
    path.push_str(rest);
    path
}

fn addresses(texts: &[String], field: impl Fn(usize) -> String) -> Result<Vec<IpAddr>, Unfit> {
    texts.iter().enumerate().map(|(index, text)| address(text, || field(index))).collect()
}

fn address(text: &str, field: impl FnOnce() -> String) -> Result<IpAddr, Unfit> {
    text.parse().map_err(|_| Unfit::new(field(), format!("{text:?} is not an IP address")))
}

fn port_number(number: i64, field: impl FnOnce() -> String) -> Result<u16, Unfit> {
    match u16::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Unfit::new(field(), format!("port number {number} is not in 1 to 65535"))),
    }
}

fn transport(name: Option<&str>, field: impl FnOnce() -> String) -> Result<Transport, Unfit> {
    match name.unwrap_or("TCP") {
        "" | "TCP" => Ok(Transport::Tcp),
        "UDP" => Ok(Transport::Udp),
        "SCTP" => Ok(Transport::Sctp),
        other => Err(Unfit::new(field(), format!("{other:?} is none of TCP, UDP, SCTP"))),
    }
}
