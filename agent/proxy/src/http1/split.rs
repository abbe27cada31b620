//! Tests of the codec without I/O: messages that arrive in any pieces, and leave in any, are the same messages.

use undermesh_core::edits::Edits;

use super::Settings;
use super::header::Slots;
use super::message::Message;
use super::request::RequestHead;
use super::response::{Asked, ResponseHead};
use crate::buffer::{BlockSize, BufferPool};

/// What came out, and how many messages ended.
type Outcome = Result<(Vec<u8>, usize), &'static str>;

/// Which kind of heads a stream has.
#[derive(Clone, Copy)]
enum Kind {
    Requests,
    Responses,
}

/// Relays a stream of messages as an exchange does: pieces in, pieces out, one message after the other.
fn relay(kind: Kind, pieces: &[&[u8]], mut take: impl FnMut(usize) -> usize) -> Outcome {
    let mut message = Message::new(BufferPool::new(), BlockSize::Small);
    let (mut out, mut count, mut in_body) = (Vec::new(), 0, false);
    let mut edits = Edits::default();
    edits.set("x-set", b"here");
    for piece in pieces {
        if !message.pipe.feed(piece) {
            return Err("does not fit");
        }
        loop {
            if !in_body {
                message.skip_empty_lines();
                if !message.may_hold_head() || !replace_head(kind, &mut message, &edits)? {
                    break;
                }
                in_body = true;
            }
            message.advance().map_err(|_| "malformed body")?;
            while !message.pipe.is_flushed() {
                let some = take(message.pipe.out().len()).clamp(1, message.pipe.out().len());
                out.extend_from_slice(&message.pipe.out()[..some]);
                message.pipe.wrote(some);
            }
            if !message.is_done() {
                break;
            }
            in_body = false;
            count += 1;
        }
    }
    Ok((out, count))
}

fn replace_head(kind: Kind, message: &mut Message, edits: &Edits) -> Result<bool, &'static str> {
    let mut slots = Slots::new();
    let mut head = Vec::new();
    let raw = message.pipe.raw();
    let parsed = match kind {
        Kind::Requests => {
            let parsed =
                RequestHead::parse(raw, &mut slots, &Settings::default()).map_err(|refusal| refusal.why)?;
            parsed.map(|request| {
                request.write(edits, &mut head);
                (request.len(), request.framing())
            })
        }
        Kind::Responses => {
            let parsed = ResponseHead::parse(raw, &mut slots, Asked::default()).map_err(|bad| bad.0)?;
            parsed.map(|response| {
                response.write(edits, false, &mut head);
                (response.len(), response.framing())
            })
        }
    };
    let Some((length, framing)) = parsed else {
        message.head_is_partial();
        return Ok(false);
    };
    if !message.pipe.replace_head(length, &head) {
        return Err("does not fit");
    }
    message.begin_body(framing);
    Ok(true)
}

fn requests() -> Vec<u8> {
    let body = "z".repeat(300);
    format!(
        "GET /bench HTTP/1.1\r\nHost: a\r\nX-Set: old\r\n\r\n\
         \r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 300\r\nConnection: x-n\r\nx-n: 1\r\n\r\n{body}\
         POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n\
         5;x=y\r\nhello\r\n12c\r\n{body}\r\n0\r\nx-t: 1\r\nx-u: 2\r\n\r\n\
         HEAD http://b/c HTTP/1.1\nHost: a\nX-Tail: 1  \n\nGET /%61/../d HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn responses() -> Vec<u8> {
    let body = "z".repeat(300);
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: 3\r\nX-Set: old\r\n\r\nfirst\
         HTTP/1.1 100 Continue\r\n\r\n\
         HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n12c\r\n{body}\r\n3\r\nabc\r\n0\r\nt: 1\r\n\r\n\
         HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\nHTTP/1.1 204\r\nContent-Length: 7\r\n\r\n\
         HTTP/1.0 500 \r\nContent-Length: 4\r\n\r\nlast"
    )
    .into_bytes()
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// Cuts of up to `most` bytes.
fn pieces<'b>(mut bytes: &'b [u8], rng: &mut Rng, most: usize) -> Vec<&'b [u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at((1 + rng.below(most)).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

#[test]
fn any_cut_gives_the_same_bytes() {
    for (kind, stream, messages) in [(Kind::Requests, requests(), 5), (Kind::Responses, responses(), 6)] {
        let whole = relay(kind, &[&stream], |all| all);
        assert_eq!(whole.as_ref().map(|&(_, count)| count), Ok(messages));
        for cut in 1..stream.len() {
            let (first, second) = stream.split_at(cut);
            assert_eq!(relay(kind, &[first, second], |all| all), whole, "cut at {cut}");
        }
        for seed in 1..=1000 {
            let mut rng = Rng(seed * 0x9E37_79B9);
            let most = [1, 7, 400][rng.below(3)];
            let pieces = pieces(&stream, &mut rng, most);
            assert_eq!(relay(kind, &pieces, |all| 1 + rng.below(all)), whole, "seed {seed}");
        }
    }
}

#[test]
fn the_messages_are_rewritten_as_they_should_be() {
    let (out, _) = relay(Kind::Requests, &[&requests()], |all| all).unwrap();
    let text = String::from_utf8(out).unwrap();
    let first = "GET /bench HTTP/1.1\r\nHost: a\r\nx-set: here\r\nx-envoy-attempt-count: 1\r\n\r\nPOST /a ";
    assert!(text.starts_with(first), "{text}");
    let fourth =
        "HEAD /c HTTP/1.1\r\nhost: b\r\nX-Tail: 1\r\nx-set: here\r\nx-envoy-attempt-count: 1\r\n\r\nGET /d ";
    assert!(text.contains(fourth), "{text}");
    let (out, _) = relay(Kind::Responses, &[&responses()], |all| all).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-set: here\r\n\r\nfirstHTTP/1.1 100 "),
        "{text}"
    );
    assert!(
        text.ends_with("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nx-set: here\r\n\r\nlast"),
        "{text}"
    );
}

#[test]
fn mutated_streams_never_panic_and_cuts_do_not_change_the_verdict() {
    let mut rng = Rng(0x5EED);
    for round in 0..6000 {
        let (kind, mut stream) = match round % 2 {
            0 => (Kind::Requests, requests()),
            _ => (Kind::Responses, responses()),
        };
        for _ in 0..1 + rng.below(6) {
            let at = rng.below(stream.len());
            match rng.below(4) {
                0 => stream[at] = rng.below(256) as u8,
                1 => stream.insert(at, b"\r\n: ,;0\0"[rng.below(8)]),
                2 => drop(stream.remove(at)),
                _ => drop(stream.drain(at..(at + 1 + rng.below(20)).min(stream.len()))),
            }
        }
        let whole = relay(kind, &[&stream], |all| all);
        let pieces = pieces(&stream, &mut rng, 50);
        let cut = relay(kind, &pieces, |all| all);
        // A cut stream may have relayed messages before the broken one; the verdict is the same.
        assert_eq!(cut.is_ok(), whole.is_ok(), "round {round}: {:?}", String::from_utf8_lossy(&stream));
        if whole.is_ok() {
            assert_eq!(cut, whole, "round {round}: {:?}", String::from_utf8_lossy(&stream));
        }
    }
}
