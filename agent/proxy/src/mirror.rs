//! Mirrors: copies of requests, sent beside them and forgotten (istio-semantics section 2.8).
//!
//! ```text
//!   plan      draws the mirrors, makes a Tee and a Copy for each      (request.rs)
//!   codec     takes the Tee, gives it the head it stages, and the body as it reads it
//!   forward   starts a task for each Copy: pick, connect, send, read the answer away   (send.rs)
//! ```
//!
//! As in Envoy a copy is made by the router: after faults (an aborted request has none) and once for a request, however
//! often it is tried. It has the request's head as the service gets it, Host included, goes through the mirror's own pools
//! and limits, is never retried, and counts in `undermesh_mirrored_requests_total` alone: neither an access log line nor
//! `istio_requests_total` of this side tells of it, as with Istio.
//!
//! Unlike in Envoy, a mirror that cannot keep up does not slow its request down: what waits for it is bounded
//! ([`copy::MAX_WAITING`], [`copy::MAX_WAITING_OF_WORKER`], [`send::MAX_COPIES`]), and a copy beyond is given up and
//! counted. Upgrades are not mirrored.

mod copy;
mod send;

use std::rc::Rc;
use std::time::Duration;

use undermesh_core::cluster::UpstreamProtocol;

pub use copy::Tee;
pub(crate) use copy::{Budget, Copy};

use crate::outlet::Bound;
use crate::worker::Worker;

/// What a copy may take after its request ended, on a route without a timeout. Envoy would wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// The copies that one request was drawn to have.
pub(crate) struct Mirroring {
    /// For the codec.
    pub tee: Option<Tee>,
    copies: Vec<(Target, Copy)>,
}

/// A mirror of the route.
pub(crate) struct Target {
    pub bound: Rc<Bound>,
    /// Which version to speak to it.
    pub protocol: UpstreamProtocol,
    /// Where its consistent hashing sends the request.
    pub hash: Option<u64>,
}

impl Mirroring {
    /// `None` without targets.
    pub(crate) fn new(targets: Vec<Target>, budget: &Rc<Budget>) -> Option<Box<Self>> {
        if targets.is_empty() {
            return None;
        }
        let (tee, copies) = Tee::new(targets.len(), budget);
        Some(Box::new(Self { tee: Some(tee), copies: targets.into_iter().zip(copies).collect() }))
    }

    /// Sends the copies. `timeout`: the route's.
    pub(crate) fn start(self, worker: &Rc<Worker>, timeout: Option<Duration>) {
        for (target, copy) in self.copies {
            let worker = worker.clone();
            tokio::task::spawn_local(send::send(worker, target, copy, timeout.unwrap_or(PATIENCE)));
        }
    }
}
