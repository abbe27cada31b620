//! `explain` says what routing does: one request, decided many times, against one explanation.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use undermesh_core::client::Client;
use undermesh_core::edits::Edits;
use undermesh_core::explain::{Explanation, OutcomeName, Request, RequestAnswer, explain};
use undermesh_core::route::{self, Abort, Decision, Facts, HttpTable, Outcome, decide};
use undermesh_core::snapshot::Snapshot;
use undermesh_core::view::{HttpVersion, RequestView};

use crate::chance::Chance;

/// A request as a codec would hold it.
#[derive(Debug)]
pub struct Head<'a> {
    request: &'a Request,
    target: String,
    authority: String,
}

impl<'a> Head<'a> {
    /// `None` if its path is malformed. Without a Host the dialled address is it.
    pub fn new(request: &'a Request, snapshot: &Snapshot) -> Option<Self> {
        let target = request.path.as_deref().unwrap_or("/");
        let target = snapshot.normalization().apply(target).ok()?.into_owned();
        let dialled = || request.address.map(|it| SocketAddr::new(it, request.port).to_string());
        let authority = request.authority.clone().or_else(dialled).unwrap_or_default();
        Some(Self { request, target, authority })
    }
}

impl RequestView for Head<'_> {
    fn version(&self) -> HttpVersion {
        HttpVersion::Http1
    }
    fn method(&self) -> &str {
        self.request.method.as_deref().unwrap_or("GET")
    }
    fn scheme(&self) -> &str {
        self.request.scheme.as_deref().unwrap_or("http")
    }
    fn authority(&self) -> &str {
        &self.authority
    }
    fn target(&self) -> &str {
        &self.target
    }
    fn header_lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.request.headers.get(name).map(Vec::as_slice).unwrap_or_default().iter().map(String::as_bytes)
    }
}

/// Who calls, from the request's source.
pub fn client(request: &Request, snapshot: &Snapshot) -> Client {
    if let Some(gateway) = &request.gateway {
        return Client::gateway(&gateway.namespace, gateway.labels.clone());
    }
    let source = &request.source;
    let pod = source.pod.as_deref().and_then(|pod| pod.split_once('/'));
    let of_pod = pod.map(|(namespace, name)| {
        let unknown = || Client { workload: name.into(), ..Client::mesh(namespace, []) };
        snapshot.client_of_pod(namespace, name).unwrap_or_else(unknown)
    });
    let mut client = of_pod.unwrap_or_else(|| Client::mesh("default", []));
    if let Some(namespace) = &source.namespace {
        client.namespace = namespace.as_str().into();
    }
    if let Some(labels) = &source.labels {
        client.labels = labels.clone();
    }
    client
}

/// Decides about a request `times` times, and says where that is not what `explain` says; `Ok` with the explanation if it
/// always is. Requests that are not decided by an HTTP table are answered without a look.
///
/// # Errors
/// The first difference, in words.
pub fn check(
    snapshot: &Snapshot,
    request: &Request,
    times: usize,
    chance: &mut Chance,
) -> Result<Explanation, String> {
    let answer = explain(snapshot, request);
    let Some(head) = Head::new(request, snapshot) else {
        return if answer.status == Some(400) {
            Ok(answer)
        } else {
            Err("a malformed path is not 400".to_owned())
        };
    };
    let client = client(request, snapshot);
    if request.gateway.is_some() {
        for port in snapshot.gateway(&client).iter().filter(|port| port.port == request_port(request)) {
            each(&port.http, &head, &answer, times, chance)?;
        }
        return Ok(answer);
    }
    let Some(address) = request.address else { return Ok(answer) };
    let dialled = SocketAddr::new(address, request.port);
    let outbound = snapshot.outbound(&client, dialled);
    let is_captured = outbound.service.is_some() || snapshot.captures_address(dialled);
    let is_http =
        outbound.protocol.is_http() || outbound.protocol == undermesh_core::inventory::Protocol::Auto;
    if is_captured && is_http {
        each(&outbound.http, &head, &answer, times, chance)?;
    }
    Ok(answer)
}

fn request_port(request: &Request) -> u16 {
    request.gateway.as_ref().map_or(request.port, |gateway| gateway.port)
}

fn each(
    table: &HttpTable,
    head: &Head<'_>,
    answer: &Explanation,
    times: usize,
    chance: &mut Chance,
) -> Result<(), String> {
    let mut drawn: BTreeMap<usize, usize> = BTreeMap::new();
    for _ in 0..times {
        let decision = decide(table, head, chance, &mut ());
        one(table, head, answer, &decision, &mut drawn)
            .map_err(|what| format!("{what}\n{decision:?}\n{answer:#?}"))?;
    }
    // Shares are told as they are drawn, as far as so many draws can show.
    let forwarded: usize = drawn.values().sum();
    for (at, destination) in answer.destinations.iter().enumerate().filter(|_| forwarded >= 500) {
        let share = drawn.get(&at).copied().unwrap_or_default() as f64 / forwarded as f64;
        if (share - destination.share).abs() > 0.1 {
            return Err(format!(
                "destination {at}: share {share}, explained as {}\n{answer:#?}",
                destination.share
            ));
        }
    }
    Ok(())
}

