//! What the tests of the HTTP/1.1 engine share: the engine behind a real socket, a request path that sends everything to
//! one upstream, and a client that speaks raw bytes.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by test binaries, each of which uses its own part; what fails here fails the test"
)]

pub mod upstream;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use undermesh_core::edits::Edits;
use undermesh_core::view::{RequestView, ResponseView};
use undermesh_proxy::buffer::BufferPool;
use undermesh_proxy::exchange::{
    AttemptError, End, Exchange, Judge, Limits, LocalReply, RequestMeta, RequestPath, Stage, Transfer,
    Verdict,
};
use undermesh_proxy::http1::{self, Settings};
use undermesh_proxy::pool::{Home, Lease, Upstream};

/// Longest wait for anything that must come.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a test on one thread, as a worker does.
pub fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

/// What the path double was asked to do and what it saw. Everything goes to one upstream.
pub struct TestPath {
    upstream: SocketAddr,
    idle: Rc<Idle>,
    pub limits: Cell<Limits>,
    pub draining: Cell<bool>,
    /// Responses with this status are retried, up to `attempts` in all.
    pub retry_on: Cell<u16>,
    pub attempts: Cell<u32>,
    pub pause: Cell<Duration>,
    /// Fills the edits of requests and of responses.
    pub edit_request: Cell<fn(&mut Edits)>,
    pub edit_response: Cell<fn(&mut Edits)>,
    pub refused: RefCell<Vec<(u16, &'static str)>>,
    pub transfers: RefCell<Vec<Transfer>>,
    pub errors: RefCell<Vec<AttemptError>>,
    /// `method scheme authority target upgrade has_body` of every request.
    pub seen: RefCell<Vec<String>>,
    /// The HTTP/2 connection that requests go to instead, if set.
    pub http2: RefCell<Option<h2::client::SendRequest<bytes::Bytes>>>,
    /// Do not record, so that nothing is allocated here.
    pub quiet: Cell<bool>,
}

/// The double's pool: last in, first out, no cap.
#[derive(Default)]
pub struct Idle {
    pub list: RefCell<Vec<(TcpStream, u32)>>,
    pub closed: Cell<u32>,
    pub given_back: Cell<u32>,
}

impl Home for Idle {
    fn give_back(&self, io: TcpStream, served: u32) {
        self.given_back.set(self.given_back.get() + 1);
        self.list.borrow_mut().push((io, served));
    }

    fn gone(&self) {
        self.closed.set(self.closed.get() + 1);
    }
}

impl TestPath {
    pub fn new(upstream: SocketAddr) -> Rc<Self> {
        Rc::new(Self {
            upstream,
            idle: Rc::default(),
            limits: Cell::default(),
            draining: Cell::new(false),
            retry_on: Cell::new(0),
            attempts: Cell::new(1),
            pause: Cell::default(),
            edit_request: Cell::new(|_| {}),
            edit_response: Cell::new(|_| {}),
            refused: RefCell::default(),
            transfers: RefCell::default(),
            errors: RefCell::default(),
            seen: RefCell::default(),
            http2: RefCell::default(),
            quiet: Cell::new(false),
        })
    }

    pub fn idle(&self) -> &Idle {
        &self.idle
    }

    /// How the last exchange ended.
    pub fn last_end(&self) -> Option<End> {
        self.transfers.borrow().last().map(|transfer| transfer.end)
    }

    pub async fn lease(&self, fresh: bool) -> Option<Lease> {
        let home: Rc<dyn Home> = Rc::clone(&self.idle) as _;
        let pooled = if fresh { None } else { self.idle.list.borrow_mut().pop() };
        match pooled {
            Some((io, served)) => Some(Lease::new(io, served, home)),
            None => {
                let io = TcpStream::connect(self.upstream).await.ok()?;
                io.set_nodelay(true).ok()?;
                Some(Lease::new(io, 0, home))
            }
        }
    }

