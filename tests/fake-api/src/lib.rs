//! A Kubernetes API server in memory, for tests: discovery, lists in pages, watches with bookmarks and streamed lists,
//! create, update, patch, delete, the status subresource; and what goes wrong with real ones, on demand.
//!
//! What it does not do: authentication, admission, defaults, validation, owners of fields. It stores what it is given.

mod patch;
mod resource;
mod server;
mod store;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch::Sender;

pub use resource::Definition;
use store::{Resource, Store};

/// What goes wrong. The default: nothing.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Before each answer.
    pub latency: Duration,
    /// Requests whose path contains the text get this status.
    pub refuse: Vec<(String, u16)>,
    /// `sendInitialEvents` is refused, as by servers before 1.32.
    pub refuses_streams: bool,
    /// `sendInitialEvents` is not known, as by servers before 1.27: objects come, but nothing says that these were all.
    pub ignores_streams: bool,
    /// Every connection is closed as soon as it is made.
    pub is_down: bool,
    /// Watches that wait get a bookmark this often.
    pub bookmarks: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            refuse: Vec::new(),
            refuses_streams: false,
            ignores_streams: false,
            is_down: false,
            bookmarks: Duration::from_secs(60),
        }
    }
}

/// A request that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `GET`
    pub method: String,
    /// Without the query.
    pub path: String,
    /// As sent.
    pub query: String,
}

impl Asked {
    /// Whether it is a watch.
    pub fn is_watch(&self) -> bool {
        self.query.contains("watch=true")
    }
}

/// What the connections have in common.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// Moves with every change of the objects.
    pub(crate) revision: Sender<u64>,
    /// Moves when all connections are to break.
    pub(crate) breaks: Sender<u64>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) faults: Faults,
    pub(crate) asked: Vec<Asked>,
    pub(crate) bytes: u64,
    /// Lines to send to watches of a resource as they are, and how many of them there have been.
    pub(crate) injected: Vec<(Resource, String)>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the objects and tells the watches.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let (result, revision) = {
            let mut inner = self.lock();
            let result = change(&mut inner.store);
            (result, inner.store.revision())
        };
        self.revision.send_replace(revision);
        result
    }
}

/// A running server. Dropped: it ends.
pub struct FakeApi {
    shared: Arc<Shared>,
    address: SocketAddr,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeApi {
    /// Starts at a free port of loopback, with the built-in kinds and no object.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                store: Store::new(),
                faults: Faults::default(),
                asked: Vec::new(),
                bytes: 0,
                injected: Vec::new(),
            }),
            revision: Sender::new(0),
            breaks: Sender::new(0),
        });
        let (end, ended) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("fake-api".to_owned()).spawn({
            let shared = shared.clone();
            move || server::run(listener, shared, ended)
        })?;
        Ok(Self { shared, address, end: Some(end), thread: Some(thread) })
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig that leads here.
    pub fn kubeconfig(&self) -> String {
        let url = self.url();
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: fake\n\
             contexts: [{{name: fake, context: {{cluster: fake, user: fake}}}}]\n\
             clusters: [{{name: fake, cluster: {{server: '{url}'}}}}]\nusers: [{{name: fake, user: {{}}}}]\n"
        )
    }

    /// Serves kinds from now on, as after the installation of their definitions.
    pub fn define(&self, definitions: impl IntoIterator<Item = Definition>) {
        self.shared.change(|store| {
            for definition in definitions {
                store.undefine(&definition.group, &definition.plural);
                store.definitions.push(definition);
            }
        });
    }

    /// Takes a kind away with its objects.
    pub fn undefine(&self, group: &str, plural: &str) {
        self.shared.change(|store| store.undefine(group, plural));
    }

    /// Creates or replaces an object, as `kubectl apply` would.
    ///
    /// # Panics
    /// Its kind is not served: the test is wrong.
    #[allow(clippy::panic, reason = "a mistake of the test")]
    pub fn apply(&self, object: Value) {
        self.shared.change(|store| {
            let Some((definition, _)) = store.definition_of(&object) else { panic!("not served: {object}") };
            let (resource, key) = (store::resource(definition), store::key(definition, &object));
            let mut object = object;
            if definition.is_namespaced
                && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
            {
                metadata.insert("namespace".into(), key.0.clone().into());
            }
            store.put(&resource, key, object);
        });
    }

    /// Stores what the API server would never take.
    pub fn put_raw(&self, group: &str, plural: &str, namespace: &str, name: &str, object: Value) {
        let resource = (group.to_owned(), plural.to_owned());
        self.shared.change(|store| store.put(&resource, (namespace.to_owned(), name.to_owned()), object));
    }

    /// Deletes an object; whether it was there.
    pub fn delete(&self, group: &str, plural: &str, namespace: &str, name: &str) -> bool {
        let resource = (group.to_owned(), plural.to_owned());
        self.shared
            .change(|store| store.remove(&resource, &(namespace.to_owned(), name.to_owned())))
            .is_some()
    }

    /// An object as it is now.
    pub fn object(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let resource = (group.to_owned(), plural.to_owned());
        self.shared.lock().store.get(&resource, &(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Forgets the changes: whoever watches from an earlier revision is told 410 Gone.
    pub fn compact(&self) {
        self.shared.change(Store::compact);
    }

    /// Breaks all connections in the middle of what they do.
    pub fn disconnect(&self) {
        self.shared.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// Changes what goes wrong from now on. Connections that exist are broken when the server goes down.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        let is_down = {
            let mut inner = self.shared.lock();
            change(&mut inner.faults);
            inner.faults.is_down
        };
        if is_down {
            self.disconnect();
        }
    }

    /// Sends a line to all that watch a resource now.
    pub fn inject(&self, group: &str, plural: &str, line: &str) {
        self.shared.lock().injected.push(((group.to_owned(), plural.to_owned()), line.to_owned()));
        self.shared.revision.send_modify(|_| ());
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// Bytes of bodies sent so far.
    pub fn bytes(&self) -> u64 {
        self.shared.lock().bytes
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic of its thread has been printed, and fails the test by what it did not answer.
            let _ = thread.join();
        }
    }
}
