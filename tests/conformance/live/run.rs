//! Runs one case: upstreams and proxies are started, its groups of requests sent in order, and what came of each compared.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::case::{Case, Expect, Protocol, Request, lines};
use crate::check::check;
use crate::client::{Kept, Outcome, Sending, Way, send};
use crate::group::Group;
use crate::mesh::{Logs, Mesh, gateway_addresses};
use crate::topology::Topology;
use crate::upstream::{self, Record};
use crate::world::{World, array, text};
use crate::{explained, token, twin};

/// Copies are waited for this long after the last response.
const MIRRORS: Duration = Duration::from_secs(2);
/// The access log is flushed a few times a second.
const LOG_LINES: Duration = Duration::from_secs(5);

/// Runs the case in the namespace of this thread. The error says request, what was expected and what was seen.
pub(crate) fn run(case: &Value) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut running = Running::start(with_keys(case))?;
        let result = running.requests().await;
        running.mesh.end();
        result
    })
}

/// The key set of our tokens where the configuration asks for it.
fn with_keys(case: &Value) -> Value {
    match case {
        Value::String(text) if text.contains("<test jwks>") => {
            text.replace("<test jwks>", &token::jwks()).into()
        }
        Value::Array(items) => items.iter().map(with_keys).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, value)| (key.clone(), with_keys(value))).collect())
        }
        other => other.clone(),
    }
}

struct Running {
    raw: Value,
    case: Case,
    world: World,
    topology: Topology,
    record: Arc<Record>,
    mesh: Mesh,
    listening: BTreeSet<SocketAddr>,
    cookies: BTreeMap<String, String>,
    /// Which endpoint answered each value of `vary_header` last.
    keys: BTreeMap<String, String>,
    /// What was logged before the group.
    logs: Logs,
    /// Lines that the logs have to have together.
    expected_lines: usize,
}

/// As the type says what is wrong with a case.
fn parse(raw: &Value) -> Result<Case, String> {
    serde_path_to_error::deserialize(raw.clone())
        .map_err(|error| format!("the case is not understood: {error}"))
}

impl Running {
    fn start(raw: Value) -> Result<Self, String> {
        let case = parse(&raw)?;
        let topology = Topology::of(&case, &gateway_addresses(&case).into_values().collect())?;
        let snapshot = World::new(&raw)?.snapshot;
        let mesh = Mesh::start(&case, snapshot, &topology.zone)
            .map_err(|error| format!("cannot start the proxies: {error}"))?;
        let mut running = Self {
            world: World::new(&raw)?,
            raw,
            case,
            topology,
            record: Arc::default(),
            mesh,
            listening: BTreeSet::new(),
            cookies: BTreeMap::new(),
            keys: BTreeMap::new(),
            logs: Logs::default(),
            expected_lines: 0,
        };
        running.listen()?;
        Ok(running)
    }

