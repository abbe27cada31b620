//! Heads and trailers between HTTP/1.1 bytes and the `http` types of HTTP/2, both ways.
//!
//! What belongs to one hop (RFC 9110 section 7.6.1) ends here in either direction, since HTTP/2 forbids it (RFC 9113
//! section 8.2.2). All of this is the slow path: it copies and allocates.

use http::header::{CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, response};
use undermesh_core::edits::Edits;
use undermesh_core::view::{RequestView, ResponseView};

use super::header::{Class, classify, push_line, push_number};
use super::reason::reason;
use super::request::{Refusal, RequestHead};
use super::response::ResponseHead;

/// Lines of a trailer section, at most.
const MAX_TRAILERS: usize = 64;

/// The head of a request that came as HTTP/1.1, for an HTTP/2 upstream; without the attempt's number.
pub(super) fn request_to_http2(head: &RequestHead<'_, '_>, edits: &Edits) -> Result<Request<()>, Refusal> {
    let bad = |why| Refusal { status: 400, why };
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if head.scheme() == "https" { Scheme::HTTPS } else { Scheme::HTTP });
    let authority = edits.authority().unwrap_or(head.authority());
    uri.authority = Some(Authority::try_from(authority).map_err(|_| bad("malformed host"))?);
    let target = edits.target().unwrap_or(head.target());
    uri.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| bad("malformed request target"))?);
    let mut request = Request::new(());
    *request.method_mut() =
        Method::from_bytes(head.method().as_bytes()).map_err(|_| bad("malformed method"))?;
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| bad("malformed request target"))?;
    *request.version_mut() = http::Version::HTTP_2;
    let headers = request.headers_mut();
    for (name, value) in head.kept(edits) {
        append(headers, name.as_bytes(), value);
    }
    append_edits(headers, edits);
    if head.wants_trailers() {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

/// The head of a response that came as HTTP/1.1, for an HTTP/2 client.
pub(super) fn response_to_http2(head: &ResponseHead<'_, '_>) -> Response<()> {
    let mut response = Response::new(());
    // Both types hold 100 to 999.
    *response.status_mut() = StatusCode::from_u16(head.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    for (name, value) in head.kept(&Edits::default()) {
        if is_end_to_end(name.as_bytes()) || classify(name.as_bytes()) == Class::ContentLength {
            append(response.headers_mut(), name.as_bytes(), value);
        }
    }
    response
}

/// How the body of a message that came as HTTP/2 is framed on HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// There is none.
    Empty,
    /// The bytes alone; a length in the head bounds them.
    Plain,
    /// In chunks.
    Chunked,
}

/// Writes the head of a request that came as HTTP/2, for an HTTP/1.1 upstream. `is_empty`: no body follows.
pub(super) fn write_request(head: &Request<()>, is_empty: bool, out: &mut Vec<u8>) -> Outgoing {
    out.extend_from_slice(head.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.uri().path_and_query().map_or("/", PathAndQuery::as_str).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let host = head.uri().authority().map_or("", Authority::as_str);
    push_line(out, "host", host.as_bytes());
    let headers = head.headers();
    for (name, value) in headers.iter().filter(|(name, _)| *name != COOKIE && is_passed(name)) {
        push_line(out, name.as_str(), value.as_bytes());
    }
    write_cookies(headers, out);
    let outgoing = if headers.contains_key(CONTENT_LENGTH) {
        if is_empty { Outgoing::Empty } else { Outgoing::Plain }
    } else if !is_empty {
        push_line(out, TRANSFER_ENCODING.as_str(), b"chunked");
        Outgoing::Chunked
    } else {
        // RFC 9110 section 8.6: said where a body could be expected.
        if matches!(*head.method(), Method::POST | Method::PUT | Method::PATCH) {
            push_line(out, CONTENT_LENGTH.as_str(), b"0");
        }
        Outgoing::Empty
    };
    // `h2` lets no other value of it through.
    if headers.contains_key(TE) {
        push_line(out, "connection", b"te");
        push_line(out, "te", b"trailers");
    }
    out.extend_from_slice(b"\r\n");
    outgoing
}

/// Writes the head of a response that came as HTTP/2, for an HTTP/1.1 client. `is_empty`: its stream has ended with it.
pub(super) fn write_response(
    parts: &response::Parts,
    edits: &Edits,
    is_empty: bool,
    to_head: bool,
    close: bool,
    out: &mut Vec<u8>,
) -> Outgoing {
    let status = parts.status.as_u16();
    out.extend_from_slice(b"HTTP/1.1 ");
    push_number(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    let is_bare = status < 200 || status == 204;
    for (name, value) in parts.headers.iter().filter(|(name, _)| is_passed(name)) {
        let is_kept = if *name == CONTENT_LENGTH { !is_bare } else { !edits.drops(name.as_str().as_bytes()) };
        if is_kept {
            push_line(out, name.as_str(), value.as_bytes());
        }
    }
    let has_no_body = is_bare || to_head || status == 304;
    let outgoing = if has_no_body {
        Outgoing::Empty
    } else if parts.headers.contains_key(CONTENT_LENGTH) {
        Outgoing::Plain
    } else if is_empty {
        push_line(out, CONTENT_LENGTH.as_str(), b"0");
        Outgoing::Empty
    } else {
        push_line(out, TRANSFER_ENCODING.as_str(), b"chunked");
        Outgoing::Chunked
    };
    if close && status >= 200 {
        push_line(out, "connection", b"close");
    }
    for (name, value) in edits.lines().filter(|(name, _)| is_end_to_end(name.as_bytes())) {
        push_line(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
    outgoing
}

/// Writes the last chunk and the trailer section.
pub(super) fn write_trailers(trailers: Option<&HeaderMap>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if is_end_to_end(name.as_str().as_bytes()) {
            push_line(out, name.as_str(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Reads a trailer section, lines with their ends. `None`: there are none.
pub(super) fn read_trailers(lines: &[u8]) -> Option<HeaderMap> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let whole = [lines, b"\r\n"].concat();
    let Ok(httparse::Status::Complete((_, parsed))) = httparse::parse_headers(&whole, &mut slots) else {
        return None;
    };
    let mut trailers = HeaderMap::new();
    for header in parsed.iter().filter(|header| is_end_to_end(header.name.as_bytes())) {
        append(&mut trailers, header.name.as_bytes(), header.value);
    }
    (!trailers.is_empty()).then_some(trailers)
}

/// RFC 9113 section 8.2.3: HTTP/2 may split what is one line in HTTP/1.1.
fn write_cookies(headers: &HeaderMap, out: &mut Vec<u8>) {
    let mut cookies = headers.get_all(COOKIE).iter().peekable();
    if cookies.peek().is_none() {
        return;
    }
    out.extend_from_slice(b"cookie: ");
    for (index, cookie) in cookies.enumerate() {
        if index > 0 {
            out.extend_from_slice(b"; ");
        }
        out.extend_from_slice(cookie.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn append_edits(headers: &mut HeaderMap, edits: &Edits) {
    for (name, value) in edits.lines().filter(|(name, _)| is_end_to_end(name.as_bytes())) {
        append(headers, name.as_bytes(), value);
    }
}

fn append(headers: &mut HeaderMap, name: &[u8], value: &[u8]) {
    if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
        // Fails when the map is full, at 24,576 different names: far beyond what a head may hold.
        let _ = headers.try_append(name, value);
    }
}

/// Whether a header is no business of the hop's framing.
fn is_end_to_end(name: &[u8]) -> bool {
    matches!(classify(name), Class::EndToEnd | Class::Expect)
}

/// Whether a received line is written as it is. The attempt's number is set by whoever made the head.
fn is_passed(name: &HeaderName) -> bool {
    *name != HOST
        && matches!(
            classify(name.as_str().as_bytes()),
            Class::EndToEnd | Class::Expect | Class::ContentLength | Class::AttemptCount
        )
}
