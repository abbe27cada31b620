//! The life of a request, for every codec: route, faults, pick, connect, attempt, retry, relay, record.
//!
//! ```text
//!   plan   (head in view)   route ─ draw faults ─ note for the log ─ edits
//!   run    delay ─ abort ─ redirect · direct response · 404 ─ or forward:
//!          admit ─ loop { pick ─ connect ─ attempt ─ judge (head in view) } ─ relay
//! ```
//!
//! Nothing here reads or writes a socket: an [`Exchange`] does. Every way to fail ends in a [`Local`], so that status, flag
//! and body of each are in one table (`local.rs`), and in one [`Record`].

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use undermesh_core::balance::Hashed;
use undermesh_core::cluster::{Cluster, UpstreamProtocol};
use undermesh_core::edits::Edits;
use undermesh_core::host::without_port;
use undermesh_core::route::{self, Abort, Decision, Facts, GrpcStatus, HttpTable, Outcome, Route};
use undermesh_core::view::{HttpVersion, RequestView, ResponseView};

use crate::access_log::Note;
use crate::digits::Digits;
use crate::exchange::{Exchange, LocalReply, RequestMeta, RequestPath, Stage, Transfer};
use crate::flags::ResponseFlags;
use crate::forwarded::{self, FORWARDED_FOR};
use crate::grpc_timeout::{self, GRPC_TIMEOUT};
use crate::local::{self, Local};
use crate::metrics::Counter;
use crate::mirror::{self, Mirroring, Tee};
use crate::outlet::{Bound, LocalCaller, Outlet, Target};
use crate::proxy_protocol::PrivatePools;
use crate::record::{Peer, Record};
use crate::worker::Worker;

/// One connection's way through the request path.
pub(crate) struct HttpPath {
    pub worker: Rc<Worker>,
    pub caller: Rc<LocalCaller>,
    pub target: Target,
    pub peer: Peer,
    /// Where upstream connections are for this client connection alone.
    pub private: PrivatePools,
    outlet: RefCell<Rc<Outlet>>,
}

/// What `plan` settled.
pub(crate) struct Plan {
    pub record: Record,
    pub is_idempotent: bool,
    is_upgrade_refused: bool,
    /// For the whole of a forwarded request.
    pub timeout: Option<Duration>,
    /// The cluster of a forwarded request.
    bound: Option<Rc<Bound>>,
    /// The body of a redirect is empty; this is its location.
    location: Option<(u16, Vec<u8>)>,
    /// Where consistent hashing sends the request.
    pub hashed: Option<Hashed>,
    /// Which version to speak upstream.
    pub upstream: UpstreamProtocol,
    /// The copies to send beside it.
    pub mirroring: Option<Box<Mirroring>>,
}

impl HttpPath {
    pub(crate) fn new(worker: Rc<Worker>, caller: Rc<LocalCaller>, target: Target, peer: Peer) -> Self {
        let outlet = caller.outlet(target, &worker.snapshot());
        let private = PrivatePools::default();
        Self { worker, caller, target, peer, private, outlet: RefCell::new(outlet) }
    }

    /// The tables for the next request: those of the newest snapshot.
    pub(crate) fn outlet(&self) -> Rc<Outlet> {
        let mut outlet = self.outlet.borrow_mut();
        if outlet.generation != self.worker.generation() {
            *outlet = self.caller.outlet(self.target, &self.worker.snapshot());
        }
        outlet.clone()
    }

    /// The cluster a decision forwards to.
    fn destination(&self, outlet: &Outlet, decision: &Decision, authority: &str) -> Option<Rc<Bound>> {
        match decision.outcome {
            Outcome::Forward { destination } => {
                let route = outlet.http().route(decision.route?)?;
                let cluster = &route.destinations.get(usize::from(destination))?.cluster;
                Some(self.caller.bind_for(outlet, cluster, Some(without_port(authority))))
            }
            Outcome::Passthrough => Some(self.caller.bind(outlet, outlet.passthrough())),
            Outcome::Redirect
            | Outcome::HttpsRedirect
            | Outcome::DirectResponse
            | Outcome::Preflight
            | Outcome::NoRoute
            | Outcome::Reject { .. } => None,
        }
    }
}

