//! Explaining: what would become of a request, and why.
//!
//! Runs the very functions the proxy runs, [`Snapshot::outbound`] or [`Snapshot::gateway`] and then
//! [`route::decide`](crate::route::decide), with an observer that writes down each step. Shares are computed from the tables,
//! not sampled.

mod answer;
mod hashing;
mod request;
mod result;
mod trace;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rand_core::RngCore;

use crate::client::{Client, ClientKind};
use crate::cluster::{Availability, Cluster, Discovery};
use crate::edits::Edits;
use crate::host::HostKey;
use crate::route::{
    self, Abort, Decision, Facts, HttpTable, Outcome, Percent, Route, TcpAction, TcpDecision, TcpTable,
    WeightedDestination,
};
use crate::snapshot::{Service, Snapshot};
use crate::view::RequestView;

use answer::Answer;
use request::View;
pub use request::{BadRequests, GatewaySource, ProtocolName, Request, Requests, Source};
pub use result::{
    CorsAnswer, DecidedBy, Destination, DirectAnswer, EndpointAnswer, Explanation, FaultAnswer, MirrorAnswer,
    OutcomeName, PolicyAnswer, RedirectAnswer, RequestAnswer, ResponseAnswer, Results, Retries, Rule,
    ServiceName, VERSION,
};
use trace::Trace;

/// Answers all requests.
pub fn explain_all(snapshot: &Snapshot, requests: &Requests) -> Results {
    let results = requests.requests.iter().map(|request| explain(snapshot, request)).collect();
    Results { version: VERSION, generation: snapshot.generation(), results }
}

/// Answers one request. Total: any request has an answer.
pub fn explain(snapshot: &Snapshot, request: &Request) -> Explanation {
    let mut trace = Trace::default();
    match &request.gateway {
        Some(gateway) => at_gateway(snapshot, request, gateway, trace),
        None => {
            let client = client(snapshot, &request.source, &mut trace);
            from_mesh(snapshot, request, &client, trace)
        }
    }
}

/// The answer to a request whose connection nobody looks at, for the reason in `line`.
pub fn untouched(request: &Request, line: String) -> Explanation {
    let mut trace = Trace::default();
    trace.push(line);
    Answer::new(request, DecidedBy::None).finish(OutcomeName::Passthrough, trace)
}

/// Where a request comes from.
struct From {
    /// What Host says if the request has none.
    dialled: String,
    /// The client's address, if known.
    source: Option<IpAddr>,
}

/// Routes do not depend on chance, and shares are computed; whatever is drawn here is not looked at.
struct NoChance;

impl RngCore for NoChance {
    fn next_u32(&mut self) -> u32 {
        0
    }

