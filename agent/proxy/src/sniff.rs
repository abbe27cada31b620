//! Which protocol a client speaks, told from its first bytes without taking them from the socket.
//!
//! There is no detection timer (Linkerd's ten seconds, Istio's former `protocolDetectionTimeout`): where the service has
//! not declared its protocol, the connection to the server is opened at once and whoever speaks first decides. A server
//! that greets makes the connection opaque; so a server-first protocol never stalls.

use std::io;
use std::net::SocketAddr;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// A request line.
    Http1,
    /// The HTTP/2 preface (prior knowledge).
    Http2,
    /// A TLS handshake record.
    Tls,
    /// Anything else.
    Opaque,
    /// The client ended its side before it was clear.
    Eof,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// As far as a request line is followed; a longer one with a good start is taken for HTTP.
const LOOK_AHEAD: usize = 8 * 1024;
/// The longest method in the IANA registry is UPDATEREDIRECTREF.
const MAX_METHOD: usize = 24;

/// Classifies the first bytes of a connection; `None` while more are needed.
///
/// A request line must be whole and end in `HTTP/1.1`, since other text protocols have words like `GET` too (Redis). HTTP/1.0
/// is opaque: who speaks it on a port without a declared protocol gets its server untouched, as in Istio, where on an HTTP
/// port it is refused.
pub fn classify(bytes: &[u8]) -> Option<Sniffed> {
    let first = *bytes.first()?;
    if first == 0x16 {
        // Record type handshake, then the major version 3.
        return match bytes.get(1) {
            None => None,
            Some(3) => Some(Sniffed::Tls),
            Some(_) => Some(Sniffed::Opaque),
        };
    }
    if PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())]) {
        return (bytes.len() >= PREFACE.len()).then_some(Sniffed::Http2);
    }
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-' || *byte == b'_';
    let method = bytes.iter().take_while(|byte| is_method(byte)).count();
    if method == bytes.len() {
        return (method > MAX_METHOD).then_some(Sniffed::Opaque);
    }
    if method == 0 || method > MAX_METHOD || bytes[method] != b' ' {
        return Some(Sniffed::Opaque);
    }
    match bytes.get(method + 1) {
        None => return None,
        Some(b'/' | b'*' | b'h' | b'H') => {}
        Some(_) => return Some(Sniffed::Opaque),
    }
    match bytes.iter().position(|&byte| byte == b'\n') {
        Some(end) => {
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            Some(if line.ends_with(b" HTTP/1.1") { Sniffed::Http1 } else { Sniffed::Opaque })
        }
        None if bytes.len() >= LOOK_AHEAD => Some(Sniffed::Http1),
        None => None,
    }
}

