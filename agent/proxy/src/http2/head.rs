//! Heads of HTTP/2 messages: what is refused, how `core` sees them, how its edits are applied.
//!
//! The `h2` crate refuses by itself (RST_STREAM or GOAWAY with PROTOCOL_ERROR, before we see anything): unknown, missing,
//! repeated or late pseudo headers, upper case in names, control characters in values, connection-specific headers, `te`
//! other than `trailers`, a `content-length` that the body does not match. What it lets through and must not pass is refused
//! here, with a status, so that it can be logged and counted: RFC 9113 section 8.1.1 allows both.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request, response};
use undermesh_core::edits::Edits;
use undermesh_core::view::{HttpVersion, RequestView, ResponseView};

use super::settings::ServerSettings;

/// Name of the header that numbers the attempts.
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
/// What HPACK adds to each line when it measures a head (RFC 9113 section 6.5.2).
const LINE_OVERHEAD: usize = 32;

/// A request that is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Status of the answer.
    pub(super) status: u16,
    /// For the log: lower case, no user bytes.
    pub(super) why: &'static str,
}

const fn refused<T>(status: u16, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status, why })
}

/// The head of a request, checked. `host` is folded into the authority.
#[derive(Debug)]
pub(super) struct RequestHead {
    method: Method,
    scheme: &'static str,
    authority: Authority,
    target: PathAndQuery,
    headers: HeaderMap,
}

impl RequestHead {
    /// Checks what a client sent.
    ///
    /// # Errors
    /// It must not be passed on.
    pub(super) fn check(parts: request::Parts, settings: &ServerSettings) -> Result<Self, Refusal> {
        let uri = parts.uri.into_parts();
        let mut headers = parts.headers;
        if parts.method == Method::CONNECT {
            // As on HTTP/1.1: a tunnel to wherever the client asks is not what a service port is for.
            return refused(405, "connect is not for a proxy of this kind");
        }
        let pseudo_bytes = uri.authority.as_ref().map_or(0, |authority| authority.as_str().len())
            + uri.path_and_query.as_ref().map_or(0, |target| target.as_str().len());
        let line_bytes: usize =
            headers.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE_OVERHEAD).sum();
        if pseudo_bytes + line_bytes > settings.max_head_bytes {
            return refused(431, "request head is too large");
        }
        if headers.len() > settings.max_head_lines {
            return refused(431, "too many headers");
        }
        // RFC 9113 section 8.2.1.
        if headers.values().any(|value| has_outer_space(value.as_bytes())) {
            return refused(400, "white space around a header value");
        }
        // Two equal lengths are legal on HTTP/1.1 but no client of HTTP/2 sends them, unless to be taken for a boundary later.
        if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
            return refused(400, "more than one content-length");
        }
        let target = match uri.path_and_query {
            Some(target) if target.as_str().starts_with('/') => target,
            Some(target) if target.as_str() == "*" && parts.method == Method::OPTIONS => target,
            _ => return refused(400, "malformed request target"),
        };
        // Before routing, so that what decides and what is sent on are the same bytes.
        let target = match settings.normalization.apply(target.as_str()) {
            Ok(Cow::Borrowed(same)) if same.len() == target.as_str().len() => target,
            Ok(normal) => match PathAndQuery::try_from(normal.as_ref()) {
                Ok(target) => target,
                Err(_) => return refused(400, "malformed path"),
            },
            Err(_) => return refused(400, "malformed path"),
        };
        let authority = authority(uri.authority, &headers)?;
        headers.remove(HOST);
        let scheme = match headers.get("x-forwarded-proto").map(HeaderValue::as_bytes) {
            Some(b"http") if settings.trusts_forwarded_proto => "http",
            Some(b"https") if settings.trusts_forwarded_proto => "https",
            _ => settings.scheme,
        };
        Ok(Self { method: parts.method, scheme, authority, target, headers })
    }

    /// Changes the head into the one that goes upstream.
    pub(super) fn apply(&mut self, edits: &Edits) {
        if let Some(target) = edits.target() {
            match PathAndQuery::try_from(target) {
                Ok(target) => self.target = target,
                Err(error) => {
                    tracing::warn!(%error, "a rewrite gave no valid path; the received one is sent");
                }
            }
        }
        if let Some(authority) = edits.authority() {
            match Authority::try_from(authority) {
                Ok(authority) => self.authority = authority,
                Err(error) => {
                    tracing::warn!(%error, "a rewrite gave no valid authority; the received one is sent");
                }
            }
        }
        apply(&mut self.headers, edits);
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// The head of attempt `number`.
    pub(super) fn attempt(&self, number: u32) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.version_mut() = http::Version::HTTP_2;
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(if self.scheme == "https" { Scheme::HTTPS } else { Scheme::HTTP });
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(self.target.clone());
        // All three parts are there, which is all that `from_parts` asks for.
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        let mut headers = self.headers.clone();
        headers.insert(ATTEMPT_COUNT, number.into());
        *request.headers_mut() = headers;
        request
    }
}

