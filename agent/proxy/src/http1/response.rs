//! Heads of responses: the same rules as for requests; an upstream that breaks them is answered for with 502.

use undermesh_core::edits::Edits;
use undermesh_core::view::ResponseView;

use super::framing::Framing;
use super::header::{BadFraming, Class, HeadWriter, Hop, Lines, MAX_HEAD, Slots, classify, push_number};
use super::reason::reason;

/// The bytes are no response that could be passed on; the text says why, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed response: {0}")]
pub struct BadResponse(pub &'static str);

impl From<BadFraming> for BadResponse {
    fn from(BadFraming(why): BadFraming) -> Self {
        Self(why)
    }
}

/// What of a request decides how its response is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// The method was HEAD: whatever the headers say, no body follows.
    pub head: bool,
    /// An upgrade was asked for: 101 is an answer.
    pub upgrade: bool,
}

/// A response's head, parsed and checked; interim ones too.
pub struct ResponseHead<'s, 'b> {
    lines: Lines<'s, 'b>,
    hop: Hop,
    status: u16,
    reason: &'b str,
    is_http_11: bool,
    asked: Asked,
}

impl<'s, 'b> ResponseHead<'s, 'b> {
    /// Parses the head at the start of `raw`; `None` while it is incomplete.
    ///
    /// # Errors
    /// It is not a response that could be passed on.
    pub fn parse(raw: &'b [u8], slots: &'s mut Slots<'b>, asked: Asked) -> Result<Option<Self>, BadResponse> {
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            raw,
            &mut slots.headers,
        );
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
            Ok(httparse::Status::Partial) if raw.len() <= MAX_HEAD => return Ok(None),
            Ok(_) => return Err(BadResponse("head is too large")),
            Err(httparse::Error::TooManyHeaders) => return Err(BadResponse("too many headers")),
            Err(_) => return Err(BadResponse("malformed head")),
        };
        let status = response.code.unwrap_or(0);
        let is_http_11 = response.version == Some(1);
        if !(100..=999).contains(&status) || status == 101 && !asked.upgrade {
            return Err(BadResponse("unexpected status"));
        }
        let headers: &'s [httparse::Header<'b>] = response.headers;
        let mut hop = Hop::default();
        for (header, class) in headers.iter().zip(&mut slots.classes) {
            *class = classify(header.name.as_bytes());
            hop.line(*class, header.value)?;
        }
        hop.check()?;
        if hop.is_chunked && !is_http_11 {
            return Err(BadResponse("transfer-encoding in http/1.0"));
        }
        let lines = Lines { raw: &raw[..length], headers, classes: &slots.classes };
        Ok(Some(Self { lines, hop, status, reason: response.reason.unwrap_or(""), is_http_11, asked }))
    }

    /// Bytes of the head as received.
    #[allow(clippy::len_without_is_empty, reason = "a head is never empty")]
    pub fn len(&self) -> usize {
        self.lines.raw.len()
    }

    /// Whether a final response follows this one. 101 is final: nothing of HTTP follows it.
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// Whether the connection stops speaking HTTP after this head.
    pub fn is_switch(&self) -> bool {
        self.status == 101
    }

    /// RFC 9110 section 8.6: such a response must not carry framing headers.
    fn is_bare(&self) -> bool {
        self.status < 200 || self.status == 204
    }

    /// How the body that follows is framed.
    pub fn framing(&self) -> Framing {
        if self.status == 101 {
            return Framing::Close;
        }
        if self.asked.head || self.is_bare() || self.status == 304 {
            return Framing::None;
        }
        match self.hop.content_length {
            _ if self.hop.is_chunked => Framing::chunked(),
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Close,
        }
    }

    /// Whether the upstream's connection may carry another exchange after this one.
    pub fn keeps_alive(&self) -> bool {
        !self.hop.close && (self.is_http_11 || self.hop.keep_alive) && self.framing() != Framing::Close
    }

    /// The end-to-end lines that `edits` leaves in place, framing excepted but for a known length.
    pub(crate) fn kept<'h>(
        &'h self,
        edits: &'h Edits,
    ) -> impl Iterator<Item = (&'b str, &'b [u8])> + use<'h, 's, 'b> {
        self.lines
            .iter()
            .filter(|(class, header)| {
                *class != Class::TransferEncoding && self.keeps(edits, *class, header.name)
            })
            .map(|(_, header)| (header.name, header.value))
    }

    #[inline]
    fn keeps(&self, edits: &Edits, class: Class, name: &str) -> bool {
        match class {
            Class::ContentLength => !self.is_bare() && !self.hop.length_repeated,
            Class::TransferEncoding => !self.is_bare(),
            Class::Connection | Class::HopByHop => false,
            Class::Upgrade => self.status == 101 || self.status == 426,
            Class::EndToEnd | Class::Host | Class::Te | Class::Expect | Class::AttemptCount => {
                !edits.drops(name.as_bytes()) && !self.hop.removes(&self.lines, name)
            }
        }
    }

    /// Writes the head for an HTTP/1.1 client. `close`: its connection ends after this response.
    pub fn write(&self, edits: &Edits, close: bool, out: &mut Vec<u8>) {
        out.reserve(self.len() + 256);
        out.extend_from_slice(b"HTTP/1.1 ");
        push_number(out, u64::from(self.status));
        out.push(b' ');
        let reason = if self.reason.is_empty() { reason(self.status) } else { self.reason };
        out.extend_from_slice(reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        let mut writer = HeadWriter::new(out, self.lines.raw);
        for (class, header) in self.lines.iter() {
            if self.keeps(edits, class, header.name) {
                writer.keep(header);
            }
        }
        match self.hop.content_length {
            Some(length) if self.hop.length_repeated && !self.is_bare() => {
                writer.number("content-length", length);
            }
            _ => {}
        }
        if self.status == 101 {
            writer.line("connection", b"upgrade");
        } else if close && !self.is_interim() {
            writer.line("connection", b"close");
        }
        writer.edits(edits);
        out.extend_from_slice(b"\r\n");
    }
}

