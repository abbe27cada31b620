//! A client's connection from accept to the codec that serves it, and the list of those that are open.
//!
//! ```text
//!   HTTP declared    ── preface? ── http2 · http1
//!   not declared     ── connect to the server at once; who speaks first? ── http2 · http1 · opaque
//!   anything else    ── opaque
//! ```

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use undermesh_core::inventory::Protocol;

use crate::http2::ServeError;
use crate::inlet::Caller;
use crate::metrics::Counter;
use crate::opaque::{self, Early};
use crate::outlet::{Outlet, Target};
use crate::record::Peer;
use crate::request::HttpPath;
use crate::share::Share;
use crate::sniff::{self, Sniffed};
use crate::worker::Worker;
use crate::{http1, http2};

/// An accepted connection: who, from where, to where.
pub(crate) struct Arrival {
    pub caller: Arc<Caller>,
    pub target: Target,
    pub peer: Peer,
    /// Of the client's connections; none at a gateway, whose clients are not told apart.
    pub share: Option<Share>,
}

/// How long a connection may wait for a request when it is to end (a drain, a client that was let go of): its client may be sending
/// one at this very moment, and would find it closed. One that is in use has had it by then, and its response says that it was the
/// last.
pub(crate) const BEFORE_WAITING_END: Duration = Duration::from_secs(2);
/// How long a connection may be open without a first byte from its client, on ports declared HTTP.
const FIRST_BYTE: Duration = Duration::from_secs(3600);

/// One open connection, for people.
#[derive(Debug, Clone)]
pub struct ConnectionRow {
    /// `namespace/pod` of the client.
    pub source: Arc<str>,
    /// The client's end.
    pub remote: std::net::SocketAddr,
    /// What it dialled.
    pub dialled: std::net::SocketAddr,
    /// What is spoken, once it is known.
    pub protocol: &'static str,
    /// Since accept.
    pub age: Duration,
    /// The worker that serves it.
    pub worker: usize,
}

/// The open connections of a worker.
#[derive(Default)]
pub(crate) struct Connections {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<Info>>>,
}

struct Info {
    path: Rc<HttpPath>,
    since: Instant,
    protocol: Cell<&'static str>,
    worker: usize,
    /// Wakes the task, so that it sees a drain.
    waker: RefCell<Option<Waker>>,
    abort: RefCell<Option<AbortHandle>>,
    /// Given back with the connection.
    _share: Option<Share>,
}

impl Info {
    fn is_of(&self, caller: &Arc<Caller>) -> bool {
        Arc::ptr_eq(&self.path.caller.caller, caller)
    }
}

impl Connections {
    pub(crate) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    pub(crate) fn rows(&self) -> Vec<ConnectionRow> {
        let open = self.open.borrow();
        let row = |info: &Rc<Info>| ConnectionRow {
            source: info.path.caller.caller.id.clone(),
            remote: info.path.peer.remote,
            dialled: info.path.peer.dialled,
            protocol: info.protocol.get(),
            age: info.since.elapsed(),
            worker: info.worker,
        };
        open.values().map(row).collect()
    }

    /// Wakes every connection, once the worker drains: those that wait for a request end.
    pub(crate) fn end_waiting(&self) {
        let wakers: Vec<_> =
            self.open.borrow().values().filter_map(|info| info.waker.borrow().clone()).collect();
        for waker in wakers {
            waker.wake();
        }
    }

    /// Closes the connections of a client that is gone.
    pub(crate) fn close_of(&self, caller: &Arc<Caller>) {
        for info in self.open.borrow().values().filter(|info| info.is_of(caller)) {
            if let Some(abort) = &*info.abort.borrow() {
                abort.abort();
            }
        }
    }

    /// Ends the connections of a client that is no client any more, or another one, with the request that is under way or the next
    /// one, whose response says so; those that wait are ended by [`end_waiting_of`](Self::end_waiting_of), [`BEFORE_WAITING_END`]
    /// later. What is opaque goes on.
    pub(crate) fn let_go_of(&self, caller: &Arc<Caller>) {
        for info in self.open.borrow().values().filter(|info| info.is_of(caller)) {
            info.path.caller.is_let_go.set(true);
        }
    }

    /// Ends those that wait for a request, of a client that was let go of.
    pub(crate) fn end_waiting_of(&self, caller: &Arc<Caller>) {
        let open = self.open.borrow();
        let let_go = open.values().filter(|info| info.is_of(caller) && info.path.caller.is_let_go.get());
        let wakers: Vec<_> = let_go.filter_map(|info| info.waker.borrow().clone()).collect();
        drop(open);
        for waker in wakers {
            waker.wake();
        }
    }
}

