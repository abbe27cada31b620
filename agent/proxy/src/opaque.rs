//! Opaque connections: route by address (and server name), pick, connect, tunnel, record.

use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use undermesh_core::balance::Ask;
use undermesh_core::cluster::Availability;
use undermesh_core::outlier::Sign;
use undermesh_core::route::{TcpDecision, decide_tcp};

use crate::access_log::{Entry, Note};
use crate::flags::ResponseFlags;
use crate::live::{ConnectError, Opened};
use crate::metrics::Counter;
use crate::outlet::{Bound, LocalCaller, Outlet, workload_labels};
use crate::proxy_protocol::PrivatePools;
use crate::record::{Peer, push_service};
use crate::tunnel::{Moved, TunnelEnd, TunnelLimits, reset, tunnel};
use crate::worker::Worker;

/// A connection to the server, made before or after the client spoke; or why there is none.
pub(crate) struct Early {
    decision: TcpDecision,
    bound: Option<Rc<Bound>>,
    endpoint: Option<usize>,
    io: Result<(TcpStream, Opened), ResponseFlags>,
    /// What connecting told about the endpoint.
    sign: Option<Sign>,
}

impl Early {
    fn failed(decision: TcpDecision, bound: Option<Rc<Bound>>, flags: ResponseFlags) -> Self {
        Self { decision, bound, endpoint: None, io: Err(flags), sign: None }
    }

    /// The server's socket, if there is one.
    pub(crate) fn io(&self) -> Option<&TcpStream> {
        self.io.as_ref().ok().map(|(io, _)| io)
    }

    /// The client turned out to speak HTTP: the connection waits in the pool for a request that goes there.
    pub(crate) fn keep_for_http(early: Option<Self>) {
        if let Some(Self { io: Ok((io, opened)), .. }) = early {
            opened.adopt(io);
        }
    }
}

/// Decides where the connection goes, and connects.
pub(crate) async fn connect(
    worker: &Rc<Worker>,
    caller: &Rc<LocalCaller>,
    outlet: &Rc<Outlet>,
    peer: Peer,
    private: &PrivatePools,
    server_name: Option<&str>,
) -> Early {
    let Some(table) = outlet.tcp() else {
        return Early::failed(TcpDecision::Reject, None, ResponseFlags::NO_ROUTE_FOUND);
    };
    let decision =
        decide_tcp(table, peer.dialled.ip().to_canonical(), server_name, &mut *worker.rng.borrow_mut());
    let bound = match decision {
        TcpDecision::Forward { .. } => match table.forward(decision) {
            Some((_, destination)) => caller.bind_for(outlet, &destination.cluster, server_name),
            None => return Early::failed(decision, None, ResponseFlags::NO_ROUTE_FOUND),
        },
        TcpDecision::Passthrough => caller.bind(outlet, outlet.passthrough()),
        TcpDecision::Reject => return Early::failed(decision, None, ResponseFlags::NO_ROUTE_FOUND),
    };
    let bound = if bound.is_pending() { caller.settled(outlet, bound).await } else { bound };
    match bound.cluster.availability {
        Availability::Known => {}
        Availability::Missing(_) => {
            return Early::failed(decision, Some(bound), ResponseFlags::NO_CLUSTER_FOUND);
        }
        Availability::Refused(_) => {
            return Early::failed(decision, Some(bound), ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        }
    }
    if bound.is_unprepared() {
        bound.prepare().await;
    }
    let hash = bound.cluster.policy.consistent_hash.as_ref();
    let hash = hash.and_then(|hash| hash.key.as_ref()?.of_connection(caller.source_ip(peer, outlet.target)));
    let picked = bound.pick(&Ask { hash, ..Ask::default() }, &mut *worker.rng.borrow_mut());
    let Some((endpoint, pool)) = picked.and_then(|index| Some((index, bound.pools.get(index)?.clone())))
    else {
        return Early::failed(decision, Some(bound), ResponseFlags::NO_HEALTHY_UPSTREAM);
    };
    let pool = match bound.cluster.policy.proxy_protocol {
        Some(version) => private.pool(&pool, version, caller.source_ip(peer, outlet.target), peer),
        None => pool,
    };
    let io = pool.tcp(&bound.cluster.policy.connection_pool).await;
    let sign = match &io {
        Ok(_) => Some(Sign::Opened),
        Err(ConnectError::Failed(_)) => Some(Sign::Failed),
        Err(ConnectError::TimedOut) => Some(Sign::TimedOut),
        Err(ConnectError::Overflow) => None,
    };
    let io = io.map_err(|error| match error {
        ConnectError::Overflow => ResponseFlags::UPSTREAM_OVERFLOW,
        ConnectError::Failed(_) | ConnectError::TimedOut => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
    });
    Early { decision, bound: Some(bound), endpoint: Some(endpoint), io, sign }
}

/// Serves an opaque connection to its end.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    caller: &Rc<LocalCaller>,
    outlet: &Rc<Outlet>,
    peer: Peer,
    private: &PrivatePools,
    client: TcpStream,
    early: Option<Early>,
) {
    let started = Instant::now();
    let mut server_name = None;
    let early = match early {
        Some(early) => early,
        None => {
            if outlet.tcp().is_some_and(|table| table.needs_sni) {
                server_name = crate::client_hello::server_name(&client).await;
            }
            connect(worker, caller, outlet, peer, private, server_name.as_deref()).await
        }
    };
    // Not when it was made: a connection that HTTP is spoken on is judged by its answers.
    if let Early { bound: Some(bound), endpoint: Some(endpoint), sign: Some(sign), .. } = &early {
        bound.report(&worker.shard, *endpoint, *sign);
    }
    let mut record = TcpRecord {
        worker,
        caller,
        outlet,
        peer,
        started,
        server_name,
        moved: Moved::default(),
        flags: ResponseFlags::NONE,
        upstream_local: None,
        labels: None,
        early,
    };
    let (upstream, _opened) = match std::mem::replace(&mut record.early.io, Err(ResponseFlags::NONE)) {
        Ok(connected) => connected,
        Err(flags) => {
            record.flags = flags;
            // The application's connect() has succeeded already; a reset is how it learns that there is nobody.
            reset(&client);
            return;
        }
    };
    record.upstream_local = upstream.local_addr().ok();
    let labels: Arc<str> = record.render_labels(ResponseFlags::NONE).into();
    worker.shard.tcp_opened(&labels);
    record.labels = Some(labels);
    let pool = record.early.bound.as_ref().map(|bound| &bound.cluster.policy.connection_pool);
    let limits = pool.map_or_else(TunnelLimits::default, |pool| TunnelLimits {
        idle: pool.tcp_idle_timeout,
        duration: pool.max_connection_duration,
    });
    let end = tunnel(&client, &upstream, &worker.scratch, limits, &record.moved).await;
    record.flags.insert(match end {
        TunnelEnd::Complete | TunnelEnd::TooOld => ResponseFlags::NONE,
        TunnelEnd::ClientReset => ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
        TunnelEnd::UpstreamReset => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
        TunnelEnd::Idle => ResponseFlags::STREAM_IDLE_TIMEOUT,
    });
}

