//! The backend: every request gets the same canned answer. It looks only for the ends of heads, so requests must have no
//! body; about 5 µs of CPU per request keep it from being what is measured.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use anyhow::Context as _;

use crate::poll::{Interest, Poll};
use crate::request::Afterwards;

const LISTENER: u64 = 0;

/// Serves for ever.
pub fn run(listener: &TcpListener, body_length: usize) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    poll.add(listener, LISTENER, Interest::Readable)?;
    let answers = Answers::of(body_length);
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    let mut next = LISTENER + 1;
    let (mut ready, mut scratch) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        poll.wait(None, &mut ready)?;
        for token in &ready {
            if *token == LISTENER {
                accept_all(listener, &poll, &mut connections, &mut next)?;
            } else if let Some(connection) = connections.get_mut(token) {
                match connection.serve(&answers, &mut scratch) {
                    After::Idle if connection.waits_for_room => {
                        connection.waits_for_room = false;
                        poll.change(&connection.stream, *token, Interest::Readable)?;
                    }
                    After::Idle => {}
                    After::Full => {
                        connection.waits_for_room = true;
                        poll.change(&connection.stream, *token, Interest::Both)?;
                    }
                    After::Done => {
                        connections.remove(token);
                    }
                }
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    poll: &Poll,
    connections: &mut HashMap<u64, Connection>,
    next: &mut u64,
) -> anyhow::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                poll.add(&stream, *next, Interest::Readable)?;
                connections.insert(*next, Connection::new(stream));
                *next += 1;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(e) => return Err(e).context("cannot accept"),
        }
    }
}

struct Answers {
    keep_alive: Vec<u8>,
    close: Vec<u8>,
}

impl Answers {
    fn of(body_length: usize) -> Self {
        let answer = |afterwards| {
            let close = if afterwards == Afterwards::Close { "Connection: close\r\n" } else { "" };
            let head = format!(
                "HTTP/1.1 200 OK\r\nServer: bench\r\nContent-Type: text/plain\r\nContent-Length: {body_length}\r\n{close}\r\n"
            );
            let mut bytes = head.into_bytes();
            bytes.resize(bytes.len() + body_length, b'x');
            bytes
        };
        Self { keep_alive: answer(Afterwards::KeepAlive), close: answer(Afterwards::Close) }
    }
}

enum After {
    Idle,
    /// The socket takes no more for now.
    Full,
    Done,
}

struct Connection {
    stream: TcpStream,
    heads: Heads,
    /// Answers not yet begun, and the rest of the one that is.
    owed: usize,
    begun: usize,
    closing: bool,
    waits_for_room: bool,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, heads: Heads::default(), owed: 0, begun: 0, closing: false, waits_for_room: false }
    }

    fn serve(&mut self, answers: &Answers, scratch: &mut [u8]) -> After {
        match self.stream.read(scratch) {
            Ok(0) => return After::Done,
            Ok(got) => {
                let bytes = scratch.get(..got).unwrap_or_default();
                self.owed += self.heads.ended_in(bytes);
                self.closing |= says_close(bytes);
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => return After::Done,
        }
        let answer = if self.closing { &answers.close } else { &answers.keep_alive };
        while self.owed > 0 {
            match self.stream.write(answer.get(self.begun..).unwrap_or_default()) {
                Ok(sent) => self.begun += sent,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return After::Full,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return After::Done,
            }
            if self.begun >= answer.len() {
                (self.owed, self.begun) = (self.owed - 1, 0);
            }
        }
        if self.closing { After::Done } else { After::Idle }
    }
}

/// Counts the empty lines that end heads, wherever the reads are cut.
#[derive(Debug, Default)]
struct Heads {
    /// How many bytes of `\r\n\r\n` were the last ones seen.
    matched: usize,
}

impl Heads {
    fn ended_in(&mut self, bytes: &[u8]) -> usize {
        let mut ended = 0;
        for byte in bytes {
            self.matched = match (self.matched, byte) {
                (0 | 2, b'\r') => self.matched + 1,
                (1, b'\n') => 2,
                (3, b'\n') => {
                    ended += 1;
                    0
                }
                (_, b'\r') => 1,
                _ => 0,
            };
        }
        ended
    }
}

/// The field in one read; cut in two it goes unnoticed, and the client ends the connection itself.
fn says_close(bytes: &[u8]) -> bool {
    const FIELD: &[u8] = b"\nconnection: close";
    bytes.windows(FIELD.len()).any(|w| w.eq_ignore_ascii_case(FIELD))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Fleet, Outcome};
    use crate::load::{Mode, Plan, run as load};
    use crate::request::Request;
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};

    #[test]
    fn heads_are_counted_wherever_they_are_cut() {
        let two = b"GET / HTTP/1.1\r\nA: \r\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        for cut in 0..two.len() {
            let mut heads = Heads::default();
            assert_eq!(heads.ended_in(&two[..cut]) + heads.ended_in(&two[cut..]), 2, "cut at {cut}");
        }
        assert_eq!(Heads::default().ended_in(b"\r\n\n\r\nx"), 0);
    }

    fn backend(body: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || run(&listener, body));
        address
    }

    fn plan(target: SocketAddr) -> Plan {
        Plan { target, connections: 4, time: Duration::from_millis(100), host: "a".into(), path: "/".into() }
    }

    #[test]
    fn every_mode_of_load_is_answered_without_a_loss() {
        let target = backend(1024);
        for mode in [Mode::Closed, Mode::Churn, Mode::Open(500.0)] {
            let tally = load(&plan(target), mode).expect("load runs");
            assert_eq!(tally.failures, 0, "{mode:?}");
            // How many is the machine's matter.
            let (total, measured) = (tally.total, tally.latencies.len());
            assert!(total >= measured && measured > 0, "{mode:?}: {measured} of {total}");
        }
    }

    #[test]
    fn an_open_loop_sends_at_its_rate_and_no_faster() {
        let tally = load(&plan(backend(10)), Mode::Open(500.0)).expect("load runs");
        // 110 ms at 500 a second; a busy machine may do less.
        assert!((1..=56).contains(&tally.total), "{}", tally.total);
    }

    #[test]
    fn an_answer_larger_than_the_sockets_buffers_arrives_whole() {
        let mut fleet = Fleet::open(backend(8 << 20), 1).expect("connects");
        let request = Request::get("a", "/", Afterwards::KeepAlive);
        let mut outcomes = Vec::new();
        for _ in 0..2 {
            fleet.send(0, &request, Instant::now()).expect("sends");
            let end = Instant::now() + Duration::from_secs(20);
            loop {
                fleet.wait(Duration::from_millis(50), &mut outcomes).expect("receives");
                if matches!(outcomes.as_slice(), [Outcome::Answered(0, _)]) {
                    break;
                }
                assert!(outcomes.is_empty() && Instant::now() < end, "{outcomes:?}");
            }
        }
    }

    #[test]
    fn load_on_a_port_that_nobody_serves_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let target = listener.local_addr().expect("bound");
        drop(listener);
        assert!(load(&plan(target), Mode::Closed).is_err());
    }
}