    fn note(&self, transfer: Transfer) {
        if !self.quiet.get() {
            self.transfers.borrow_mut().push(transfer);
        }
    }
}

pub struct Plan {
    local: bool,
    idempotent: bool,
}

struct TestJudge<'a> {
    path: &'a TestPath,
    may_retry: bool,
}

impl Judge for TestJudge<'_> {
    fn judge(&mut self, head: &impl ResponseView, is_replayable: bool, edits: &mut Edits) -> Verdict {
        if self.may_retry && is_replayable && head.status() == self.path.retry_on.get() {
            return Verdict::Retry;
        }
        (self.path.edit_response.get())(edits);
        Verdict::Relay
    }
}

impl RequestPath for TestPath {
    type Plan = Plan;

    fn plan(&self, head: &impl RequestView, meta: &RequestMeta<'_>, edits: &mut Edits) -> (Plan, Stage) {
        if !self.quiet.get() {
            self.seen.borrow_mut().push(format!(
                "{} {} {} {} {:?} {}",
                head.method(),
                head.scheme(),
                head.authority(),
                head.target(),
                meta.upgrade,
                meta.has_body
            ));
        }
        (self.edit_request.get())(edits);
        let local = head.target().starts_with("/local");
        let plan = Plan { local, idempotent: head.method() != "POST" };
        let stage = match local {
            true => Stage::Answer,
            false if self.http2.borrow().is_some() => Stage::Http2,
            false => Stage::Http1,
        };
        (plan, stage)
    }

    async fn run<X: Exchange>(&self, plan: &mut Plan, exchange: &mut X) {
        let edits = Edits::default();
        if plan.local {
            let reply = LocalReply { status: 200, edits: &edits, body: b"local answer" };
            let transfer = exchange.answer(&reply).await;
            return self.note(transfer);
        }
        if !self.pause.get().is_zero() {
            let until = tokio::time::Instant::now().into_std() + self.pause.get();
            if exchange.pause(until).await.is_err() {
                return;
            }
        }
        let (mut number, mut fresh) = (0, false);
        let status = loop {
            number += 1;
            let handle = self.http2.borrow().clone();
            let upstream = match handle {
                Some(handle) => Upstream::Http2(handle),
                None => match self.lease(fresh).await {
                    Some(lease) => Upstream::Http1(lease),
                    None => break 503,
                },
            };
            let mut judge = TestJudge { path: self, may_retry: number < self.attempts.get() };
            match exchange.attempt(upstream, number, self.limits.get(), &mut judge).await {
                Ok(Verdict::Relay) => {
                    let transfer = exchange.relay(self.limits.get()).await;
                    return self.note(transfer);
                }
                Ok(Verdict::Retry) => {}
                Err(error) => {
                    self.errors.borrow_mut().push(error);
                    break match error {
                        AttemptError::Reset { reused: true, .. }
                            if plan.idempotent && exchange.is_replayable() =>
                        {
                            fresh = true;
                            continue;
                        }
                        AttemptError::ClientGone => return,
                        AttemptError::Reset { .. } => 503,
                        AttemptError::UpstreamProtocol => 502,
                        AttemptError::Timeout(_) => 504,
                        AttemptError::ClientProtocol => 400,
                    };
                }
            }
        };
        let transfer = exchange.answer(&LocalReply { status, edits: &edits, body: b"" }).await;
        self.note(transfer);
    }

    fn refused(&self, status: u16, why: &'static str, _sent_bytes: u64) {
        self.refused.borrow_mut().push((status, why));
    }

    fn is_draining(&self) -> bool {
        self.draining.get()
    }
}

/// The engine behind a listener of its own.
pub struct Proxy {
    pub address: SocketAddr,
    pub path: Rc<TestPath>,
    pub buffers: Rc<BufferPool>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(upstream: SocketAddr) -> Self {
        Self::with(upstream, Settings { linger: Duration::from_millis(300), ..Settings::default() }).await
    }