impl RequestPath for HttpPath {
    type Plan = Plan;

    fn plan(&self, head: &impl RequestView, meta: &RequestMeta<'_>, edits: &mut Edits) -> (Plan, Stage) {
        let worker = &self.worker;
        let outlet = self.outlet();
        let table = outlet.http();
        let decision = route::decide(table, head, &mut *worker.rng.borrow_mut(), &mut ());
        let mut note = worker.notes.take();
        let request_id = head.header("x-request-id").filter(|_| matches!(self.target, Target::Address(_)));
        let new_id;
        let request_id = match request_id {
            Some(kept) => kept,
            None => {
                new_id = worker.request_id();
                &new_id
            }
        };
        note.take([
            head.method().as_bytes(),
            head.target().as_bytes(),
            head.header(FORWARDED_FOR).unwrap_or_default(),
            head.header("user-agent").unwrap_or_default(),
            request_id,
            head.authority().as_bytes(),
        ]);
        let bound = self.destination(&outlet, &decision, head.authority());
        let is_upgrade_refused =
            meta.upgrade.is_some_and(|protocol| !protocol.eq_ignore_ascii_case("websocket"));
        let will_forward = bound.is_some() && decision.abort.is_none() && !is_upgrade_refused;
        let mut location = None;
        let is_grpc = head.is_grpc();
        let route = decision.route.and_then(|index| table.route(index));
        let mut timeout = route.and_then(|route| route.timeout);
        if is_grpc && will_forward {
            timeout = grpc_timeout::limit(head, timeout);
        }
        let hashed =
            bound.as_ref().filter(|_| will_forward).and_then(|bound| self.hashed(&bound.cluster, head));
        if will_forward {
            // As in Envoy the rule has the last word, also about these.
            self.proxy_headers(head, request_id, edits);
            if let Some(limit) = expected_time(route, timeout) {
                let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                edits.set("x-envoy-expected-rq-timeout-ms", Digits::of(millis).as_bytes());
                if is_grpc {
                    edits.set(GRPC_TIMEOUT, &grpc_timeout::render(limit));
                }
            }
            route::request_edits(table, &decision, head, &self.facts(), edits);
        } else if matches!(decision.outcome, Outcome::Redirect | Outcome::HttpsRedirect)
            && decision.abort.is_none()
        {
            let mut text = Vec::new();
            location = route::redirect(table, &decision, head, &mut text).map(|code| (code, text));
        }
        let mirroring = if will_forward && meta.upgrade.is_none() {
            self.mirroring(&outlet, &decision, head)
        } else {
            None
        };
        let upstream = bound
            .as_ref()
            .map_or(UpstreamProtocol::Http1, |bound| upstream_protocol(&bound.cluster, head.version()));
        let stage = match upstream {
            _ if !will_forward => Stage::Answer,
            UpstreamProtocol::Http1 => Stage::Http1,
            UpstreamProtocol::Http2 => Stage::Http2,
        };
        let protocol = match head.version() {
            HttpVersion::Http1 => "HTTP/1.1",
            HttpVersion::Http2 => "HTTP/2",
        };
        let is_idempotent = matches!(head.method(), "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE");
        let cors = cors_lines(table, &decision, head);
        let mut record = Record::new(
            worker.clone(),
            self.caller.clone(),
            outlet,
            decision,
            note,
            self.peer,
            protocol,
            is_grpc,
        );
        record.cors = cors;
        let plan = Plan {
            record,
            is_idempotent,
            is_upgrade_refused,
            timeout,
            bound,
            location,
            hashed,
            upstream,
            mirroring,
        };
        (plan, stage)
    }

