//! What routing may see of a message: a read view of its head, whatever codec holds it.
//!
//! The HTTP/1.1 engine answers from parsed slots of its read buffer, HTTP/2 from `http::request::Parts`, `explain` from
//! JSON. `core` never sees a codec's own types, so one routing engine serves all of them (DESIGN D12).

/// The version of the protocol a message came in. Only [`RequestView::header_lines`] of `cookie` depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HttpVersion {
    /// HTTP/1.0 and HTTP/1.1
    Http1,
    /// HTTP/2, also when it carries gRPC
    Http2,
}

/// Read access to the head of a request.
pub trait RequestView {
    /// The version the client speaks.
    fn version(&self) -> HttpVersion;
    /// `GET`, as sent (methods are case-sensitive).
    fn method(&self) -> &str;
    /// `http` or `https`: the scheme of the transport, or what a trusted `x-forwarded-proto` says.
    fn scheme(&self) -> &str;
    /// The raw `Host` / `:authority`, with the port if the client sent one.
    fn authority(&self) -> &str;
    /// Path and query, normalised (see `path::normalize`); begins with `/`, or is `*`.
    fn target(&self) -> &str;
    /// The value of every line of the header `name` (given in lower case), in the order received, as bytes without
    /// surrounding white space. Pseudo headers are not headers: routing maps `:path` and its like to the methods above.
    fn header_lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]>;

    /// The first line of the header `name`.
    fn header<'a>(&'a self, name: &str) -> Option<&'a [u8]> {
        self.header_lines(name).next()
    }

    /// Whether some header's name may begin with `prefix` (lower case). A view that can tell in one pass over its lines saves
    /// its caller a look-up for each such header; the answer "yes" is never wrong.
    fn may_have_headers(&self, prefix: &str) -> bool {
        let _ = prefix;
        true
    }

    /// Whether this is gRPC: local answers then carry a `grpc-status` in place of an HTTP status (semantics section 11).
    fn is_grpc(&self) -> bool {
        self.header("content-type").is_some_and(|value| {
            value
                .strip_prefix(b"application/grpc")
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
        })
    }
}

/// Read access to the head of a final (not 1xx) response.
pub trait ResponseView {
    /// The status code, 200 to 999.
    fn status(&self) -> u16;
    /// As [`RequestView::header_lines`].
    fn header_lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]>;

    /// The first line of the header `name`.
    fn header<'a>(&'a self, name: &str) -> Option<&'a [u8]> {
        self.header_lines(name).next()
    }
}
