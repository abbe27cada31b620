//! Rules for what an HTTP rule does.

use super::{Checker, headers, http_match, values, virtual_service};
use crate::api::fault::{Abort, Delay, HttpFaultInjection};
use crate::api::http_route::{CorsPolicy, HttpDirectResponse, HttpRedirect, HttpRetry, HttpRewrite};
use crate::api::string_match::{Condition, StringMatch};
use crate::api::virtual_service::HttpRoute;
use crate::diagnostic::Code;

/// A body that takes long to hand around, and one that is refused, in bytes.
const LARGE_BODY: usize = 100 << 10;
const MAX_BODY: usize = 1 << 20;

/// What kind of rule it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RouteKind {
    /// Neither of the following.
    Independent,
    /// It names a delegate.
    Root,
    /// It is in a delegate.
    Delegate,
}

pub(super) fn check(check: &mut Checker<'_>, route: &HttpRoute, kind: RouteKind, gateways: &[String]) {
    conflicts(check, route, kind);
    check.items("match", &route.matches, |check, condition| http_match::check(check, condition, gateways));
    headers::operations(check, route.headers.as_ref());
    check.field("corsPolicy", |check| cors(check, route.cors_policy.as_ref()));
    check.field("fault", |check| fault(check, route.fault.as_ref()));
    mirrors(check, route);
    check.field("redirect", |check| redirect(check, route.redirect.as_ref(), route));
    check.field("directResponse", |check| direct_response(check, route.direct_response.as_ref()));
    check.field("retries", |check| retries(check, route.retries.as_ref()));
    check.field("rewrite", |check| rewrite(check, route.rewrite.as_ref()));
    headers::one_authority(check, route.rewrite.as_ref(), route.headers.as_ref());
    check.items("route", &route.route, |check, leg| {
        if leg.destination.is_none() {
            check.error(Code::InvalidDestination, "destination is required");
        }
        headers::operations(check, leg.headers.as_ref());
        check.field("destination", |check| virtual_service::destination(check, leg.destination.as_ref()));
    });
    let weights: Vec<_> = route.route.iter().map(|leg| leg.weight).collect();
    virtual_service::weights(check, &weights);
    check.field("timeout", |check| values::duration(check, route.timeout));
}

fn conflicts(check: &mut Checker<'_>, route: &HttpRoute, kind: RouteKind) {
    let name = &route.name;
    let mut conflict = |message: &str| check.error(Code::ConflictingActions, message);
    if kind == RouteKind::Root {
        for (field, is_set) in [("redirect", route.redirect.is_some()), ("route", !route.route.is_empty())] {
            if is_set {
                conflict(&format!("root HTTP route {name} must not specify {field}"));
            }
        }
        return delegate(check, route);
    }
    let has_route = !route.route.is_empty();
    if route.redirect.is_some() {
        if has_route {
            conflict("HTTP route cannot contain both route and redirect");
        }
        if route.fault.is_some() {
            conflict("HTTP route cannot contain both fault and redirect");
        }
        if route.rewrite.is_some() {
            conflict("HTTP route rule cannot contain both rewrite and redirect");
        }
        if route.direct_response.is_some() {
            conflict("HTTP route rule cannot contain both direct_response and redirect");
        }
    } else if route.direct_response.is_some() {
        if has_route {
            conflict("HTTP route cannot contain both route and direct_response");
        }
        if route.fault.is_some() {
            conflict("HTTP route cannot contain both fault and direct_response");
        }
        if route.rewrite.is_some() {
            conflict("HTTP route rule cannot contain both rewrite and direct_response");
        }
    } else if kind == RouteKind::Delegate && route.delegate.is_some() {
        // Said below.
    } else if !has_route {
        check.error(Code::MissingAction, "HTTP route, redirect or direct_response is required");
    }
    if kind == RouteKind::Delegate && route.delegate.is_some() {
        check.error_at("delegate", Code::InvalidDelegate, "delegate HTTP route cannot contain delegate");
    }
}

fn delegate(check: &mut Checker<'_>, route: &HttpRoute) {
    if route.delegate.as_ref().is_some_and(|delegate| delegate.name.is_empty()) {
        check.warn_at("delegate", Code::InvalidDelegate, "delegate without name: the rule is left out");
    }
}

