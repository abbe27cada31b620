//! `ServiceEntry` and `WorkloadEntry` as written: services and endpoints that Kubernetes does not know.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::gateway::Port;
use super::meta::Kinded;

/// The spec of a ServiceEntry.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntry {
    /// DNS names; required.
    pub hosts: Vec<String>,
    /// Virtual addresses or CIDRs.
    pub addresses: Vec<String>,
    /// Service ports.
    pub ports: Vec<Port>,
    /// Default MESH_EXTERNAL.
    pub location: Location,
    /// Default NONE.
    pub resolution: Resolution,
    /// Exclusive with `workload_selector`.
    pub endpoints: Vec<WorkloadEntry>,
    /// Pods and WorkloadEntries of the same namespace.
    pub workload_selector: Option<WorkloadSelector>,
    /// As [`VirtualService::export_to`](super::virtual_service::VirtualService::export_to).
    pub export_to: Vec<String>,
    /// Names accepted in the servers' certificates.
    pub subject_alt_names: Vec<String>,
}

impl Kinded for ServiceEntry {
    const KIND: &'static str = "ServiceEntry";
}

/// `ServiceEntry.location`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// Not part of the mesh.
    #[default]
    MeshExternal,
    /// Part of the mesh.
    MeshInternal,
}

/// `ServiceEntry.resolution`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// The dialled address.
    #[default]
    None,
    /// The endpoints' addresses.
    Static,
    /// All addresses that DNS gives.
    Dns,
    /// The first address that DNS gives.
    DnsRoundRobin,
    /// DNS of the Host or SNI of the request.
    DynamicDns,
}

/// `istio.networking.WorkloadSelector`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// All must be present.
    pub labels: BTreeMap<String, String>,
}

/// The spec of a WorkloadEntry, and an endpoint of a ServiceEntry.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntry {
    /// IP, DNS name or `unix://` path.
    pub address: String,
    /// Service port name to the endpoint's port.
    pub ports: BTreeMap<String, u32>,
    /// Labels, for subsets and selectors.
    pub labels: BTreeMap<String, String>,
    /// The network the address is in.
    pub network: String,
    /// `region/zone/subzone`.
    pub locality: String,
    /// Relative share of traffic; 0 means 1.
    pub weight: u32,
    /// The identity.
    pub service_account: String,
}

impl Kinded for WorkloadEntry {
    const KIND: &'static str = "WorkloadEntry";
}
