//! Cross-origin requests: Istio's `corsPolicy`, as Envoy's CORS filter carries it out.
//!
//! The filter stands between fault injection and the router. So an injected abort says nothing about origins, while every
//! answer from behind the filter does, our own errors included; its lines come after the rule's response header operations
//! and overwrite them and what the application said. It looks at routes that forward only: on a redirect or a direct
//! response a policy does nothing. A preflight's answer is the filter's own and takes no header operations.
//!
//! Source: Envoy `source/extensions/filters/http/cors/cors_filter.cc`, Istio `TranslateCORSPolicy`; istio-semantics 2.9.

use super::decide::{Decision, Outcome};
use super::matching::StringCondition;
use super::table::HttpTable;
use crate::edits::Edits;
use crate::view::RequestView;

const ORIGIN: &str = "origin";
const REQUEST_METHOD: &str = "access-control-request-method";
const REQUEST_HEADERS: &str = "access-control-request-headers";

/// A rule's policy. Lists are joined with commas, as they are sent; an empty one sends nothing.
#[derive(Debug, Clone, Default)]
pub struct CorsPolicy {
    /// Any of them allows an origin; one that holds for `*` allows all (Envoy tests that text too).
    pub allow_origins: Vec<StringCondition>,
    /// For preflights; `*` alone sends back the method that was asked for.
    pub allow_methods: Box<str>,
    /// For preflights; `*` alone sends back the headers that were asked for.
    pub allow_headers: Box<str>,
    /// Headers that scripts may read.
    pub expose_headers: Box<str>,
    /// How long the answer to a preflight may be kept; whole seconds.
    pub max_age_seconds: Option<u64>,
    /// Whether `access-control-allow-credentials: true` is sent.
    pub allow_credentials: bool,
    /// Preflights of other origins go to the application (Istio: FORWARD, the default), or are answered without the origin
    /// (IGNORE).
    pub forwards_unmatched_preflights: bool,
}

/// What a request asks of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossOrigin<'r> {
    /// Its `Origin`, not empty.
    pub origin: &'r [u8],
    /// Whether the policy allows the origin.
    pub is_allowed: bool,
    /// Whether it asks in advance: `OPTIONS` with `Access-Control-Request-Method`.
    pub is_preflight: bool,
}

impl CorsPolicy {
    /// `None`: the request says no origin, or more than one, which no browser does and nobody is allowed.
    pub fn judge<'r>(&self, request: &'r impl RequestView) -> Option<CrossOrigin<'r>> {
        let mut lines = request.header_lines(ORIGIN);
        let origin = lines.next().filter(|origin| !origin.is_empty())?;
        if lines.next().is_some() {
            return None;
        }
        let is_allowed = self.allow_origins.iter().any(|test| test.holds(b"*") || test.holds(origin));
        let is_preflight = request.method() == "OPTIONS"
            && request.header(REQUEST_METHOD).is_some_and(|method| !method.is_empty());
        Some(CrossOrigin { origin, is_allowed, is_preflight })
    }

    /// Whether the request is a preflight that the proxy answers.
    pub(super) fn answers(&self, request: &impl RequestView) -> bool {
        self.judge(request).is_some_and(|asked| {
            asked.is_preflight && (asked.is_allowed || !self.forwards_unmatched_preflights)
        })
    }

    fn answer_preflight(&self, request: &impl RequestView, edits: &mut Edits) {
        for (name, list, asked) in [
            ("access-control-allow-methods", &self.allow_methods, REQUEST_METHOD),
            ("access-control-allow-headers", &self.allow_headers, REQUEST_HEADERS),
        ] {
            match &**list {
                "" => {}
                "*" => {
                    if let Some(asked) = request.header(asked) {
                        edits.set(name, asked);
                    }
                }
                list => edits.set(name, list.as_bytes()),
            }
        }
        if let Some(seconds) = self.max_age_seconds {
            edits.set("access-control-max-age", seconds.to_string().as_bytes());
        }
    }
}

/// Adds to `edits` what the policy of the decided route says in the response to `request`; it goes over everything that is
/// there. With [`Outcome::Preflight`] these are all lines of the answer (200, no body). Adds nothing for other requests
/// than cross-origin ones of an allowed origin, and for other outcomes than [`Outcome::Forward`].
pub fn cors_edits(table: &HttpTable, decision: &Decision, request: &impl RequestView, edits: &mut Edits) {
    let is_answered = match decision.outcome {
        Outcome::Preflight => true,
        Outcome::Forward { .. } => false,
        _ => return,
    };
    let Some(policy) = decision.route.and_then(|index| table.route(index)?.cors.as_deref()) else { return };
    let Some(asked) = policy.judge(request) else { return };
    if !asked.is_allowed && !is_answered {
        return;
    }
    if asked.is_allowed {
        edits.set("access-control-allow-origin", asked.origin);
        if !policy.expose_headers.is_empty() {
            edits.set("access-control-expose-headers", policy.expose_headers.as_bytes());
        }
    }
    if policy.allow_credentials {
        edits.set("access-control-allow-credentials", b"true");
    }
    if is_answered {
        policy.answer_preflight(request, edits);
    }
}

#[cfg(test)]
mod tests;
