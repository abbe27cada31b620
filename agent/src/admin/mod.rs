//! The admin server: what the CLI, scrapes and probes ask. On a thread and runtime of its own, so that a large dump delays
//! no request, over a unix socket (everything) and optionally a TCP address (metrics and health only).

mod address;
pub mod client;
mod diagnostics;
mod doctor;
mod dump;
pub mod explain;
pub(crate) mod routes;
mod server;
mod socket;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::watch;
use undermesh_core::client::Client;
use undermesh_proxy::Proxy;
use undermesh_proxy::access_log::Sink;
use undermesh_redirect::Redirect;

use crate::app::publish::Published;
use crate::report::Counts;
use crate::source::kubernetes::Link;

pub use socket::Socket;

/// Where an agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/undermesh/admin.sock";

/// What the process is.
#[derive(Debug, Clone)]
pub enum Role {
    /// The daemon of a node.
    Agent {
        /// The node's name.
        node: String,
    },
    /// A gateway.
    Gateway {
        /// As the rules see it.
        client: Client,
    },
}

/// What there is to ask about.
pub struct State {
    /// What the process is.
    pub role: Role,
    /// Configuration and snapshot.
    pub published: Arc<Published>,
    /// Traffic.
    pub proxy: Arc<Proxy>,
    /// The kernel half, on a node.
    pub redirect: Option<Arc<Mutex<Redirect>>>,
    /// Rows for `workloads`.
    pub workloads: ArcSwap<Value>,
    /// For lines the access log lost.
    pub log_sink: Sink,
    /// The connection to where the configuration comes from, if there is one.
    pub source: Option<Arc<Link>>,
    /// What authors of objects were told by this agent, if it may be the one that tells them.
    pub report: Option<Arc<Counts>>,
    /// The first configuration is in force, and on a node the first pass over its pods is done.
    pub is_ready: Ready,
}

/// Whether it has happened: once, and for good.
#[derive(Debug)]
pub struct Ready(watch::Sender<bool>);

impl Default for Ready {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Ready {
    /// It has happened.
    pub fn set(&self) {
        self.0.send_replace(true);
    }

    fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for it, but not for long.
    async fn wait(&self, at_most: Duration) {
        // Whoever asked is answered either way.
        let _ = tokio::time::timeout(at_most, self.0.subscribe().wait_for(|set| *set)).await;
    }
}

/// A running admin server.
pub struct Admin {
    state: Arc<State>,
    end: watch::Sender<bool>,
    thread: JoinHandle<()>,
    /// Removed at the end.
    _socket: socket::Place,
}

impl Admin {
    /// Starts to answer.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn start(socket: Socket, metrics: Option<SocketAddr>, state: State) -> anyhow::Result<Self> {
        let (listener, place) = socket.into_parts();
        let metrics = metrics
            .map(|address| address::listen(address).with_context(|| format!("the metrics address {address}")))
            .transpose()?;
        let state = Arc::new(state);
        let (end, ended) = watch::channel(false);
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn({
            let state = state.clone();
            move || server::run(listener, metrics, state, ended)
        })?;
        Ok(Self { state, end, thread, _socket: place })
    }

    /// What it answers from.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Ends it and removes the socket.
    pub fn end(self) {
        self.end.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("the admin server panicked");
        }
    }
}
