//! Heads of requests: parsed into slots, seen through `core`'s view, and written anew in one pass.
//!
//! `httparse` finds the tokens; it refuses folded lines, white space before a colon, NUL and bare CR. What is decided here
//! is everything that frames the message or names its host.

use std::borrow::Cow;

use undermesh_core::edits::Edits;
use undermesh_core::path::Normalization;
use undermesh_core::view::{HttpVersion, RequestView};

use super::Settings;
use super::framing::Framing;
use super::header::{BadFraming, Class, HeadWriter, Hop, Lines, MAX_HEAD, Slots, classify, tokens};

/// The bytes are no request that could be passed on: answered by the codec, then the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Status of the answer.
    pub status: u16,
    /// For the log: lower case, no user bytes.
    pub why: &'static str,
}

impl Refusal {
    const fn new(status: u16, why: &'static str) -> Self {
        Self { status, why }
    }
}

impl From<BadFraming> for Refusal {
    fn from(BadFraming(why): BadFraming) -> Self {
        // A coding we do not know is RFC 9112 section 6.1's 501; everything else is 400.
        Self::new(if why.starts_with("transfer-encoding") { 501 } else { 400 }, why)
    }
}

/// A request's head, parsed and checked.
pub struct RequestHead<'s, 'b> {
    lines: Lines<'s, 'b>,
    hop: Hop,
    method: &'b str,
    target: Cow<'b, str>,
    authority: &'b str,
    /// The authority comes from an absolute-form target, not from the `Host` line.
    is_absolute: bool,
    scheme: &'static str,
    upgrade: Option<&'b str>,
    expects_continue: bool,
    wants_trailers: bool,
}

