//! Reason phrases, for heads that we write ourselves (RFC 9110 section 15; clients do not read them, people do).

/// The phrase that goes with a status; empty for one without a registered meaning.
pub fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("")
}
