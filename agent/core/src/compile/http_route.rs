//! One HTTP rule: what it does, shared by its match entries, and what differs between them.

use std::sync::Arc;
use std::time::Duration;

use super::{cors, headers, http_match, port_number};
use crate::api::duration;
use crate::api::fault::HttpFaultInjection;
use crate::api::http_route::{
    CorsPolicy as WrittenCors, HttpDirectResponse, HttpRedirect, HttpRetry, RedirectPortSelection,
};
use crate::api::meta::Resource;
use crate::api::string_match::{Condition as Written, StringMatch};
use crate::api::virtual_service::{Destination, HttpRoute, Percent as WrittenPercent, VirtualService};
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::route::{
    Abort, BackOff, CorsPolicy, DirectResponse, Fault, FaultAbort, FaultDelay, GrpcStatus, HeaderEdits,
    PathRedirect, PathRewrite, Percent, Redirect, RegexRewrite, RetryOn, RetryPolicy, Rewrite, RuleRef,
};
use crate::snapshot::{Body, CompiledRule, Entry, EntryAction, Leg, MirrorLeg, RedirectPort};

/// Where a rule was written: that of the delegate, for a delegated one.
pub(super) struct RuleContext<'a> {
    pub(super) resource: &'a Resource<VirtualService>,
    /// Position in `spec.http`.
    pub(super) index: usize,
    /// The positions, in the list as written, that the entries of a merged list come from.
    pub(super) entries: Option<Vec<Option<usize>>>,
    /// The root's rule that delegated.
    pub(super) delegated_by: Option<Arc<str>>,
}

impl<'a> RuleContext<'a> {
    pub(super) fn new(resource: &'a Resource<VirtualService>, index: usize) -> Self {
        Self { resource, index, entries: None, delegated_by: None }
    }

    fn field(&self, below: &str) -> String {
        let index = self.index;
        if below.is_empty() { format!("spec.http[{index}]") } else { format!("spec.http[{index}].{below}") }
    }

    fn error(&self, code: Code, below: &str, message: impl Into<String>) -> Diagnostic {
        self.resource.diagnostic(Severity::Error, code, &self.field(below), message)
    }

    fn rule_ref(&self, rule: &HttpRoute, entry: Option<(usize, &str)>) -> RuleRef {
        let meta = &self.resource.meta;
        let position = |at: usize| match &self.entries {
            None => Some(at),
            Some(entries) => entries.get(at).copied().flatten(),
        };
        let written = entry.and_then(|(at, _)| position(at));
        let below = written.map(|at| format!("match[{at}]")).unwrap_or_default();
        let route_name = match entry {
            Some((_, name)) if !name.is_empty() && !rule.name.is_empty() => format!("{}.{name}", rule.name),
            Some((_, name)) if rule.name.is_empty() => name.to_owned(),
            _ => rule.name.clone(),
        };
        RuleRef {
            kind: "VirtualService",
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            route: u32::try_from(self.index).unwrap_or(u32::MAX),
            match_index: written.and_then(|at| u32::try_from(at).ok()),
            route_name: route_name.into(),
            delegated_by: self.delegated_by.clone(),
            file: self.resource.origin.file().map(Into::into),
            line: self.resource.origin.line(&self.field(&below)),
        }
    }
}

