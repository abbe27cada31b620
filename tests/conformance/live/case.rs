//! A case as its file says it (format: ../README.md). What is not known here is an error, so nothing of a case is skipped.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// One case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) gateways: Vec<GatewayWorkload>,
    #[serde(default)]
    pub(crate) services: Vec<Service>,
    #[serde(default)]
    pub(crate) config: Vec<Value>,
    pub(crate) requests: Vec<Request>,
    /// Of use before a case is run only.
    #[serde(rename = "level")]
    _level: Level,
    /// For readers.
    #[serde(rename = "description")]
    _description: IgnoredAny,
    #[serde(rename = "source")]
    _source: IgnoredAny,
    #[serde(rename = "basis")]
    _basis: IgnoredAny,
    #[serde(rename = "confidence")]
    _confidence: IgnoredAny,
    #[serde(rename = "note")]
    _note: Option<IgnoredAny>,
}

impl Case {
    /// Whether its addresses are those of IPv6.
    pub(crate) fn is_ipv6(&self) -> bool {
        let services =
            self.services.iter().flat_map(|it| it.endpoints.iter().map(|it| it.address).chain(it.vip));
        let sources = self.requests.iter().filter_map(|it| it.source.address);
        services.chain(sources).any(|it| it.is_ipv6())
    }
}

/// What running a case takes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Core,
    /// Waits: started first.
    Timing,
    Extended,
    Security,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GatewayWorkload {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
}

/// A service of the registry. How it becomes Kubernetes objects is `world.rs`'s; here is what its endpoints serve.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) vip: Option<IpAddr>,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Endpoint>,
    #[serde(default)]
    pub(crate) selector: BTreeMap<String, String>,
    #[serde(rename = "headless")]
    _headless: Option<IgnoredAny>,
    #[serde(rename = "type")]
    _type: Option<IgnoredAny>,
    #[serde(rename = "externalName")]
    _external_name: Option<IgnoredAny>,
    #[serde(rename = "trafficDistribution")]
    _traffic_distribution: Option<IgnoredAny>,
}

impl Service {
    pub(crate) fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) number: u16,
    pub(crate) protocol: String,
    pub(crate) target_port: Option<u16>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) address: IpAddr,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) behaviour: Behaviour,
    #[serde(rename = "locality")]
    _locality: Option<IgnoredAny>,
    #[serde(rename = "node")]
    _node: Option<IgnoredAny>,
}

/// How an upstream differs from an echo server.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Behaviour {
    pub(crate) status: Option<u16>,
    #[serde(deserialize_with = "duration")]
    pub(crate) delay: Option<Duration>,
    pub(crate) sequence: Vec<Value>,
    pub(crate) grpc_sequence: Vec<u16>,
    pub(crate) repeat: bool,
    pub(crate) sequence_key: Option<SequenceKey>,
    pub(crate) connect: Option<ConnectBehaviour>,
    pub(crate) response_headers: BTreeMap<String, Value>,
    pub(crate) accept: Vec<Accept>,
    pub(crate) websocket: bool,
    pub(crate) server_first: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SequenceKey {
    Path,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConnectBehaviour {
    Refuse,
    Blackhole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Accept {
    Http1,
    H2c,
    ProxyProtocol,
}

/// A group of requests that are alike.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) id: String,
    pub(crate) via: Option<String>,
    pub(crate) source: Source,
    /// `world.rs` knows what it means.
    pub(crate) connect: Value,
    pub(crate) protocol: Protocol,
    pub(crate) authority: Option<String>,
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Value>,
    pub(crate) jwt: Option<Map<String, Value>>,
    pub(crate) body: Option<String>,
    pub(crate) payload: Option<String>,
    pub(crate) sni: Option<String>,
    pub(crate) client_cert: Option<ClientCert>,
    pub(crate) tls_max: Option<TlsVersion>,
    #[serde(default = "one")]
    pub(crate) count: usize,
    #[serde(default = "one")]
    pub(crate) concurrency: usize,
    /// Requests a second.
    pub(crate) rate: Option<f64>,
    #[serde(default)]
    pub(crate) reuse_connection: bool,
    #[serde(default, deserialize_with = "duration")]
    pub(crate) wait: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    pub(crate) hold: Option<Duration>,
    #[serde(default)]
    pub(crate) cookie_jar: bool,
    pub(crate) vary_header: Option<VaryHeader>,
    pub(crate) add_endpoint: Option<Value>,
    pub(crate) remove_endpoint: Option<String>,
    #[serde(default)]
    pub(crate) server_first: bool,
    pub(crate) expect: Option<Expect>,
    #[serde(default)]
    pub(crate) expect_any: Vec<Expect>,
    #[serde(rename = "note")]
    _note: Option<IgnoredAny>,
}

fn one() -> usize {
    1
}

/// Who sends.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct Source {
    pub(crate) namespace: Option<String>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) service_account: Option<String>,
    pub(crate) locality: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) mesh: Option<bool>,
    pub(crate) external: bool,
    pub(crate) address: Option<IpAddr>,
    pub(crate) endpoint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    Http1,
    #[serde(rename = "http1.0")]
    Http10,
    Http2,
    Https,
    Grpc,
    Tcp,
    Tls,
}

