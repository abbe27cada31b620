//! A request path double, upstreams and clients.

use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use undermesh_core::edits::Edits;
use undermesh_core::view::{RequestView, ResponseView};
use undermesh_proxy::buffer::BufferPool;
use undermesh_proxy::exchange::{
    AttemptError, Exchange, Judge, Limits, LocalReply, RequestMeta, RequestPath, Stage, Transfer, Verdict,
};
use undermesh_proxy::http2::{ClientSettings, ServeError, ServerSettings, connect, serve};
use undermesh_proxy::pool::{Home, Lease, Upstream};

/// Runs a test on one thread, with a limit so that a deadlock is a failure.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let limit = Duration::from_secs(30);
    runtime.block_on(
        local.run_until(async { tokio::time::timeout(limit, test).await.expect("the test hangs") }),
    );
}

/// Polls until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What the double saw of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    Relayed(Transfer),
    Answered(Transfer),
    ClientGone,
    /// `run` was dropped before it was done.
    Dropped,
}

/// Answered by the double itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Local {
    pub(crate) status: u16,
    pub(crate) lines: Vec<(&'static str, &'static str)>,
    pub(crate) body: Vec<u8>,
}

/// The request path of the tests: fixed upstreams, one for each attempt (the last one for all further ones).
#[derive(Default)]
pub(crate) struct Double {
    pub(crate) upstreams: Vec<SocketAddr>,
    pub(crate) local: Option<Local>,
    /// The upstreams speak HTTP/1.1, and this many exchanges have gone over each connection before.
    pub(crate) http1: Option<u32>,
    pub(crate) home: Rc<Pool>,
    /// Never gets a connection.
    pub(crate) hangs: bool,
    pub(crate) pause: Option<Duration>,
    pub(crate) limits: Limits,
    pub(crate) max_attempts: u32,
    pub(crate) request_edits: Option<fn(&mut Edits)>,
    pub(crate) response_edits: Option<fn(&mut Edits)>,
    pub(crate) draining: Cell<bool>,
    pub(crate) started: Cell<usize>,
    pub(crate) heads: RefCell<Vec<String>>,
    pub(crate) errors: RefCell<Vec<AttemptError>>,
    pub(crate) refusals: RefCell<Vec<(u16, &'static str)>>,
    pub(crate) records: Rc<RefCell<Vec<Record>>>,
    pub(crate) handles: RefCell<Vec<(SocketAddr, SendRequest<Bytes>)>>,
}

/// Where HTTP/1.1 connections come from: counts what became of them.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    pub(crate) given_back: Cell<usize>,
    pub(crate) closed: Cell<usize>,
}

impl Home for Pool {
    fn give_back(&self, _io: TcpStream, _served: u32) {
        self.given_back.set(self.given_back.get() + 1);
    }

    fn gone(&self) {
        self.closed.set(self.closed.get() + 1);
    }
}

/// Records that the request was dropped, unless told better.
pub(crate) struct Plan {
    record: Record,
    records: Rc<RefCell<Vec<Record>>>,
}

impl Drop for Plan {
    fn drop(&mut self) {
        self.records.borrow_mut().push(self.record);
    }
}

impl Double {
    pub(crate) fn to(upstream: SocketAddr) -> Self {
        Self { upstreams: vec![upstream], max_attempts: 1, ..Self::default() }
    }

    pub(crate) fn answering(status: u16, lines: &[(&'static str, &'static str)], body: &[u8]) -> Self {
        let local = Local { status, lines: lines.to_vec(), body: body.to_vec() };
        Self { local: Some(local), ..Self::default() }
    }

    /// Waits for the only request to end, and says how.
    pub(crate) async fn record(&self) -> Record {
        until("a record", || !self.records.borrow().is_empty()).await;
        self.records.borrow()[0]
    }

    async fn upstream(&self, number: u32) -> Upstream {
        let index = (number as usize - 1).min(self.upstreams.len() - 1);
        let address = self.upstreams[index];
        if let Some(served) = self.http1 {
            let io = TcpStream::connect(address).await.unwrap();
            return Upstream::Http1(Lease::new(io, served, self.home.clone()));
        }
        let known =
            self.handles.borrow().iter().find(|(at, _)| *at == address).map(|(_, handle)| handle.clone());
        if let Some(handle) = known {
            return Upstream::Http2(handle);
        }
        let io = TcpStream::connect(address).await.unwrap();
        let (handle, driver) = connect(io, &ClientSettings::default()).await.unwrap();
        spawn_local(driver);
        self.handles.borrow_mut().push((address, handle.clone()));
        Upstream::Http2(handle)
    }

    async fn answer<X: Exchange>(&self, exchange: &mut X, local: &Local) -> Record {
        let mut edits = Edits::default();
        for (name, value) in &local.lines {
            edits.set(name, value.as_bytes());
        }
        let reply = LocalReply { status: local.status, edits: &edits, body: &local.body };
        Record::Answered(exchange.answer(&reply).await)
    }

