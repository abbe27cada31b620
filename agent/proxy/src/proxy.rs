//! The proxy as its owner sees it: started, given inlets, asked for metrics, drained.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use undermesh_core::snapshot::Snapshot;

use crate::access_log::{Format, Sink};
use crate::connection::ConnectionRow;
use crate::inlet::{Caller, Inlet};
use crate::listener::{Listening, PeerWorker};
use crate::metrics::{Counter, Metrics};
use crate::names::{NameRow, Names, Resolver};
use crate::outlet::GaugeRegistry;
use crate::outlier::OutlierRow;
use crate::share::Shares;
use crate::worker::{self, Command, Shared, Worker};

/// How a proxy is set up.
#[derive(Clone)]
pub struct Settings {
    /// Threads that serve connections, at least 1.
    pub workers: usize,
    /// How access-log lines look.
    pub access_log: Format,
    /// Where they go.
    pub log_sink: Sink,
    /// What `%HOSTNAME%` says.
    pub hostname: String,
    /// The most open connections that one captured pod may have; more are refused. So that it leaves file descriptors for
    /// its neighbours.
    pub connections_per_client: usize,
    /// Asks for the addresses of upstreams that have only a name.
    pub resolver: Arc<dyn Resolver>,
}

/// A running proxy. Dropping it ends the workers without a drain.
pub struct Proxy {
    peers: Vec<PeerWorker>,
    threads: Vec<JoinHandle<()>>,
    draining: watch::Sender<bool>,
    next: AtomicUsize,
    gauges: Arc<GaugeRegistry>,
    names: Arc<Names>,
}

/// An inlet that accepts connections until this is dropped. Connections it accepted live on.
pub struct InletHandle {
    closed: watch::Sender<bool>,
    failed: Arc<AtomicBool>,
}

impl InletHandle {
    /// Whether a listener could not be registered (file descriptors ran out).
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

impl Drop for InletHandle {
    fn drop(&mut self) {
        self.closed.send_replace(true);
    }
}

impl Proxy {
    /// Starts the workers. They follow `snapshot` as it is swapped.
    ///
    /// # Errors
    /// A thread or its runtime could not be started.
    pub fn start(settings: Settings, snapshot: Arc<ArcSwap<Snapshot>>) -> io::Result<Self> {
        let count = settings.workers.max(1);
        let (draining, is_draining) = watch::channel(false);
        let (peers, queues): (Vec<_>, Vec<_>) = (0..count)
            .map(|_| {
                let (commands, queue) = mpsc::unbounded_channel();
                (PeerWorker { commands, load: Arc::default() }, queue)
            })
            .unzip();
        let gauges = Arc::new(GaugeRegistry::default());
        let names = Names::new(settings.resolver.clone());
        let shared = Arc::new(Shared {
            names: names.clone(),
            snapshot,
            gauges: gauges.clone(),
            shares: Shares::new(settings.connections_per_client),
            settings,
            draining: is_draining,
            // Workers know one another, so a queue never closes by itself: they end by `draining`.
            peers: peers.clone(),
        });
        let threads = queues
            .into_iter()
            .enumerate()
            .map(|(index, queue)| {
                let shared = shared.clone();
                // A local runtime cannot move between threads: the worker makes its own and says whether it could.
                let (started, has_started) = std::sync::mpsc::sync_channel(1);
                let thread = std::thread::Builder::new()
                    .name(format!("worker-{index}"))
                    .spawn(move || run(index, shared, queue, &started))?;
                has_started.recv().map_err(|_| io::Error::other("a worker ended at its start"))??;
                Ok(thread)
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { peers, threads, draining, next: AtomicUsize::new(0), gauges, names })
    }

    /// Accepts connections of `inlet` until the handle is dropped.
    pub fn open(&self, inlet: Inlet) -> InletHandle {
        let (closed, is_closed) = watch::channel(false);
        let failed = Arc::new(AtomicBool::new(false));
        let listening = Arc::new(Listening { inlet, closed: is_closed, failed: failed.clone() });
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.peers.len().max(1);
        let sent =
            self.peers.get(index).is_some_and(|peer| peer.commands.send(Command::Listen(listening)).is_ok());
        if !sent {
            failed.store(true, Ordering::Relaxed);
        }
        InletHandle { closed, failed }
    }

    /// Forgets a client that is gone: its connections and pools are closed.
    pub fn forget(&self, caller: &Arc<Caller>) {
        self.gauges.outliers.forget(&caller.id);
        for peer in &self.peers {
            // A worker that has ended has forgotten everything.
            let _ = peer.commands.send(Command::Forget(caller.clone()));
        }
    }

    /// Lets a client go that is no client any more, or another one under the same name: its connections end with the request
    /// that is under way or the next one; idle ones end two seconds later, opaque ones when they end.
    pub fn let_go(&self, caller: &Arc<Caller>) {
        for peer in &self.peers {
            let _ = peer.commands.send(Command::LetGo(caller.clone()));
        }
    }

    /// The sums of all workers.
    pub async fn metrics(&self) -> Metrics {
        let mut sum = Metrics::default();
        for answer in self.ask(Command::Collect) {
            if let Ok(metrics) = answer.await {
                sum.add(metrics);
            }
        }
        let ejected = self.outliers().len();
        sum.set(Counter::EjectionsActive, i64::try_from(ejected).unwrap_or(i64::MAX));
        sum
    }

    /// The names of upstreams that are in use, with their addresses.
    pub fn names(&self) -> Vec<NameRow> {
        self.names.rows()
    }

    /// All open connections, oldest first.
    pub async fn connections(&self) -> Vec<ConnectionRow> {
        let mut rows = Vec::new();
        for answer in self.ask(Command::Connections) {
            rows.extend(answer.await.unwrap_or_default());
        }
        rows.sort_by_key(|row| std::cmp::Reverse(row.age));
        rows
    }

    /// The endpoints that clients leave out at present.
    pub fn outliers(&self) -> Vec<OutlierRow> {
        self.gauges.outliers.rows(Instant::now())
    }

    fn ask<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<oneshot::Receiver<T>> {
        let ask = |peer: &PeerWorker| {
            let (answer, wait) = oneshot::channel();
            // A worker that has ended drops the question, and so answers it.
            let _ = peer.commands.send(command(answer));
            wait
        };
        self.peers.iter().map(ask).collect()
    }

    /// Ends: no new connections; current requests, and those that come within two seconds, are answered and their connections
    /// closed; then idle ones are; what is left after `limit` is cut. Blocks; call it from a thread that may.
    pub fn drain(mut self, limit: Duration) {
        self.draining.send_replace(true);
        let until = Instant::now() + limit;
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.threads.retain(|thread| !thread.is_finished());
        if !self.threads.is_empty() {
            tracing::warn!(workers = self.threads.len(), "drain took too long: closing what is left");
        }
        self.end();
    }

    fn end(&mut self) {
        self.draining.send_replace(true);
        for peer in &self.peers {
            let _ = peer.commands.send(Command::End);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(
    index: usize,
    shared: Arc<Shared>,
    queue: mpsc::UnboundedReceiver<Command>,
    started: &std::sync::mpsc::SyncSender<io::Result<()>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(tokio::runtime::LocalOptions::default());
    // Whoever starts us waits for this answer.
    match runtime {
        Ok(runtime) => {
            let _ = started.send(Ok(()));
            runtime.block_on(async move { worker::run(Worker::new(index, shared), queue).await });
        }
        Err(error) => drop(started.send(Err(error))),
    }
}