    fn take_tee(plan: &mut Plan) -> Option<Tee> {
        plan.mirroring.as_mut()?.tee.take()
    }

    async fn run<X: Exchange>(&self, plan: &mut Plan, exchange: &mut X) {
        plan.record.begin();
        let decision = plan.record.decision;
        if plan.is_upgrade_refused {
            // Before any filter, faults and CORS included.
            plan.record.cors = None;
            return self.answer(&mut plan.record, &local::UPGRADE_REFUSED, exchange).await;
        }
        if let Some(delay) = decision.delay {
            plan.record.flags.insert(ResponseFlags::DELAY_INJECTED);
            if exchange.pause(plan.record.started + delay).await.is_err() {
                return;
            }
            exchange.restart_limits();
        }
        if let Some(abort) = decision.abort {
            return self.abort(&mut plan.record, abort, exchange).await;
        }
        match decision.outcome {
            Outcome::Forward { .. } | Outcome::Passthrough => match plan.bound.take() {
                Some(bound) => self.forward(plan, bound, exchange).await,
                None => self.answer(&mut plan.record, &local::NO_CLUSTER, exchange).await,
            },
            Outcome::Redirect | Outcome::HttpsRedirect => self.redirect(plan, exchange).await,
            Outcome::DirectResponse => self.direct_response(&mut plan.record, exchange).await,
            Outcome::Preflight => self.preflight(&mut plan.record, exchange).await,
            Outcome::NoRoute => self.answer(&mut plan.record, &local::NO_ROUTE, exchange).await,
            Outcome::Reject { status } => {
                let local = Local { status, ..local::BLOCKED };
                self.answer(&mut plan.record, &local, exchange).await;
            }
        }
    }

    fn refused(&self, status: u16, why: &'static str, sent_bytes: u64) {
        self.worker.shard.count(Counter::Malformed);
        let decision = Decision {
            outcome: Outcome::Reject { status },
            host: None,
            route: None,
            delay: None,
            abort: None,
        };
        let mut record = Record::new(
            self.worker.clone(),
            self.caller.clone(),
            self.outlet(),
            decision,
            Note::none(),
            self.peer,
            "-",
            false,
        );
        record.begin();
        record.local(&Local { status, details: why, ..local::BAD_REQUEST });
        record.finish(Transfer {
            received: 0,
            sent: sent_bytes,
            end: crate::exchange::End::Complete,
            grpc_status: None,
        });
    }

    fn is_draining(&self) -> bool {
        self.worker.is_draining() || self.caller.is_let_go.get()
    }
}

impl HttpPath {
    /// The copies of a request that is forwarded.
    fn mirroring(
        &self,
        outlet: &Outlet,
        decision: &Decision,
        head: &impl RequestView,
    ) -> Option<Box<Mirroring>> {
        let mut rng = self.worker.rng.borrow_mut();
        let targets = route::mirrors(outlet.http(), decision, &mut *rng).map(|mirror| mirror::Target {
            bound: self.caller.bind(outlet, &mirror.cluster),
            protocol: upstream_protocol(&mirror.cluster, head.version()),
            hash: self.hashed(&mirror.cluster, head).map(|hashed| hashed.hash),
        });
        Mirroring::new(targets.collect(), &self.worker.copies)
    }

    /// Where consistent hashing sends a request, by its head as it came.
    fn hashed(&self, cluster: &Cluster, head: &impl RequestView) -> Option<Hashed> {
        let key = cluster.policy.consistent_hash.as_ref()?.key.as_ref()?;
        let trusted = self.outlet.borrow().trusted_proxies;
        let source = forwarded::client(head.header_lines(FORWARDED_FOR), trusted)
            .unwrap_or_else(|| self.caller.source_ip(self.peer, self.target));
        key.of_request(head, source, (self.peer.remote, self.peer.dialled))
    }