    pub async fn with(upstream: SocketAddr, settings: Settings) -> Self {
        let path = TestPath::new(upstream);
        let (buffers, settings) = (BufferPool::new(), Rc::new(settings));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (for_path, for_buffers) = (Rc::clone(&path), Rc::clone(&buffers));
        let accepting = spawn_local(async move {
            loop {
                let (io, _) = listener.accept().await.unwrap();
                io.set_nodelay(true).unwrap();
                let (path, settings) = (Rc::clone(&for_path), Rc::clone(&settings));
                spawn_local(http1::serve(io, path, settings, Rc::clone(&for_buffers), b""));
            }
        });
        Self { address, path, buffers, accepting }
    }

    pub async fn connect(&self) -> Client {
        let io = TcpStream::connect(self.address).await.unwrap();
        io.set_nodelay(true).unwrap();
        Client { io, got: Vec::new(), closed: false }
    }

    /// Sends `bytes` on a connection of its own and reads until `enough` of them came or the proxy closed.
    pub async fn talk(&self, bytes: &[u8], enough: impl Fn(&[u8]) -> bool) -> Client {
        let mut client = self.connect().await;
        client.exchange(bytes, enough).await;
        client
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A client that speaks raw bytes.
pub struct Client {
    pub io: TcpStream,
    pub got: Vec<u8>,
    pub closed: bool,
}

impl Client {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    /// Reads until `enough` came or the other side closed.
    pub async fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool) {
        let read = async {
            while !enough(&self.got) && !self.closed {
                match self.io.read_buf(&mut self.got).await {
                    Ok(0) | Err(_) => self.closed = true,
                    Ok(_) => {}
                }
            }
        };
        if tokio::time::timeout(PATIENCE, read).await.is_err() {
            panic!("still waiting after {:?}", self.text());
        }
    }

    /// Reads until the other side closes.
    pub async fn read_to_close(&mut self) {
        self.read_until(|_| false).await;
    }

    /// Sends while it reads, so that neither side stalls on a full socket.
    pub async fn exchange(&mut self, bytes: &[u8], enough: impl Fn(&[u8]) -> bool) {
        let Self { io, got, closed } = self;
        let (mut reader, mut writer) = io.split();
        let mut sent = 0;
        let both = async {
            while !enough(got) && !*closed {
                tokio::select! {
                    biased;
                    read = reader.read_buf(got) => {
                        if !matches!(read, Ok(1..)) {
                            *closed = true;
                        }
                    }
                    written = writer.write(&bytes[sent..]), if sent < bytes.len() => {
                        sent = written.map_or(bytes.len(), |count| sent + count);
                    }
                }
            }
        };
        let is_late = tokio::time::timeout(PATIENCE, both).await.is_err();
        assert!(!is_late, "still waiting after {:?}", self.text());
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.got).into_owned()
    }

    /// The status codes of everything that looks like a response head.
    pub fn statuses(&self) -> Vec<u16> {
        statuses(&self.got)
    }
}

pub fn statuses(bytes: &[u8]) -> Vec<u16> {
    String::from_utf8_lossy(bytes)
        .split("HTTP/1.1 ")
        .skip(1)
        .filter_map(|rest| rest.get(..3)?.parse().ok())
        .collect()
}

/// `enough` for [`Client::read_until`]: the bytes end like this.
pub fn ends_with(end: &str) -> impl Fn(&[u8]) -> bool {
    let end = end.as_bytes().to_vec();
    move |got| got.ends_with(&end)
}

pub fn contains(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

/// A request to the host that all tests use.
pub fn request(method: &str, target: &str, lines: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nHost: svc.default.svc.cluster.local\r\n{lines}\r\n").into_bytes()
}

pub fn get(target: &str) -> Vec<u8> {
    request("GET", target, "")
}

/// Small generator for cuts and mutations: the seed is part of a failure's message.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}