/// Takes the connection off the list however its task ends.
struct Listed {
    worker: Rc<Worker>,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.worker.connections.open.borrow_mut().remove(&self.id);
        self.worker.shard.change(Counter::Active, -1);
        if let Some(load) = self.worker.load() {
            load.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// Serves a connection that another worker accepted.
pub(crate) fn start(worker: &Rc<Worker>, io: std::net::TcpStream, arrival: Arrival) {
    match TcpStream::from_std(io) {
        Ok(io) => serve(worker, io, arrival),
        Err(_) => worker.shard.count(Counter::AcceptFailed),
    }
}

/// Serves a connection in a task of its own.
pub(crate) fn serve(worker: &Rc<Worker>, io: TcpStream, Arrival { caller, target, peer, share }: Arrival) {
    let connections = &worker.connections;
    let id = connections.next.get();
    connections.next.set(id + 1);
    let info = Rc::new(Info {
        path: Rc::new(HttpPath::new(worker.clone(), worker.caller(&caller), target, peer)),
        since: Instant::now(),
        protocol: Cell::new("-"),
        worker: worker.index,
        waker: RefCell::default(),
        abort: RefCell::default(),
        _share: share,
    });
    connections.open.borrow_mut().insert(id, info.clone());
    worker.shard.change(Counter::Active, 1);
    if let Some(load) = worker.load() {
        load.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    let task = tokio::task::spawn_local(life(Listed { worker: worker.clone(), id }, io, info.clone()));
    *info.abort.borrow_mut() = Some(task.abort_handle());
}

/// What a connection turned out to carry.
enum Speaks {
    Http1,
    Http2,
    /// With the tables it was told by, and the connection to the server, if one was made to learn this.
    Opaque(Rc<Outlet>, Option<Early>),
    /// The client left before it was clear.
    Nothing,
}

/// A connection's life. Not an `async fn`, and the rare parts boxed: what its future has room for counts for every idle
/// connection, and an argument of an `async fn` counts twice.
fn life(listed: Listed, io: TcpStream, info: Rc<Info>) -> impl Future<Output = ()> {
    // Answers are small and must not wait for more; a socket that refuses is about to fail anyway.
    let _ = io.set_nodelay(true);
    async move {
        let listed = listed;
        poll_fn(|context| {
            *info.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Ready(())
        })
        .await;
        let (worker, path) = (&listed.worker, &info.path);
        match Box::pin(recognise(path, &io)).await {
            Speaks::Http1 => {
                info.protocol.set("HTTP/1.1");
                let settings = worker.http1_settings(path.target);
                http1::serve(io, path.clone(), settings, worker.buffers.clone(), &[]).await;
            }
            Speaks::Http2 => {
                info.protocol.set("HTTP/2");
                Box::pin(serve_http2(path.clone(), io)).await;
            }
            Speaks::Opaque(outlet, early) => {
                info.protocol.set("TCP");
                Box::pin(opaque::serve(worker, &path.caller, &outlet, path.peer, &path.private, io, early))
                    .await;
            }
            Speaks::Nothing => {}
        }
    }
}

async fn recognise(path: &HttpPath, io: &TcpStream) -> Speaks {
    let outlet = path.outlet();
    let protocol = outlet.protocol();
    if protocol.is_http() {
        return match tokio::time::timeout(FIRST_BYTE, sniff::http_version(io)).await {
            Ok(Ok(Sniffed::Http2)) => Speaks::Http2,
            Ok(Ok(Sniffed::Http1 | Sniffed::Tls | Sniffed::Opaque)) => Speaks::Http1,
            Ok(Ok(Sniffed::Eof) | Err(_)) | Err(_) => Speaks::Nothing,
        };
    }
    if protocol != Protocol::Auto {
        return Speaks::Opaque(outlet, None);
    }
    let (sniffed, early) = who_speaks(path, &outlet, io).await;
    match sniffed {
        Sniffed::Http1 => {
            Early::keep_for_http(early);
            Speaks::Http1
        }
        Sniffed::Http2 => Speaks::Http2,
        Sniffed::Eof | Sniffed::Tls | Sniffed::Opaque => Speaks::Opaque(outlet, early),
    }
}

/// Waits for the client or the server to speak; the server is connected to meanwhile.
async fn who_speaks(path: &HttpPath, outlet: &Rc<Outlet>, io: &TcpStream) -> (Sniffed, Option<Early>) {
    // Rules by server name need the client's first bytes before a server is chosen; such clients speak first.
    let is_by_name = outlet.tcp().is_some_and(|table| table.needs_sni);
    let mut client = pin!(sniff::client(io));
    if is_by_name {
        return (client.await.unwrap_or(Sniffed::Eof), None);
    }
    let mut connect =
        pin!(opaque::connect(&path.worker, &path.caller, outlet, path.peer, &path.private, None));
    let mut early: Option<Early> = None;
    let mut connected = false;
    let sniffed = poll_fn(|context| {
        if let Poll::Ready(sniffed) = client.as_mut().poll(context) {
            return Poll::Ready(sniffed.unwrap_or(Sniffed::Eof));
        }
        if !connected && let Poll::Ready(result) = connect.as_mut().poll(context) {
            connected = true;
            early = Some(result);
        }
        match early.as_ref().and_then(Early::io) {
            // The server greets, or hangs up: either way these are its bytes to give.
            Some(upstream) if upstream.poll_read_ready(context).is_ready() => Poll::Ready(Sniffed::Opaque),
            _ => Poll::Pending,
        }
    })
    .await;
    (sniffed, early)
}

async fn serve_http2(path: Rc<HttpPath>, io: TcpStream) {
    let worker = path.worker.clone();
    let settings = worker.http2_settings(path.target);
    let draining = worker.shared.draining.clone();
    let served = http2::serve(io, &[], path, settings, worker.buffers.clone(), draining).await;
    if let Some(counter) = served.err().as_ref().and_then(blame) {
        worker.shard.count(counter);
    }
}

/// What the client did to have its connection ended. That it went away is nothing: its requests have records of their own.
fn blame(error: &ServeError) -> Option<Counter> {
    match error {
        ServeError::Connection(error) if error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) => {
            Some(Counter::Http2Flood)
        }
        ServeError::Connection(error) => {
            (!error.is_io() && !error.is_remote()).then_some(Counter::Http2Protocol)
        }
        ServeError::TooManyResets => Some(Counter::Http2Flood),
        ServeError::HandshakeTimeout(_) => Some(Counter::Http2Handshake),
        ServeError::DrainTimeout(_) => Some(Counter::Http2Drain),
    }
}
