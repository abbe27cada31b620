//! The `kubernetes` source: the objects of a cluster, followed as they change.
//!
//! ```text
//!   a thread of its own:   discovery ─ which Istio kinds there are
//!                          follower of each kind ─ list, watch ─▶ store ─ objects in force, remarks
//!   the role's thread:     load ◀─ a copy (by reference) ◀───────────┘
//! ```
//!
//! The first load waits until every kind has been read once: half of a configuration would send traffic astray. From then on
//! nothing is taken back but by the API server's word. While it is away, all stays as it was; [`Link`] knows since when.
//!
//! The loop of lists and watches is ours, on `kube`'s client (D13).

mod access;
mod ask;
mod discovery;
mod follow;
mod kinds;
mod link;
mod pace;
mod store;
mod wire;

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until};

pub use access::Access;
pub use link::Link;

use super::Loaded;
use kinds::{KINDS, Kind};
use store::Store;

/// A change is handed out when nothing followed it for this long,
const QUIET: Duration = Duration::from_millis(10);
/// or so long after the first that was not handed out;
const LONGEST: Duration = Duration::from_millis(100);
/// and so long after the last hand-out at the earliest: one change is in force at once, a hundred a second ten times.
const SPACING: Duration = Duration::from_millis(100);

/// See the module's text.
#[derive(Debug)]
pub struct KubernetesSource {
    shared: Arc<Shared>,
    changes: watch::Receiver<Change>,
    is_complete: watch::Receiver<bool>,
    /// The number of the last change that was handed out.
    loaded: u64,
    /// When the first change came that was not.
    pending: Option<Instant>,
    /// When something was handed out last.
    last: Option<Instant>,
    /// Dropped, it ends the thread.
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// That there was one.
#[derive(Debug, Clone, Copy)]
struct Change {
    number: u64,
    at: Instant,
}

/// How long things may take. Tests have less time.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// After so long a watch is begun anew, by chance up to half of it earlier.
    pub watch: Duration,
    /// Bookmarks come every minute; a watch that is silent for longer is begun anew.
    pub silence: Duration,
    /// A streamed list that is silent for longer is asked for in pages.
    pub first_list: Duration,
    /// How often a missing kind is looked for.
    pub discovery: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            watch: Duration::from_secs(600),
            silence: Duration::from_secs(100),
            first_list: Duration::from_secs(15),
            discovery: discovery::default_poll(),
        }
    }
}

/// What the tasks have in common.
#[derive(Debug)]
struct Shared {
    client: Client,
    link: Arc<Link>,
    timing: Timing,
    store: Mutex<Store>,
    changes: watch::Sender<Change>,
    /// Kinds that were not read completely yet.
    missing: Mutex<HashSet<&'static str>>,
    is_complete: watch::Sender<bool>,
    /// Until it turns out that the server cannot.
    can_stream: AtomicBool,
    /// `None`: not known yet.
    served: watch::Sender<Option<discovery::Served>>,
    rediscover: Notify,
}

/// `kube`'s says nothing when it is printed.
#[derive(Clone)]
struct Client(kube::Client);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl std::ops::Deref for Client {
    type Target = kube::Client;

    fn deref(&self) -> &kube::Client {
        &self.0
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|change| *change = Change { number: change.number + 1, at: Instant::now() });
    }

    /// A kind was read completely.
    fn complete(&self, kind: &Kind) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing.remove(kind.name) && missing.is_empty() {
            self.is_complete.send_replace(true);
        }
    }
}

impl KubernetesSource {
    /// Begins to read, on a thread of its own.
    ///
    /// # Errors
    /// Nothing says where the cluster is. That it does not answer is no error: it is waited for.
    pub fn start(access: &Access) -> anyhow::Result<Self> {
        Self::start_with(access, Timing::default())
    }

    /// The same, with times of one's own.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(access: &Access, timing: Timing) -> anyhow::Result<Self> {
        let (end, ended) = oneshot::channel::<()>();
        let (started, start) = mpsc::channel();
        let access = access.clone();
        let thread = std::thread::Builder::new()
            .name("kubernetes".to_owned())
            .spawn(move || {
                let begun = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .context("a runtime")
                    .and_then(|runtime| {
                        let (client, server) = runtime.block_on(access.client())?;
                        Ok((runtime, shared(client, server, timing)))
                    });
                let (runtime, shared) = match begun {
                    Ok(begun) => begun,
                    // Nobody waits any more: then nobody needs to know.
                    Err(error) => return drop(started.send(Err(error))),
                };
                if started.send(Ok(shared.clone())).is_ok() {
                    runtime.block_on(follow_all(shared, ended));
                }
            })
            .context("the thread of the Kubernetes API")?;
        let shared = start.recv().context("the thread of the Kubernetes API ended")??;
        Ok(Self {
            changes: shared.changes.subscribe(),
            is_complete: shared.is_complete.subscribe(),
            shared,
            loaded: 0,
            pending: None,
            last: None,
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// What there is now; the first time it waits for all of it. May be dropped and called again.
    pub async fn load(&mut self) -> Loaded {
        if self.is_complete.wait_for(|complete| *complete).await.is_err() {
            // The thread is gone, with all that could be waited for.
            std::future::pending::<()>().await;
        }
        // First the number: a change that comes in between is handed out twice rather than never.
        self.loaded = self.changes.borrow_and_update().number;
        self.pending = None;
        self.last = Some(Instant::now());
        self.shared.store().loaded()
    }

    /// Waits for changes that were not loaded, and until they have come to rest or for a tenth of a second.
    pub async fn changed(&mut self) {
        loop {
            let change = *self.changes.borrow_and_update();
            if change.number == self.loaded {
                if self.changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                continue;
            }
            let first = *self.pending.get_or_insert(change.at);
            let due = (change.at + QUIET).min(first + LONGEST);
            let due = self.last.map_or(due, |last| due.max(last + SPACING));
            if due <= Instant::now() {
                return;
            }
            tokio::select! {
                () = sleep_until(due) => {}
                _ = self.changes.changed() => {}
            }
        }
    }

    /// How it is with the connection.
    pub fn link(&self) -> &Arc<Link> {
        &self.shared.link
    }
}

impl Drop for KubernetesSource {
    fn drop(&mut self) {
        drop(self.end.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the Kubernetes API panicked");
        }
    }
}

fn shared(client: kube::Client, server: String, timing: Timing) -> Arc<Shared> {
    Arc::new(Shared {
        client: Client(client),
        link: Arc::new(Link::new(server)),
        timing,
        store: Mutex::default(),
        changes: watch::Sender::new(Change { number: 0, at: Instant::now() }),
        missing: Mutex::new(KINDS.iter().map(|kind| kind.name).collect()),
        is_complete: watch::Sender::new(false),
        can_stream: AtomicBool::new(true),
        served: watch::Sender::new(None),
        rediscover: Notify::new(),
    })
}

/// Until the other end is dropped.
async fn follow_all(shared: Arc<Shared>, ended: oneshot::Receiver<()>) {
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(discovery::discover(shared.clone()));
    for kind in &KINDS {
        tasks.spawn(follow::Follower::new(shared.clone(), kind).run());
    }
    tokio::select! {
        _ = ended => {}
        // None of them ends by itself.
        Some(Err(error)) = tasks.join_next() => tracing::error!(%error, "the Kubernetes API is not followed any more"),
    }
}