/// Waits for the client until its protocol is clear. The bytes stay in the socket.
///
/// # Errors
/// The socket failed.
pub async fn client(io: &TcpStream) -> io::Result<Sniffed> {
    let mut look = 64;
    let mut seen = 0;
    loop {
        io.readable().await?;
        let mut buffer = vec![0u8; look];
        let peeked = io.try_io(Interest::READABLE, || {
            let (count, _) = recv(io, buffer.as_mut_slice(), RecvFlags::PEEK)?;
            // What we have seen before does not make the socket readable: wait for more.
            if count == seen && count > 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
        });
        let count = match peeked {
            Ok(0) => return Ok(Sniffed::Eof),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // No byte more after the end of the client's side: peek would repeat itself for ever.
                if io.ready(Interest::READABLE).await?.is_read_closed() {
                    return Ok(Sniffed::Opaque);
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        match classify(&buffer[..count]) {
            Some(sniffed) => return Ok(sniffed),
            None if count == look => look = (look * 4).min(LOOK_AHEAD),
            None => seen = count,
        }
    }
}

/// As [`client`], for ports declared HTTP: only tells the two versions apart, so that anything that is not the HTTP/2
/// preface goes to the HTTP/1.1 codec, which answers 400 where it must.
///
/// # Errors
/// The socket failed.
pub async fn http_version(io: &TcpStream) -> io::Result<Sniffed> {
    let mut seen = 0;
    loop {
        io.readable().await?;
        let mut buffer = [0u8; PREFACE.len()];
        let peeked = io.try_io(Interest::READABLE, || {
            let (count, _) = recv(io, buffer.as_mut_slice(), RecvFlags::PEEK)?;
            if count == seen && count > 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
        });
        match peeked {
            Ok(0) => return Ok(Sniffed::Eof),
            Ok(count) if buffer[..count] == PREFACE[..count] => {
                if count == PREFACE.len() {
                    return Ok(Sniffed::Http2);
                }
                seen = count;
            }
            Ok(_) => return Ok(Sniffed::Http1),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if io.ready(Interest::READABLE).await?.is_read_closed() {
                    return Ok(Sniffed::Eof);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// The local address of a socket, for the log; a socket that lost its peer may not tell.
pub(crate) fn local_addr(io: &TcpStream) -> Option<SocketAddr> {
    io.local_addr().ok()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn first_bytes_are_told_apart() {
        let cases: &[(&[u8], Option<Sniffed>)] = &[
            (b"", None),
            (b"G", None),
            (b"GET", None),
            (b"GET ", None),
            (b"GET /", None),
            (b"GET /x HTTP/1.1\r\n", Some(Sniffed::Http1)),
            (b"GET /x HTTP/1.1\n", Some(Sniffed::Http1)),
            (b"GET /x HTTP/1.0\r\n", Some(Sniffed::Opaque)),
            (b"M-SEARCH * HTTP/1.1\r\n", Some(Sniffed::Http1)),
            (b"GET http://a/x HTTP/1.1\r\n", Some(Sniffed::Http1)),
            (b"GET key\r\n", Some(Sniffed::Opaque)),
            (b"GET /key\r\n", Some(Sniffed::Opaque)),
            (b"get / HTTP/1.1\r\n", Some(Sniffed::Opaque)),
            (b"EHLO host\r\n", Some(Sniffed::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Sniffed::Opaque)),
            (b"P", None),
            (b"PRI * HTTP/2.0\r\n\r\n", None),
            (PREFACE, Some(Sniffed::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Some(Sniffed::Opaque)),
            (b"POST /", None),
            (b"\x16", None),
            (b"\x16\x03\x01", Some(Sniffed::Tls)),
            (b"\x16\x02", Some(Sniffed::Opaque)),
            (b"\0\0\0\x08", Some(Sniffed::Opaque)),
        ];
        for (bytes, want) in cases {
            assert_eq!(classify(bytes), *want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_verdict_does_not_change_with_more_bytes() {
        for whole in
            [b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n".as_slice(), PREFACE, b"GET key\r\n", b"\x16\x03\x01\0"]
        {
            let last = classify(whole);
            for cut in 0..whole.len() {
                let early = classify(&whole[..cut]);
                assert!(early.is_none() || early == last, "{cut} of {:?}", String::from_utf8_lossy(whole));
            }
        }
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_request_line_in_pieces_is_waited_for_and_stays_in_the_socket() {
        let (mut ours, theirs) = pair().await;
        let writer = async {
            for byte in b"GET / HTTP/1.1\r\n" {
                ours.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (sniffed, ()) = tokio::join!(client(&theirs), writer);
        assert_eq!(sniffed.unwrap(), Sniffed::Http1);
        let mut bytes = [0; 64];
        theirs.readable().await.unwrap();
        assert_eq!(theirs.try_read(&mut bytes).unwrap(), 16);
    }

    #[tokio::test]
    async fn a_client_that_ends_early_does_not_spin() {
        let (mut ours, theirs) = pair().await;
        ours.write_all(b"GE").await.unwrap();
        ours.shutdown().await.unwrap();
        assert_eq!(client(&theirs).await.unwrap(), Sniffed::Opaque);
        let (mut ours, theirs) = pair().await;
        ours.shutdown().await.unwrap();
        assert_eq!(client(&theirs).await.unwrap(), Sniffed::Eof);
        assert_eq!(http_version(&theirs).await.unwrap(), Sniffed::Eof);
    }

    #[tokio::test]
    async fn versions_are_told_apart_on_http_ports() {
        for (bytes, want) in [
            (PREFACE, Sniffed::Http2),
            (b"POST / HTTP/1.1\r\n".as_slice(), Sniffed::Http1),
            (b"\xff", Sniffed::Http1),
        ] {
            let (mut ours, theirs) = pair().await;
            ours.write_all(bytes).await.unwrap();
            assert_eq!(http_version(&theirs).await.unwrap(), want);
        }
    }
}