    fn next_u64(&mut self) -> u64 {
        0
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

fn client(snapshot: &Snapshot, source: &Source, trace: &mut Trace) -> Client {
    let pod = source.pod.as_deref().map(|pod| pod.split_once('/').unwrap_or(("default", pod)));
    let mut client = match pod {
        None => {
            Client { service_account: "default".into(), namespace: "default".into(), ..Client::default() }
        }
        Some((namespace, name)) => snapshot.client_of_pod(namespace, name).unwrap_or_else(|| {
            trace
                .push(format!("no Pod {namespace}/{name} is known; only what the request says of it counts"));
            Client { namespace: namespace.into(), workload: name.into(), ..Client::default() }
        }),
    };
    if let Some(namespace) = &source.namespace {
        client.namespace = namespace.as_str().into();
    }
    if let Some(labels) = &source.labels {
        client.labels = labels.clone();
    }
    if let Some(account) = &source.service_account {
        client.service_account = account.as_str().into();
    }
    if let Some(locality) = &source.locality {
        client.locality = locality.as_str().into();
    }
    if let Some(node) = &source.node {
        client.node = node.as_str().into();
    }
    if let Some(address) = source.address {
        client.addresses = vec![address];
    }
    client
}

fn at_gateway(
    snapshot: &Snapshot,
    request: &Request,
    gateway: &GatewaySource,
    mut trace: Trace,
) -> Explanation {
    let client = Client {
        kind: ClientKind::Gateway,
        labels: gateway.labels.clone(),
        namespace: gateway.namespace.as_str().into(),
        locality: request.source.locality.as_deref().unwrap_or_default().into(),
        node: request.source.node.as_deref().unwrap_or_default().into(),
        ..Client::default()
    };
    // Without an address the gateway's own is any that no server names.
    let local = request.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let first = || snapshot.gateway(&client).into_iter().find(|port| port.port == gateway.port);
    let Some(port) = snapshot.gateway_port(&client, gateway.port, local).or_else(first) else {
        trace.push(format!("no server of a Gateway that selects this workload has port {}", gateway.port));
        return Answer::new(request, DecidedBy::None).finish(OutcomeName::Reject, trace);
    };
    for server in &port.servers {
        let state = server.idle.as_ref().map_or_else(
            || format!("listens on {} for {:?}", port.port, server.protocol),
            |why| format!("serves nothing: {why}"),
        );
        trace
            .push(format!("Gateway {}/{} server {} {state}", server.namespace, server.gateway, server.index));
    }
    if !port.is_served() {
        trace.push(format!("no rule is bound to a server of port {}: nothing listens", port.port));
        return Answer::new(request, DecidedBy::None).finish(OutcomeName::Reject, trace);
    }
    let mut answer = Answer::new(request, DecidedBy::Proxy);
    if !port.protocol.is_http() {
        return tcp(request, &port.tcp, local, request.source.address, answer, trace);
    }
    if request.protocol == ProtocolName::Http10 {
        trace.push("gateways refuse HTTP/1.0: 426".to_owned());
        answer.status(426, Some("DPE"));
        return answer.finish(OutcomeName::Reject, trace);
    }
    if !request.protocol.is_http() {
        trace.push("the port speaks HTTP in clear text, which this is not: 400".to_owned());
        answer.status(400, Some("DPE"));
        return answer.finish(OutcomeName::Reject, trace);
    }
    // A gateway's own address is nobody's business here; Host falls back to nothing useful.
    let account = |host: &HostKey| snapshot.account_of_gateway(&client, host, gateway.port);
    let from = From { dialled: String::new(), source: request.source.address };
    http(snapshot, request, &port.http, from, answer, trace, &account)
}

fn from_mesh(snapshot: &Snapshot, request: &Request, client: &Client, mut trace: Trace) -> Explanation {
    // Without an address the client asks DNS; what DNS does not know, only Host can tell, as on a captured port.
    let mut named = None;
    let address = request.address.or_else(|| resolve(snapshot, request, client, &mut named, &mut trace));
    let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let dialled = SocketAddr::new(address, request.port);
    if let Some(service) = named.filter(|service| service.port(request.port).is_none()) {
        let ports: Vec<_> = service.ports.iter().map(|port| port.number.to_string()).collect();
        let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
        trace.push(format!("{} has no port {}; its ports are: {ports}", service.host, request.port));
    }
    let outbound = snapshot.outbound(client, dialled);
    let captured = outbound.service.is_some() || snapshot.captures_address(dialled);
    let mut answer = Answer::new(request, if captured { DecidedBy::Proxy } else { DecidedBy::None });
    match &outbound.service {
        Some(service) => {
            let how = snapshot.how_dialled(&service.host, address);
            trace.push(format!("{dialled} is port {} of {}: {how}", service.port, service.host));
            answer.service(&service.host, service.port);
        }
        None => {
            let fate = if captured { "the port is captured" } else { "the connection is not touched" };
            trace.push(if address.is_unspecified() {
                format!("an address that is no service's, port {}: {fate}", request.port)
            } else {
                format!("{dialled} is no service that the client sees; {fate}")
            });
        }
    }
    if !captured {
        return answer.finish(OutcomeName::Passthrough, trace);
    }
    if request.protocol == ProtocolName::Http10 && outbound.protocol.is_http() {
        trace.push("HTTP/1.0 is refused where HTTP is declared: 426".to_owned());
        answer.status(426, Some("DPE"));
        return answer.finish(OutcomeName::Reject, trace);
    }
    if request.protocol.is_http()
        && (outbound.protocol.is_http() || outbound.protocol == crate::inventory::Protocol::Auto)
    {
        let account = |host: &HostKey| snapshot.account_of_mesh(client, host, request.port, true);
        let from = From { dialled: dialled.to_string(), source: client.addresses.first().copied() };
        return http(snapshot, request, &outbound.http, from, answer, trace, &account);
    }
    if let Some(service) = &outbound.service {
        let lines = snapshot.account_of_mesh(client, &HostKey::parse(&service.host), request.port, false);
        trace.lines.extend(lines);
    }
    tcp(request, &outbound.tcp, address, client.addresses.first().copied(), answer, trace)
}

/// What cluster DNS answers a pod of the client's namespace for the authority; `named`: the service that it names.
fn resolve<'a>(
    snapshot: &'a Snapshot,
    request: &Request,
    client: &Client,
    named: &mut Option<&'a Service>,
    trace: &mut Trace,
) -> Option<IpAddr> {
    let host = crate::host::without_port(request.authority.as_deref()?);
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return Some(address);
    }
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let names = [
        host.clone(),
        format!("{host}.{}.svc.cluster.local", client.namespace),
        format!("{host}.svc.cluster.local"),
        format!("{host}.cluster.local"),
    ];
    let Some(found) = names.iter().find_map(|name| snapshot.service_named(name)) else {
        trace.push(format!("no service of the mesh is named {host}: its address is for DNS to tell"));
        return None;
    };
    *named = Some(found);
    let of_endpoint = || found.ports.first()?.endpoints.first().map(|endpoint| endpoint.address.ip());
    let Some(address) = found.addresses.first().copied().or_else(of_endpoint) else {
        trace.push(format!("{host} is {}, which has no address here: it is for DNS to tell", found.host));
        return None;
    };
    trace.push(format!("{host} is {address} to a client of namespace {}: {}", client.namespace, found.host));
    Some(address)
}