fn mirrors(check: &mut Checker<'_>, route: &HttpRoute) {
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        check.error(Code::InvalidMirror, "HTTP route cannot contain both mirror and mirrors");
    }
    if let Some(percent) = route.mirror_percent {
        check.field("mirrorPercent", |check| {
            if percent > 100 {
                let message = format!("mirror_percent must have a max value of 100 (it has {percent})");
                check.error(Code::InvalidMirror, message);
            }
            check.warn(
                Code::Deprecated,
                "using deprecated setting \"mirrorPercent\", use \"mirrorPercentage\" instead",
            );
        });
    }
    if let Some(percentage) = &route.mirror_percentage {
        check.field("mirrorPercentage.value", |check| {
            mirror_share(check, percentage.value, "mirror_percentage");
        });
    }
    check.field("mirror", |check| virtual_service::destination(check, route.mirror.as_ref()));
    check.items("mirrors", &route.mirrors, |check, mirror| {
        if mirror.destination.is_none() {
            check.error(Code::InvalidMirror, "destination is required for mirrors");
        }
        check.field("destination", |check| virtual_service::destination(check, mirror.destination.as_ref()));
        if let Some(percentage) = &mirror.percentage {
            check.field("percentage.value", |check| {
                mirror_share(check, percentage.value, "mirror percentage");
            });
        }
    });
}

fn mirror_share(check: &mut Checker<'_>, value: f64, name: &str) {
    if value > 100.0 {
        check.error(Code::InvalidMirror, format!("{name} must have a max value of 100 (it has {value:.6})"));
    } else if value < 0.0 {
        check.error(Code::InvalidMirror, format!("{name} must have a min value of 0 (it has {value:.6})"));
    }
}

fn redirect(check: &mut Checker<'_>, redirect: Option<&HttpRedirect>, route: &HttpRoute) {
    let Some(redirect) = redirect else { return };
    let has_uri = !redirect.uri.is_empty();
    let has_prefix = !redirect.prefix_rewrite.is_empty();
    let has_port = redirect.port.is_some() || redirect.derive_port.is_some();
    if !has_uri && !has_prefix && redirect.authority.is_empty() && redirect.scheme.is_empty() && !has_port {
        check.error(Code::InvalidRedirect, "redirect must specify URI, authority, scheme, or port");
    }
    if has_uri && has_prefix {
        check.error(Code::InvalidRedirect, "redirect may only specify one of uri or prefix_rewrite");
    }
    let all_prefixes =
        route.matches.iter().filter_map(|condition| condition.uri.as_ref()).all(|uri| uri.prefix.is_some());
    if has_prefix && !all_prefixes {
        let message = "redirect prefix_rewrite requires all URI matches to use prefix match type";
        check.error_at("prefixRewrite", Code::InvalidRedirect, message);
    }
    if redirect.port.is_some() && redirect.derive_port.is_some() {
        check.error(Code::InvalidRedirect, "redirect cannot specify both port and derivePort");
    }
    if redirect.redirect_code != 0 && !(300..=399).contains(&redirect.redirect_code) {
        let message = format!("{} is not a valid redirect code, must be 3xx", redirect.redirect_code);
        check.error_at("redirectCode", Code::InvalidRedirect, message);
    }
    if !matches!(redirect.scheme.as_str(), "" | "http" | "https") {
        let message = "invalid redirect scheme, must be \"http\" or \"https\"";
        check.error_at("scheme", Code::InvalidRedirect, message);
    }
    if let Some(port) = redirect.port.filter(|&port| port != 0) {
        check.field("port", |check| values::port(check, port));
    }
}

fn direct_response(check: &mut Checker<'_>, response: Option<&HttpDirectResponse>) {
    let Some(response) = response else { return };
    if let Some(body) = &response.body {
        check.field("body", |check| {
            if body.string.is_some() && body.bytes.is_some() {
                check.error(Code::InvalidDirectResponse, "only one of string and bytes may be set");
            }
            // Base64 has four characters for three bytes.
            let bytes = body.bytes.as_ref().map_or(0, |bytes| bytes.len() / 4 * 3);
            let size = body.string.as_ref().map_or(bytes, String::len);
            if size > MAX_BODY {
                let message =
                    "large direct_responses may impact control plane performance, must be less than 1MB";
                check.error(Code::InvalidDirectResponse, message);
            } else if size > LARGE_BODY {
                let message = "large direct_responses may impact control plane performance";
                check.warn(Code::InvalidDirectResponse, message);
            }
            if body.bytes.as_ref().is_some_and(|bytes| !is_base64(bytes)) {
                check.error_at("bytes", Code::InvalidDirectResponse, "not base64");
            }
        });
    }
    if !(200..=599).contains(&response.status) {
        let message = format!("HTTP status {} is not in range 200-599", response.status);
        check.error_at("status", Code::InvalidDirectResponse, message);
    }
}