    /// What `%...%` in header values may ask for.
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            downstream_remote: Some(self.peer.remote),
            downstream_local: Some(self.peer.dialled),
            start: Some(self.worker.unix_time()),
            hostname: &self.worker.hostname,
        }
    }

    /// What a proxy adds for the upstream, whatever the rules say (semantics section 11).
    fn proxy_headers(&self, head: &impl RequestView, request_id: &[u8], edits: &mut Edits) {
        let is_edge = matches!(self.target, Target::GatewayPort(..));
        if head.may_have_headers("x-envoy-") {
            let edge = if is_edge { EDGE_HEADERS } else { &[] };
            for name in INTERNAL_HEADERS.iter().chain(edge) {
                if head.header(name).is_some() {
                    edits.remove(name);
                }
            }
        }
        match self.target {
            Target::Address(_) => {
                if head.header("x-request-id").is_none() {
                    edits.set("x-request-id", request_id);
                }
                if head.header("x-forwarded-proto").is_none() {
                    edits.set("x-forwarded-proto", head.scheme().as_bytes());
                }
            }
            Target::GatewayPort(..) => {
                // The edge: what the client says about itself is not believed, unless a trusted proxy says it.
                edits.set("x-request-id", request_id);
                let trusted = self.outlet.borrow().trusted_proxies;
                if trusted == 0 || head.header("x-forwarded-proto").is_none() {
                    edits.set("x-forwarded-proto", head.scheme().as_bytes());
                }
                edits.remove("x-forwarded-client-cert");
                let peer = self.peer.remote.ip().to_canonical().to_string();
                let client = forwarded::client(head.header_lines(FORWARDED_FOR), trusted);
                let client = client.map(|address| address.to_string());
                edits.set("x-envoy-external-address", client.as_ref().unwrap_or(&peer).as_bytes());
                let list = forwarded::appended(head.header_lines(FORWARDED_FOR), &peer);
                edits.set(FORWARDED_FOR, list.as_bytes());
            }
        }
    }

    /// Sends a response of our own.
    pub(crate) async fn answer<X: Exchange>(&self, record: &mut Record, local: &Local, exchange: &mut X) {
        record.local(local);
        let mut edits = Edits::default();
        if local.overloaded {
            edits.set("x-envoy-overloaded", b"true");
        }
        self.reply(record, edits, local.status, local.body.as_bytes(), exchange).await;
    }

    /// `edits` are lines of ours; the rule's response header operations come after them, a gRPC mapping last.
    async fn reply<X: Exchange>(
        &self,
        record: &mut Record,
        mut edits: Edits,
        status: u16,
        body: &[u8],
        exchange: &mut X,
    ) {
        edits.set("date", &self.worker.date());
        let outlet = record.outlet().clone();
        let own = OwnHead { status };
        route::response_edits(outlet.http(), &record.decision, Some(&own), &self.facts(), &mut edits);
        record.add_cors(&mut edits);
        let reply = if record.is_grpc && !(300..400).contains(&status) {
            let GrpcStatus(grpc) = GrpcStatus::of_http(status);
            record.grpc_status = Some(grpc);
            record.status = 200;
            local::grpc_edits(&mut edits, grpc, &String::from_utf8_lossy(body));
            LocalReply { status: 200, edits: &edits, body: b"" }
        } else {
            LocalReply { status, edits: &edits, body }
        };
        let transfer = exchange.answer(&reply).await;
        record.finish(transfer);
    }

    async fn abort<X: Exchange>(&self, record: &mut Record, abort: Abort, exchange: &mut X) {
        // Faults come before CORS.
        record.cors = None;
        let status = match abort {
            Abort::Http(status) => status,
            Abort::Grpc(_) => 200,
        };
        record.local(&Local {
            status,
            flags: ResponseFlags::FAULT_INJECTED,
            details: "fault_filter_abort",
            body: local::FAULT_BODY,
            overloaded: false,
        });
        let Abort::Grpc(code) = abort else {
            return self
                .reply(record, Edits::default(), status, local::FAULT_BODY.as_bytes(), exchange)
                .await;
        };
        let mut edits = Edits::default();
        edits.set("date", &self.worker.date());
        let outlet = record.outlet().clone();
        let own = OwnHead { status };
        route::response_edits(outlet.http(), &record.decision, Some(&own), &self.facts(), &mut edits);
        record.grpc_status = Some(code);
        local::grpc_edits(&mut edits, code, local::FAULT_BODY);
        let transfer = exchange.answer(&LocalReply { status: 200, edits: &edits, body: b"" }).await;
        record.finish(transfer);
    }

    async fn redirect<X: Exchange>(&self, plan: &mut Plan, exchange: &mut X) {
        let (status, location) = plan.location.take().unwrap_or((500, Vec::new()));
        let record = &mut plan.record;
        record.local(&Local { status, details: "direct_response", ..local::BLOCKED });
        let mut edits = Edits::default();
        edits.set("location", &location);
        self.reply(record, edits, status, b"", exchange).await;
    }

    /// The rule's header operations do not apply to it (Envoy: the filter answers by itself).
    async fn preflight<X: Exchange>(&self, record: &mut Record, exchange: &mut X) {
        record.local(&local::PREFLIGHT);
        let mut edits = record.cors.take().unwrap_or_default();
        edits.set("date", &self.worker.date());
        let transfer = exchange.answer(&LocalReply { status: 200, edits: &edits, body: b"" }).await;
        record.finish(transfer);
    }

    async fn direct_response<X: Exchange>(&self, record: &mut Record, exchange: &mut X) {
        let outlet = record.outlet().clone();
        let (status, body) = route::direct_response(outlet.http(), &record.decision).unwrap_or((500, b""));
        record.local(&Local { status, details: "direct_response", ..local::BLOCKED });
        self.reply(record, Edits::default(), status, body, exchange).await;
    }
}