fn one(
    table: &HttpTable,
    head: &Head<'_>,
    answer: &Explanation,
    decision: &Decision,
    drawn: &mut BTreeMap<usize, usize>,
) -> Result<(), String> {
    let route = decision.route.and_then(|index| table.route(index));
    let rule = route.and_then(|route| route.rule.as_deref());
    let id = rule.map(|rule| (rule.to_string(), rule.match_index, rule.route_name.to_string()));
    let explained = answer.rule.as_ref().map(|rule| {
        let id = format!("{}/{}/{}#{}", rule.kind, rule.namespace, rule.name, rule.route);
        (id, rule.match_index, rule.route_name.clone())
    });
    same("rule", &id, &explained)?;
    if let Some(fault) = &answer.fault {
        let possible = decision.abort.is_none_or(|abort| match abort {
            Abort::Http(status) => fault.abort_status == Some(status),
            Abort::Grpc(status) => fault.abort_grpc_status == Some(status),
        });
        let delay = decision.delay.is_none_or(|it| fault.delay_ms == u64::try_from(it.as_millis()).ok());
        if !possible || !delay {
            return Err("a fault that is not explained".to_owned());
        }
    } else if decision.abort.is_some() || decision.delay.is_some() {
        return Err("a fault where none is explained".to_owned());
    }
    if answer.outcome == OutcomeName::Abort {
        // The error is certain; what would have become of the request is nobody's business.
        return if decision.abort.is_some() { Ok(()) } else { Err("no abort was drawn".to_owned()) };
    }
    let outcome = match decision.outcome {
        Outcome::Forward { .. } => OutcomeName::Forward,
        Outcome::Redirect | Outcome::HttpsRedirect => OutcomeName::Redirect,
        Outcome::DirectResponse | Outcome::Preflight => OutcomeName::DirectResponse,
        Outcome::Passthrough => OutcomeName::Passthrough,
        Outcome::NoRoute | Outcome::Reject { .. } => OutcomeName::Reject,
    };
    same("outcome", &outcome, &answer.outcome)?;
    match decision.outcome {
        Outcome::Forward { destination } => {
            *drawn.entry(usize::from(destination)).or_default() += 1;
            forwarded(table, head, answer, decision, destination)
        }
        Outcome::Redirect | Outcome::HttpsRedirect => {
            let mut location = Vec::new();
            let code = route::redirect(table, decision, head, &mut location);
            let explained = answer.redirect.as_ref().map(|it| (Some(it.code), it.location.clone()));
            same("redirect", &Some((code, String::from_utf8_lossy(&location).into_owned())), &explained)
        }
        Outcome::DirectResponse => {
            let sent = route::direct_response(table, decision).map(|(status, _)| status);
            same("direct response", &sent, &answer.direct_response.as_ref().map(|it| it.status))
        }
        Outcome::Reject { status } => same("status", &Some(status), &answer.status),
        Outcome::NoRoute => same("status", &(Some(404), Some("NR")), &(answer.status, answer.flag)),
        Outcome::Preflight => same("status", &Some(200), &answer.status),
        Outcome::Passthrough => Ok(()),
    }
}

fn forwarded(
    table: &HttpTable,
    head: &Head<'_>,
    answer: &Explanation,
    decision: &Decision,
    destination: u16,
) -> Result<(), String> {
    let explained =
        answer.destinations.get(usize::from(destination)).ok_or("a destination that is not explained")?;
    if explained.share <= 0.0 {
        return Err("a destination whose share is explained as none".to_owned());
    }
    let route = decision.route.and_then(|index| table.route(index)).ok_or("no route")?;
    let cluster = &route.destinations.get(usize::from(destination)).ok_or("no destination")?.cluster;
    same("cluster", &cluster.name.to_string(), &explained.cluster)?;
    let usable: Vec<_> = cluster.endpoints.iter().map(|it| it.address.to_string()).collect();
    let listed =
        explained.endpoints.iter().filter(|it| it.excluded.is_none() && explained.discovery == "endpoints");
    let listed: Vec<_> = listed
        .map(|it| {
            if it.address.contains(':') {
                format!("[{}]:{}", it.address, it.port)
            } else {
                format!("{}:{}", it.address, it.port)
            }
        })
        .collect();
    same("endpoints", &usable, &listed)?;
    let mut edits = Edits::default();
    route::request_edits(table, decision, head, &Facts::default(), &mut edits);
    same("request", &Some(sent(head, &edits)), &explained.request)
}

/// The request as its upstream sees it.
fn sent(head: &Head<'_>, edits: &Edits) -> RequestAnswer {
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in edits.lines() {
        headers.entry(name.to_owned()).or_default().push(String::from_utf8_lossy(value).into_owned());
    }
    let removed = edits.dropped().filter(|name| !headers.contains_key(*name)).map(str::to_owned).collect();
    RequestAnswer {
        path: edits.target().unwrap_or_else(|| head.target()).to_owned(),
        authority: edits.authority().unwrap_or_else(|| head.authority()).to_owned(),
        headers_removed: removed,
        headers,
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, decided: &T, explained: &T) -> Result<(), String> {
    if decided == explained {
        return Ok(());
    }
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(text, "{what}: decided {decided:?}, explained {explained:?}");
    Err(text)
}
