//! Lines of a head: which of them frame the message or belong to one hop only, and the one-pass copy of the rest.
//!
//! Rules of RFC 9112 sections 6 and 7.1 and RFC 9110 section 7.6.1. Where those let a recipient repair an ambiguous
//! message, it is refused instead: a repaired message is what request smuggling is made of.

use std::mem::MaybeUninit;

use httparse::Header;
use undermesh_core::edits::Edits;

/// The largest head, bytes. Envoy: `max_request_headers_kb`, default 60.
pub const MAX_HEAD: usize = 60 * 1024;
/// The most lines of a head. Envoy: `max_headers_count`, default 100.
pub const MAX_HEADERS: usize = 100;

/// What a header means to the codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Nothing: passed on.
    EndToEnd,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Te,
    Expect,
    /// Belongs to this hop and to nobody else: `keep-alive`, `proxy-connection`, `http2-settings`.
    HopByHop,
    /// `x-envoy-attempt-count`, written by the codec itself.
    AttemptCount,
}

/// Sorts a header name, any case. Length and first letter leave one candidate, so most names cost no comparison.
#[inline]
pub(crate) fn classify(name: &[u8]) -> Class {
    let first = name.first().map_or(0, |byte| byte | 0x20);
    let (candidate, class): (&[u8], Class) = match (name.len(), first) {
        (2, b't') => (b"te", Class::Te),
        (4, b'h') => (b"host", Class::Host),
        (6, b'e') => (b"expect", Class::Expect),
        (7, b'u') => (b"upgrade", Class::Upgrade),
        (10, b'c') => (b"connection", Class::Connection),
        (10, b'k') => (b"keep-alive", Class::HopByHop),
        (14, b'c') => (b"content-length", Class::ContentLength),
        (14, b'h') => (b"http2-settings", Class::HopByHop),
        (16, b'p') => (b"proxy-connection", Class::HopByHop),
        (17, b't') => (b"transfer-encoding", Class::TransferEncoding),
        (21, b'x') => (b"x-envoy-attempt-count", Class::AttemptCount),
        _ => return Class::EndToEnd,
    };
    if name.eq_ignore_ascii_case(candidate) { class } else { Class::EndToEnd }
}

/// Room for the lines of a head while it is looked at. Lives on the stack of one synchronous call.
pub struct Slots<'b> {
    pub(crate) headers: [MaybeUninit<Header<'b>>; MAX_HEADERS],
    pub(crate) classes: [Class; MAX_HEADERS],
}

impl Slots<'_> {
    /// Empty slots.
    #[inline]
    #[allow(clippy::new_without_default, reason = "a default value of 3 KiB should not be made by accident")]
    pub fn new() -> Self {
        Self {
            headers: [const { MaybeUninit::uninit() }; MAX_HEADERS],
            classes: [Class::EndToEnd; MAX_HEADERS],
        }
    }
}

/// The lines of a parsed head, sorted.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'s, 'b> {
    /// The head they were parsed from.
    pub(crate) raw: &'b [u8],
    pub(crate) headers: &'s [Header<'b>],
    pub(crate) classes: &'s [Class],
}

impl<'s, 'b> Lines<'s, 'b> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Class, &'s Header<'b>)> + use<'s, 'b> {
        self.classes.iter().copied().zip(self.headers)
    }

    /// The values of the header `name` (lower case), as routing sees them.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }
}

/// The framing headers of a message break the rules; `0` says how, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadFraming(pub(crate) &'static str);

/// What the framing and connection headers of a head say.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hop {
    pub(crate) content_length: Option<u64>,
    /// The length came as a list or on several lines (all the same) and is sent on as one.
    pub(crate) length_repeated: bool,
    pub(crate) is_chunked: bool,
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
    /// `Connection` names further headers of this hop.
    nominates: bool,
}

impl Hop {
    /// Takes in one line.
    #[inline]
    pub(crate) fn line(&mut self, class: Class, value: &[u8]) -> Result<(), BadFraming> {
        match class {
            Class::ContentLength => self.content_length(value),
            Class::TransferEncoding => {
                if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadFraming("transfer-encoding is not chunked"));
                }
                self.is_chunked = true;
                Ok(())
            }
            Class::Connection => {
                self.connection(value);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The check that needs all lines.
    pub(crate) fn check(&self) -> Result<(), BadFraming> {
        if self.is_chunked && self.content_length.is_some() {
            return Err(BadFraming("both content-length and transfer-encoding"));
        }
        Ok(())
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), BadFraming> {
        for part in value.split(|&byte| byte == b',') {
            let digits = part.trim_ascii();
            // 18 digits cannot overflow.
            if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
                return Err(BadFraming("content-length is not a number"));
            }
            let length = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
            match self.content_length {
                None => self.content_length = Some(length),
                Some(other) if other == length => self.length_repeated = true,
                Some(_) => return Err(BadFraming("content-length lines differ")),
            }
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) {
        for token in tokens(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.nominates = true;
            }
        }
    }