impl<'s, 'b> RequestHead<'s, 'b> {
    /// Parses the head at the start of `raw`; `None` while it is incomplete.
    ///
    /// # Errors
    /// It is not a request that could be passed on.
    pub fn parse(
        raw: &'b [u8],
        slots: &'s mut Slots<'b>,
        settings: &Settings,
    ) -> Result<Option<Self>, Refusal> {
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(raw, &mut slots.headers) {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
            Ok(httparse::Status::Partial) if raw.len() <= MAX_HEAD => return Ok(None),
            Ok(_) => return Err(Refusal::new(431, "request head is too large")),
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::new(431, "too many headers")),
            Err(httparse::Error::Version) => return Err(Refusal::new(505, "unknown version of http")),
            Err(_) => return Err(Refusal::new(400, "malformed request head")),
        };
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Err(Refusal::new(400, "malformed request line"));
        };
        if request.version != Some(1) {
            // Envoy: `accept_http_10`, default false.
            return Err(Refusal::new(426, "http/1.0"));
        }
        if method == "CONNECT" {
            return Err(Refusal::new(405, "connect is not for a proxy of this kind"));
        }
        let (target, absolute) = split_target(method, target)?;
        let target = normalize(target, settings.normalization)?;

        let headers: &'s [httparse::Header<'b>] = request.headers;
        let (mut host, mut upgrade, mut forwarded_proto) = (None, None, None);
        let (mut hop, mut expects_continue, mut wants_trailers) = (Hop::default(), false, false);
        for (header, class) in headers.iter().zip(&mut slots.classes) {
            *class = classify(header.name.as_bytes());
            match *class {
                Class::EndToEnd => {
                    if header.name.len() == 17 && header.name.eq_ignore_ascii_case("x-forwarded-proto") {
                        forwarded_proto = Some(header.value);
                    }
                }
                Class::Host => {
                    if host.replace(header.value).is_some() {
                        return Err(Refusal::new(400, "more than one host header"));
                    }
                }
                Class::Expect => {
                    if !header.value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(Refusal::new(417, "unknown expectation"));
                    }
                    expects_continue = true;
                }
                // Two lines are no protocol that a server would agree to.
                Class::Upgrade => upgrade = Some(if upgrade.is_some() { b"" } else { header.value }),
                Class::Te => {
                    wants_trailers |=
                        tokens(header.value).any(|token| token.eq_ignore_ascii_case(b"trailers"));
                }
                Class::HopByHop | Class::AttemptCount => {}
                other => hop.line(other, header.value)?,
            }
        }
        hop.check()?;
        let Some(host) = host else { return Err(Refusal::new(400, "no host header")) };
        // RFC 9112 section 3.2.2: the host of an absolute-form target replaces the header.
        let authority = absolute.map_or(host, str::as_bytes);
        let authority = checked_authority(authority).ok_or(Refusal::new(400, "malformed host"))?;
        let has_body = hop.is_chunked || hop.content_length.is_some_and(|length| length > 0);
        // h2c by upgrade is ignored, as RFC 9113 allows and Envoy does.
        let upgrade = upgrade
            .filter(|value| {
                hop.upgrade && !has_body && !value.is_empty() && !value.eq_ignore_ascii_case(b"h2c")
            })
            .and_then(|value| std::str::from_utf8(value).ok());
        let scheme = match forwarded_proto {
            Some(b"http") if settings.trusts_forwarded_proto => "http",
            Some(b"https") if settings.trusts_forwarded_proto => "https",
            _ => settings.scheme,
        };
        let lines = Lines { raw: &raw[..length], headers, classes: &slots.classes };
        let is_absolute = absolute.is_some();
        Ok(Some(Self {
            lines,
            hop,
            method,
            target,
            authority,
            is_absolute,
            scheme,
            upgrade,
            expects_continue,
            wants_trailers,
        }))
    }

    /// Bytes of the head as received.
    #[allow(clippy::len_without_is_empty, reason = "a head is never empty")]
    pub fn len(&self) -> usize {
        self.lines.raw.len()
    }

    /// How the body that follows is framed.
    pub fn framing(&self) -> Framing {
        match self.hop.content_length {
            _ if self.hop.is_chunked => Framing::chunked(),
            Some(length) if length > 0 => Framing::Length(length),
            _ => Framing::None,
        }
    }

    /// Whether the client ends the connection after this request.
    pub fn closes(&self) -> bool {
        self.hop.close
    }

    /// Whether the method is HEAD, so that the response has no body.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// The protocol of a valid upgrade request.
    pub fn upgrade(&self) -> Option<&'b str> {
        self.upgrade
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    /// Whether the client declared that it understands trailers.
    pub(crate) fn wants_trailers(&self) -> bool {
        self.wants_trailers
    }

    /// The end-to-end lines that `edits` leaves in place, `host` excepted.
    pub(crate) fn kept<'h>(
        &'h self,
        edits: &'h Edits,
    ) -> impl Iterator<Item = (&'b str, &'b [u8])> + use<'h, 's, 'b> {
        self.lines
            .iter()
            .filter(|(class, header)| {
                matches!(class, Class::EndToEnd | Class::ContentLength)
                    && self.keeps(edits, *class, header.name)
            })
            .map(|(_, header)| (header.name, header.value))
    }

    #[inline]
    fn keeps(&self, edits: &Edits, class: Class, name: &str) -> bool {
        match class {
            Class::EndToEnd | Class::Expect => {
                !edits.drops(name.as_bytes()) && !self.hop.removes(&self.lines, name)
            }
            Class::Host => !self.is_absolute && edits.authority().is_none(),
            Class::ContentLength => !self.hop.length_repeated,
            Class::TransferEncoding => true,
            Class::Connection | Class::Upgrade | Class::Te | Class::HopByHop | Class::AttemptCount => false,
        }
    }

    /// Writes the head for an HTTP/1.1 upstream. It ends in `x-envoy-attempt-count: 1` and the empty line.
    pub fn write(&self, edits: &Edits, out: &mut Vec<u8>) {
        out.reserve(self.len() + 256);
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        out.extend_from_slice(edits.target().unwrap_or(&self.target).as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let mut writer = HeadWriter::new(out, self.lines.raw);
        match edits.authority() {
            Some(authority) => writer.line("host", authority.as_bytes()),
            None if self.is_absolute => writer.line("host", self.authority.as_bytes()),
            None => {}
        }
        for (class, header) in self.lines.iter() {
            if self.keeps(edits, class, header.name) {
                writer.keep(header);
            }
        }
        if let (true, Some(length)) = (self.hop.length_repeated, self.hop.content_length) {
            writer.number("content-length", length);
        }
        match (self.upgrade, self.wants_trailers) {
            (Some(protocol), _) => {
                writer.line("connection", b"upgrade");
                writer.line("upgrade", protocol.as_bytes());
            }
            // We relay trailers, so the wish may be passed on as our own (RFC 9110 section 10.1.4).
            (None, true) => {
                writer.line("connection", b"te");
                writer.line("te", b"trailers");
            }
            (None, false) => {}
        }
        writer.edits(edits);
        out.extend_from_slice(ATTEMPT_LINE);
    }
}

