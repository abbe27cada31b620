//! `VirtualService` as written: which requests go where.
//!
//! Field for field Istio's; absent scalars are their protobuf default, absent messages `None`. Both members of a oneof may be
//! set here; validation refuses that. Meaning: compile.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::duration::Duration;
use super::fault::HttpFaultInjection;
use super::http_match::HttpMatchRequest;
use super::http_route::{
    CorsPolicy, Delegate, Headers, HttpDirectResponse, HttpMirrorPolicy, HttpRedirect, HttpRetry, HttpRewrite,
};
use super::meta::Kinded;

/// The spec of a VirtualService.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualService {
    /// The hosts whose traffic the rules govern: FQDN, short name, wildcard or IP. Empty: a delegate.
    pub hosts: Vec<String>,
    /// Where the rules apply: gateways by `[namespace/]name`, or `mesh`. Empty means `mesh`.
    pub gateways: Vec<String>,
    /// Rules for HTTP-family ports and TLS-terminating gateway servers, in order.
    pub http: Vec<HttpRoute>,
    /// Rules for TLS passed through, by SNI.
    pub tls: Vec<TlsRoute>,
    /// Rules for all other TCP.
    pub tcp: Vec<TcpRoute>,
    /// Namespaces that see this object: names, `.` (own), `*` (all). Empty: the mesh default.
    pub export_to: Vec<String>,
}

impl Kinded for VirtualService {
    const KIND: &'static str = "VirtualService";
}

/// One HTTP rule: conditions and what to do.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    /// For the access log.
    pub name: String,
    /// Alternatives; empty matches all.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatchRequest>,
    /// Forward to one of these, by weight.
    pub route: Vec<HttpRouteDestination>,
    /// Answer with a redirect.
    pub redirect: Option<HttpRedirect>,
    /// Answer with a fixed response.
    pub direct_response: Option<HttpDirectResponse>,
    /// Go on with the rules of another VirtualService.
    pub delegate: Option<Delegate>,
    /// Change path and authority before forwarding.
    pub rewrite: Option<HttpRewrite>,
    /// Whole request with retries; none by default.
    pub timeout: Option<Duration>,
    /// Retry policy; `None` means the mesh default.
    pub retries: Option<HttpRetry>,
    /// Injected delay and abort.
    pub fault: Option<HttpFaultInjection>,
    /// Send a copy there. Exclusive with `mirrors`.
    pub mirror: Option<Destination>,
    /// Send copies there.
    pub mirrors: Vec<HttpMirrorPolicy>,
    /// Deprecated: whole per cent of requests to mirror.
    pub mirror_percent: Option<u32>,
    /// Share of requests to mirror; absent means all.
    pub mirror_percentage: Option<Percent>,
    /// Cross-origin rules.
    pub cors_policy: Option<CorsPolicy>,
    /// Header operations of the whole rule.
    pub headers: Option<Headers>,
}

/// A weighted destination of an HTTP rule.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteDestination {
    /// Required.
    pub destination: Option<Destination>,
    /// Share relative to the sum of all weights; absent is 0, and a single destination gets everything.
    pub weight: i32,
    /// Header operations for requests that go here.
    pub headers: Option<Headers>,
}

/// A service, subset and port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Destination {
    /// FQDN, or a name completed with the resource's namespace.
    pub host: String,
    /// The name of a subset of the DestinationRule; empty means the whole service.
    pub subset: String,
    /// The service port; absent: the service's only one, else the one the client used.
    pub port: Option<PortSelector>,
}

/// Names a port by number.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortSelector {
    /// 1 to 65535.
    pub number: u32,
}

/// A share in per cent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Percent {
    /// 0.0 to 100.0.
    pub value: f64,
}

/// A rule for TLS that is passed through.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsRoute {
    /// Alternatives; at least one is required.
    #[serde(rename = "match")]
    pub matches: Vec<TlsMatchAttributes>,
    /// By weight.
    pub route: Vec<RouteDestination>,
}

/// Conditions of a [`TlsRoute`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsMatchAttributes {
    /// Names or wildcards; required, and within the VirtualService's hosts.
    pub sni_hosts: Vec<String>,
    /// Addresses or CIDRs the client dialled.
    pub destination_subnets: Vec<String>,
    /// The port the client dialled.
    pub port: Option<u32>,
    /// Labels of the client's pod.
    pub source_labels: BTreeMap<String, String>,
    /// Replaces the VirtualService's list.
    pub gateways: Vec<String>,
    /// The client's namespace.
    pub source_namespace: String,
}

/// A rule for opaque TCP.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRoute {
    /// Alternatives; empty matches all.
    #[serde(rename = "match")]
    pub matches: Vec<L4MatchAttributes>,
    /// By weight, per connection.
    pub route: Vec<RouteDestination>,
}

/// Conditions of a [`TcpRoute`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L4MatchAttributes {
    /// Addresses or CIDRs the client dialled.
    pub destination_subnets: Vec<String>,
    /// The port the client dialled.
    pub port: Option<u32>,
    /// Never implemented by Istio.
    pub source_subnet: String,
    /// Labels of the client's pod.
    pub source_labels: BTreeMap<String, String>,
    /// Replaces the VirtualService's list.
    pub gateways: Vec<String>,
    /// The client's namespace.
    pub source_namespace: String,
}

/// A weighted destination of a TLS or TCP rule.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteDestination {
    /// Required.
    pub destination: Option<Destination>,
    /// As [`HttpRouteDestination::weight`].
    pub weight: i32,
}
