//! The conditions of a route: Istio's HTTPMatchRequest without its static parts, in the form requests are tested by.
//!
//! Values are compared as bytes. A header that came in several lines is tested line by line, unless Envoy joins it on arrival
//! (istio-semantics section 2.3).

use std::sync::Arc;

use regex::bytes::Regex;

use super::re2::{self, RegexError};
use crate::view::{HttpVersion, RequestView};

/// The conditions of one match entry; all have to hold. None: every request.
#[derive(Debug, Clone, Default)]
pub struct RouteMatch {
    /// In the order they are tested: cheap ones first.
    pub conditions: Vec<Condition>,
}

/// One condition.
#[derive(Debug, Clone)]
pub struct Condition {
    /// What is tested.
    pub subject: Subject,
    /// How.
    pub test: StringCondition,
    /// It must not hold (`withoutHeaders`); a missing value then counts as the empty one.
    pub negated: bool,
}

/// The part of a request a condition is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The path without query, normalised. Istio: `uri`.
    Path,
    /// Path and query. Istio: header `:path`.
    Target,
    /// Istio: `method`, header `:method`.
    Method,
    /// Istio: `scheme`, header `:scheme`.
    Scheme,
    /// The raw Host, port included. Istio: `authority`, headers `:authority` and `host`.
    Authority,
    /// A header, lower case.
    Header(Box<str>),
    /// The first value of a query parameter, raw.
    Query(Box<str>),
    /// A claim of a verified token. No token is verified without a RequestAuthentication, so none has claims.
    Claim(Box<str>),
    /// The condition cannot be used as written (a bad expression; the text names the field): it never holds.
    Broken(Box<str>),
}

/// How a string is tested.
#[derive(Debug, Clone)]
pub enum StringCondition {
    /// It is there.
    Present,
    /// Equal.
    Exact(Box<str>),
    /// Equal but for ASCII case.
    ExactIgnoreCase(Box<str>),
    /// Begins with.
    Prefix(Box<str>),
    /// Begins with, but for ASCII case.
    PrefixIgnoreCase(Box<str>),
    /// Matches as a whole.
    Regex {
        /// Compiled.
        regex: Arc<Regex>,
        /// As written.
        text: Box<str>,
    },
}

impl StringCondition {
    /// A full match by an RE2 expression.
    pub fn regex(expression: &str) -> Result<Self, RegexError> {
        Ok(Self::Regex { regex: re2::full(expression)?, text: expression.into() })
    }

    /// Whether the value passes.
    pub fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(text) => value == text.as_bytes(),
            Self::ExactIgnoreCase(text) => value.eq_ignore_ascii_case(text.as_bytes()),
            Self::Prefix(text) => value.starts_with(text.as_bytes()),
            Self::PrefixIgnoreCase(text) => {
                value.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()))
            }
            Self::Regex { regex, .. } => regex.is_match(value),
        }
    }
}

impl std::fmt::Display for StringCondition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Present => f.write_str("present"),
            Self::Exact(text) => write!(f, "exact {text:?}"),
            Self::ExactIgnoreCase(text) => write!(f, "exact {text:?} in any case"),
            Self::Prefix(text) => write!(f, "prefix {text:?}"),
            Self::PrefixIgnoreCase(text) => write!(f, "prefix {text:?} in any case"),
            Self::Regex { text, .. } => write!(f, "regex {text:?}"),
        }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let without = if self.negated { "without " } else { "" };
        match &self.subject {
            Subject::Path => write!(f, "uri {}", self.test),
            Subject::Target => write!(f, "{without}header :path {}", self.test),
            Subject::Method => write!(f, "{without}method {}", self.test),
            Subject::Scheme => write!(f, "{without}scheme {}", self.test),
            Subject::Authority => write!(f, "{without}authority {}", self.test),
            Subject::Header(name) => write!(f, "{without}header {name} {}", self.test),
            Subject::Query(name) => write!(f, "query parameter {name} {}", self.test),
            Subject::Claim(name) => write!(f, "{without}claim {name} {}", self.test),
            Subject::Broken(field) => write!(f, "{field} (cannot be used as written)"),
        }
    }
}