fn tcp(
    request: &Request,
    table: &TcpTable,
    dialled: IpAddr,
    source: Option<IpAddr>,
    mut answer: Answer,
    mut trace: Trace,
) -> Explanation {
    let decision = route::decide_tcp(table, dialled, request.sni.as_deref(), &mut NoChance);
    let Some((route, _)) = table.forward(decision) else {
        let refused = decision == TcpDecision::Reject;
        trace.push(match (refused, table.otherwise) {
            (true, TcpAction::Reject) => "no route for the connection: closed".to_owned(),
            (true, TcpAction::Passthrough) => "the route has no destination: closed".to_owned(),
            (false, _) => "no route for the connection: passed through".to_owned(),
        });
        return answer.finish(if refused { OutcomeName::Reject } else { OutcomeName::Passthrough }, trace);
    };
    trace.push(match &route.rule {
        Some(rule) => format!("{rule}: takes the connection"),
        None => "the service's default route takes the connection".to_owned(),
    });
    tell_names(&route.destinations, &mut trace);
    tell_failures(&route.destinations, "is closed", &mut trace);
    answer.rule(route.rule.as_deref());
    let failure = answer.destinations(
        &route.destinations,
        |cluster| hashing::of_connection(cluster, source, &mut trace),
        |_| (None, None),
    );
    if let Some(flag) = failure {
        // There is no response to have a status: the connection is closed.
        answer.flag(flag);
    }
    answer.finish(OutcomeName::Forward, trace)
}

fn http(
    snapshot: &Snapshot,
    request: &Request,
    table: &HttpTable,
    from: From,
    mut answer: Answer,
    mut trace: Trace,
    account: &dyn Fn(&HostKey) -> Vec<String>,
) -> Explanation {
    let target = request.path.as_deref().unwrap_or("/");
    let Ok(target) = snapshot.normalization().apply(target) else {
        trace.push("the path is malformed: 400");
        answer.status(400, Some("DPE"));
        return answer.finish(OutcomeName::Reject, trace);
    };
    let view = View::new(request, target.into_owned(), from.dialled);
    let decision = route::decide(table, &view, &mut NoChance, &mut trace);
    trace.tell_of_host(account);
    let Some(route) = decision.route.and_then(|index| table.route(index)) else {
        return without_route(table, &decision, &view, answer, trace);
    };
    answer.rule(route.rule.as_deref());
    answer.fault(&route.fault);
    let aborts = route.fault.abort.filter(|abort| abort.percent == Percent::ALL);
    match decision.outcome {
        Outcome::Forward { .. } => {
            tell_names(&route.destinations, &mut trace);
            tell_failures(&route.destinations, "answers 503", &mut trace);
            forward(table, &decision, route, &view, from.source, &mut answer, &mut trace);
        }
        Outcome::Preflight => answer.direct_response(200, b""),
        Outcome::Redirect => redirect(table, &decision, &view, &mut answer),
        Outcome::DirectResponse => {
            if let Some((status, body)) = route::direct_response(table, &decision) {
                answer.direct_response(status, body);
            }
        }
        Outcome::Reject { status } => {
            if let route::Action::Refused(why) = &route.action {
                trace.push(format!("the route cannot be carried out: {why}"));
            }
            answer.status(status, None);
        }
        Outcome::NoRoute | Outcome::Passthrough | Outcome::HttpsRedirect => {}
    }
    if let Some(cors) = route.cors.as_deref().filter(|_| matches!(route.action, route::Action::Forward)) {
        let mut edits = Edits::default();
        route::cors_edits(table, &decision, &view, &mut edits);
        answer.cors(cors, cors.judge(&view), &edits);
    }
    if let Some(abort) = aborts {
        let status = match abort.abort {
            Abort::Http(status) if !view.is_grpc() => status,
            Abort::Http(_) | Abort::Grpc(_) => 200,
        };
        answer.status(status, Some("FI"));
        return answer.finish(OutcomeName::Abort, trace);
    }
    let outcome = match decision.outcome {
        Outcome::Forward { .. } => OutcomeName::Forward,
        Outcome::Redirect | Outcome::HttpsRedirect => OutcomeName::Redirect,
        Outcome::DirectResponse | Outcome::Preflight => OutcomeName::DirectResponse,
        Outcome::Passthrough => OutcomeName::Passthrough,
        Outcome::NoRoute | Outcome::Reject { .. } => OutcomeName::Reject,
    };
    answer.finish(outcome, trace)
}

