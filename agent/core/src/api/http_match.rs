//! `HTTPMatchRequest` as written: the conditions of an HTTP rule.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::string_match::StringMatch;

/// One alternative of an HTTP rule; all that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatchRequest {
    /// For the access log only.
    pub name: String,
    /// The path without query.
    pub uri: Option<StringMatch>,
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// The raw Host, with its port.
    pub authority: Option<StringMatch>,
    /// Header name to condition.
    pub headers: BTreeMap<String, StringMatch>,
    /// The port the client dialled (at a gateway: the server's).
    pub port: Option<u32>,
    /// Labels of the client's pod.
    pub source_labels: BTreeMap<String, String>,
    /// Replaces the VirtualService's list.
    pub gateways: Vec<String>,
    /// First value of a query parameter, raw.
    pub query_params: BTreeMap<String, StringMatch>,
    /// `uri` exact and prefix ignore case.
    pub ignore_uri_case: bool,
    /// Header name to a condition that must not hold; a missing header counts as empty.
    pub without_headers: BTreeMap<String, StringMatch>,
    /// The client's namespace.
    pub source_namespace: String,
    /// Prefix of statistics; no effect on routing.
    pub stat_prefix: String,
}