/// Instructions to an Envoy, which nobody but its own configuration may give: never believed, never passed on. Envoy:
/// `cleanInternalHeaders`, and the retry headers that its router consumes.
const INTERNAL_HEADERS: &[&str] = &[
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
    "x-envoy-hedge-on-per-try-timeout",
];
/// What only the mesh itself may say, besides: not believed of clients outside.
const EDGE_HEADERS: &[&str] = &[
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-internal",
];

/// How long the service has for its first answer, as far as it is known (Envoy: the try's limit, within the request's).
fn expected_time(route: Option<&Route>, timeout: Option<Duration>) -> Option<Duration> {
    match (route.and_then(|route| route.retries.per_try_timeout), timeout) {
        (Some(per_try), Some(whole)) => Some(per_try.min(whole)),
        (per_try, whole) => per_try.or(whole),
    }
}

/// What a cross-origin request's response has to say.
fn cors_lines(table: &HttpTable, decision: &Decision, head: &impl RequestView) -> Option<Box<Edits>> {
    table.route(decision.route?)?.cors.as_ref()?;
    let mut lines = Edits::default();
    route::cors_edits(table, decision, head, &mut lines);
    (!lines.is_empty()).then(|| Box::new(lines))
}

/// The head of a response of our own, for the rule's header operations.
struct OwnHead {
    status: u16,
}

impl ResponseView for OwnHead {
    fn status(&self) -> u16 {
        self.status
    }

    fn header_lines<'a>(&'a self, _name: &str) -> impl Iterator<Item = &'a [u8]> {
        std::iter::empty()
    }
}

fn upstream_protocol(cluster: &Cluster, client: HttpVersion) -> UpstreamProtocol {
    if !cluster.use_client_protocol {
        return cluster.protocol;
    }
    match client {
        HttpVersion::Http1 => UpstreamProtocol::Http1,
        HttpVersion::Http2 => UpstreamProtocol::Http2,
    }
}
