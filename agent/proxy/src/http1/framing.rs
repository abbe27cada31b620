//! Where a message's body ends: by length, by chunks, or with the connection.
//!
//! Bodies are relayed as they come. A chunked one is only scanned, for its end and for anything that two parsers could
//! read differently (RFC 9112 section 7.1; bare LF, white space in sizes and the like are refused, not repaired).

/// Chunk extensions longer than this, per chunk, have no use but to waste the reader's time.
const MAX_EXTENSION: u32 = 4 * 1024;
/// The trailer section of one message, bytes.
const MAX_TRAILERS: u32 = 8 * 1024;
/// Hexadecimal digits of a chunk's size: 15 cannot overflow.
const MAX_SIZE_DIGITS: u8 = 15;

/// How a body is delimited, and how much of it is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// So many bytes are left.
    Length(u64),
    /// Chunks, then trailers.
    Chunked(Chunked),
    /// Everything until the connection ends: responses, and both ways after an upgrade.
    Close,
}

/// The bytes break the body's framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed body")]
pub struct Malformed;

/// What [`Framing::advance`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// Bytes that belong to the message.
    pub used: usize,
    /// Those of them that are content: neither chunk sizes nor trailers.
    pub content: u64,
    /// Whether the message ended.
    pub done: bool,
}

/// One piece of a body as [`Framing::piece`] takes it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Bytes that belong to it.
    pub used: usize,
    /// What they are.
    pub kind: PieceKind,
}

/// See [`Piece`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    /// Content.
    Content,
    /// Chunk sizes, extensions, line ends: of no interest to the reader.
    Framing,
    /// Part of the trailer section, line ends included.
    Trailers,
    /// The end of the message.
    End,
}

impl Framing {
    /// A chunked body from its start.
    pub fn chunked() -> Self {
        Self::Chunked(Chunked::default())
    }

    /// Takes in the next bytes of the message.
    ///
    /// # Errors
    /// They break its framing.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Advance, Malformed> {
        match self {
            Self::None => Ok(Advance { used: 0, content: 0, done: true }),
            Self::Length(left) => {
                let used = (*left).min(bytes.len() as u64);
                *left -= used;
                Ok(Advance { used: used as usize, content: used, done: *left == 0 })
            }
            Self::Close => Ok(Advance { used: bytes.len(), content: bytes.len() as u64, done: false }),
            Self::Chunked(chunked) => {
                let (mut used, mut content) = (0, 0);
                while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
                    let piece = chunked.piece(rest)?;
                    used += piece.used;
                    match piece.kind {
                        PieceKind::Content => content += piece.used as u64,
                        PieceKind::End => return Ok(Advance { used, content, done: true }),
                        PieceKind::Framing | PieceKind::Trailers => {}
                    }
                }
                Ok(Advance { used, content, done: false })
            }
        }
    }

    /// Takes one piece from the front of `bytes` (not empty, or the body has no bytes left).
    ///
    /// # Errors
    /// They break the body's framing.
    pub fn piece(&mut self, bytes: &[u8]) -> Result<Piece, Malformed> {
        if let Self::Chunked(chunked) = self {
            return chunked.piece(bytes);
        }
        if matches!(self, Self::None | Self::Length(0)) {
            return Ok(Piece { used: 0, kind: PieceKind::End });
        }
        let advance = self.advance(bytes)?;
        Ok(Piece { used: advance.used, kind: PieceKind::Content })
    }
}

/// Where in a chunked body the scanner stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Extension,
    SizeLf,
    Content,
    ContentCr,
    ContentLf,
    /// At the start of a line of the trailer section.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
}

/// Scanner of a chunked body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chunked {
    /// Content bytes left in the current chunk.
    left: u64,
    /// Bytes of the current extension, or of the trailer section.
    extra: u32,
    digits: u8,
    /// The current trailer line has had its colon.
    named: bool,
    /// The name of the current trailer line so far.
    name: Name,
    state: State,
}

/// A digest of a field's name, taken byte by byte: small enough for every connection to have room for it, and fit to tell a
/// handful of names. Whoever makes another name with the same digest has that one refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name(u64);

impl Default for Name {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Name {
    /// FNV-1a of the name in lower case.
    const fn with(self, byte: u8) -> Self {
        Self((self.0 ^ byte.to_ascii_lowercase() as u64).wrapping_mul(0x0000_0100_0000_01b3))
    }

    const fn of(text: &str) -> Self {
        let (text, mut name, mut at) = (text.as_bytes(), Self(0xcbf2_9ce4_8422_2325), 0);
        while at < text.len() {
            name = name.with(text[at]);
            at += 1;
        }
        name
    }

