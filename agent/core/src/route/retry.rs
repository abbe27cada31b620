//! Retries: when a try may be repeated, and how long to wait before.
//!
//! Conditions are Envoy's (`retry_on` of the router filter), with Envoy's meanings; Istio adds bare status codes.

use std::time::Duration;

use rand_core::RngCore;

use crate::view::ResponseView;

/// When and how to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries beyond the first try; 0: none.
    pub attempts: u32,
    /// Of each try; `None`: only the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// What is tried again.
    pub retry_on: RetryOn,
    /// The wait before a retry.
    pub back_off: BackOff,
    /// Prefer endpoints not tried yet; `None`: yes, unless the cluster hashes consistently.
    pub ignore_previous_hosts: Option<bool>,
    /// Move to other localities after two tries.
    pub remote_localities: bool,
}

impl RetryPolicy {
    /// No retries.
    pub fn none() -> Self {
        Self { attempts: 0, retry_on: RetryOn::default(), ..Self::default() }
    }

    /// Whether the outcome of a try calls for another one (attempts, budgets and what is left of the time-outs are the
    /// caller's to count).
    pub fn should_retry(&self, outcome: &TryOutcome) -> bool {
        self.attempts > 0 && self.retry_on.covers(outcome)
    }
}

impl Default for RetryPolicy {
    /// Istio's default: 2 retries. No status is retried, as no code is listed.
    fn default() -> Self {
        Self {
            attempts: 2,
            per_try_timeout: None,
            retry_on: RetryOn {
                conditions: [
                    RetryCondition::ConnectFailure,
                    RetryCondition::RefusedStream,
                    RetryCondition::Unavailable,
                    RetryCondition::Cancelled,
                    RetryCondition::RetriableStatusCodes,
                ]
                .into(),
                codes: Vec::new(),
            },
            back_off: BackOff::default(),
            ignore_previous_hosts: None,
            remote_localities: false,
        }
    }
}

/// Exponential back-off with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// Istio: `HTTPRetry.backoff`; default 25 ms.
    pub base: Duration,
    /// Ten times the base, as in Istio.
    pub max: Duration,
}

impl BackOff {
    /// With Istio's cap.
    pub fn new(base: Duration) -> Self {
        Self { base, max: base.saturating_mul(10) }
    }

    /// The wait before retry `number` (from 1): anything below base × 2^(number − 1), capped. (Envoy's documentation has
    /// 2^number − 1; its `JitteredExponentialBackOffStrategy` starts with the base and doubles, as here.)
    pub fn delay(&self, number: u32, rng: &mut impl RngCore) -> Duration {
        let factor = 1u32.checked_shl(number.saturating_sub(1)).unwrap_or(u32::MAX);
        let limit = self.base.saturating_mul(factor).min(self.max);
        let nanos = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(if nanos == 0 { 0 } else { rng.next_u64() % nanos })
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self::new(Duration::from_millis(25))
    }
}

/// What is tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// In the order written.
    pub conditions: Vec<RetryCondition>,
    /// Status codes of the upstream's answer.
    pub codes: Vec<u16>,
}

/// A condition of Envoy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryCondition {
    /// Any 5xx answer, or none at all.
    FiveXx,
    /// 502, 503, 504, or no answer at all.
    GatewayError,
    /// No answer: not connected, reset, disconnected, late.
    Reset,
    /// No answer, before any of the request was sent; the connection that could not be made included.
    ResetBeforeRequest,
    /// The connection could not be made.
    ConnectFailure,
    /// `x-envoy-ratelimited` in the answer.
    EnvoyRatelimited,
    /// 409.
    Retriable4xx,
    /// The stream was refused: nothing was processed.
    RefusedStream,
    /// The listed codes.
    RetriableStatusCodes,
    /// Listed headers; Istio has no field to list them, so it covers nothing.
    RetriableHeaders,
    /// Of HTTP/3, which is not spoken: covers nothing.
    Http3PostConnectFailure,
    /// This grpc-status in the answer's head.
    Grpc(GrpcStatus),
}

#[expect(non_upper_case_globals, reason = "they read as the variants they stand for")]
impl RetryCondition {
    /// grpc-status 1.
    pub const Cancelled: Self = Self::Grpc(GrpcStatus(1));
    /// grpc-status 14.
    pub const Unavailable: Self = Self::Grpc(GrpcStatus(14));
}

/// A status of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrpcStatus(pub u32);

const GRPC_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl GrpcStatus {
    /// By name: `UNAVAILABLE`.
    pub fn by_name(name: &str) -> Option<Self> {
        (0..).zip(GRPC_NAMES).find(|(_, known)| *known == name).map(|(code, _)| Self(code))
    }

    /// What an HTTP status of ours becomes for a gRPC client (istio-semantics section 11).
    pub fn of_http(status: u16) -> Self {
        Self(match status {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502 | 503 | 504 => 14,
            _ => 2,
        })
    }

    /// The HTTP status it stands for (Envoy's `grpcToHttpStatus`): how outlier detection weighs it.
    pub fn to_http(self) -> u16 {
        match self.0 {
            0 => 200,
            1 => 499,
            3 | 9 | 11 => 400,
            4 => 504,
            5 => 404,
            6 | 10 => 409,
            7 => 403,
            8 => 429,
            12 => 501,
            14 => 503,
            16 => 401,
            _ => 500,
        }
    }
}