impl RequestView for RequestHead {
    fn version(&self) -> HttpVersion {
        HttpVersion::Http2
    }

    fn method(&self) -> &str {
        self.method.as_str()
    }

    fn scheme(&self) -> &str {
        self.scheme
    }

    fn authority(&self) -> &str {
        self.authority.as_str()
    }

    fn target(&self) -> &str {
        self.target.as_str()
    }

    fn header_lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }

    fn may_have_headers(&self, prefix: &str) -> bool {
        self.headers.keys().any(|name| name.as_str().starts_with(prefix))
    }
}

/// The head of a response, as `core` sees it.
pub(super) struct ResponseHead<'p>(pub(super) &'p response::Parts);

impl ResponseView for ResponseHead<'_> {
    fn status(&self) -> u16 {
        self.0.status.as_u16()
    }

    fn header_lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.0.headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

/// Applies the header part of `edits`.
///
/// What frames a message is the codec's: headers that HTTP/2 forbids are never added, and `content-length` stays as it came.
pub(super) fn apply(headers: &mut HeaderMap, edits: &Edits) {
    for name in edits.dropped().filter(|name| !is_framing(name)) {
        headers.remove(name);
    }
    append(headers, edits);
}

/// Appends the lines of `edits`.
pub(super) fn append(headers: &mut HeaderMap, edits: &Edits) {
    for (name, value) in edits.lines().filter(|(name, _)| !is_framing(name)) {
        let line = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value));
        let (Ok(name), Ok(value)) = line else {
            // Validation of the configuration refuses such names, and `Edits` cleans the values.
            tracing::warn!("a header operation gave no valid header line; it is left out");
            continue;
        };
        // Fails when the map is full, at 24,576 different names: far beyond what a head may hold.
        if headers.try_append(name, value).is_err() {
            tracing::warn!("too many headers; a header operation is left out");
        }
    }
}

fn is_framing(name: &str) -> bool {
    matches!(
        name,
        "content-length"
            | "transfer-encoding"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "upgrade"
            | "te"
            | "host"
    )
}

/// The one authority that `:authority` and `host` name (RFC 9113 section 8.3.1).
fn authority(pseudo: Option<Authority>, headers: &HeaderMap) -> Result<Authority, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let authority = match pseudo {
        Some(authority) => {
            // Differing ones would be routed by one and served by the other.
            if hosts.any(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())) {
                return refused(400, "host differs from :authority");
            }
            authority
        }
        None => {
            let (Some(host), None) = (hosts.next(), hosts.next()) else {
                return refused(400, "not exactly one host header, and no :authority");
            };
            match Authority::try_from(host.as_bytes()) {
                Ok(authority) => authority,
                Err(_) => return refused(400, "malformed host"),
            }
        }
    };
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return refused(400, "malformed host");
    }
    Ok(authority)
}

