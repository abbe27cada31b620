//! The whole engine, both sides of it, with bytes that arrive in any pieces and with bytes that are broken in any way.
//!
//! The client is in memory, so that each piece is a read of its own; the upstream is a real socket.
#![allow(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

mod support;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{spawn_local, yield_now};
use undermesh_proxy::buffer::BufferPool;
use undermesh_proxy::http1::{self, Settings};

use crate::support::{PATIENCE, Rng, TestPath, contains, run};

/// Five requests, of every framing.
fn client_stream() -> Vec<u8> {
    let body = "z".repeat(200);
    let host = "Host: svc\r\nx-request-id: r\r\n";
    format!(
        "GET /bench HTTP/1.1\r\n{host}\r\n\
         POST /a HTTP/1.1\r\n{host}Content-Length: 200\r\nConnection: x-n\r\nx-n: 1\r\n\r\n{body}\
         POST /b HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTE: trailers\r\n\r\n\
         5;x=y\r\nhello\r\nc8\r\n{body}\r\n0\r\nx-t: 1\r\n\r\n\
         HEAD /c HTTP/1.1\r\n{host}\r\n\
         GET /d HTTP/1.1\r\n{host}Connection: close\r\n\r\n"
    )
    .into_bytes()
}

/// The answers to them.
fn answers() -> Vec<Vec<u8>> {
    let body = "z".repeat(200);
    [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nKeep-Alive: 3\r\nServer: x\r\n\r\nfirst".to_owned(),
        format!(
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
             c8\r\n{body}\r\n3\r\nabc\r\n0\r\nt: 1\r\n\r\n"
        ),
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// How a stream is cut.
#[derive(Clone, Copy)]
enum Cuts {
    None,
    /// Once, here.
    At(usize),
    /// Into pieces of up to so many bytes.
    Random(usize),
}

async fn write_cut(io: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8], cuts: Cuts, rng: &mut Rng) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = match cuts {
            Cuts::None => rest.len(),
            Cuts::At(at) if rest.len() == bytes.len() => at,
            Cuts::At(_) => rest.len(),
            Cuts::Random(most) => 1 + rng.below(most),
        };
        let (piece, after) = rest.split_at(count.min(rest.len()));
        if io.write_all(piece).await.is_err() {
            return;
        }
        rest = after;
        // Twice: once for the reader to run, once for what it wakes.
        yield_now().await;
        yield_now().await;
    }
}

/// The upstream: answers request after request, whatever it says, and keeps the bytes of all.
struct Upstream {
    address: SocketAddr,
    answers: RefCell<Vec<Vec<u8>>>,
    next: Cell<usize>,
    cuts: Cell<Cuts>,
    seed: Cell<u64>,
    got: RefCell<Vec<u8>>,
}

impl Upstream {
    async fn start() -> Rc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Rc::new(Self {
            address: listener.local_addr().unwrap(),
            answers: RefCell::new(answers()),
            next: Cell::new(0),
            cuts: Cell::new(Cuts::None),
            seed: Cell::new(1),
            got: RefCell::default(),
        });
        let for_task = Rc::clone(&this);
        spawn_local(async move {
            loop {
                let (io, _) = listener.accept().await.unwrap();
                spawn_local(Rc::clone(&for_task).serve(io));
            }
        });
        this
    }

    async fn serve(self: Rc<Self>, mut io: TcpStream) {
        io.set_nodelay(true).unwrap();
        let mut buffer = Vec::new();
        let mut rng = Rng(self.seed.get());
        loop {
            while !is_whole(&buffer) {
                if !matches!(io.read_buf(&mut buffer).await, Ok(1..)) {
                    self.got.borrow_mut().append(&mut buffer);
                    return;
                }
            }
            self.got.borrow_mut().append(&mut buffer);
            let answer = self.answers.borrow().get(self.next.get()).cloned();
            self.next.set(self.next.get() + 1);
            let Some(answer) = answer else { return };
            write_cut(&mut io, &answer, self.cuts.get(), &mut rng).await;
        }
    }
}