/// Either alphabet, as proto JSON takes.
fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    text.len() - body.len() <= 2
        && body.len() % 4 != 1
        && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte))
}

fn rewrite(check: &mut Checker<'_>, rewrite: Option<&HttpRewrite>) {
    let Some(rewrite) = rewrite else { return };
    let has_uri = !rewrite.uri.is_empty();
    if has_uri && rewrite.uri_regex_rewrite.is_some() {
        check.error(Code::InvalidRewrite, "rewrite may only contain one of URI or UriRegexRewrite");
    }
    let Some(regex) = &rewrite.uri_regex_rewrite else {
        if !has_uri && rewrite.authority.is_empty() {
            check.error(
                Code::InvalidRewrite,
                "rewrite must specify at least one of URI, UriRegexRewrite, or authority. Only one of URI or \
                 UriRegexRewrite may be specified",
            );
        }
        return;
    };
    check.field("uriRegexRewrite", |check| {
        if regex.pattern.is_empty() || regex.rewrite.is_empty() {
            let message = "UriRegexRewrite requires both Rewrite and Match fields to be specified";
            check.error(Code::InvalidRewrite, message);
        } else {
            check.field("match", |check| {
                values::regex(check, &regex.pattern, "HTTPRewrite.UriRegexRewrite.Match", false);
            });
        }
    });
}

const RETRY_CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(super) fn retries(check: &mut Checker<'_>, retries: Option<&HttpRetry>) {
    let Some(retries) = retries else { return };
    if retries.attempts < 0 {
        check.error_at("attempts", Code::InvalidRetry, "attempts cannot be negative");
    }
    let has_more = retries.per_try_timeout.is_some()
        || !retries.retry_on.is_empty()
        || retries.retry_remote_localities.is_some();
    if retries.attempts == 0 && has_more {
        let message = "http retry policy configured when attempts are set to 0 (disabled)";
        check.error(Code::InvalidRetry, message);
        check.hint("a policy without attempts has 0");
    }
    check.field("perTryTimeout", |check| values::duration(check, retries.per_try_timeout));
    check.field("backoff", |check| values::duration(check, retries.backoff));
    if !retries.retry_on.is_empty() {
        check.field("retryOn", |check| {
            for condition in retries.retry_on.split(',') {
                if !RETRY_CONDITIONS.contains(&condition) && !is_known_status(condition) {
                    check.error(Code::InvalidRetry, format!("{condition:?} is not a valid retryOn policy"));
                    if RETRY_CONDITIONS.contains(&condition.trim()) {
                        check.hint("no spaces between conditions");
                    } else if let Some(near) = crate::api::spelling::nearest(condition, RETRY_CONDITIONS) {
                        check.hint(format!("did you mean {near:?}?"));
                    }
                }
            }
        });
    }
}

/// Whether Go's `http.StatusText` has a name for it, which is Istio's test.
fn is_known_status(text: &str) -> bool {
    matches!(
        text.parse::<u16>(),
        Ok(
            100..=103
            | 200..=208
            | 226
            | 300..=305
            | 307
            | 308
            | 400..=418
            | 421..=426
            | 428
            | 429
            | 431
            | 451
            | 500..=508
            | 510
            | 511,
        )
    )
}

