//! What an HTTP rule may do, as written: redirect, direct response, rewrite, retries, mirrors, CORS, header operations.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::duration::Duration;
use super::string_match::StringMatch;
use super::virtual_service::{Destination, Percent};

/// Answer with a redirect.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRedirect {
    /// The whole new path. Exclusive with `prefix_rewrite`.
    pub uri: String,
    /// Replaces the matched prefix.
    pub prefix_rewrite: String,
    /// The new host.
    pub authority: String,
    /// The new port, as written. Exclusive with `derive_port`.
    pub port: Option<u32>,
    /// How to find the port.
    pub derive_port: Option<RedirectPortSelection>,
    /// `http` or `https`.
    pub scheme: String,
    /// 0 means 301.
    pub redirect_code: u32,
}

/// `HTTPRedirect.derivePort`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RedirectPortSelection {
    /// 80 for http, 443 for https.
    #[default]
    FromProtocolDefault,
    /// The port of the request.
    FromRequestPort,
}

/// Answer with a fixed response.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpDirectResponse {
    /// 200 to 599.
    pub status: u32,
    /// Empty if absent.
    pub body: Option<HttpBody>,
}

/// A oneof.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpBody {
    /// Text.
    pub string: Option<String>,
    /// Base64.
    pub bytes: Option<String>,
}

/// Go on with another VirtualService's rules.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delegate {
    /// Its name.
    pub name: String,
    /// Its namespace; empty means that of the root.
    pub namespace: String,
}

/// Change path and authority.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRewrite {
    /// Replaces the matched prefix, exact path, or (regex match) the whole path. Exclusive with `uri_regex_rewrite`.
    pub uri: String,
    /// The new Host.
    pub authority: String,
    /// Substitution in the path.
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// A global substitution.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegexRewrite {
    /// RE2, partial match.
    #[serde(rename = "match")]
    pub pattern: String,
    /// With `\1` for groups.
    pub rewrite: String,
}

/// When and how to try again.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRetry {
    /// Beyond the first try; 0 switches retries off.
    pub attempts: i32,
    /// Of each try; absent: the rule's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Comma-separated conditions and status codes.
    pub retry_on: String,
    /// Move to other localities.
    pub retry_remote_localities: Option<bool>,
    /// Prefer endpoints not tried yet; default true.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// Base of the exponential backoff; default 25 ms.
    pub backoff: Option<Duration>,
}

/// A mirror target.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMirrorPolicy {
    /// Required.
    pub destination: Option<Destination>,
    /// Share of requests; absent means all.
    pub percentage: Option<Percent>,
}

/// Cross-origin rules.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsPolicy {
    /// Deprecated: exact origins.
    pub allow_origin: Vec<String>,
    /// Origins allowed.
    pub allow_origins: Vec<StringMatch>,
    /// Methods listed to preflights.
    pub allow_methods: Vec<String>,
    /// Headers listed to preflights.
    pub allow_headers: Vec<String>,
    /// Headers that scripts may read.
    pub expose_headers: Vec<String>,
    /// How long preflight answers may be kept; whole seconds.
    pub max_age: Option<Duration>,
    /// Whether credentials are allowed.
    pub allow_credentials: Option<bool>,
    /// What happens to preflights of other origins.
    pub unmatched_preflights: UnmatchedPreflights,
}

/// `CorsPolicy.unmatchedPreflights`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    /// As `Forward`.
    #[default]
    Unspecified,
    /// Pass on to the application.
    Forward,
    /// Answer without CORS headers.
    Ignore,
}

/// Header operations for both directions.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Headers {
    /// Before forwarding.
    pub request: Option<HeaderOperations>,
    /// Before answering.
    pub response: Option<HeaderOperations>,
}

/// Values are Envoy format strings (`%REQ(x)%`, `%%`).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderOperations {
    /// Overwrite.
    pub set: BTreeMap<String, String>,
    /// Append a line.
    pub add: BTreeMap<String, String>,
    /// Leave out.
    pub remove: Vec<String>,
}