/// The last line of a head that goes upstream, and the empty line.
pub(crate) const ATTEMPT_LINE: &[u8] = b"x-envoy-attempt-count: 1\r\n\r\n";
/// Where in it the number ends, counted from its end.
pub(crate) const ATTEMPT_TAIL: usize = 4;

impl RequestView for RequestHead<'_, '_> {
    fn version(&self) -> HttpVersion {
        HttpVersion::Http1
    }

    fn method(&self) -> &str {
        self.method
    }

    fn scheme(&self) -> &str {
        self.scheme
    }

    fn authority(&self) -> &str {
        self.authority
    }

    fn target(&self) -> &str {
        &self.target
    }

    fn may_have_headers(&self, prefix: &str) -> bool {
        self.lines.headers.iter().any(|header| {
            let start = header.name.as_bytes().get(..prefix.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        })
    }

    fn header_lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let hidden = self.hop.removes(&self.lines, name);
        self.lines.values(name).filter(move |_| !hidden)
    }
}

/// The origin form of a target, and the authority if it came in absolute form.
fn split_target<'b>(method: &str, target: &'b str) -> Result<(Cow<'b, str>, Option<&'b str>), Refusal> {
    if target.starts_with('/') || target == "*" && method == "OPTIONS" {
        return Ok((target.into(), None));
    }
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let Some(rest) = scheme.and_then(|scheme| target.get(scheme.len()..)) else {
        return Err(Refusal::new(400, "malformed request target"));
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.is_empty() {
        return Err(Refusal::new(400, "absolute target without a host"));
    }
    let path = match path.chars().next() {
        Some('/') => path.into(),
        Some(_) => format!("/{path}").into(),
        None if method == "OPTIONS" => "*".into(),
        None => "/".into(),
    };
    Ok((path, Some(authority)))
}

/// What routing and the upstream get to see of a target.
fn normalize(target: Cow<'_, str>, normalization: Normalization) -> Result<Cow<'_, str>, Refusal> {
    let malformed = |_| Refusal::new(400, "malformed path");
    match target {
        Cow::Borrowed(target) => normalization.apply(target).map_err(malformed),
        Cow::Owned(target) => {
            normalization.apply(&target).map(|target| Cow::Owned(target.into_owned())).map_err(malformed)
        }
    }
}

/// What a `Host` may look like; user information, lists and paths in it have only ever served to deceive.
fn checked_authority(value: &[u8]) -> Option<&str> {
    let is_bad = |byte: &u8| *byte <= b' ' || *byte >= 0x7f || b"/@,?#\\\"<>".contains(byte);
    if value.iter().any(is_bad) {
        return None;
    }
    std::str::from_utf8(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_head<T>(text: &str, look: impl FnOnce(&RequestHead<'_, '_>) -> T) -> T {
        let mut slots = Slots::new();
        let head = RequestHead::parse(text.as_bytes(), &mut slots, &Settings::default()).unwrap().unwrap();
        look(&head)
    }

    fn written(text: &str, edits: &Edits) -> String {
        let mut out = Vec::new();
        with_head(text, |head| head.write(edits, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_head_without_edits_is_passed_on_as_it_came() {
        let text = "GET /a?b HTTP/1.1\r\nHost: x\r\nX-A:  1\r\nCookie: c\r\nX-B:2\r\n\r\n";
        let want = format!("{}x-envoy-attempt-count: 1\r\n\r\n", &text[..text.len() - 2]);
        assert_eq!(written(text, &Edits::default()), want);
    }

    #[test]
    fn edits_change_target_host_and_lines_in_one_pass() {
        let mut edits = Edits::default();
        edits.set_target("/new");
        edits.set_authority("other:81");
        edits.set("x-set", b"2");
        edits.remove("x-gone");
        edits.add("x-added", b"3");
        let text = "GET /old HTTP/1.1\r\nX-First: 1\r\nHost: x\r\nX-Set: 1\r\nX-Gone: 1\r\nX-Last: 1\r\n\r\n";
        assert_eq!(
            written(text, &edits),
            "GET /new HTTP/1.1\r\nhost: other:81\r\nX-First: 1\r\nX-Last: 1\r\nx-set: 2\r\nx-added: 3\r\n\
             x-envoy-attempt-count: 1\r\n\r\n"
        );
    }

    #[test]
    fn no_edit_touches_the_framing() {
        let mut edits = Edits::default();
        edits.remove("content-length");
        edits.remove("host");
        for name in
            ["content-length", "transfer-encoding", "connection", "upgrade", "te", "host", "keep-alive"]
        {
            edits.add(name, b"7");
        }
        let text = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(
            written(text, &edits),
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nx-envoy-attempt-count: 1\r\n\r\n"
        );
    }

    #[test]
    fn repeated_lengths_are_sent_as_one() {
        let text = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX: y\r\nContent-Length: 5, 5\r\n\r\n";
        assert_eq!(
            written(text, &Edits::default()),
            "POST / HTTP/1.1\r\nHost: x\r\nX: y\r\ncontent-length: 5\r\nx-envoy-attempt-count: 1\r\n\r\n"
        );
    }

    #[test]
    fn routing_sees_the_path_that_is_sent_on() {
        let text = "GET /a/%2e%2e/%61dmin?x=%61 HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(with_head(text, |head| RequestView::target(head).to_owned()), "/admin?x=%61");
        assert!(written(text, &Edits::default()).starts_with("GET /admin?x=%61 HTTP/1.1\r\n"));
    }

    #[test]
    fn the_view_reads_lines_as_received_but_for_those_of_this_hop() {
        let text = "GET / HTTP/1.1\r\nHost: x:80\r\nEditor: admin\r\nConnection: x-mine\r\nX-Mine: 1\r\n\
                    editor:  second \r\nX-Forwarded-Proto: https\r\n\r\n";
        with_head(text, |head| {
            let lines: Vec<_> = head.header_lines("editor").collect();
            assert_eq!(lines, [b"admin".as_slice(), b"second"]);
            assert_eq!(head.header("x-mine"), None);
            assert_eq!((head.authority(), head.scheme()), ("x:80", "https"));
        });
    }

    #[test]
    fn an_untrusted_forwarded_proto_is_not_believed() {
        let settings = Settings { trusts_forwarded_proto: false, ..Settings::default() };
        let text = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\n\r\n";
        let mut slots = Slots::new();
        let head = RequestHead::parse(text, &mut slots, &settings).unwrap().unwrap();
        assert_eq!(head.scheme(), "http");
    }

    #[test]
    fn only_a_whole_upgrade_request_is_one() {
        let cases = [
            ("Connection: Upgrade\r\nUpgrade: websocket\r\n", Some("websocket")),
            ("Upgrade: websocket\r\n", None),
            ("Connection: upgrade\r\n", None),
            ("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n", None),
            ("Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n", None),
            ("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: other\r\n", None),
            ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n", None),
        ];
        for (lines, want) in cases {
            let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
            assert_eq!(
                with_head(&text, |head| head.upgrade().map(str::to_owned)).as_deref(),
                want,
                "{lines}"
            );
            let has_line = written(&text, &Edits::default()).contains("upgrade: ");
            assert_eq!(has_line, want.is_some(), "{lines}");
        }
    }

    #[test]
    fn the_wish_for_trailers_is_passed_on_as_our_own() {
        let text = "GET / HTTP/1.1\r\nHost: x\r\nTE: deflate, trailers\r\nConnection: te\r\n\r\n";
        assert!(written(text, &Edits::default()).contains("\r\nconnection: te\r\nte: trailers\r\n"));
        let text = "GET / HTTP/1.1\r\nHost: x\r\nTE: deflate\r\n\r\n";
        assert!(!written(text, &Edits::default()).to_lowercase().contains("\r\nte:"));
    }
}