impl RouteMatch {
    /// The first condition that does not hold; `None`: the request matches. `unmet` is told of it, with the value tested.
    pub fn first_unmet(
        &self,
        request: &impl RequestView,
        mut unmet: impl FnMut(&Condition, Option<&[u8]>),
    ) -> Option<&Condition> {
        self.conditions.iter().find(|condition| !condition.holds(request, &mut unmet))
    }
}

impl Condition {
    fn holds(&self, request: &impl RequestView, unmet: &mut impl FnMut(&Self, Option<&[u8]>)) -> bool {
        match &self.subject {
            Subject::Path => self.one(Some(path(request.target()).as_bytes()), unmet),
            Subject::Target => self.one(Some(request.target().as_bytes()), unmet),
            Subject::Method => self.one(Some(request.method().as_bytes()), unmet),
            Subject::Scheme => self.one(Some(request.scheme().as_bytes()), unmet),
            Subject::Authority => self.one(Some(request.authority().as_bytes()), unmet),
            Subject::Query(name) => self.one(query_value(request.target(), name).map(str::as_bytes), unmet),
            Subject::Claim(_) => self.one(None, unmet),
            Subject::Broken(_) => {
                unmet(self, None);
                false
            }
            Subject::Header(name) => self.header(request, name, unmet),
        }
    }

    fn one(&self, value: Option<&[u8]>, unmet: &mut impl FnMut(&Self, Option<&[u8]>)) -> bool {
        let holds = match (value, self.negated) {
            (Some(value), negated) => self.test.holds(value) != negated,
            (None, false) => false,
            // A missing value counts as empty, which is there for no presence test.
            (None, true) => matches!(self.test, StringCondition::Present) || !self.test.holds(b""),
        };
        if !holds {
            unmet(self, value);
        }
        holds
    }

    fn header(
        &self,
        request: &impl RequestView,
        name: &str,
        unmet: &mut impl FnMut(&Self, Option<&[u8]>),
    ) -> bool {
        let mut lines = request.header_lines(name);
        let first = lines.next();
        if first.is_none() || lines.next().is_none() {
            return self.one(first, unmet);
        }
        if let Some(separator) = joined(name, request.version()) {
            let lines: Vec<&[u8]> = request.header_lines(name).collect();
            return self.one(Some(&lines.join(separator)), unmet);
        }
        let any = request.header_lines(name).any(|line| self.test.holds(line));
        let holds = any != self.negated;
        if !holds {
            unmet(self, first);
        }
        holds
    }
}

/// The path of a target.
pub(super) fn path(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// The raw first value of a query parameter; empty if it has none.
pub(crate) fn query_value<'a>(target: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// What several lines of a header are joined with as they arrive: those that Envoy has a field of its own for. A cookie is one
/// header over HTTP/2, however many fields it came in.
fn joined(name: &str, version: HttpVersion) -> Option<&'static [u8]> {
    const KNOWN: [&str; 33] = [
        "accept",
        "accept-encoding",
        "access-control-request-headers",
        "access-control-request-method",
        "access-control-request-private-network",
        "authentication",
        "authorization",
        "client-trace-id",
        "connection",
        "content-encoding",
        "content-type",
        "expect",
        "forwarded-client-cert",
        "grpc-accept-encoding",
        "grpc-timeout",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "origin",
        "proxy-connection",
        "referer",
        "te",
        "upgrade",
        "user-agent",
        "via",
        "x-forwarded-client-cert",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-request-id",
    ];
    match name {
        "cookie" => (version == HttpVersion::Http2).then_some(b"; "),
        _ => KNOWN.binary_search(&name).is_ok().then_some(b","),
    }
}

#[cfg(test)]
mod tests;
