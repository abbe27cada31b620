//! The record of a request: made when it is routed, written exactly once when it goes out of scope, also when the client's
//! connection ended and its task was dropped midway.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use undermesh_core::cluster::Cluster;
use undermesh_core::edits::Edits;
use undermesh_core::route::{Decision, RuleRef};

use crate::access_log::{Entry, Note};
use crate::exchange::{End, Transfer};
use crate::flags::ResponseFlags;
use crate::local::Local;
use crate::metrics::{Outcome, escape};
use crate::outlet::{Bound, LocalCaller, Outlet, workload_labels};
use crate::worker::Worker;

/// Notes to be used again.
#[derive(Default)]
pub(crate) struct Notes(RefCell<Vec<Note>>);

const KEPT_NOTES: usize = 256;

impl Notes {
    pub(crate) fn take(&self) -> Note {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    fn give_back(&self, note: Note) {
        let mut kept = self.0.borrow_mut();
        if kept.len() < KEPT_NOTES {
            kept.push(note);
        }
    }
}

/// What is known of the connection a request came on.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    pub remote: SocketAddr,
    /// What the client dialled.
    pub dialled: SocketAddr,
}

/// One request's record.
pub(crate) struct Record {
    worker: Rc<Worker>,
    caller: Rc<LocalCaller>,
    outlet: Rc<Outlet>,
    pub decision: Decision,
    note: Note,
    peer: Peer,
    pub started: Instant,
    protocol: &'static str,
    pub is_grpc: bool,
    pub status: u16,
    pub grpc_status: Option<u32>,
    pub flags: ResponseFlags,
    pub details: &'static str,
    pub upstream_time: Option<Duration>,
    /// What the response says of its origin, for a cross-origin request.
    pub cors: Option<Box<Edits>>,
    /// Our end of the connection to the endpoint.
    pub upstream_local: Option<SocketAddr>,
    transfer: Option<Transfer>,
    cluster: Option<Rc<Bound>>,
    endpoint: Option<usize>,
    /// Set when the request's life begins: a codec that finds fault with a head after it was planned refuses it, and records
    /// that instead.
    is_begun: bool,
}

impl Record {
    #[expect(clippy::too_many_arguments, reason = "called in one place; a builder would say the same twice")]
    pub(crate) fn new(
        worker: Rc<Worker>,
        caller: Rc<LocalCaller>,
        outlet: Rc<Outlet>,
        decision: Decision,
        note: Note,
        peer: Peer,
        protocol: &'static str,
        is_grpc: bool,
    ) -> Self {
        Self {
            worker,
            caller,
            outlet,
            decision,
            note,
            peer,
            started: Instant::now(),
            protocol,
            is_grpc,
            status: 0,
            grpc_status: None,
            flags: ResponseFlags::NONE,
            details: "",
            upstream_time: None,
            cors: None,
            upstream_local: None,
            transfer: None,
            cluster: None,
            endpoint: None,
            is_begun: false,
        }
    }

    /// From here on the record is written, however the request ends.
    pub(crate) fn begin(&mut self) {
        self.is_begun = true;
    }

    /// The tables the request was routed by; they stay those until its end.
    pub(crate) fn outlet(&self) -> &Rc<Outlet> {
        &self.outlet
    }

    /// Where the request is going, for the log.
    pub(crate) fn towards(&mut self, cluster: Rc<Bound>, endpoint: Option<usize>) {
        self.cluster = Some(cluster);
        self.endpoint = endpoint;
        self.upstream_local = None;
    }

    /// A response of our own is about to be sent.
    pub(crate) fn local(&mut self, local: &Local) {
        self.status = local.status;
        self.flags.insert(local.flags);
        self.details = local.details;
    }

    /// Sets the lines for a cross-origin request over whatever else sets them.
    pub(crate) fn add_cors(&self, edits: &mut Edits) {
        for (name, value) in self.cors.iter().flat_map(|cors| cors.lines()) {
            edits.set(name, value);
        }
    }

    /// The response has gone out, or not.
    pub(crate) fn finish(&mut self, transfer: Transfer) {
        self.flags.insert(match transfer.end {
            End::Complete => ResponseFlags::NONE,
            End::ClientGone => ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
            End::UpstreamReset => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            End::Timeout => ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
            End::ClientProtocol => ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
        });
        self.grpc_status = transfer.grpc_status.or(self.grpc_status);
        self.transfer = Some(transfer);
    }