impl RetryCondition {
    /// Istio's and Envoy's name for it.
    pub fn as_str(self) -> &'static str {
        CONDITIONS.iter().find(|(_, condition)| *condition == self).map_or("grpc", |(name, _)| name)
    }
}

const CONDITIONS: [(&str, RetryCondition); 16] = [
    ("5xx", RetryCondition::FiveXx),
    ("gateway-error", RetryCondition::GatewayError),
    ("reset", RetryCondition::Reset),
    ("reset-before-request", RetryCondition::ResetBeforeRequest),
    ("connect-failure", RetryCondition::ConnectFailure),
    ("envoy-ratelimited", RetryCondition::EnvoyRatelimited),
    ("retriable-4xx", RetryCondition::Retriable4xx),
    ("refused-stream", RetryCondition::RefusedStream),
    ("retriable-status-codes", RetryCondition::RetriableStatusCodes),
    ("retriable-headers", RetryCondition::RetriableHeaders),
    ("http3-post-connect-failure", RetryCondition::Http3PostConnectFailure),
    ("cancelled", RetryCondition::Cancelled),
    ("deadline-exceeded", RetryCondition::Grpc(GrpcStatus(4))),
    ("internal", RetryCondition::Grpc(GrpcStatus(13))),
    ("resource-exhausted", RetryCondition::Grpc(GrpcStatus(8))),
    ("unavailable", RetryCondition::Unavailable),
];

impl RetryOn {
    /// From Istio's comma list. Entries that are no condition come back beside it.
    pub fn parse(list: &str) -> (Self, Vec<&str>) {
        let mut parsed = Self::default();
        let mut unknown = Vec::new();
        for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if let Some((_, condition)) = CONDITIONS.iter().find(|(name, _)| *name == entry) {
                parsed.conditions.push(*condition);
            } else if let Some(code) = entry.parse().ok().filter(|code| (100..=599).contains(code)) {
                parsed.codes.push(code);
            } else {
                unknown.push(entry);
            }
        }
        if !parsed.codes.is_empty() && !parsed.conditions.contains(&RetryCondition::RetriableStatusCodes) {
            parsed.conditions.push(RetryCondition::RetriableStatusCodes);
        }
        (parsed, unknown)
    }

    /// The entries, as one would write them.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let conditions = self.conditions.iter().map(|condition| condition.as_str().to_owned());
        conditions.chain(self.codes.iter().map(u16::to_string))
    }

    fn has(&self, condition: RetryCondition) -> bool {
        self.conditions.contains(&condition)
    }

    fn covers(&self, outcome: &TryOutcome) -> bool {
        // Envoy counts every try without an answer as the 5xx it would become.
        let no_answer = self.has(RetryCondition::FiveXx)
            || self.has(RetryCondition::GatewayError)
            || self.has(RetryCondition::Reset);
        match *outcome {
            TryOutcome::ConnectFailure => {
                no_answer
                    || self.has(RetryCondition::ConnectFailure)
                    || self.has(RetryCondition::ResetBeforeRequest)
            }
            TryOutcome::Reset { request_sent } => {
                no_answer || !request_sent && self.has(RetryCondition::ResetBeforeRequest)
            }
            TryOutcome::RefusedStream => no_answer || self.has(RetryCondition::RefusedStream),
            TryOutcome::PerTryTimeout => no_answer,
            TryOutcome::Overflow => false,
            TryOutcome::Response { ratelimited: true, .. } => self.has(RetryCondition::EnvoyRatelimited),
            TryOutcome::Response { status, grpc_status, .. } => {
                self.has(RetryCondition::FiveXx) && (500..600).contains(&status)
                    || self.has(RetryCondition::GatewayError) && matches!(status, 502..=504)
                    || self.has(RetryCondition::Retriable4xx) && status == 409
                    || self.has(RetryCondition::RetriableStatusCodes) && self.codes.contains(&status)
                    || grpc_status.is_some_and(|status| self.has(RetryCondition::Grpc(GrpcStatus(status))))
            }
        }
    }
}

/// How a try ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryOutcome {
    /// No connection: refused, unreachable, timed out.
    ConnectFailure,
    /// The connection or stream ended without an answer.
    Reset {
        /// Some of the request had been sent.
        request_sent: bool,
    },
    /// HTTP/2 REFUSED_STREAM, or GOAWAY below the stream.
    RefusedStream,
    /// `perTryTimeout` passed.
    PerTryTimeout,
    /// A limit of the cluster was met; never tried again.
    Overflow,
    /// The head of an answer.
    Response {
        /// Its status.
        status: u16,
        /// Its grpc-status, if it has one (trailers-only).
        grpc_status: Option<u32>,
        /// It says `x-envoy-ratelimited`: only the condition of that name covers it.
        ratelimited: bool,
    },
}

impl TryOutcome {
    /// From the head of an answer.
    pub fn response(response: &impl ResponseView) -> Self {
        let grpc_status =
            response.header("grpc-status").and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        Self::Response {
            status: response.status(),
            grpc_status,
            ratelimited: response.header("x-envoy-ratelimited").is_some(),
        }
    }
}

#[cfg(test)]
mod tests;