/// Compiles a rule whose destinations are completed.
pub(super) fn compile_rule(
    rule: &HttpRoute,
    context: &RuleContext<'_>,
    mesh_retries: &Arc<RetryPolicy>,
    diagnostics: &mut Vec<Diagnostic>,
) -> CompiledRule {
    let mut broken = Vec::new();
    let headers = headers::compile(rule.headers.as_ref(), &mut broken);
    let mut refusals: Vec<String> = Vec::new();
    let mut refuse = |diagnostic: Diagnostic| {
        refusals.push(diagnostic.message.clone());
        diagnostics.push(diagnostic.with_hint("requests of this route answer 500 until it is corrected"));
    };
    for (field, error) in broken {
        refuse(context.error(Code::InvalidHeaderValue, &format!("headers.{field}"), error.to_string()));
    }
    let legs = legs(rule, context, &mut refuse);
    let action = action(rule, &legs, context, &mut refuse);
    let rewrite = rewrite(rule, context, &mut refuse);
    let refusal: Option<Arc<str>> = refusals.first().map(|why| why.as_str().into());
    let body = Body {
        legs,
        headers: Arc::new(headers),
        timeout: rule.timeout.map(duration::Duration::get).filter(|timeout| !timeout.is_zero()),
        retries: match &rule.retries {
            None => mesh_retries.clone(),
            Some(retries) => Arc::new(retry_policy(retries, mesh_retries)),
        },
        fault: rule.fault.as_ref().map(fault).unwrap_or_default(),
        mirrors: mirrors(rule),
        cors: rule
            .cors_policy
            .as_ref()
            .map(|written| Arc::new(cors_policy(written, context, &action, diagnostics))),
    };
    let entry = |at: Option<usize>| {
        let (written, compiled) = match at.and_then(|at| rule.matches.get(at)) {
            None => (None, http_match::all()),
            Some(entry) => (Some(entry), http_match::compile(entry, &context.resource.meta.namespace)),
        };
        let uri = written.and_then(|entry| entry.uri.as_ref());
        Entry {
            action: match &refusal {
                Some(why) => EntryAction::Refused(why.clone()),
                None => action.of_entry(uri),
            },
            rewrite: rewrite.of_entry(uri),
            rule: Arc::new(context.rule_ref(rule, at.zip(written).map(|(at, entry)| (at, &*entry.name)))),
            statics: compiled.statics,
            is_catch_all: compiled.is_catch_all,
            matches: Arc::new(compiled.matches),
        }
    };
    let entries = if rule.matches.is_empty() {
        vec![entry(None)]
    } else {
        (0..rule.matches.len()).map(|at| entry(Some(at))).collect()
    };
    for (at, written) in rule.matches.iter().enumerate() {
        for (field, error) in http_match::compile(written, "").broken {
            let field = format!("match[{at}].{field}");
            diagnostics.push(
                context
                    .error(Code::InvalidRegex, &field, error.to_string())
                    .with_hint("this entry matches nothing until the expression is corrected"),
            );
        }
    }
    CompiledRule { body: Arc::new(body), entries }
}

fn legs(rule: &HttpRoute, context: &RuleContext<'_>, refuse: &mut impl FnMut(Diagnostic)) -> Vec<Leg> {
    let mut legs = Vec::new();
    for (index, route) in rule.route.iter().enumerate() {
        let mut broken = Vec::new();
        let headers = headers::compile(route.headers.as_ref(), &mut broken);
        for (field, error) in broken {
            let field = format!("route[{index}].headers.{field}");
            refuse(context.error(Code::InvalidHeaderValue, &field, error.to_string()));
        }
        match &route.destination {
            Some(destination) => legs.push(leg(destination, route.weight, headers)),
            None => refuse(context.error(
                Code::InvalidDestination,
                &format!("route[{index}].destination"),
                "a route needs a destination",
            )),
        }
    }
    if legs.len() > 1 && legs.iter().all(|leg| leg.weight == 0) {
        refuse(context.error(Code::InvalidWeight, "route", "total destination weight = 0"));
    }
    legs
}

pub(super) fn leg(destination: &Destination, weight: i32, headers: HeaderEdits) -> Leg {
    Leg {
        host: destination.host.as_str().into(),
        subset: destination.subset.as_str().into(),
        port: destination.port.as_ref().and_then(|port| port_number(port.number)),
        weight: u32::try_from(weight).unwrap_or(0),
        headers: Arc::new(headers),
    }
}

/// What a rule does, before a match entry says what was matched.
enum RuleAction<'a> {
    Forward,
    Redirect(&'a HttpRedirect, u16),
    DirectResponse(Arc<DirectResponse>),
    Refused(Arc<str>),
}

fn action<'a>(
    rule: &'a HttpRoute,
    legs: &[Leg],
    context: &RuleContext<'_>,
    refuse: &mut impl FnMut(Diagnostic),
) -> RuleAction<'a> {
    let mut refused = |diagnostic: Diagnostic| {
        let why = diagnostic.message.as_str().into();
        refuse(diagnostic);
        RuleAction::Refused(why)
    };
    if let Some(redirect) = &rule.redirect {
        return match redirect.redirect_code {
            0 => RuleAction::Redirect(redirect, 301),
            // Envoy has no others; Istio admits them, and then Envoy refuses the table of the whole port.
            code @ (301 | 302 | 303 | 307 | 308) => RuleAction::Redirect(redirect, code as u16),
            code => {
                let message =
                    format!("{code} is no redirect code that can be sent: use 301, 302, 303, 307 or 308");
                refused(context.error(Code::InvalidRedirect, "redirect.redirectCode", message))
            }
        };
    }
    if let Some(response) = &rule.direct_response {
        return match direct_response(response) {
            Ok(response) => RuleAction::DirectResponse(Arc::new(response)),
            Err(message) => refused(context.error(Code::InvalidDirectResponse, "directResponse", message)),
        };
    }
    if legs.is_empty() {
        return refused(context.error(
            Code::MissingAction,
            "",
            "HTTP route, redirect or direct_response is required",
        ));
    }
    RuleAction::Forward
}

