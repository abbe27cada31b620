//! CorsPolicy, compiled.

use crate::api::http_route::{CorsPolicy as Written, UnmatchedPreflights};
use crate::api::string_match::Condition;
use crate::route::{CorsPolicy, RegexError, StringCondition};

/// The policy, and the fields below it whose expression cannot be used: such an origin is not allowed.
pub(super) fn compile(written: &Written) -> (CorsPolicy, Vec<(String, RegexError)>) {
    let mut broken = Vec::new();
    let mut allow_origins = Vec::new();
    for (at, origin) in written.allow_origins.iter().enumerate() {
        match origin.condition() {
            // Istio leaves it out.
            Condition::Present => {}
            Condition::Exact(text) => allow_origins.push(StringCondition::Exact(text.into())),
            Condition::Prefix(text) => allow_origins.push(StringCondition::Prefix(text.into())),
            Condition::Regex(text) => match StringCondition::regex(text) {
                Ok(test) => allow_origins.push(test),
                Err(error) => broken.push((format!("allowOrigins[{at}].regex"), error)),
            },
        }
    }
    // Istio: the deprecated list counts only without the new one.
    if written.allow_origins.is_empty() {
        allow_origins
            .extend(written.allow_origin.iter().map(|text| StringCondition::Exact(text.as_str().into())));
    }
    let policy = CorsPolicy {
        allow_origins,
        allow_methods: written.allow_methods.join(",").into(),
        allow_headers: written.allow_headers.join(",").into(),
        expose_headers: written.expose_headers.join(",").into(),
        max_age_seconds: written.max_age.map(|age| age.get().as_secs()),
        allow_credentials: written.allow_credentials.unwrap_or(false),
        forwards_unmatched_preflights: written.unmatched_preflights != UnmatchedPreflights::Ignore,
    };
    (policy, broken)
}
