//! Answers of our own: the status, body and flag for each way in which a request can fail, in Envoy's words, and their
//! gRPC form. This is the only place that turns a cause into a response.

use std::fmt::Write;

use undermesh_core::edits::Edits;

use crate::flags::ResponseFlags;

/// A response we make ourselves, before the route's header operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Local {
    pub status: u16,
    pub flags: ResponseFlags,
    /// Envoy's RESPONSE_CODE_DETAILS.
    pub details: &'static str,
    pub body: &'static str,
    /// Sets `x-envoy-overloaded: true`.
    pub overloaded: bool,
}

const fn local(status: u16, flags: ResponseFlags, details: &'static str, body: &'static str) -> Local {
    Local { status, flags, details, body, overloaded: false }
}

pub(crate) const NO_ROUTE: Local = local(404, ResponseFlags::NO_ROUTE_FOUND, "route_not_found", "");
pub(crate) const NO_CLUSTER: Local = local(503, ResponseFlags::NO_CLUSTER_FOUND, "cluster_not_found", "");
pub(crate) const NO_HEALTHY_UPSTREAM: Local =
    local(503, ResponseFlags::NO_HEALTHY_UPSTREAM, "no_healthy_upstream", "no healthy upstream");
pub(crate) const OVERFLOW: Local = Local {
    overloaded: true,
    ..local(
        503,
        ResponseFlags::UPSTREAM_OVERFLOW,
        "upstream_reset_before_response_started{overflow}",
        "upstream connect error or disconnect/reset before headers. reset reason: overflow",
    )
};
pub(crate) const CONNECT_FAILED: Local = local(
    503,
    ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
    "upstream_reset_before_response_started{remote_connection_failure}",
    "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
);
pub(crate) const CONNECT_TIMED_OUT: Local = local(
    503,
    ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
    "upstream_reset_before_response_started{connection_timeout}",
    "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
);
pub(crate) const RESET: Local = local(
    503,
    ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
    "upstream_reset_before_response_started{connection_termination}",
    "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
);
pub(crate) const REFUSED_STREAM: Local = local(
    503,
    ResponseFlags::UPSTREAM_REMOTE_RESET,
    "upstream_reset_before_response_started{remote_refused_stream_reset}",
    "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset",
);
pub(crate) const UPSTREAM_PROTOCOL: Local = local(
    502,
    ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
    "upstream_reset_before_response_started{protocol_error}",
    "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
);
pub(crate) const TIMED_OUT: Local =
    local(504, ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, "response_timeout", "upstream request timeout");
pub(crate) const PER_TRY_TIMED_OUT: Local = local(
    504,
    ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
    "upstream_per_try_timeout",
    "upstream request timeout",
);
/// The cluster's policy asks for what is not done here (see the diagnostics); never sent in clear text instead.
pub(crate) const CLUSTER_REFUSED: Local = local(
    503,
    ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
    "upstream_policy_not_enforceable",
    "upstream connect error or disconnect/reset before headers. reset reason: policy of the destination is not enforceable",
);
pub(crate) const BLOCKED: Local = local(502, ResponseFlags::NONE, "direct_response", "");
/// To a CORS preflight, with the policy's lines.
pub(crate) const PREFLIGHT: Local = local(200, ResponseFlags::NONE, "cors_response", "");
pub(crate) const UPGRADE_REFUSED: Local = local(403, ResponseFlags::NONE, "upgrade_failed", "");
pub(crate) const BAD_REQUEST: Local =
    local(400, ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "http1.codec_error", "");

/// Body and flag of an injected abort.
pub(crate) const FAULT_BODY: &str = "fault filter abort";

/// Makes `edits` those of a local answer to a gRPC call: status 200, `grpc-status` and `grpc-message` in the head, no body.
pub(crate) fn grpc_edits(edits: &mut Edits, status: u32, message: &str) {
    edits.set("content-type", b"application/grpc");
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, "{status}");
    edits.set("grpc-status", text.as_bytes());
    if !message.is_empty() {
        edits.set("grpc-message", percent_encoded(message).as_bytes());
    }
}

/// gRPC's percent-encoding: visible ASCII but `%` as it is.
fn percent_encoded(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_answer_carries_status_and_message_in_its_head() {
        let mut edits = Edits::default();
        grpc_edits(&mut edits, 14, "50% gone\n");
        let lines: Vec<_> =
            edits.lines().map(|(name, value)| (name, String::from_utf8_lossy(value).into_owned())).collect();
        assert_eq!(
            lines,
            [
                ("content-type", "application/grpc".to_owned()),
                ("grpc-status", "14".to_owned()),
                ("grpc-message", "50%25 gone%0A".to_owned())
            ]
        );
    }
}