impl RuleAction<'_> {
    fn of_entry(&self, uri: Option<&StringMatch>) -> EntryAction {
        match self {
            Self::Forward => EntryAction::Forward,
            Self::DirectResponse(response) => EntryAction::DirectResponse(response.clone()),
            Self::Refused(why) => EntryAction::Refused(why.clone()),
            Self::Redirect(written, code) => {
                let some = |text: &str| (!text.is_empty()).then(|| text.into());
                let path = if !written.uri.is_empty() {
                    PathRedirect::Whole(written.uri.as_str().into())
                } else if !written.prefix_rewrite.is_empty() {
                    let with = written.prefix_rewrite.as_str().into();
                    PathRedirect::Prefix(PathRewrite::Prefix { length: prefix_length(uri), with })
                } else {
                    PathRedirect::Keep
                };
                let port = match (written.port.and_then(port_number), written.derive_port) {
                    (Some(port), _) => RedirectPort::Fixed(port),
                    (None, Some(RedirectPortSelection::FromRequestPort)) => RedirectPort::FromRequest,
                    (None, _) => RedirectPort::Default,
                };
                let redirect = Redirect {
                    scheme: some(&written.scheme),
                    authority: some(&written.authority),
                    port: None,
                    path,
                    code: *code,
                };
                EntryAction::Redirect { redirect, port }
            }
        }
    }
}

/// The length of the prefix that an entry matches; without one it is that of `/`.
fn prefix_length(uri: Option<&StringMatch>) -> usize {
    match uri.map(StringMatch::condition) {
        Some(Written::Prefix(prefix)) => prefix.len(),
        _ => 1,
    }
}

fn direct_response(written: &HttpDirectResponse) -> Result<DirectResponse, String> {
    let status = u16::try_from(written.status)
        .ok()
        .filter(|status| (200..=599).contains(status))
        .ok_or_else(|| format!("{} is no status from 200 to 599", written.status))?;
    let body = match &written.body {
        None => Vec::new(),
        Some(body) => match (&body.string, &body.bytes) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(bytes)) => base64(bytes).ok_or("the body's bytes are not base64")?,
            (None, None) => Vec::new(),
        },
    };
    Ok(DirectResponse { status, body: body.into() })
}

/// Standard or URL-safe alphabet, padded or not, as proto JSON reads bytes.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // One character alone carries six bits: no byte.
    (text.len() % 4 != 1).then_some(out)
}

/// What a rule rewrites, before a match entry says what was matched.
#[derive(Default)]
struct RuleRewrite<'a> {
    uri: Option<&'a str>,
    regex: Option<RegexRewrite>,
    authority: Option<&'a str>,
}

fn rewrite<'a>(
    rule: &'a HttpRoute,
    context: &RuleContext<'_>,
    refuse: &mut impl FnMut(Diagnostic),
) -> RuleRewrite<'a> {
    let Some(written) = &rule.rewrite else { return RuleRewrite::default() };
    let some = |text: &'a str| Some(text).filter(|text| !text.is_empty());
    let regex =
        written.uri_regex_rewrite.as_ref().and_then(|it| match RegexRewrite::new(&it.pattern, &it.rewrite) {
            Ok(rewrite) => Some(rewrite),
            Err(error) => {
                refuse(context.error(Code::InvalidRewrite, "rewrite.uriRegexRewrite", error.to_string()));
                None
            }
        });
    RuleRewrite { uri: some(&written.uri), regex, authority: some(&written.authority) }
}

impl RuleRewrite<'_> {
    fn of_entry(&self, uri: Option<&StringMatch>) -> Rewrite {
        let path = match (self.uri, &self.regex) {
            (_, Some(regex)) => Some(PathRewrite::Regex(Box::new(regex.clone()))),
            (Some(with), None) => Some(match uri.map(StringMatch::condition) {
                Some(Written::Exact(_) | Written::Regex(_)) => PathRewrite::Whole(with.into()),
                _ => PathRewrite::Prefix { length: prefix_length(uri), with: with.into() },
            }),
            (None, None) => None,
        };
        Rewrite { path, authority: self.authority.map(Into::into) }
    }
}