    fn listen(&mut self) -> Result<(), String> {
        for (at, listening) in &self.topology.listening {
            if self.listening.insert(*at) {
                upstream::start(*at, listening.clone(), &self.record).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    async fn requests(&mut self) -> Result<(), String> {
        for request in self.case.requests.clone() {
            self.group(&request).await.map_err(|why| format!("request {}: {why}", request.id))?;
        }
        Ok(())
    }

    async fn group(&mut self, request: &Request) -> Result<(), String> {
        if let Some(wait) = request.wait {
            tokio::time::sleep(wait).await;
        }
        if let Some(id) = &request.remove_endpoint {
            let before = self.send(request).await?;
            self.keys = keys(&before, &self.record);
            self.change(|endpoints| endpoints.retain(|it| it["id"] != **id))?;
        }
        if let Some(endpoint) = &request.add_endpoint {
            self.change(|endpoints| endpoints.push(endpoint.clone()))?;
        }
        let start = self.record.count();
        let (opened, connects) = (self.record.opened(), self.mesh.connects());
        let outcomes = self.send(request).await?;
        let alternatives: Vec<&Expect> = request.expect.iter().chain(&request.expect_any).collect();
        let copies = alternatives.iter().find_map(|it| it.mirror.as_ref());
        if let Some(copies) = copies {
            let wanted: f64 = copies.iter().map(|it| it.fraction.unwrap_or(1.0)).sum();
            // A share is only known when no more come.
            let all = (copies.iter().all(|it| it.fraction.is_none_or(|it| it >= 1.0)))
                .then_some(outcomes.len() + (wanted * outcomes.len() as f64) as usize);
            let since = Instant::now();
            while since.elapsed() < MIRRORS && all.is_none_or(|all| self.record.count() - start < all) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // One too many would come now.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (logs, recorded) = self.new_logs().await;
        let dialled = self.dialled(request)?;
        let keys = keys(&outcomes, &self.record);
        let moved = moved(&std::mem::replace(&mut self.keys, keys.clone()), &keys);
        let group = Group {
            topology: &self.topology,
            config: &self.case.config,
            dialled,
            outcomes: &outcomes,
            seen: self.record.since(start),
            opened: self.record.opened() - opened,
            connects: self.mesh.connects() - connects,
            logs,
            moved,
        };
        if std::env::var_os("CONFORMANCE_TRACE").is_some() {
            eprintln!("{} {}: {}", self.case.name, request.id, group.describe());
        }
        let mut reasons = Vec::new();
        for expect in &alternatives {
            if let Err(why) = check(expect, &group, request.protocol) {
                reasons.push(why);
            }
        }
        if reasons.len() < alternatives.len() {
            recorded?;
            self.explained(request, &group)?;
            return match alternatives[..] {
                [expect] => self.twins(request, expect, &group),
                _ => Ok(()),
            };
        }
        Err(format!("{}\n    seen: {}", reasons.join(", or "), group.describe()))
    }

    fn explained(&self, request: &Request, group: &Group<'_>) -> Result<(), String> {
        if !explained::can_tell(request) {
            return Ok(());
        }
        explained::agrees(&self.world.explain(self.raw(request)?), &group.logs)
    }

    fn raw(&self, request: &Request) -> Result<&Value, String> {
        let found = array(&self.raw, "requests").iter().find(|it| it["id"] == *request.id);
        found.ok_or_else(|| format!("no request {}", request.id))
    }

    /// What holds must not hold with a wrong value in it.
    fn twins(&self, request: &Request, expect: &Expect, group: &Group<'_>) -> Result<(), String> {
        for (what, wrong) in twin::wrong(&self.raw(request)?["expect"]) {
            let wrong: Expect = serde_json::from_value(wrong).map_err(|error| format!("{what}: {error}"))?;
            if wrong != *expect && check(&wrong, group, request.protocol).is_ok() {
                return Err(format!("{what} is not looked at: it holds with a wrong value too, {wrong:?}"));
            }
        }
        Ok(())
    }

    /// Changes the endpoints of the first service.
    fn change(&mut self, change: impl FnOnce(&mut Vec<Value>)) -> Result<(), String> {
        change(self.raw["services"][0]["endpoints"].as_array_mut().ok_or("no service to change")?);
        self.case = parse(&self.raw)?;
        self.topology = Topology::of(&self.case, &gateway_addresses(&self.case).into_values().collect())?;
        self.world = World::new(&self.raw)?;
        self.mesh.apply(World::new(&self.raw)?.snapshot).map_err(|error| error.to_string())?;
        self.listen()
    }

    /// Lines of the access logs since the last group, and whether there is one for each request: no more, no less.
    async fn new_logs(&mut self) -> (Logs, Result<(), String>) {
        let since = Instant::now();
        loop {
            let now = self.mesh.logs();
            let lines = now.count();
            if lines >= self.expected_lines || since.elapsed() > LOG_LINES {
                let recorded = (lines == self.expected_lines).then_some(()).ok_or_else(|| {
                    format!("the access logs have {lines} lines by now, want {}", self.expected_lines)
                });
                self.expected_lines = lines;
                let new = now.since(&self.logs);
                self.logs = now;
                return (new, recorded);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the client dials.
    fn dialled(&self, request: &Request) -> Result<SocketAddr, String> {
        let connect = &request.connect;
        for key in connect.as_object().into_iter().flatten().map(|(key, _)| key) {
            if !["host", "address", "gateway", "port"].contains(&key.as_str()) {
                return Err(format!("connect.{key} is not understood"));
            }
        }
        let port =
            connect["port"].as_u64().and_then(|it| u16::try_from(it).ok()).ok_or("connect without port")?;
        if let Some(gateway) = connect["gateway"].as_str() {
            let addresses = gateway_addresses(&self.case);
            let address = addresses.get(gateway).ok_or_else(|| format!("there is no gateway {gateway}"))?;
            return Ok(SocketAddr::new(*address, port));
        }
        let address = match self.topology.zone.get(text(&connect["host"])) {
            // An address of its own comes before what we made up.
            Some(made_up) => {
                let own = self.world.address(connect);
                let own = own.parse().ok().filter(|_| own != crate::world::UNKNOWN);
                own.unwrap_or(*made_up)
            }
            None => {
                let address = self.world.address(connect);
                address.parse().map_err(|_| format!("{address} is no address"))?
            }
        };
        Ok(SocketAddr::new(address, port))
    }

    /// How the connections of a group leave their client.
    fn way(&mut self, request: &Request) -> Result<(Way, std::net::IpAddr), String> {
        let source = &request.source;
        let dialled = self.dialled(request)?;
        if let Some(via) = &request.via {
            let gateway = via.strip_prefix("gateway:").unwrap_or("mesh");
            if via != "mesh" && request.connect["gateway"] != *gateway {
                return Err(format!("via {via} is not what the client connects to"));
            }
        }
        if request.connect.get("gateway").is_some() {
            let from =
                source.address.filter(|_| source.external).ok_or("a gateway's client without address")?;
            return Ok((Way::Direct(dialled), from));
        }
        let (caller, from) = self.mesh.pod(source, &self.case);
        // A pod's own loopback and address never leave its kernel.
        let is_own = dialled.ip().is_loopback() || dialled.ip() == from;
        if is_own && source.endpoint.is_some() {
            return Ok((Way::Direct(SocketAddr::new(from, dialled.port())), from));
        }
        if source.mesh != Some(false) {
            return Ok((Way::Captured(caller, dialled), from));
        }
        // What kube-proxy would choose.
        let service = self.case.services.iter().find(|it| it.vip == Some(dialled.ip()));
        let to = match service {
            None => dialled,
            Some(service) => {
                let serves = (service.host(), dialled.port());
                let mut listening = self.topology.listening.iter();
                let found = listening.find(|(_, it)| it.serves.contains(&serves));
                *found.ok_or("nobody serves what the client dials")?.0
            }
        };
        Ok((Way::Direct(to), from))
    }

    async fn send(&mut self, request: &Request) -> Result<Vec<Outcome>, String> {
        let (way, from) = self.way(request)?;
        if request.via.is_some() || matches!(way, Way::Captured(..)) {
            // One of the node or the gateway, and one of every gateway on the way.
            let hops = request.expect.as_ref().and_then(|it| it.hops.as_ref()).map_or(0, Vec::len);
            self.expected_lines += request.count * (1 + hops);
        }
        let started = Instant::now();
        let next = Cell::new(0);
        let cookies = std::cell::RefCell::new(std::mem::take(&mut self.cookies));
        let this = &*self;
        let worker = || async {
            let (mut kept, mut outcomes) = (Kept::None, Vec::new());
            loop {
                let number = next.replace(next.get() + 1);
                if number >= request.count {
                    return outcomes;
                }
                if let Some(rate) = request.rate {
                    let due = started + Duration::from_secs_f64(number as f64 / rate);
                    tokio::time::sleep_until(due.into()).await;
                }
                let (sending, key) = this.sending(request, number, &way, from, &cookies.borrow());
                let mut outcome = send(&sending, &mut kept).await;
                outcome.key = key;
                if request.cookie_jar {
                    for (_, value) in outcome.headers.iter().filter(|(name, _)| name == "set-cookie") {
                        let pair = value.split(';').next().and_then(|it| it.split_once('='));
                        cookies
                            .borrow_mut()
                            .extend(pair.map(|(name, value)| (name.trim().to_owned(), value.to_owned())));
                    }
                }
                outcomes.push(outcome);
            }
        };
        let workers: Vec<_> = (0..request.concurrency).map(|_| worker()).collect();
        let outcomes = futures_util::future::join_all(workers).await.concat();
        self.cookies = cookies.into_inner();
        Ok(outcomes)
    }

    fn sending<'a>(
        &'a self,
        request: &'a Request,
        number: usize,
        way: &Way,
        from: std::net::IpAddr,
        cookies: &BTreeMap<String, String>,
    ) -> (Sending<'a>, Option<String>) {
        let given = request
            .headers
            .iter()
            .flat_map(|(name, value)| lines(value).into_iter().map(|it| (name.clone(), it)));
        let mut headers: Vec<(String, String)> = given.collect();
        if let Some(claims) = &request.jwt {
            headers.push(("authorization".into(), format!("Bearer {}", token::signed(claims))));
        }
        let key = request.vary_header.as_ref().map(|vary| {
            let value = format!("value-{}", number % vary.values.max(1));
            headers.push((vary.name.clone(), value.clone()));
            value
        });
        if request.cookie_jar && !cookies.is_empty() {
            let pairs: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            headers.push(("cookie".into(), pairs.join("; ")));
        }
        let payload = request.payload.clone().unwrap_or_else(|| format!("{} {number}\n", request.id));
        let authority = request.authority.clone().or_else(|| {
            // HTTP/1.0 needs none.
            let host = request.connect["host"].as_str().or(request.connect["address"].as_str());
            host.filter(|_| request.protocol != Protocol::Http10).map(str::to_owned)
        });
        (Sending { request, mesh: &self.mesh, way: way.clone(), from, authority, headers, payload }, key)
    }
}

/// The endpoint that answered each value of `vary_header`.
fn keys(outcomes: &[Outcome], record: &Record) -> BTreeMap<String, String> {
    let seen = record.since(0);
    let pair = |it: &Outcome| Some((it.key.clone()?, seen.get(it.record()?)?.upstream.id.clone()));
    outcomes.iter().filter_map(pair).collect()
}

/// The share of keys whose endpoint is another one.
fn moved(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> f64 {
    let moved = before.iter().filter(|(key, endpoint)| after.get(*key) != Some(endpoint)).count();
    moved as f64 / before.len().max(1) as f64
}
