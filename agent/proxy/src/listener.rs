//! Accepting: one worker accepts for each inlet, finds out where a connection was going, and gives it to the worker with
//! the fewest connections.
//!
//! A connection without an origin was made to the listener itself, by a process in the pod: it is reset and counted. So a
//! pod can neither use the proxy on its own terms nor pass as another: who it is comes from the listener and the kernel's
//! record, never from the bytes.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::connection::{self, Arrival};
use crate::inlet::{Entrance, Inlet, Origin};
use crate::metrics::Counter;
use crate::outlet::Target;
use crate::probe;
use crate::record::Peer;
use crate::tunnel::reset;
use crate::worker::{Command, Worker};

/// Pause after accept() failed for want of file descriptors or memory.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(20);

/// How other workers reach a worker.
#[derive(Clone)]
pub(crate) struct PeerWorker {
    pub commands: mpsc::UnboundedSender<Command>,
    /// Open connections.
    pub load: Arc<AtomicUsize>,
}

/// An inlet on its way to the worker that accepts for it.
pub(crate) struct Listening {
    pub inlet: Inlet,
    /// Set when the inlet is to end.
    pub closed: watch::Receiver<bool>,
    /// Set once all of its listeners accept.
    pub failed: Arc<AtomicBool>,
}

/// Accepts on all listeners of an inlet until it is closed or the worker drains.
pub(crate) fn start(worker: &Rc<Worker>, listening: &Arc<Listening>) {
    for listener in &listening.inlet.listeners {
        let registered = listener.try_clone().and_then(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        });
        match registered {
            Ok(listener) => {
                drop(tokio::task::spawn_local(accept(worker.clone(), listening.clone(), listener)));
            }
            Err(error) => {
                listening.failed.store(true, Ordering::Relaxed);
                tracing::warn!(inlet = %listening.inlet.name, %error, "cannot accept connections");
            }
        }
    }
}

async fn accept(worker: Rc<Worker>, listening: Arc<Listening>, listener: TcpListener) {
    let mut closed = listening.closed.clone();
    let mut draining = worker.shared.draining.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = closed.wait_for(|closed| *closed) => return,
            _ = draining.wait_for(|draining| *draining) => return,
        };
        match accepted {
            Ok((io, remote)) => dispatch(&worker, &listening.inlet, io, remote),
            Err(error) if is_of_one_connection(&error) => worker.shard.count(Counter::AcceptFailed),
            Err(error) => {
                worker.shard.count(Counter::AcceptFailed);
                tracing::warn!(inlet = %listening.inlet.name, %error, "accept failed");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
}

/// The connection failed, not the listener (accept(2), "Error handling").
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn dispatch(worker: &Rc<Worker>, inlet: &Inlet, io: TcpStream, remote: std::net::SocketAddr) {
    let arrival = match &inlet.entrance {
        Entrance::Mesh(origins) => match origins.take(remote) {
            Some(Origin { destination, caller }) => {
                let share = worker.shared.shares.take(&caller.id);
                if share.is_none() {
                    worker.shard.count(Counter::RefusedShare);
                    tracing::debug!(client = %caller.id, "refused a connection: the client has too many");
                    return reset(&io);
                }
                if probe::is_probe(destination) {
                    let answer = probe::answer(io, caller.id.clone(), worker.snapshot().generation());
                    drop(tokio::task::spawn_local(async move {
                        answer.await;
                        drop(share);
                    }));
                    return;
                }
                let peer = Peer { remote, dialled: destination };
                Arrival { caller, target: Target::Address(destination), peer, share }
            }
            None => {
                worker.shard.count(Counter::RefusedNoOrigin);
                tracing::debug!(inlet = %inlet.name, %remote, "refused a connection to the listener itself");
                return reset(&io);
            }
        },
        Entrance::Gateway { caller, port } => {
            let dialled = crate::sniff::local_addr(&io).unwrap_or(remote);
            Arrival {
                caller: caller.clone(),
                target: Target::GatewayPort(*port, dialled.ip().to_canonical()),
                peer: Peer { remote, dialled },
                share: None,
            }
        }
    };
    worker.shard.count(Counter::Accepted);
    let peers = &worker.shared.peers;
    let lightest = (0..peers.len()).min_by_key(|&index| {
        // Of equals, this one: a hand-over costs a wake-up.
        (peers.get(index).map_or(usize::MAX, |peer| peer.load.load(Ordering::Relaxed)), index != worker.index)
    });
    match lightest.filter(|&index| index != worker.index).and_then(|index| peers.get(index)) {
        None => connection::serve(worker, io, arrival),
        Some(peer) => match io.into_std() {
            // A worker that has ended drops the connection with the command.
            Ok(io) => drop(peer.commands.send(Command::Serve(io, arrival))),
            Err(_) => worker.shard.count(Counter::AcceptFailed),
        },
    }
}