/// A retry policy as written; what it leaves open is `default`'s. Istio: `attempts` absent is 0, which switches retries off.
pub(super) fn retry_policy(written: &HttpRetry, default: &RetryPolicy) -> RetryPolicy {
    let attempts = u32::try_from(written.attempts).unwrap_or(0);
    if attempts == 0 {
        return RetryPolicy::none();
    }
    let positive =
        |value: Option<duration::Duration>| value.map(duration::Duration::get).filter(|it| !it.is_zero());
    RetryPolicy {
        attempts,
        per_try_timeout: positive(written.per_try_timeout),
        retry_on: if written.retry_on.is_empty() {
            default.retry_on.clone()
        } else {
            RetryOn::parse(&written.retry_on).0
        },
        back_off: positive(written.backoff).map_or(default.back_off, BackOff::new),
        ignore_previous_hosts: written.retry_ignore_previous_hosts,
        remote_localities: written.retry_remote_localities.unwrap_or(false),
    }
}

fn fault(written: &HttpFaultInjection) -> Fault {
    // Absent means none, unlike mirrors.
    let share =
        |percent: Option<&WrittenPercent>| percent.map_or(Percent::default(), |it| Percent::new(it.value));
    let delay = written.delay.as_ref().and_then(|delay| {
        let percent = match (&delay.percentage, delay.percent) {
            (None, deprecated) => Percent::new(f64::from(deprecated)),
            (percentage, _) => share(percentage.as_ref()),
        };
        let wait: Duration = delay.fixed_delay?.get();
        Some(FaultDelay { delay: wait, percent })
    });
    let abort = written.abort.as_ref().and_then(|abort| {
        let answer = match (abort.http_status, &abort.grpc_status) {
            (Some(status), _) => {
                Abort::Http(u16::try_from(status).ok().filter(|it| (200..=599).contains(it))?)
            }
            (None, Some(name)) => Abort::Grpc(GrpcStatus::by_name(name)?.0),
            (None, None) => return None,
        };
        Some(FaultAbort { abort: answer, percent: share(abort.percentage.as_ref()) })
    });
    Fault { delay, abort }
}

fn cors_policy(
    written: &WrittenCors,
    context: &RuleContext<'_>,
    action: &RuleAction<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> CorsPolicy {
    let (policy, broken) = cors::compile(written);
    for (field, error) in broken {
        diagnostics.push(
            context
                .error(Code::InvalidRegex, &format!("corsPolicy.{field}"), error.to_string())
                .with_hint("it allows no origin until the expression is corrected"),
        );
    }
    if matches!(action, RuleAction::Redirect(..) | RuleAction::DirectResponse(_)) {
        let message = "a CORS policy does nothing on a redirect or a direct response";
        let field = context.field("corsPolicy");
        diagnostics.push(context.resource.diagnostic(Severity::Warning, Code::NoEffect, &field, message));
    }
    policy
}

fn mirrors(rule: &HttpRoute) -> Vec<MirrorLeg> {
    let single = rule.mirror.iter().map(|destination| {
        let percent = match (&rule.mirror_percentage, rule.mirror_percent) {
            (Some(percent), _) => Percent::new(percent.value),
            (None, Some(percent)) => Percent::new(f64::from(percent)),
            (None, None) => Percent::ALL,
        };
        (destination, percent)
    });
    let several = rule.mirrors.iter().filter_map(|mirror| {
        let percent = mirror.percentage.as_ref().map_or(Percent::ALL, |it| Percent::new(it.value));
        Some((mirror.destination.as_ref()?, percent))
    });
    single
        .chain(several)
        .map(|(destination, percent)| MirrorLeg { leg: leg(destination, 1, HeaderEdits::default()), percent })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_base64_of_either_alphabet() {
        for (text, want) in [
            ("aGk=", Some(&b"hi"[..])),
            ("aGk", Some(b"hi")),
            ("_-8", Some(b"\xff\xef")),
            ("/+8=", Some(b"\xff\xef")),
            ("", Some(b"")),
            ("a", None),
            ("a b=", None),
        ] {
            assert_eq!(base64(text).as_deref(), want, "{text}");
        }
    }
}