const GRPC_STATUSES: [&str; 17] = [
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

fn fault(check: &mut Checker<'_>, fault: Option<&HttpFaultInjection>) {
    let Some(fault) = fault else { return };
    if fault.abort.is_none() && fault.delay.is_none() {
        check.error(Code::InvalidFault, "HTTP fault injection must have an abort and/or a delay");
    }
    if let Some(abort) = &fault.abort {
        check.field("abort", |check| self::abort(check, abort));
    }
    if let Some(delay) = &fault.delay {
        check.field("delay", |check| self::delay(check, delay));
    }
}

fn abort(check: &mut Checker<'_>, abort: &Abort) {
    check.field("percentage", |check| values::percentage(check, abort.percentage.as_ref()));
    let set = [abort.http_status.is_some(), abort.grpc_status.is_some(), abort.http2_error.is_some()];
    match set.iter().filter(|&&is_set| is_set).count() {
        0 => check.warn(Code::InvalidFault, "abort configured, but error type not set"),
        1 => {}
        _ => check.error(Code::InvalidFault, "only one of httpStatus, grpcStatus and http2Error may be set"),
    }
    if let Some(status) = abort.http_status.filter(|status| !(200..=599).contains(status)) {
        check.error_at(
            "httpStatus",
            Code::InvalidFault,
            format!("HTTP status {status} is not in range 200-599"),
        );
    }
    if let Some(status) = abort.grpc_status.as_deref().filter(|status| !GRPC_STATUSES.contains(status)) {
        let message = format!(
            "gRPC status {status:?} is not supported. See https://github.com/grpc/grpc/blob/master/doc/statuscodes.md for \
             a list of supported codes, for example 'NOT_FOUND'"
        );
        check.error_at("grpcStatus", Code::InvalidFault, message);
    }
    if abort.http2_error.is_some() {
        check.error_at("http2Error", Code::InvalidFault, "HTTP/2 abort fault injection not supported yet");
    }
    if abort.percentage.is_none() {
        never(check, "abort");
    }
}

fn delay(check: &mut Checker<'_>, delay: &Delay) {
    check.field("percentage", |check| values::percentage(check, delay.percentage.as_ref()));
    if delay.percent != 0 {
        check.field("percent", |check| {
            values::percent(check, delay.percent);
            check.warn(Code::Deprecated, "percent is deprecated, use percentage instead");
        });
    }
    if delay.fixed_delay.is_none() && delay.exponential_delay.is_none() {
        check.warn(Code::InvalidFault, "delay configured, but fixedDelay not set");
    }
    check.field("fixedDelay", |check| values::duration(check, delay.fixed_delay));
    if delay.exponential_delay.is_some() {
        check.error_at("exponentialDelay", Code::InvalidFault, "exponentialDelay not supported yet");
    }
    if delay.percentage.is_none() && delay.percent == 0 {
        never(check, "delay");
    }
}

fn never(check: &mut Checker<'_>, what: &str) {
    check.warn(Code::NoEffect, format!("{what} without percentage is injected into 0 % of requests"));
    check.hint("add percentage: {value: 100}");
}

const CORS_METHODS: [&str; 10] =
    ["*", "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

fn cors(check: &mut Checker<'_>, policy: Option<&CorsPolicy>) {
    let Some(policy) = policy else { return };
    check.items("allowOrigins", &policy.allow_origins, origin);
    if !policy.allow_origin.is_empty() {
        check.warn_at("allowOrigin", Code::Deprecated, "allowOrigin is deprecated, use allowOrigins instead");
    }
    check.items("allowMethods", &policy.allow_methods, |check, method| {
        if !CORS_METHODS.contains(&method.as_str()) {
            check.error(Code::InvalidCors, format!("{method:?} is not a supported HTTP method"));
        }
    });
    for (field, names) in [("allowHeaders", &policy.allow_headers), ("exposeHeaders", &policy.expose_headers)]
    {
        check.items(field, names, |check, name| {
            if name.is_empty() {
                check.error(Code::InvalidCors, "header name cannot be empty");
            } else if name != "*" && !headers::is_token(name) {
                check.error(Code::InvalidCors, format!("header name {name} is not a valid header name"));
            }
        });
    }
    check.field("maxAge", |check| {
        values::duration(check, policy.max_age);
        if policy.max_age.is_some_and(|age| age.get().subsec_nanos() > 0) {
            check.error(Code::InvalidCors, "max_age duration is accurate only to seconds precision");
        }
    });
}

fn origin(check: &mut Checker<'_>, origin: &StringMatch) {
    match origin.condition() {
        Condition::Present | Condition::Exact("") | Condition::Prefix("") | Condition::Regex("") => {
            check.error(Code::InvalidCors, "'' is not a valid match type for CORS allow origins");
        }
        _ => values::string_match(check, Some(origin), "corsPolicy.allowOrigins"),
    }
}