impl ResponseView for ResponseHead<'_, '_> {
    fn status(&self) -> u16 {
        self.status
    }

    fn header_lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.lines.values(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str, edits: &Edits, close: bool) -> String {
        let mut slots = Slots::new();
        let asked = Asked { head: false, upgrade: true };
        let head = ResponseHead::parse(text.as_bytes(), &mut slots, asked).unwrap().unwrap();
        let mut out = Vec::new();
        head.write(edits, close, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn edits_and_the_end_of_the_connection_are_written_in_one_pass() {
        let mut edits = Edits::default();
        edits.set("server", b"istio-envoy");
        edits.add("connection", b"keep-alive");
        assert_eq!(
            written("HTTP/1.1 200 Fine\r\nServer: x\r\nContent-Length: 2\r\nX: y\r\n\r\n", &edits, true),
            "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX: y\r\nconnection: close\r\nserver: istio-envoy\r\n\r\n"
        );
    }

    #[test]
    fn heads_that_must_not_frame_a_body_do_not() {
        let edits = Edits::default();
        let text = "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nX: y\r\n\r\n";
        assert_eq!(written(text, &edits, false), "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n");
        let text = "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(written(text, &edits, false), text, "here it describes what GET would have sent");
    }

    #[test]
    fn the_framing_follows_status_and_method() {
        let framing = |text: &str, head| {
            let mut slots = Slots::new();
            let asked = Asked { head, upgrade: true };
            ResponseHead::parse(text.as_bytes(), &mut slots, asked).unwrap().unwrap().framing()
        };
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(framing(length, false), Framing::Length(5));
        assert_eq!(framing(length, true), Framing::None);
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false),
            Framing::chunked()
        );
        assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n", false), Framing::Close);
        assert_eq!(framing("HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n", false), Framing::None);
        assert_eq!(framing("HTTP/1.1 101 Go\r\nContent-Length: 5\r\n\r\n", false), Framing::Close);
    }

    #[test]
    fn an_upstream_is_kept_only_if_both_would_keep_it() {
        let keeps = |text: &str| {
            let mut slots = Slots::new();
            ResponseHead::parse(text.as_bytes(), &mut slots, Asked::default()).unwrap().unwrap().keeps_alive()
        };
        assert!(keeps("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(!keeps("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
        assert!(!keeps("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
        assert!(keeps("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"));
        assert!(!keeps("HTTP/1.1 200 OK\r\n\r\n"));
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        let cases = [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
            "HTTP/1.1 101 Go\r\n\r\n",
            "HTTP/1.1 099 No\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
        ];
        for text in cases {
            let mut slots = Slots::new();
            assert!(ResponseHead::parse(text.as_bytes(), &mut slots, Asked::default()).is_err(), "{text}");
        }
    }
}
