//! `HTTPFaultInjection` as written.

use serde::Deserialize;

use super::duration::Duration;
use super::virtual_service::Percent;

/// Injected delay and abort, drawn independently; the delay comes first.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpFaultInjection {
    /// Wait before forwarding.
    pub delay: Option<Delay>,
    /// Answer in place of the service.
    pub abort: Option<Abort>,
}

/// `HTTPFaultInjection.Delay`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delay {
    /// The wait. A oneof with `exponential_delay`.
    pub fixed_delay: Option<Duration>,
    /// Never implemented by Istio.
    pub exponential_delay: Option<Duration>,
    /// Deprecated: whole per cent.
    pub percent: i32,
    /// Share of requests; absent means none.
    pub percentage: Option<Percent>,
}

/// `HTTPFaultInjection.Abort`; the three errors are a oneof.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Abort {
    /// 200 to 599.
    pub http_status: Option<i32>,
    /// A gRPC status by name, `UNAVAILABLE`.
    pub grpc_status: Option<String>,
    /// Never implemented by Istio.
    pub http2_error: Option<String>,
    /// Share of requests; absent means none.
    pub percentage: Option<Percent>,
}
