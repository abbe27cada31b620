//! A worker: one thread with its own runtime, buffers, pools, metrics shard and log buffer. Nothing on the request path is
//! shared between workers but the snapshot and the gauges of limits.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Cache};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_core::RngCore;
use tokio::sync::{mpsc, oneshot, watch};
use undermesh_core::snapshot::Snapshot;

use crate::access_log::AccessLog;
use crate::buffer::BufferPool;
use crate::connection::{self, Arrival, ConnectionRow, Connections};
use crate::date::HttpDate;
use crate::inlet::Caller;
use crate::listener;
use crate::metrics::{Metrics, Shard};
use crate::names::Names;
use crate::outlet::{GaugeRegistry, LocalCaller, Target};
use crate::record::Notes;
use crate::share::Shares;
use crate::tunnel::{SCRATCH_BYTES, Scratch};
use crate::{http1, http2, mirror};

/// How often idle connections are looked after and the log is flushed.
const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// Every so many rounds of housekeeping the pools are swept.
const SWEEP_ROUNDS: u32 = 4;
/// Every so many rounds of housekeeping (a minute) metric series of the past are forgotten.
const FORGET_ROUNDS: u32 = 240;

/// What other threads ask of a worker.
pub(crate) enum Command {
    /// Serve a connection that another worker accepted.
    Serve(std::net::TcpStream, Arrival),
    /// Accept on these listeners.
    Listen(Arc<listener::Listening>),
    /// Forget a client that is gone, and close its connections.
    Forget(Arc<Caller>),
    /// Forget a client, and end its connections with the request that is under way.
    LetGo(Arc<Caller>),
    /// Answer with the shard's sums.
    Collect(oneshot::Sender<Metrics>),
    /// End now.
    End,
    /// Answer with the open connections.
    Connections(oneshot::Sender<Vec<ConnectionRow>>),
}

/// What all workers share.
pub(crate) struct Shared {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub gauges: Arc<GaugeRegistry>,
    pub shares: Arc<Shares>,
    pub names: Arc<Names>,
    pub settings: crate::Settings,
    /// Set when the process is to end.
    pub draining: watch::Receiver<bool>,
    pub peers: Vec<listener::PeerWorker>,
}

/// One worker's own things.
pub(crate) struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub shard: Rc<Shard>,
    pub log: AccessLog,
    pub notes: Notes,
    pub buffers: Rc<BufferPool>,
    /// What waits for mirrors.
    pub copies: Rc<mirror::Budget>,
    pub scratch: Scratch,
    pub rng: RefCell<SmallRng>,
    pub hostname: String,
    pub connections: Connections,
    http1_mesh: Rc<http1::Settings>,
    http1_gateway: Rc<http1::Settings>,
    http2_mesh: Rc<http2::ServerSettings>,
    http2_gateway: Rc<http2::ServerSettings>,
    snapshot: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    callers: RefCell<HashMap<Arc<str>, Rc<LocalCaller>>>,
    date: HttpDate,
    started: Instant,
    started_unix: Duration,
    is_draining: Cell<bool>,
}

impl Worker {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Rc<Self> {
        let settings = &shared.settings;
        Rc::new(Self {
            index,
            shard: Rc::default(),
            log: AccessLog::new(settings.access_log, settings.log_sink.clone()),
            notes: Notes::default(),
            buffers: BufferPool::new(),
            copies: Rc::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            // Keyed by the operating system's randomness; enough for load balancing and request ids.
            rng: RefCell::new(SmallRng::seed_from_u64(RandomState::new().build_hasher().finish())),
            hostname: settings.hostname.clone(),
            connections: Connections::default(),
            // In the mesh an application's own x-forwarded-proto is believed, at the edge nobody's but a trusted proxy's.
            http1_mesh: Rc::new(http1::Settings {
                trusts_forwarded_proto: true,
                ..http1::Settings::default()
            }),
            http1_gateway: Rc::new(http1::Settings {
                trusts_forwarded_proto: false,
                ..http1::Settings::default()
            }),
            http2_mesh: Rc::new(http2::ServerSettings {
                trusts_forwarded_proto: true,
                ..http2::ServerSettings::default()
            }),
            http2_gateway: Rc::new(http2::ServerSettings {
                trusts_forwarded_proto: false,
                ..http2::ServerSettings::default()
            }),
            snapshot: RefCell::new(Cache::new(shared.snapshot.clone())),
            callers: RefCell::default(),
            date: HttpDate::default(),
            started: Instant::now(),
            started_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            is_draining: Cell::new(false),
            shared,
        })
    }