    /// RFC 9110 section 6.5.1: fields that must not come as trailers. Those on which framing, routing or the connection hang:
    /// a server that takes trailers for headers would read the next message elsewhere, or for another host.
    fn is_forbidden(self) -> bool {
        const FORBIDDEN: [Name; 9] = [
            Name::of("content-length"),
            Name::of("transfer-encoding"),
            Name::of("host"),
            Name::of("connection"),
            Name::of("keep-alive"),
            Name::of("proxy-connection"),
            Name::of("te"),
            Name::of("trailer"),
            Name::of("upgrade"),
        ];
        FORBIDDEN.contains(&self)
    }
}

impl Chunked {
    fn piece(&mut self, bytes: &[u8]) -> Result<Piece, Malformed> {
        match self.state {
            State::Content => {
                let used = self.left.min(bytes.len() as u64);
                self.left -= used;
                if self.left == 0 {
                    self.state = State::ContentCr;
                }
                Ok(Piece { used: used as usize, kind: PieceKind::Content })
            }
            State::TrailerStart | State::Trailer | State::TrailerLf | State::EndLf => self.trailers(bytes),
            _ => self.sizes(bytes),
        }
    }

    /// Line ends, sizes and extensions up to the next content or the trailer section.
    fn sizes(&mut self, bytes: &[u8]) -> Result<Piece, Malformed> {
        for (index, &byte) in bytes.iter().enumerate() {
            self.state = match (self.state, byte) {
                (State::ContentCr, b'\r') => State::ContentLf,
                (State::ContentLf, b'\n') => State::Size,
                (State::Size, b'\r') if self.digits > 0 => State::SizeLf,
                (State::Size, b';') if self.digits > 0 => State::Extension,
                (State::Size, digit) => {
                    let value = char::from(digit).to_digit(16).ok_or(Malformed)?;
                    self.digits += 1;
                    if self.digits > MAX_SIZE_DIGITS {
                        return Err(Malformed);
                    }
                    self.left = self.left << 4 | u64::from(value);
                    State::Size
                }
                (State::Extension, b'\r') => State::SizeLf,
                (State::Extension, byte) if is_text(byte) => {
                    self.extra += 1;
                    if self.extra > MAX_EXTENSION {
                        return Err(Malformed);
                    }
                    State::Extension
                }
                (State::SizeLf, b'\n') => {
                    self.digits = 0;
                    self.extra = 0;
                    let next = if self.left == 0 { State::TrailerStart } else { State::Content };
                    self.state = next;
                    return Ok(Piece { used: index + 1, kind: PieceKind::Framing });
                }
                _ => return Err(Malformed),
            };
        }
        Ok(Piece { used: bytes.len(), kind: PieceKind::Framing })
    }

    /// The trailer section and the empty line that ends the message.
    fn trailers(&mut self, bytes: &[u8]) -> Result<Piece, Malformed> {
        for (index, &byte) in bytes.iter().enumerate() {
            self.state = match (self.state, byte) {
                // The empty line is a piece of its own, so that it is no part of the trailers.
                (State::TrailerStart, b'\r') if index > 0 => {
                    return Ok(Piece { used: index, kind: PieceKind::Trailers });
                }
                (State::TrailerStart, b'\r') => State::EndLf,
                (State::EndLf, b'\n') => return Ok(Piece { used: index + 1, kind: PieceKind::End }),
                (State::TrailerStart, byte) if is_token(byte) => {
                    self.named = false;
                    self.name = Name::default().with(byte);
                    State::Trailer
                }
                (State::Trailer, b'\r') if self.named => State::TrailerLf,
                (State::Trailer, byte) if self.named && is_text(byte) => State::Trailer,
                (State::Trailer, b':') if !self.named && !self.name.is_forbidden() => {
                    self.named = true;
                    State::Trailer
                }
                (State::Trailer, byte) if !self.named && is_token(byte) => {
                    self.name = self.name.with(byte);
                    State::Trailer
                }
                (State::TrailerLf, b'\n') => State::TrailerStart,
                _ => return Err(Malformed),
            };
            self.extra += 1;
            if self.extra > MAX_TRAILERS {
                return Err(Malformed);
            }
        }
        let kind = if self.state == State::EndLf { PieceKind::Framing } else { PieceKind::Trailers };
        Ok(Piece { used: bytes.len(), kind })
    }
}

/// Text of a field value or of an extension: no control characters but tab.
fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(bytes: &[u8]) -> Result<Advance, Malformed> {
        Framing::chunked().advance(bytes)
    }

