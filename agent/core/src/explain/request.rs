//! What is asked: a request as someone would send it. The JSON is a contract (docs/explain-schema.md, version 1).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::view::{HttpVersion, RequestView};

/// A file of requests.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Requests {
    /// Answered in this order.
    pub requests: Vec<Request>,
}

impl Requests {
    /// Reads `{ "requests": [ ... ] }`.
    ///
    /// # Errors
    /// The text is not of that form, or an entry is wrong: each such entry is named by its position and id.
    pub fn parse(text: &[u8]) -> Result<Self, BadRequests> {
        let bad = |why: &str| {
            BadRequests(format!("{why}: write {{\"requests\": [{{...}}, ...]}} (docs/explain-schema.md)"))
        };
        let value: Value =
            serde_json::from_slice(text).map_err(|error| bad(&format!("not JSON: {error}")))?;
        let entries = match value {
            Value::Object(mut file) => match file.remove("requests") {
                Some(Value::Array(entries)) => entries,
                Some(_) => return Err(bad("`requests` is no list")),
                None => return Err(bad("there is no key `requests`")),
            },
            Value::Array(_) => return Err(bad("a list without the key `requests` around it")),
            _ => return Err(bad("neither a mapping nor a list")),
        };
        let mut requests = Vec::new();
        let mut wrong = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let id =
                entry.get("id").and_then(Value::as_str).map(|id| format!(" ({id:?})")).unwrap_or_default();
            let read: Result<Request, _> = serde_path_to_error::deserialize(entry);
            let read = read.map_err(|error| match error.path().to_string().as_str() {
                "." => error.inner().to_string(),
                path => format!("{path}: {}", error.inner()),
            });
            match read.and_then(|request| request.problem().map_or(Ok(request), Err)) {
                Ok(request) => requests.push(request),
                Err(error) => wrong.push(format!("requests[{index}]{id}: {error}")),
            }
        }
        if wrong.is_empty() { Ok(Self { requests }) } else { Err(BadRequests(wrong.join("\n"))) }
    }
}

/// Why requests cannot be answered, a line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRequests(String);

/// One request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Request {
    /// Comes back with the answer.
    pub id: String,
    /// Who calls.
    pub source: Source,
    /// In place of `source`: the request enters at this gateway.
    pub gateway: Option<GatewaySource>,
    /// What the socket dials; absent for a gateway.
    pub address: Option<IpAddr>,
    /// The port it dials.
    pub port: u16,
    /// What is spoken.
    pub protocol: ProtocolName,
    /// Default `http`.
    pub scheme: Option<String>,
    /// Default `GET`.
    pub method: Option<String>,
    /// Default: the dialled address.
    pub authority: Option<String>,
    /// Path and query; default `/`.
    pub path: Option<String>,
    /// Name to the values of its lines.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Of TLS.
    pub sni: Option<String>,
}

impl Request {
    /// What is wrong with values that have the right type.
    fn problem(&self) -> Option<String> {
        match &self.gateway {
            Some(gateway) if gateway.port == 0 => return Some("gateway.port is missing".to_owned()),
            None if self.port == 0 => {
                return Some("port is missing: what does the socket dial?".to_owned());
            }
            _ => {}
        }
        let path = self.path.as_deref().unwrap_or("/");
        if !path.starts_with('/') && path != "*" {
            return Some(format!("path {path:?} does not begin with /"));
        }
        match self.scheme.as_deref() {
            None | Some("http" | "https") => None,
            Some(other) => Some(format!("scheme {other:?} is neither http nor https")),
        }
    }
}

/// A client in the mesh. What is absent comes from its Pod, if `pod` names one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Source {
    /// Default `default`.
    pub namespace: Option<String>,
    /// Its labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its service account.
    pub service_account: Option<String>,
    /// `namespace/name` of its Pod.
    pub pod: Option<String>,
    /// `region/zone/subzone`.
    pub locality: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// Its address.
    pub address: Option<IpAddr>,
}

/// A gateway workload.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct GatewaySource {
    /// Its namespace.
    pub namespace: String,
    /// What a Gateway's selector finds.
    pub labels: BTreeMap<String, String>,
    /// The port of the Gateway's server.
    pub port: u16,
}

/// What is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolName {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/1.0: refused where HTTP is declared, opaque elsewhere.
    #[serde(rename = "http1.0")]
    Http10,
    /// HTTP/2.
    Http2,
    /// gRPC on HTTP/2.
    Grpc,
    /// TLS that is not looked into.
    Tls,
    /// Opaque.
    Tcp,
}

impl ProtocolName {
    pub(super) fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Http2 | Self::Grpc)
    }
}

/// A request as routing sees it.
pub(super) struct View<'a> {
    request: &'a Request,
    target: String,
    authority: String,
    /// In lower case.
    headers: BTreeMap<String, &'a [String]>,
}

impl<'a> View<'a> {
    /// `target` is normalised, `dialled` what Host says if the request has none.
    pub(super) fn new(request: &'a Request, target: String, dialled: String) -> Self {
        let headers = request.headers.iter().map(|(name, lines)| (name.to_ascii_lowercase(), &**lines));
        Self {
            authority: request.authority.clone().unwrap_or(dialled),
            target,
            headers: headers.collect(),
            request,
        }
    }
}

impl RequestView for View<'_> {
    fn version(&self) -> HttpVersion {
        if self.request.protocol == ProtocolName::Http1 { HttpVersion::Http1 } else { HttpVersion::Http2 }
    }

    fn method(&self) -> &str {
        self.request.method.as_deref().unwrap_or("GET")
    }

    fn scheme(&self) -> &str {
        self.request.scheme.as_deref().unwrap_or("http")
    }

    fn authority(&self) -> &str {
        &self.authority
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn header_lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.get(name).copied().unwrap_or_default().iter().map(String::as_bytes)
    }
}
