//! The answer. Its JSON is a contract (docs/explain-schema.md, version 1): fields may be added, none may change its meaning.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::route::RuleRef;

/// The version of the schema.
pub const VERSION: u32 = 1;

/// Answers, in the order of the requests.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// [`VERSION`].
    pub version: u32,
    /// Of the snapshot that answered.
    pub generation: u64,
    /// One for each request.
    pub results: Vec<Explanation>,
}

/// What becomes of one request, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// Of the request.
    pub id: String,
    /// What happens.
    pub outcome: OutcomeName,
    /// Who decides.
    pub path: DecidedBy,
    /// The HTTP status, if we answer ourselves.
    pub status: Option<u16>,
    /// Envoy's response flag, if there is one.
    pub flag: Option<&'static str>,
    /// The service the address means.
    pub service: Option<ServiceName>,
    /// The rule that decides.
    pub rule: Option<Rule>,
    /// Where to.
    pub destinations: Vec<Destination>,
    /// Of outcome `redirect`.
    pub redirect: Option<RedirectAnswer>,
    /// Of outcome `direct_response`.
    pub direct_response: Option<DirectAnswer>,
    /// What is injected.
    pub fault: Option<FaultAnswer>,
    /// For the whole request.
    pub timeout_ms: Option<u64>,
    /// When it is tried again.
    pub retries: Option<Retries>,
    /// Copies.
    pub mirrors: Vec<MirrorAnswer>,
    /// Cross-origin rules of a route that forwards.
    pub cors: Option<CorsAnswer>,
    /// Where the policy of the destinations was written.
    pub policy: Vec<PolicyAnswer>,
    /// For people: what was tried, in order.
    pub trace: Vec<String>,
}

/// See [`Explanation::outcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeName {
    /// To a destination.
    Forward,
    /// A redirect.
    Redirect,
    /// A fixed response.
    DirectResponse,
    /// An injected error, for all requests.
    Abort,
    /// To the dialled address, unchanged.
    Passthrough,
    /// Refused.
    Reject,
}

/// See [`Explanation::path`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// The proxy.
    Proxy,
    /// The kernel, at connect.
    Kernel,
    /// Nobody: the connection is not captured.
    None,
}

/// A service and port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceName {
    /// FQDN.
    pub host: String,
    /// Service port.
    pub port: u16,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// `VirtualService`.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Position of the rule.
    pub route: u32,
    /// Position of the match entry.
    #[serde(rename = "match")]
    pub match_index: Option<u32>,
    /// Istio's name of the route.
    pub route_name: String,
    /// File.
    pub file: Option<String>,
    /// Line.
    pub line: Option<u32>,
    /// The root's rule, for a delegated one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegated_by: Option<String>,
}

impl From<&RuleRef> for Rule {
    fn from(rule: &RuleRef) -> Self {
        Self {
            kind: rule.kind,
            namespace: rule.namespace.to_string(),
            name: rule.name.to_string(),
            route: rule.route,
            match_index: rule.match_index,
            route_name: rule.route_name.to_string(),
            file: rule.file.as_deref().map(str::to_owned),
            line: rule.line,
            delegated_by: rule.delegated_by.as_deref().map(str::to_owned),
        }
    }
}

/// A destination with its share.
#[derive(Debug, Clone, Serialize)]
pub struct Destination {
    /// FQDN.
    pub host: String,
    /// Subset.
    pub subset: Option<String>,
    /// Service port.
    pub port: u16,
    /// Of the requests; all destinations together make 1.
    pub share: f64,
    /// Envoy's name of the cluster.
    pub cluster: String,
    /// Why it cannot be used, if so.
    pub unavailable: Option<String>,
    /// Where its addresses come from: `endpoints`, `original_destination`, `dns`.
    pub discovery: &'static str,
    /// Its endpoints, those left out too.
    pub endpoints: Vec<EndpointAnswer>,
    /// Istio's name of the algorithm.
    pub balancer: &'static str,
    /// What consistent hashing goes by; `null` if the request lacks it, so that any endpoint may be chosen.
    pub hash_key: Option<String>,
    /// What the upstream will see.
    pub request: Option<RequestAnswer>,
    /// What changes in the response.
    pub response: Option<ResponseAnswer>,
}

/// An endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct EndpointAnswer {
    /// Pod or WorkloadEntry, else its address.
    pub id: String,
    /// Its address; a name if it must be resolved.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// `region/zone/subzone`.
    pub locality: String,
    /// Of the destination's requests, all endpoints being healthy and equally busy. With a hash key that is known: of requests
    /// with this key.
    pub share: f64,
    /// If locality makes a difference: 0 is used while it can carry the load, then 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<usize>,
    /// Why it gets nothing.
    pub excluded: Option<&'static str>,
}

/// The request as the upstream sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestAnswer {
    /// Path and query.
    pub path: String,
    /// Host.
    pub authority: String,
    /// What we set or add.
    pub headers: BTreeMap<String, Vec<String>>,
    /// What we leave out.
    pub headers_removed: Vec<String>,
}

/// What changes in a response.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ResponseAnswer {
    /// In place of the upstream's.
    pub headers_set: BTreeMap<String, Vec<String>>,
    /// Beside the upstream's.
    pub headers_added: BTreeMap<String, Vec<String>>,
    /// Left out.
    pub headers_removed: Vec<String>,
}

/// A redirect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RedirectAnswer {
    /// Location.
    pub location: String,
    /// Status.
    pub code: u16,
}

/// A fixed response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DirectAnswer {
    /// Status.
    pub status: u16,
    /// Body; bytes that are no text are replaced.
    pub body: String,
}

/// Injected faults.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultAnswer {
    /// The wait.
    pub delay_ms: Option<u64>,
    /// For this share.
    pub delay_percent: f64,
    /// The status.
    pub abort_status: Option<u16>,
    /// The gRPC status.
    pub abort_grpc_status: Option<u32>,
    /// For this share.
    pub abort_percent: f64,
}

/// A retry policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retries {
    /// Beyond the first try.
    pub attempts: u32,
    /// Of each try.
    pub per_try_timeout_ms: Option<u64>,
    /// Conditions and codes.
    pub retry_on: Vec<String>,
}

/// A mirror.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MirrorAnswer {
    /// FQDN.
    pub host: String,
    /// Subset.
    pub subset: Option<String>,
    /// Service port.
    pub port: u16,
    /// Share of requests.
    pub percent: f64,
}

/// Cross-origin rules, and what they make of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CorsAnswer {
    /// `exact "http://ui.example"`, ...
    pub allow_origins: Vec<String>,
    /// As sent, joined with commas.
    pub allow_methods: String,
    /// As sent.
    pub allow_headers: String,
    /// As sent.
    pub expose_headers: String,
    /// Whole seconds.
    pub max_age_seconds: Option<u64>,
    /// Whether credentials are allowed.
    pub allow_credentials: bool,
    /// `FORWARD` or `IGNORE`.
    pub unmatched_preflights: &'static str,
    /// Whether the request's origin is allowed; `null` if it has none.
    pub origin_allowed: Option<bool>,
    /// Whether the request is a preflight.
    pub preflight: bool,
    /// What is set in the response.
    pub response_headers: BTreeMap<String, Vec<String>>,
}

/// Where a block of policy was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyAnswer {
    /// `connectionPool`
    pub block: &'static str,
    /// `DestinationRule default/reviews subset v2`
    pub from: String,
    /// File.
    pub file: Option<String>,
    /// Line.
    pub line: Option<u32>,
}