impl Protocol {
    pub(crate) fn is_opaque(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ClientCert {
    Good,
    OtherCa,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum TlsVersion {
    #[serde(rename = "1.2")]
    V12,
    #[serde(rename = "1.3")]
    V13,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VaryHeader {
    pub(crate) name: String,
    pub(crate) values: usize,
}

/// What must hold. An absent key says nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Expect {
    pub(crate) status: Option<u16>,
    pub(crate) status_in: Option<Vec<u16>>,
    pub(crate) grpc_status: Option<u16>,
    pub(crate) status_distribution: BTreeMap<String, f64>,
    pub(crate) tolerance: Option<f64>,
    pub(crate) min_count: BTreeMap<String, usize>,
    pub(crate) on_status: BTreeMap<String, Expect>,
    pub(crate) destination: Option<Value>,
    pub(crate) passthrough: Option<bool>,
    pub(crate) distribution: Option<Distribution>,
    pub(crate) sticky: Option<Value>,
    pub(crate) min_endpoints: Option<usize>,
    pub(crate) includes_endpoint: Option<String>,
    pub(crate) excludes_endpoint: Option<String>,
    pub(crate) share_below: BTreeMap<String, f64>,
    pub(crate) moved_fraction: Option<MovedFraction>,
    pub(crate) hops: Option<Vec<String>>,
    pub(crate) attempts: Option<usize>,
    pub(crate) connect_attempts: Option<usize>,
    pub(crate) upstream_connections: Option<usize>,
    pub(crate) mirror: Option<Vec<Mirror>>,
    pub(crate) per_version: BTreeMap<String, Expect>,
    pub(crate) upstream: Option<UpstreamExpect>,
    pub(crate) response: Option<ResponseExpect>,
    pub(crate) location: Option<String>,
    pub(crate) duration: Option<Span>,
    pub(crate) slow_fraction: Option<SlowFraction>,
    #[serde(deserialize_with = "duration")]
    pub(crate) stays_open: Option<Duration>,
    pub(crate) connection: Option<Connection>,
    pub(crate) connection_in: Option<Vec<Connection>>,
    pub(crate) tls: Option<TlsExpect>,
    pub(crate) echo: Option<String>,
    pub(crate) banner: Option<String>,
    pub(crate) peer: Option<Peer>,
    pub(crate) response_flag: Option<String>,
    pub(crate) response_flag_in: Option<Vec<String>>,
    pub(crate) route_name: Option<String>,
}

/// A destination that is not `none`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Destination {
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) subset: Option<String>,
    pub(crate) endpoints: Option<Vec<String>>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) address_in: Option<Vec<IpAddr>>,
    pub(crate) dialed: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Distribution {
    pub(crate) by: By,
    pub(crate) values: BTreeMap<String, f64>,
    pub(crate) tolerance: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum By {
    Version,
    Endpoint,
    Host,
    Address,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MovedFraction {
    pub(crate) max: f64,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mirror {
    pub(crate) host: String,
    pub(crate) subset: Option<String>,
    pub(crate) fraction: Option<f64>,
    pub(crate) tolerance: Option<f64>,
    pub(crate) authority: Option<String>,
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) body: Option<String>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Value>,
}

/// What the upstream saw.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpstreamExpect {
    pub(crate) path: Option<String>,
    pub(crate) authority: Option<String>,
    pub(crate) method: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) headers: BTreeMap<String, Value>,
    pub(crate) headers_present: Vec<String>,
    pub(crate) headers_absent: Vec<String>,
    pub(crate) header_contains: BTreeMap<String, String>,
    pub(crate) local_port: Option<u16>,
    pub(crate) tls: Option<bool>,
    pub(crate) sni: Option<String>,
    pub(crate) alpn: Option<String>,
    pub(crate) proxy_protocol: Option<u8>,
}

/// What the client got.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ResponseExpect {
    pub(crate) headers: BTreeMap<String, Value>,
    pub(crate) headers_present: Vec<String>,
    pub(crate) headers_absent: Vec<String>,
    pub(crate) body: Option<String>,
    pub(crate) set_cookie: Option<SetCookie>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetCookie {
    pub(crate) name: String,
    /// `Some(None)`: the attribute must be absent.
    #[serde(default, deserialize_with = "given")]
    pub(crate) max_age: Option<Option<Value>>,
    pub(crate) path: Option<String>,
    #[serde(default)]
    pub(crate) attributes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Span {
    #[serde(default, deserialize_with = "duration")]
    pub(crate) min: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    pub(crate) max: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SlowFraction {
    #[serde(deserialize_with = "duration")]
    pub(crate) threshold: Option<Duration>,
    pub(crate) value: f64,
    pub(crate) tolerance: f64,
}

/// How a connection went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Connection {
    Ok,
    /// A reset, or an end without data.
    Reset,
    Refused,
    TlsError,
    /// The peer said nothing for too long: never expected.
    #[serde(skip)]
    Silent,
}

impl Connection {
    /// As in the keys of `min_count`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::TlsError => "tls-error",
            Self::Silent => "silent",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TlsExpect {
    pub(crate) server_cert: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peer {
    pub(crate) mtls: bool,
}

/// `400ms`, `1.5s`, `10m`, or seconds.
fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let value = Value::deserialize(from)?;
    let seconds = match &value {
        Value::Number(seconds) => seconds.as_f64(),
        Value::String(text) => [("ms", 0.001), ("s", 1.0), ("m", 60.0)]
            .iter()
            .find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor)),
        _ => None,
    };
    let seconds = seconds.ok_or_else(|| D::Error::custom(format!("{value} is no duration")))?;
    Duration::try_from_secs_f64(seconds).map(Some).map_err(D::Error::custom)
}

/// Keeps null apart from nothing.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// A header's lines.
pub(crate) fn lines(value: &Value) -> Vec<String> {
    match value {
        Value::Array(lines) => lines.iter().map(plain).collect(),
        one => vec![plain(one)],
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