    /// The newest snapshot.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow_mut().load().clone()
    }

    /// The generation of the newest snapshot, without taking hold of it.
    pub(crate) fn generation(&self) -> u64 {
        self.snapshot.borrow_mut().load().generation()
    }

    /// Open connections as the other workers see them.
    pub(crate) fn load(&self) -> Option<&std::sync::atomic::AtomicUsize> {
        self.shared.peers.get(self.index).map(|peer| &*peer.load)
    }

    /// The codec's settings for connections to `target`.
    pub(crate) fn http1_settings(&self, target: Target) -> Rc<http1::Settings> {
        match target {
            Target::Address(_) => self.http1_mesh.clone(),
            Target::GatewayPort(..) if self.snapshot().trusted_proxies() > 0 => self.http1_mesh.clone(),
            Target::GatewayPort(..) => self.http1_gateway.clone(),
        }
    }

    /// As [`Worker::http1_settings`].
    pub(crate) fn http2_settings(&self, target: Target) -> Rc<http2::ServerSettings> {
        match target {
            Target::Address(_) => self.http2_mesh.clone(),
            Target::GatewayPort(..) if self.snapshot().trusted_proxies() > 0 => self.http2_mesh.clone(),
            Target::GatewayPort(..) => self.http2_gateway.clone(),
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Time since the epoch, from the monotonic clock.
    pub(crate) fn unix_time(&self) -> Duration {
        self.started_unix + self.started.elapsed()
    }

    /// The value of a `date` header.
    pub(crate) fn date(&self) -> [u8; 29] {
        self.date.at(self.unix_time().as_secs())
    }

    /// This worker's state of a client.
    pub(crate) fn caller(&self, caller: &Arc<Caller>) -> Rc<LocalCaller> {
        let mut callers = self.callers.borrow_mut();
        if let Some(local) = callers.get(&caller.id)
            && Arc::ptr_eq(&local.caller, caller)
        {
            return local.clone();
        }
        let local = LocalCaller::new(
            caller.clone(),
            self.shared.gauges.clone(),
            self.shared.names.clone(),
            self.shard.clone(),
        );
        callers.insert(caller.id.clone(), local.clone());
        local
    }

    /// Another of the same name stays.
    fn forget(&self, caller: &Arc<Caller>) {
        let mut callers = self.callers.borrow_mut();
        if callers.get(&caller.id).is_some_and(|local| Arc::ptr_eq(&local.caller, caller)) {
            callers.remove(&caller.id);
        }
    }

    /// A random UUID (version 4) for `x-request-id`.
    pub(crate) fn request_id(&self) -> [u8; 36] {
        let mut random = [0u8; 16];
        self.rng.borrow_mut().fill_bytes(&mut random);
        random[6] = random[6] & 0x0f | 0x40;
        random[8] = random[8] & 0x3f | 0x80;
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (index, byte) in random.into_iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 15)];
            at += 2;
        }
        text
    }

    fn sweep(&self) {
        let generation = self.snapshot().generation();
        let now = Instant::now();
        let callers: Vec<_> = self.callers.borrow().values().cloned().collect();
        for caller in callers {
            caller.sweep(now, generation);
        }
        if self.index == 0 {
            self.shared.gauges.acquaintances.follow(&self.snapshot(), now);
            self.shared.gauges.sweep();
        }
    }
}

/// Runs a worker until it has drained, or nobody can command it any more. Must be inside a local runtime.
pub(crate) async fn run(worker: Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut draining = worker.shared.draining.clone();
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    housekeeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut round = 0u32;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::End) | None => break,
                Some(command) => handle(&worker, command),
            },
            _ = housekeeping.tick() => {
                worker.log.flush();
                if worker.index == 0 {
                    worker.shared.gauges.outliers.sweep(Instant::now());
                }
                round = round.wrapping_add(1);
                if round.is_multiple_of(SWEEP_ROUNDS) {
                    worker.sweep();
                }
                if round.is_multiple_of(FORGET_ROUNDS) {
                    worker.shard.sweep(Instant::now());
                }
                if worker.is_draining() && worker.connections.is_empty() {
                    break;
                }
            }
            changed = draining.changed(), if !worker.is_draining() => {
                worker.is_draining.set(changed.is_err() || *draining.borrow());
                if worker.is_draining() {
                    let worker = worker.clone();
                    drop(tokio::task::spawn_local(async move {
                        tokio::time::sleep(connection::BEFORE_WAITING_END).await;
                        worker.connections.end_waiting();
                    }));
                }
            }
        }
    }
    worker.log.flush();
}

fn handle(worker: &Rc<Worker>, command: Command) {
    match command {
        Command::Serve(io, arrival) => connection::start(worker, io, arrival),
        Command::Listen(listening) => listener::start(worker, &listening),
        Command::Forget(caller) => {
            worker.forget(&caller);
            worker.connections.close_of(&caller);
        }
        Command::LetGo(caller) => {
            worker.forget(&caller);
            worker.connections.let_go_of(&caller);
            let worker = worker.clone();
            drop(tokio::task::spawn_local(async move {
                tokio::time::sleep(connection::BEFORE_WAITING_END).await;
                worker.connections.end_waiting_of(&caller);
            }));
        }
        Command::End => {}
        // Whoever asked may have given up waiting.
        Command::Collect(answer) => drop(answer.send(worker.shard.collect())),
        Command::Connections(answer) => drop(answer.send(worker.connections.rows())),
    }
}