    /// Whether `Connection` names this end-to-end header, so that it stays on this hop. Names that the mesh itself relies
    /// on cannot be taken away like this.
    #[inline]
    pub(crate) fn removes(&self, lines: &Lines<'_, '_>, name: &str) -> bool {
        self.nominates
            && !is_protected(name.as_bytes())
            && lines
                .iter()
                .filter(|(class, _)| *class == Class::Connection)
                .flat_map(|(_, header)| tokens(header.value))
                .any(|token| token.eq_ignore_ascii_case(name.as_bytes()))
    }
}

fn is_protected(name: &[u8]) -> bool {
    let starts =
        |prefix: &[u8]| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    name.eq_ignore_ascii_case(b"x-request-id") || starts(b"x-forwarded-") || starts(b"x-envoy-")
}

/// The members of a comma-separated list.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// Writes a head: copies received lines, neighbours in one go, and appends new ones.
pub(crate) struct HeadWriter<'o, 'b> {
    out: &'o mut Vec<u8>,
    raw: &'b [u8],
    /// The received bytes that are to be copied, not yet copied.
    run: std::ops::Range<usize>,
}

impl<'o, 'b> HeadWriter<'o, 'b> {
    pub(crate) fn new(out: &'o mut Vec<u8>, raw: &'b [u8]) -> Self {
        Self { out, raw, run: 0..0 }
    }

    /// Passes a received line on.
    #[inline]
    pub(crate) fn keep(&mut self, header: &Header<'b>) {
        let base = self.raw.as_ptr().addr();
        let start = header.name.as_ptr().addr().wrapping_sub(base);
        let end = header.value.as_ptr().addr().wrapping_sub(base) + header.value.len();
        // Neighbours are joined by exactly CRLF. White space at a line's end or a bare LF ends the run, and is so dropped.
        if self.run.end + 2 == start && self.raw.get(self.run.end) == Some(&b'\r') && !self.run.is_empty() {
            self.run.end = end;
        } else {
            self.flush();
            self.run = start..end;
        }
    }

    /// Leaves the lines before this point and the ones after it unconnected.
    #[inline]
    pub(crate) fn flush(&mut self) {
        if let Some(run) = self.raw.get(self.run.clone()).filter(|run| !run.is_empty()) {
            self.out.extend_from_slice(run);
            self.out.extend_from_slice(b"\r\n");
        }
        self.run = 0..0;
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, name: &str, value: &[u8]) {
        self.flush();
        push_line(self.out, name, value);
    }

    /// Adds a line with a number.
    pub(crate) fn number(&mut self, name: &str, value: u64) {
        self.flush();
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        push_number(self.out, value);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Adds the lines of `edits`, but for those that would tell a lie about the message's framing or its hop.
    pub(crate) fn edits(&mut self, edits: &Edits) {
        self.flush();
        for (name, value) in edits.lines() {
            if matches!(classify(name.as_bytes()), Class::EndToEnd | Class::Expect) {
                push_line(self.out, name, value);
            }
        }
    }
}

pub(crate) fn push_line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal.
pub(crate) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_in_any_case() {
        let cases = [
            ("Host", Class::Host),
            ("TE", Class::Te),
            ("Transfer-Encoding", Class::TransferEncoding),
            ("CONTENT-LENGTH", Class::ContentLength),
            ("Proxy-Connection", Class::HopByHop),
            ("HTTP2-Settings", Class::HopByHop),
            ("X-Envoy-Attempt-Count", Class::AttemptCount),
            ("Hose", Class::EndToEnd),
            ("content_length", Class::EndToEnd),
            ("", Class::EndToEnd),
        ];
        for (name, class) in cases {
            assert_eq!(classify(name.as_bytes()), class, "{name}");
        }
    }

    #[test]
    fn lengths_agree_or_the_message_is_refused() {
        let read = |lines: &[&[u8]]| {
            let mut hop = Hop::default();
            for line in lines {
                hop.line(Class::ContentLength, line)?;
            }
            Ok::<_, BadFraming>((hop.content_length, hop.length_repeated))
        };
        assert_eq!(read(&[b"5"]), Ok((Some(5), false)));
        assert_eq!(read(&[b"5, 5"]), Ok((Some(5), true)));
        assert_eq!(read(&[b"5", b"05"]), Ok((Some(5), true)));
        for bad in [
            &[b"5, 6".as_slice()] as &[&[u8]],
            &[b"5", b"6"],
            &[b"+5"],
            &[b"-5"],
            &[b"5,"],
            &[b""],
            &[b"0x5"],
            &[b"5 5"],
            &[b"9999999999999999999"],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_chunked_is_a_transfer_encoding() {
        for (value, is_good) in [
            (b"chunked".as_slice(), true),
            (b"Chunked", true),
            (b"xchunked", false),
            (b"gzip, chunked", false),
            (b"chunked, identity", false),
            (b"identity", false),
            (b"", false),
        ] {
            let read = Hop::default().line(Class::TransferEncoding, value);
            assert_eq!(read.is_ok(), is_good, "{:?}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 7, 10, 65_535, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