fn without_route(
    table: &HttpTable,
    decision: &Decision,
    view: &View<'_>,
    mut answer: Answer,
    trace: Trace,
) -> Explanation {
    let outcome = match decision.outcome {
        Outcome::Passthrough => OutcomeName::Passthrough,
        Outcome::HttpsRedirect => {
            redirect(table, decision, view, &mut answer);
            OutcomeName::Redirect
        }
        Outcome::Reject { status } => {
            answer.status(status, None);
            OutcomeName::Reject
        }
        _ => {
            answer.status(404, Some("NR"));
            OutcomeName::Reject
        }
    };
    answer.finish(outcome, trace)
}

fn redirect(table: &HttpTable, decision: &Decision, view: &View<'_>, answer: &mut Answer) {
    let mut location = Vec::new();
    if let Some(code) = route::redirect(table, decision, view, &mut location) {
        answer.redirect(String::from_utf8_lossy(&location).into_owned(), code);
    }
}

/// Destinations that fail, with their part of the requests and what becomes of those.
fn tell_failures(destinations: &[WeightedDestination], fate: &str, trace: &mut Trace) {
    let total: u64 = destinations.iter().map(|it| u64::from(it.weight)).sum();
    for destination in destinations {
        let cluster = &destination.cluster;
        let Some(flag) = answer::failure(cluster) else { continue };
        let part = match (destinations.len(), total) {
            (1, _) => "everything".to_owned(),
            (_, 0) => continue,
            _ if destination.weight == 0 => continue,
            _ => format!("{:.1} %", f64::from(destination.weight) * 100.0 / total as f64),
        };
        let why = match cluster.availability {
            Availability::Known if cluster.excluded.is_empty() => "it has no endpoint".to_owned(),
            Availability::Known => "none of its endpoints may be used".to_owned(),
            ref other => other.to_string(),
        };
        trace.push(format!("{}: {why}, so {part} {fate} ({flag})", cluster.name));
    }
}

/// What no file can tell.
fn tell_names(destinations: &[WeightedDestination], trace: &mut Trace) {
    for destination in destinations {
        let cluster = &destination.cluster;
        if matches!(cluster.discovery, Discovery::Dns(_) | Discovery::DynamicDns(_)) {
            trace.push(format!("the addresses of {} are resolved at run time", cluster.name));
        }
    }
}

fn forward(
    table: &HttpTable,
    decision: &Decision,
    route: &Route,
    view: &View<'_>,
    source: Option<IpAddr>,
    answer: &mut Answer,
    trace: &mut Trace,
) {
    answer.forwarding(route);
    let key = |cluster: &Cluster| hashing::of_request(cluster, view, source, trace);
    let failure = answer.destinations(&route.destinations, key, |destination| {
        let decision = Decision { outcome: Outcome::Forward { destination }, ..*decision };
        let facts = Facts::default();
        let (mut request, mut response) = (Edits::default(), Edits::default());
        route::request_edits(table, &decision, view, &facts, &mut request);
        route::response_edits(table, &decision, None::<&answer::NoResponse>, &facts, &mut response);
        route::cors_edits(table, &decision, view, &mut response);
        (Some(answer::request(view, &request)), Some(answer::response(&response)))
    });
    if let Some(flag) = failure {
        answer.status(503, Some(flag));
    }
}

#[cfg(test)]
mod tests;