    async fn serve<X: Exchange>(&self, exchange: &mut X) -> Record {
        if let Some(pause) = self.pause
            && exchange.pause(Instant::now() + pause).await.is_err()
        {
            return Record::ClientGone;
        }
        if let Some(local) = &self.local {
            return self.answer(exchange, local).await;
        }
        if self.hangs {
            pending::<()>().await;
        }
        let mut number = 1;
        loop {
            let upstream = self.upstream(number).await;
            let mut judge = Judgement { edits: self.response_edits, may_retry: number < self.max_attempts };
            match exchange.attempt(upstream, number, self.limits, &mut judge).await {
                Ok(Verdict::Relay) => return Record::Relayed(exchange.relay(self.limits).await),
                Ok(Verdict::Retry) => {}
                Err(AttemptError::ClientGone) => return Record::ClientGone,
                Err(error) => {
                    self.errors.borrow_mut().push(error);
                    if number >= self.max_attempts || !exchange.is_replayable() {
                        let status = match error {
                            AttemptError::Timeout(_) => 504,
                            AttemptError::UpstreamProtocol => 502,
                            AttemptError::ClientProtocol => 400,
                            _ => 503,
                        };
                        let local = Local { status, ..Local::default() };
                        return self.answer(exchange, &local).await;
                    }
                }
            }
            number += 1;
        }
    }
}

struct Judgement {
    edits: Option<fn(&mut Edits)>,
    may_retry: bool,
}

impl Judge for Judgement {
    fn judge(&mut self, head: &impl ResponseView, is_replayable: bool, edits: &mut Edits) -> Verdict {
        if head.status() == 503 && self.may_retry && is_replayable {
            return Verdict::Retry;
        }
        if let Some(edit) = self.edits {
            edit(edits);
        }
        Verdict::Relay
    }
}

impl RequestPath for Double {
    type Plan = Plan;

    fn plan(&self, head: &impl RequestView, meta: &RequestMeta<'_>, edits: &mut Edits) -> (Plan, Stage) {
        self.started.set(self.started.get() + 1);
        let body = if meta.has_body { " +body" } else { "" };
        let (method, scheme, authority, target) =
            (head.method(), head.scheme(), head.authority(), head.target());
        self.heads.borrow_mut().push(format!("{method} {scheme}://{authority}{target}{body}"));
        if let Some(edit) = self.request_edits {
            edit(edits);
        }
        (Plan { record: Record::Dropped, records: self.records.clone() }, Stage::Http2)
    }

    async fn run<X: Exchange>(&self, plan: &mut Plan, exchange: &mut X) {
        plan.record = self.serve(exchange).await;
    }

    fn refused(&self, status: u16, why: &'static str, _sent_bytes: u64) {
        self.refusals.borrow_mut().push((status, why));
    }

    fn is_draining(&self) -> bool {
        self.draining.get()
    }
}

/// The proxy: each connection served with `path`.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) drain: watch::Sender<bool>,
    pub(crate) ends: Rc<RefCell<Vec<Result<(), ServeError>>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub(crate) async fn proxy(path: &Rc<Double>) -> Proxy {
    proxy_with(path, ServerSettings::default()).await
}

pub(crate) async fn proxy_with(path: &Rc<Double>, settings: ServerSettings) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (drain, draining) = watch::channel(false);
    let ends = Rc::new(RefCell::new(Vec::new()));
    let (path, settings, all) = (path.clone(), Rc::new(settings), ends.clone());
    let accepting = spawn_local(async move {
        while let Ok((io, _)) = listener.accept().await {
            io.set_nodelay(true).unwrap();
            let (path, settings, draining, all) =
                (path.clone(), settings.clone(), draining.clone(), all.clone());
            spawn_local(async move {
                let end = serve(io, &[], path, settings, BufferPool::new(), draining).await;
                all.borrow_mut().push(end);
            });
        }
    });
    Proxy { address, drain, ends, accepting }
}

/// An `h2` client on a connection of its own.
pub(crate) async fn client(address: SocketAddr) -> SendRequest<Bytes> {
    client_with(address, &h2::client::Builder::new()).await
}

pub(crate) async fn client_with(address: SocketAddr, builder: &h2::client::Builder) -> SendRequest<Bytes> {
    let io = TcpStream::connect(address).await.unwrap();
    io.set_nodelay(true).unwrap();
    let (handle, connection) = builder.handshake(io).await.unwrap();
    spawn_local(connection);
    handle
}

/// An upstream that calls `handler` with each request and its number (from 1).
pub(crate) async fn upstream<F, R>(handler: F) -> SocketAddr
where
    F: Fn(usize, Request<RecvStream>, SendResponse<Bytes>) -> R + 'static,
    R: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let handler = Rc::new(handler);
    let count = Rc::new(Cell::new(0));
    spawn_local(async move {
        while let Ok((io, _)) = listener.accept().await {
            let (handler, count) = (handler.clone(), count.clone());
            spawn_local(async move {
                let mut connection = h2::server::handshake(io).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    count.set(count.get() + 1);
                    spawn_local(handler(count.get(), request, respond));
                }
            });
        }
    });
    address
}

/// Shorthand for a request to `http://shop.test` and `target`.
pub(crate) fn request(method: &str, target: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://shop.test{target}")).body(()).unwrap()
}

pub(crate) fn status(code: u16) -> Response<()> {
    Response::builder().status(code).body(()).unwrap()
}

/// Reads a body to its end, giving the window back.
pub(crate) async fn collect(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((all, body.trailers().await?))
}

/// Sends all of `data` as the window allows.
pub(crate) async fn send_all(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    end: bool,
) -> Result<(), h2::Error> {
    if data.is_empty() {
        return stream.send_data(data, end);
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        if stream.capacity() == 0 {
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(capacity) => capacity?,
                None => return Err(h2::Reason::STREAM_CLOSED.into()),
            };
        }
        let part = data.split_to(stream.capacity().min(data.len()));
        stream.send_data(part, end && data.is_empty())?;
    }
    Ok(())
}

/// A body whose bytes tell their place.
pub(crate) fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// A gRPC message: flag, length, bytes.
pub(crate) fn grpc_message(payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], payload].concat().into()
}