/// Writes the record when the connection goes, also when its task is dropped.
struct TcpRecord<'a> {
    worker: &'a Rc<Worker>,
    caller: &'a Rc<LocalCaller>,
    outlet: &'a Rc<Outlet>,
    peer: Peer,
    started: Instant,
    server_name: Option<String>,
    moved: Moved,
    flags: ResponseFlags,
    upstream_local: Option<std::net::SocketAddr>,
    /// Of the metrics, once it was opened.
    labels: Option<Arc<str>>,
    early: Early,
}

impl TcpRecord<'_> {
    fn endpoint(&self) -> Option<(&Bound, usize)> {
        Some((self.early.bound.as_deref()?, self.early.endpoint?))
    }

    /// Envoy settles the flags when it first reports a connection: none while it is open, the reason if it never was.
    fn render_labels(&self, flags: ResponseFlags) -> String {
        let workload = self
            .endpoint()
            .and_then(|(bound, index)| bound.cluster.endpoints.get(index))
            .map(|endpoint| &*endpoint.workload);
        let mut out = format!("reporter=\"source\",{},", self.caller.source_labels);
        out.push_str(&workload_labels("destination", workload, true));
        push_service(&mut out, self.early.bound.as_ref().map(|bound| &*bound.cluster));
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            ",request_protocol=\"tcp\",response_flags=\"{flags}\",connection_security_policy=\"none\""
        );
        out
    }
}

impl Drop for TcpRecord<'_> {
    fn drop(&mut self) {
        let worker = self.worker;
        let (received, sent) = (self.moved.received.get(), self.moved.sent.get());
        match &self.labels {
            Some(labels) => worker.shard.tcp_closed(labels, received, sent),
            None => {
                worker.shard.count(Counter::OpaqueFailed);
                // Without a route there is no service either: Istio's metrics say nothing then.
                if self.early.bound.is_some() {
                    let labels: Arc<str> = self.render_labels(self.flags).into();
                    worker.shard.tcp_opened(&labels);
                    worker.shard.tcp_closed(&labels, received, sent);
                }
            }
        }
        let rule = self.outlet.tcp().and_then(|table| table.forward(self.early.decision)?.0.rule.clone());
        let rule_id = rule.as_ref().map(|rule| rule.to_string());
        if let Some(id) = &rule_id {
            worker.shard.rule(&id.as_str().into());
        }
        if !worker.log.is_on() {
            return;
        }
        let note = Note::none();
        worker.log.append(&Entry {
            started: self.started,
            note: &note,
            protocol: "-",
            status: 0,
            grpc_status: None,
            flags: self.flags,
            details: "",
            received,
            sent,
            duration: self.started.elapsed(),
            upstream_time: None,
            upstream_host: self.endpoint().and_then(|(bound, index)| Some(bound.pools.get(index)?.address)),
            upstream_cluster: self.early.bound.as_ref().map_or("", |bound| &bound.cluster.name),
            upstream_local: self.upstream_local,
            downstream_local: self.peer.dialled,
            downstream_remote: self.peer.remote,
            sni: self.server_name.as_deref().unwrap_or(""),
            route_name: rule.as_ref().map_or("", |rule| &rule.route_name),
            rule: rule_id.as_deref().unwrap_or(""),
            generation: self.outlet.generation,
            source: &self.caller.caller.id,
        });
    }
}