fn has_outer_space(value: &[u8]) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_space(value.first()) || is_space(value.last())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn parts(method: &str, uri: &str, lines: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap_or_default().into_parts().0
    }

    fn checked(method: &str, uri: &str, lines: &[(&str, &str)]) -> Result<RequestHead, Refusal> {
        RequestHead::check(parts(method, uri, lines), &ServerSettings::default())
    }

    #[test]
    fn heads_that_frame_or_name_their_host_doubtfully_are_refused() {
        type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], u16);
        let cases: &[Case<'_>] = &[
            ("host differs", "GET", "http://a.b/", &[("host", "evil")], 400),
            ("one of two hosts differs", "GET", "http://a.b/", &[("host", "a.b"), ("host", "evil")], 400),
            ("two hosts without :authority", "GET", "/", &[("host", "a.b"), ("host", "a.b")], 400),
            ("nobody is named", "GET", "/", &[], 400),
            ("user information", "GET", "http://me@a.b/", &[], 400),
            ("host with a path", "GET", "/", &[("host", "a.b/c")], 400),
            ("star without OPTIONS", "GET", "*", &[("host", "a.b")], 400),
            ("two lengths", "POST", "http://a.b/", &[("content-length", "1"), ("content-length", "1")], 400),
            ("space before a value", "GET", "http://a.b/", &[("x", " 1")], 400),
            ("tab after a value", "GET", "http://a.b/", &[("x", "1\t")], 400),
            ("connect", "CONNECT", "a.b:443", &[], 405),
        ];
        for (name, method, uri, lines, want) in cases {
            let status = checked(method, uri, lines).map_err(|refusal| refusal.status).err();
            assert_eq!(status, Some(*want), "{name}");
        }
    }

    #[test]
    fn heads_of_everyday_pass() {
        type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)]);
        let cases: &[Case<'_>] = &[
            ("authority alone", "GET", "http://a.b/x?y", &[]),
            ("host alone", "GET", "/", &[("host", "a.b:80")]),
            ("both, in different case", "GET", "http://a.b/", &[("host", "A.B")]),
            ("OPTIONS *", "OPTIONS", "*", &[("host", "a.b")]),
            ("inner space", "GET", "http://a.b/", &[("x", "1 2")]),
            ("one length", "POST", "http://a.b/", &[("content-length", "1")]),
            ("IPv6", "GET", "http://[::1]:80/", &[]),
        ];
        for (name, method, uri, lines) in cases {
            assert!(checked(method, uri, lines).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_head_may_be_as_large_as_the_limit_and_no_larger() {
        let limit = ServerSettings::default().max_head_bytes;
        let rest = "a.b".len() + "/".len() + "x".len() + LINE_OVERHEAD;
        let fits = "v".repeat(limit - rest);
        assert!(checked("GET", "http://a.b/", &[("x", &fits)]).is_ok());
        let refusal = checked("GET", "http://a.b/", &[("x", &format!("{fits}v"))]).err();
        assert_eq!(refusal.map(|refusal| refusal.status), Some(431));
    }

    #[test]
    fn a_head_may_have_a_hundred_lines_and_no_more() {
        let lines = vec![("x", "1"); 101];
        assert!(checked("GET", "http://a.b/", &lines[..100]).is_ok());
        assert_eq!(checked("GET", "http://a.b/", &lines).err().map(|refusal| refusal.status), Some(431));
    }

    #[test]
    fn the_scheme_is_the_transports_unless_the_forwarded_one_is_trusted() {
        let lines = &[("x-forwarded-proto", "https")];
        let untrusted = checked("GET", "http://a.b/", lines).map(|head| head.scheme);
        assert_eq!(untrusted, Ok("http"));
        let trusting = ServerSettings { trusts_forwarded_proto: true, ..ServerSettings::default() };
        let trusted =
            RequestHead::check(parts("GET", "http://a.b/", lines), &trusting).map(|head| head.scheme);
        assert_eq!(trusted, Ok("https"));
    }

    #[test]
    fn a_path_is_normalised_before_it_is_routed_and_sent() {
        for (uri, want) in [
            ("http://a.b/x/../admin/a?q=/../z", "/admin/a?q=/../z"),
            ("http://a.b/x\\..\\admin", "/admin"),
            ("http://a.b/%61dmin", "/admin"),
            ("http://a.b//admin", "//admin"),
            ("http://a.b/x%2F..%2Fadmin", "/x%2F..%2Fadmin"),
            ("http://a.b/x#y", "/x"),
        ] {
            let head = checked("GET", uri, &[]).unwrap();
            assert_eq!(
                (head.target(), head.attempt(1).uri().path_and_query().unwrap().as_str()),
                (want, want)
            );
        }
    }

    #[test]
    fn edits_change_what_goes_upstream() {
        let mut head =
            checked("GET", "http://a.b/old", &[("x-gone", "1"), ("x-set", "1"), ("x-kept", "1")]).unwrap();
        let mut edits = Edits::default();
        edits.set_target("/new?q");
        edits.set_authority("c.d:81");
        edits.remove("x-gone");
        edits.set("x-set", b"2");
        edits.add("x-kept", b"2");
        head.apply(&edits);
        let request = head.attempt(3);
        assert_eq!(request.uri(), "http://c.d:81/new?q");
        let lines = |name: &str| -> Vec<_> { request.headers().get_all(name).iter().collect() };
        assert!(lines("x-gone").is_empty());
        assert_eq!(lines("x-set"), ["2"]);
        assert_eq!(lines("x-kept"), ["1", "2"]);
        assert_eq!(lines("x-envoy-attempt-count"), ["3"]);
        assert!(lines("host").is_empty());
    }

    #[test]
    fn no_edit_touches_the_framing() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, 5.into());
        let mut edits = Edits::default();
        edits.remove("content-length");
        for name in
            ["content-length", "transfer-encoding", "connection", "upgrade", "te", "host", "keep-alive"]
        {
            edits.add(name, b"7");
        }
        apply(&mut headers, &edits);
        assert_eq!(headers.len(), 1);
        assert_eq!(headers.get(CONTENT_LENGTH), Some(&HeaderValue::from(5)));
    }

    #[test]
    fn a_clients_attempt_count_does_not_reach_the_upstream() {
        let head = checked("GET", "http://a.b/", &[("x-envoy-attempt-count", "9")]).unwrap();
        let request = head.attempt(1);
        let lines: Vec<_> = request.headers().get_all(ATTEMPT_COUNT).iter().collect();
        assert_eq!(lines, ["1"]);
    }
}