/// Whether one whole request is there, by the framing that the streams above use.
fn is_whole(bytes: &[u8]) -> bool {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let body = &bytes[head + 4..];
    if text.contains("transfer-encoding") {
        return contains(body, "\r\n0\r\n") && body.ends_with(b"\r\n\r\n");
    }
    let length =
        text.split("content-length:").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
    body.len() >= length.unwrap_or(0)
}

/// Sends `stream` through the engine; what the client got.
async fn exchange(upstream: &Upstream, stream: &[u8], cuts: Cuts, seed: u64, half: bool) -> Vec<u8> {
    upstream.next.set(0);
    upstream.got.borrow_mut().clear();
    let path = TestPath::new(upstream.address);
    let settings = Settings { linger: Duration::from_millis(5), ..Settings::default() };
    let (client, io) = tokio::io::duplex(1 << 20);
    let buffers = BufferPool::new();
    let task = spawn_local(http1::serve(io, path, Rc::new(settings), Rc::clone(&buffers), b""));
    let (mut reader, mut writer) = tokio::io::split(client);
    let mut rng = Rng(seed);
    let mut got = Vec::new();
    let both = async {
        let writing = async {
            write_cut(&mut writer, stream, cuts, &mut rng).await;
            if half {
                let _ = writer.shutdown().await;
            }
        };
        let (_, read) = tokio::join!(writing, reader.read_to_end(&mut got));
        read.unwrap();
    };
    tokio::time::timeout(PATIENCE, both).await.expect("the connection ends");
    task.await.expect("no panic");
    assert_eq!(buffers.large_in_use(), 0, "every block was given back");
    got
}

#[test]
fn any_cut_on_either_side_gives_the_same_bytes_on_both() {
    run(async {
        let upstream = Upstream::start().await;
        let stream = client_stream();
        let want = exchange(&upstream, &stream, Cuts::None, 1, false).await;
        let want_up = upstream.got.borrow().clone();
        assert!(want.ends_with(b"connection: close\r\n\r\nlast"), "{}", String::from_utf8_lossy(&want));
        assert_eq!(upstream.next.get(), 5);
        let check = async |cuts, seed, what: &str| {
            let got = exchange(&upstream, &stream, cuts, seed, false).await;
            assert!(got == want, "{what}: {}", String::from_utf8_lossy(&got));
            assert!(*upstream.got.borrow() == want_up, "{what}: upstream");
        };
        for at in 1..stream.len() {
            check(Cuts::At(at), 1, &format!("cut at {at}")).await;
        }
        for seed in 1..=1000 {
            let seed = seed * 0x9E37_79B9;
            let mut rng = Rng(seed);
            let sizes = [3, 17, 90, 600];
            upstream.seed.set(seed);
            upstream.cuts.set(Cuts::Random(sizes[rng.below(4)]));
            check(Cuts::Random(sizes[1 + rng.below(3)]), seed, &format!("seed {seed}")).await;
        }
    });
}

#[test]
fn broken_bytes_on_either_side_never_panic_hang_or_leak_a_block() {
    run(async {
        let upstream = Upstream::start().await;
        let mut rng = Rng(0xBAD_5EED);
        for _ in 0..1500 {
            let mut stream = client_stream();
            let mut answers = answers();
            for _ in 0..1 + rng.below(6) {
                let which = rng.below(6);
                mutate(answers.get_mut(which).unwrap_or(&mut stream), &mut rng);
            }
            *upstream.answers.borrow_mut() = answers;
            // Its own end of the stream makes the client leave whatever the engine waits for.
            exchange(&upstream, &stream, Cuts::Random(300), rng.next(), true).await;
        }
    });
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(bytes.len());
    if bytes.is_empty() {
        return;
    }
    match rng.below(4) {
        0 => bytes[at] = rng.below(256) as u8,
        1 => bytes.insert(at, b"\r\n: ,;0\0"[rng.below(8)]),
        2 => drop(bytes.remove(at)),
        _ => drop(bytes.drain(at..(at + 1 + rng.below(20)).min(bytes.len()))),
    }
}
