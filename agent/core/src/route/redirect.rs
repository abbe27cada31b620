//! Redirects: the Location of an answer, made of the request and what the rule replaces (Envoy's `newUri`).

use super::rewrite::PathRewrite;
use crate::view::RequestView;

/// An answer that sends the client elsewhere.
#[derive(Debug, Clone)]
pub struct Redirect {
    /// In place of the request's scheme.
    pub scheme: Option<Box<str>>,
    /// In place of the request's Host and its port.
    pub authority: Option<Box<str>>,
    /// The port to write; `None`: none, but one that the client put into Host stays. Compile leaves out the scheme's default.
    pub port: Option<u16>,
    /// The path.
    pub path: PathRedirect,
    /// 301, 302, 303, 307 or 308.
    pub code: u16,
}

/// The path of a redirect.
#[derive(Debug, Clone)]
pub enum PathRedirect {
    /// As requested.
    Keep,
    /// This. The request's query follows, unless this has one.
    Whole(Box<str>),
    /// The matched prefix is replaced.
    Prefix(PathRewrite),
}

impl Redirect {
    /// Appends the Location.
    pub(super) fn write(&self, request: &impl RequestView, out: &mut Vec<u8>) {
        let scheme = self.scheme.as_deref().unwrap_or_else(|| request.scheme());
        out.extend_from_slice(scheme.as_bytes());
        out.extend_from_slice(b"://");
        let authority = match &self.authority {
            Some(authority) => authority,
            None => requested_host(request, scheme, self.port.is_some()),
        };
        out.extend_from_slice(authority.as_bytes());
        if let Some(port) = self.port {
            out.push(b':');
            out.extend_from_slice(port.to_string().as_bytes());
        }
        let target = request.target();
        match &self.path {
            PathRedirect::Keep => out.extend_from_slice(target.as_bytes()),
            PathRedirect::Whole(path) => {
                out.extend_from_slice(path.as_bytes());
                if let (false, Some(query)) = (path.contains('?'), target.find('?')) {
                    out.extend_from_slice(target.get(query..).unwrap_or_default().as_bytes());
                }
            }
            PathRedirect::Prefix(rewrite) => rewrite.write(target, out),
        }
        // A redirect is written from what a client sent: nothing of it may start a line of its own.
        for byte in out {
            if byte.is_ascii_control() {
                *byte = b' ';
            }
        }
    }
}

/// The request's Host: without its port if another one is written, or if it is the default of a scheme that changes.
fn requested_host<'a>(request: &'a impl RequestView, scheme: &str, has_port: bool) -> &'a str {
    let authority = request.authority();
    let Some(colon) =
        authority.rfind(':').filter(|&at| !authority.starts_with('[') || authority[..at].ends_with(']'))
    else {
        return authority;
    };
    let (host, port) = authority.split_at(colon);
    let was = request.scheme();
    let default = matches!((was, port), ("http", ":80") | ("https", ":443"));
    if has_port || scheme != was && default { host } else { authority }
}