    #[test]
    fn a_chunked_body_ends_after_its_trailers_and_not_before() {
        let cases: &[(&[u8], u64)] = &[
            (b"0\r\n\r\n", 0),
            (b"5\r\nhello\r\n0\r\n\r\n", 5),
            (b"A;x=\"y z\"\r\n0123456789\r\n00\r\n\r\n", 10),
            (b"1\r\na\r\n2\r\nbc\r\n0\r\nx-t: 1\r\nx-u:\r\n\r\n", 3),
        ];
        for &(bytes, content) in cases {
            let with_next = [bytes, b"GET /next"].concat();
            let want = Advance { used: bytes.len(), content, done: true };
            assert_eq!(scan(&with_next), Ok(want), "{:?}", String::from_utf8_lossy(bytes));
            for cut in 0..bytes.len() {
                let mut framing = Framing::chunked();
                let first = framing.advance(&bytes[..cut]).unwrap();
                assert_eq!((first.used, first.done), (cut, false));
                let second = framing.advance(&with_next[cut..]).unwrap();
                assert_eq!((cut + second.used, second.done), (bytes.len(), true));
                assert_eq!(first.content + second.content, content);
            }
        }
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        let cases: &[&[u8]] = &[
            b"zz\r\n",
            b"\r\n",
            b" 5\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b"5\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"-1\r\n",
            b"5\rhello",
            b"5;a\nhello\r\n",
            b"5;a\0b\r\nhello\r\n",
            b"5;a\rb\r\nhello\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhelloworld\r\n",
            b"fffffffffffffffff\r\n",
            b"0000000000000000\r\n",
            b"0\r\n\n",
            b"0\r\n x: folded\r\n\r\n",
            b"0\r\n: no name\r\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\nx : space\r\n\r\n",
            b"0\r\nx: a\nb: c\r\n\r\n",
            b"0\r\nx: a\0\r\n\r\n",
            b"0\r\n\rx",
        ];
        for bytes in cases {
            assert_eq!(scan(bytes), Err(Malformed), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded_but_not_forbidden() {
        let extension = |length: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(length));
        assert!(scan(extension(4096).as_bytes()).is_ok_and(|advance| advance.done));
        assert_eq!(scan(extension(4097).as_bytes()), Err(Malformed));
        let many = format!("{}0\r\n\r\n", "1;eeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\r\na\r\n".repeat(1000));
        assert!(scan(many.as_bytes()).is_ok_and(|advance| advance.done), "the limit is per chunk");
        let trailers = |length: usize| format!("0\r\nx: {}\r\n\r\n", "t".repeat(length));
        assert!(scan(trailers(8000).as_bytes()).is_ok_and(|advance| advance.done));
        assert_eq!(scan(trailers(9000).as_bytes()), Err(Malformed));
    }

    #[test]
    fn trailers_carry_nothing_that_frames_or_routes_a_message() {
        let with = |trailer: &str| scan(format!("0\r\nx-a: b\r\n{trailer}: 1\r\n\r\n").as_bytes());
        for forbidden in
            ["Content-Length", "transfer-encoding", "HOST", "Connection", "TE", "Upgrade", "trailer"]
        {
            assert_eq!(with(forbidden), Err(Malformed), "{forbidden}");
        }
        for harmless in ["x-host", "hos", "hosts", "content-length-x", "grpc-status", "expires"] {
            assert!(with(harmless).is_ok_and(|advance| advance.done), "{harmless}");
        }
        // A value is no name.
        assert!(scan(b"0\r\nx: host: y\r\n\r\n").is_ok_and(|advance| advance.done));
    }

    #[test]
    fn pieces_tell_content_from_framing_and_trailers() {
        let bytes = b"5\r\nhello\r\n6;x\r\n world\r\n0\r\nx-t: 1\r\nx-u: 2\r\n\r\nnext";
        for step in [1, 2, 3, 7, bytes.len()] {
            let mut framing = Framing::chunked();
            let (mut content, mut trailers, mut at) = (Vec::new(), Vec::new(), 0);
            loop {
                let part = &bytes[at..(at + step).min(bytes.len())];
                let piece = framing.piece(part).unwrap();
                let taken = &part[..piece.used];
                at += piece.used;
                match piece.kind {
                    PieceKind::Content => content.extend_from_slice(taken),
                    PieceKind::Trailers => trailers.extend_from_slice(taken),
                    PieceKind::Framing => {}
                    PieceKind::End => break,
                }
            }
            assert_eq!(content, b"hello world", "step {step}");
            assert_eq!(trailers, b"x-t: 1\r\nx-u: 2\r\n", "step {step}");
            assert_eq!(&bytes[at..], b"next");
        }
    }

    #[test]
    fn a_length_ends_where_it_says() {
        let mut framing = Framing::Length(5);
        assert_eq!(framing.advance(b"abc"), Ok(Advance { used: 3, content: 3, done: false }));
        assert_eq!(framing.advance(b"defgh"), Ok(Advance { used: 2, content: 2, done: true }));
        let mut framing = Framing::Close;
        assert_eq!(framing.advance(b"abc"), Ok(Advance { used: 3, content: 3, done: false }));
    }
}
