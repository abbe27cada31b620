//! Where an HTTP/1.1 answer ends. Only what the backend and the proxies under test send: `Content-Length` answers with
//! status 200. Anything else is an error, because a fast 503 would look like a fast proxy.

use std::fmt;

/// Heads longer than this are refused.
const LONGEST_HEAD: usize = 16 * 1024;

/// How far an answer has been received.
#[derive(Debug, Default)]
pub struct Reply {
    /// The head so far, used only while it is incomplete.
    head: Vec<u8>,
    /// Bytes of the body still to come; `None` while the head is incomplete.
    body_left: Option<usize>,
}

/// Why an answer is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The first line is not `HTTP/1.1 200`.
    Status(String),
    /// No usable `Content-Length`.
    Length(String),
    /// Bytes after the end of the answer.
    Trailing(usize),
    /// The head never ends.
    TooLong,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(line) => write!(f, "the answer is not a 200: {line:?}"),
            Self::Length(head) => write!(f, "the answer has no usable content-length: {head:?}"),
            Self::Trailing(bytes) => write!(f, "{bytes} bytes after the end of the answer"),
            Self::TooLong => write!(f, "the head of the answer is longer than {LONGEST_HEAD} bytes"),
        }
    }
}

impl std::error::Error for Fault {}

impl Reply {
    /// Takes received bytes; true when they end the answer. The next call begins another one.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<bool, Fault> {
        let body = match self.body_left {
            Some(left) => return self.take_body(left, bytes.len()),
            None if self.head.is_empty() => match end_of_head(bytes) {
                Some(end) => (parse(bytes.get(..end).unwrap_or_default())?, bytes.len() - end),
                None => return self.keep(bytes),
            },
            None => {
                self.head.extend_from_slice(bytes);
                match end_of_head(&self.head) {
                    Some(end) => (parse(self.head.get(..end).unwrap_or_default())?, self.head.len() - end),
                    None => return self.keep(&[]),
                }
            }
        };
        self.head.clear();
        self.take_body(body.0, body.1)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<bool, Fault> {
        self.head.extend_from_slice(bytes);
        if self.head.len() > LONGEST_HEAD { Err(Fault::TooLong) } else { Ok(false) }
    }

    fn take_body(&mut self, left: usize, got: usize) -> Result<bool, Fault> {
        let left = left.checked_sub(got).ok_or(Fault::Trailing(got.saturating_sub(left)))?;
        self.body_left = (left > 0).then_some(left);
        Ok(left == 0)
    }
}

/// The index after the empty line that ends a head.
pub fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

/// The length of the body that this complete head announces.
fn parse(head: &[u8]) -> Result<usize, Fault> {
    let text = || String::from_utf8_lossy(head).into_owned();
    if !head.starts_with(b"HTTP/1.1 200") {
        return Err(Fault::Status(text().lines().next().unwrap_or_default().to_owned()));
    }
    let mut lines = head.split(|b| *b == b'\n');
    let length = lines.find_map(|line| {
        let at = line.iter().position(|b| *b == b':')?;
        let (name, value) = line.split_at_checked(at)?;
        name.eq_ignore_ascii_case(b"content-length").then_some(value.get(1..)?)
    });
    length.and_then(|v| std::str::from_utf8(v).ok()?.trim().parse().ok()).ok_or_else(|| Fault::Length(text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nserver: x\r\nContent-length: 5\r\n\r\nhello";

    #[test]
    fn an_answer_ends_at_the_same_byte_however_it_is_cut() {
        for first in 0..=ANSWER.len() {
            for second in first..=ANSWER.len() {
                let mut reply = Reply::default();
                let parts = [&ANSWER[..first], &ANSWER[first..second], &ANSWER[second..]];
                let mut taken = 0;
                for part in parts.into_iter().filter(|p| !p.is_empty()) {
                    taken += part.len();
                    assert_eq!(reply.receive(part), Ok(taken == ANSWER.len()), "cut at {first}, {second}");
                }
                assert_eq!(reply.receive(ANSWER), Ok(true), "the next answer begins anew");
            }
        }
    }

    #[test]
    fn an_empty_body_ends_with_the_head() {
        assert_eq!(Reply::default().receive(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), Ok(true));
    }

    #[test]
    fn what_is_not_a_plain_200_is_refused() {
        let refused = |bytes: &[u8]| Reply::default().receive(bytes).expect_err("not a plain 200");
        assert!(
            matches!(refused(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"), Fault::Status(l) if l.contains("503"))
        );
        assert!(matches!(
            refused(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
            Fault::Length(_)
        ));
        assert!(matches!(refused(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"), Fault::Length(_)));
        assert_eq!(refused(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab"), Fault::Trailing(1));
        assert_eq!(refused(&vec![b'a'; LONGEST_HEAD + 1]), Fault::TooLong);
    }
}