    fn rule(&self) -> Option<&RuleRef> {
        self.outlet.http().route(self.decision.route?)?.rule.as_deref()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.is_begun {
            return self.worker.notes.give_back(std::mem::take(&mut self.note));
        }
        let duration = self.started.elapsed();
        if self.transfer.is_none() {
            // Nobody was left to answer.
            self.flags.insert(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
            self.details = "downstream_remote_disconnect";
        }
        let (received, sent) = self.transfer.map_or((0, 0), |transfer| (transfer.received, transfer.sent));
        let worker = &self.worker;
        let outcome = Outcome {
            status: self.status,
            flags: self.flags,
            // What gRPC does not know is UNKNOWN: labels are a bounded set, whatever an upstream says.
            grpc_status: self.grpc_status.map(|status| if status > 16 { 2 } else { status }),
            is_grpc: self.is_grpc,
        };
        let pool = self.cluster.as_ref().zip(self.endpoint).and_then(|(bound, index)| bound.pools.get(index));
        let series = match (pool, &self.cluster) {
            (Some(pool), _) => &pool.series,
            (None, Some(bound)) => &bound.neighbour.series,
            (None, None) => &self.outlet.series,
        };
        worker.shard.request(series, outcome, duration, received, sent, |outcome| self.labels(outcome));
        let rule_id = self.decision.route.and_then(|route| self.outlet.rule_id(route));
        if let Some(id) = &rule_id {
            worker.shard.rule(id);
        }
        if worker.log.is_on() {
            let cluster: &str = self.cluster.as_ref().map_or("", |bound| &bound.cluster.name);
            worker.log.append(&Entry {
                started: self.started,
                note: &self.note,
                protocol: self.protocol,
                status: self.status,
                grpc_status: self.grpc_status.filter(|_| self.is_grpc),
                flags: self.flags,
                details: self.details,
                received,
                sent,
                duration,
                upstream_time: self.upstream_time,
                upstream_host: pool.map(|pool| pool.address),
                upstream_cluster: cluster,
                upstream_local: self.upstream_local,
                downstream_local: self.peer.dialled,
                downstream_remote: self.peer.remote,
                sni: "",
                route_name: self.rule().map_or("", |rule| &rule.route_name),
                rule: rule_id.as_deref().unwrap_or(""),
                generation: self.outlet.generation,
                source: &self.caller.caller.id,
            });
        }
        worker.notes.give_back(std::mem::take(&mut self.note));
    }
}

impl Record {
    /// Istio's labels, rendered once for each new series.
    fn labels(&self, outcome: Outcome) -> String {
        let endpoint = self.cluster.as_ref().zip(self.endpoint);
        let workload =
            endpoint.and_then(|(bound, index)| bound.cluster.endpoints.get(index)).map(|one| &*one.workload);
        let mut out = format!("reporter=\"source\",{},", self.caller.source_labels);
        out.push_str(&workload_labels("destination", workload, true));
        push_service(&mut out, self.cluster.as_ref().map(|bound| &*bound.cluster));
        let protocol = if outcome.is_grpc { "grpc" } else { "http" };
        let status = if outcome == Outcome::OTHER { "other".to_owned() } else { outcome.status.to_string() };
        let grpc_status = outcome.grpc_status.map(|status| status.to_string()).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            ",request_protocol=\"{protocol}\",response_code=\"{status}\",grpc_response_status=\"{grpc_status}\",\
             response_flags=\"{}\",connection_security_policy=\"none\"",
            outcome.flags
        );
        out
    }
}

/// The labels of a destination service.
pub(crate) fn push_service(out: &mut String, cluster: Option<&Cluster>) {
    let service = cluster.and_then(|cluster| cluster.service.as_deref());
    let fallback = cluster.map_or("unknown", |cluster| &*cluster.key.host);
    let (host, name, namespace) = service.map_or((fallback, fallback, "unknown"), |service| {
        (&*service.host, &*service.name, &*service.namespace)
    });
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        ",destination_service=\"{}\",destination_service_name=\"{}\",destination_service_namespace=\"{}\"",
        escape(host),
        escape(name),
        escape(namespace)
    );
}
