//! Putting an answer together.

use std::collections::BTreeMap;

use super::request::{Request, View};
use super::result::{
    CorsAnswer, DecidedBy, Destination, DirectAnswer, EndpointAnswer, Explanation, FaultAnswer, MirrorAnswer,
    OutcomeName, PolicyAnswer, RedirectAnswer, RequestAnswer, ResponseAnswer, Retries, Rule, ServiceName,
};
use super::trace::Trace;
use crate::cluster::{Availability, Cluster, Discovery};
use crate::edits::Edits;
use crate::route::{Abort, CorsPolicy, CrossOrigin, Fault, Route, RuleRef, WeightedDestination};
use crate::view::{RequestView, ResponseView};

pub(super) struct Answer {
    explanation: Explanation,
}

impl Answer {
    pub(super) fn new(request: &Request, path: DecidedBy) -> Self {
        Self {
            explanation: Explanation {
                id: request.id.clone(),
                outcome: OutcomeName::Forward,
                path,
                status: None,
                flag: None,
                service: None,
                rule: None,
                destinations: Vec::new(),
                redirect: None,
                direct_response: None,
                fault: None,
                timeout_ms: None,
                retries: None,
                mirrors: Vec::new(),
                cors: None,
                policy: Vec::new(),
                trace: Vec::new(),
            },
        }
    }

    pub(super) fn finish(mut self, outcome: OutcomeName, trace: Trace) -> Explanation {
        self.explanation.outcome = outcome;
        self.explanation.trace = trace.lines;
        self.explanation
    }

    pub(super) fn status(&mut self, status: u16, flag: Option<&'static str>) {
        self.explanation.status = Some(status);
        self.explanation.flag = flag;
    }

    pub(super) fn service(&mut self, host: &str, port: u16) {
        self.explanation.service = Some(ServiceName { host: host.to_owned(), port });
    }

    pub(super) fn rule(&mut self, rule: Option<&RuleRef>) {
        self.explanation.rule = rule.map(Rule::from);
    }

    pub(super) fn redirect(&mut self, location: String, code: u16) {
        self.explanation.status = Some(code);
        self.explanation.redirect = Some(RedirectAnswer { location, code });
    }

    pub(super) fn direct_response(&mut self, status: u16, body: &[u8]) {
        self.explanation.status = Some(status);
        self.explanation.direct_response =
            Some(DirectAnswer { status, body: String::from_utf8_lossy(body).into_owned() });
    }

    pub(super) fn fault(&mut self, fault: &Fault) {
        if fault.delay.is_none() && fault.abort.is_none() {
            return;
        }
        let (abort_status, abort_grpc_status) = match fault.abort.map(|abort| abort.abort) {
            None => (None, None),
            Some(Abort::Http(status)) => (Some(status), None),
            Some(Abort::Grpc(status)) => (None, Some(status)),
        };
        self.explanation.fault = Some(FaultAnswer {
            delay_ms: fault.delay.map(|delay| millis(delay.delay)),
            delay_percent: fault.delay.map_or(0.0, |delay| delay.percent.value()),
            abort_status,
            abort_grpc_status,
            abort_percent: fault.abort.map_or(0.0, |abort| abort.percent.value()),
        });
    }

    /// What a route says about forwarding, whatever the destination.
    pub(super) fn forwarding(&mut self, route: &Route) {
        self.explanation.timeout_ms = route.timeout.map(millis);
        self.explanation.retries = Some(Retries {
            attempts: route.retries.attempts,
            per_try_timeout_ms: route.retries.per_try_timeout.map(millis),
            retry_on: route.retries.retry_on.names().collect(),
        });
        let mirrors = route.mirrors.iter().map(|mirror| MirrorAnswer {
            host: mirror.cluster.key.host.to_string(),
            subset: subset(&mirror.cluster),
            port: mirror.cluster.key.port,
            percent: mirror.percent.value(),
        });
        self.explanation.mirrors = mirrors.collect();
    }

    /// The rule's cross-origin policy, what it makes of the request (`None`: it has no origin), and what that sets.
    pub(super) fn cors(&mut self, policy: &CorsPolicy, asked: Option<CrossOrigin<'_>>, edits: &Edits) {
        self.explanation.cors = Some(CorsAnswer {
            allow_origins: policy.allow_origins.iter().map(ToString::to_string).collect(),
            allow_methods: policy.allow_methods.to_string(),
            allow_headers: policy.allow_headers.to_string(),
            expose_headers: policy.expose_headers.to_string(),
            max_age_seconds: policy.max_age_seconds,
            allow_credentials: policy.allow_credentials,
            unmatched_preflights: if policy.forwards_unmatched_preflights { "FORWARD" } else { "IGNORE" },
            origin_allowed: asked.map(|asked| asked.is_allowed),
            preflight: asked.is_some_and(|asked| asked.is_preflight),
            response_headers: lines(edits, |_| true),
        });
    }

    /// What the access log says of a connection that is closed without a response.
    pub(super) fn flag(&mut self, flag: &'static str) {
        self.explanation.flag = Some(flag);
    }

    /// The destinations, and with them the policy. `key` says where consistent hashing sends the request, `edits` what changes
    /// for each. Answers the flag of what fails for certain.
    pub(super) fn destinations(
        &mut self,
        destinations: &[WeightedDestination],
        mut key: impl FnMut(&Cluster) -> Key,
        edits: impl Fn(u16) -> (Option<RequestAnswer>, Option<ResponseAnswer>),
    ) -> Option<&'static str> {
        let total: f64 = destinations.iter().map(|it| f64::from(it.weight)).sum();
        for (index, destination) in (0u16..).zip(destinations) {
            let cluster = &destination.cluster;
            let share = match destinations.len() {
                1 => 1.0,
                _ if total == 0.0 => 0.0,
                _ => f64::from(destination.weight) / total,
            };
            let (request, response) = edits(index);
            let key = key(cluster);
            self.explanation.destinations.push(Destination {
                host: cluster.key.host.to_string(),
                subset: subset(cluster),
                port: cluster.key.port,
                share,
                cluster: cluster.name.to_string(),
                unavailable: (cluster.availability != Availability::Known)
                    .then(|| cluster.availability.to_string()),
                discovery: match cluster.discovery {
                    Discovery::Endpoints => "endpoints",
                    Discovery::OriginalDestination => "original_destination",
                    Discovery::Dns(_) | Discovery::DynamicDns(_) => "dns",
                },
                endpoints: endpoints(cluster, key.hash),
                balancer: cluster.policy.balancer.as_str(),
                hash_key: key.name,
                request,
                response,
            });
            for origin in &*cluster.policy.origins {
                let answer = PolicyAnswer {
                    block: origin.block,
                    from: origin.from.to_string(),
                    file: origin.file.as_deref().map(str::to_owned),
                    line: origin.line,
                };
                if !self.explanation.policy.contains(&answer) {
                    self.explanation.policy.push(answer);
                }
            }
        }
        // If every destination fails in one way, so does the request.
        let mut failures = destinations
            .iter()
            .filter(|it| destinations.len() == 1 || it.weight > 0)
            .map(|it| failure(&it.cluster));
        failures.next().flatten().filter(|first| failures.all(|other| other == Some(*first)))
    }
}

/// The flag of a cluster that cannot serve anything.
pub(super) fn failure(cluster: &Cluster) -> Option<&'static str> {
    let empty = match &cluster.discovery {
        Discovery::Endpoints => cluster.endpoints.is_empty(),
        Discovery::Dns(names) => names.is_empty(),
        Discovery::OriginalDestination | Discovery::DynamicDns(_) => false,
    };
    cluster.availability.flag().or_else(|| empty.then_some("UH"))
}

fn subset(cluster: &Cluster) -> Option<String> {
    Some(cluster.key.subset.to_string()).filter(|subset| !subset.is_empty())
}

/// What consistent hashing makes of a request.
#[derive(Default)]
pub(super) struct Key {
    /// What it goes by, if the request has it.
    pub(super) name: Option<String>,
    /// Its hash, if the key is known before the request is made.
    pub(super) hash: Option<u64>,
}

fn endpoints(cluster: &Cluster, hash: Option<u64>) -> Vec<EndpointAnswer> {
    let shares = cluster.spread.shares(&cluster.endpoints, hash);
    let usable =
        cluster.endpoints.iter().zip(shares).enumerate().map(|(index, (endpoint, share))| EndpointAnswer {
            id: endpoint.id.to_string(),
            address: endpoint.address.ip().to_string(),
            port: endpoint.address.port(),
            labels: BTreeMap::clone(&endpoint.labels),
            locality: endpoint.locality.to_string(),
            share,
            priority: cluster.spread.priority(index),
            excluded: cluster
                .spread
                .priority(index)
                .filter(|&it| it > 0)
                .map(|_| "stands by for nearer endpoints"),
        });
    let excluded =
        cluster.excluded.iter().map(|it| (&it.endpoint, it.why)).map(|(endpoint, why)| EndpointAnswer {
            id: endpoint.id.to_string(),
            address: endpoint.address.ip().to_string(),
            port: endpoint.address.port(),
            labels: BTreeMap::clone(&endpoint.labels),
            locality: endpoint.locality.to_string(),
            share: 0.0,
            priority: None,
            excluded: Some(why),
        });
    let named = match &cluster.discovery {
        Discovery::Dns(names) => &**names,
        _ => &[],
    };
    let total: f64 = named.iter().map(|it| f64::from(it.weight)).sum();
    let named = named.iter().map(|name| EndpointAnswer {
        id: name.host.to_string(),
        address: name.host.to_string(),
        port: name.port,
        labels: BTreeMap::new(),
        locality: String::new(),
        share: f64::from(name.weight) / total,
        priority: None,
        excluded: None,
    });
    usable.chain(excluded).chain(named).collect()
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

type Lines = BTreeMap<String, Vec<String>>;

fn lines(edits: &Edits, wanted: impl Fn(&str) -> bool) -> Lines {
    let mut lines = Lines::new();
    for (name, value) in edits.lines().filter(|(name, _)| wanted(name)) {
        lines.entry(name.to_owned()).or_default().push(String::from_utf8_lossy(value).into_owned());
    }
    lines
}

/// Names whose received lines go and nothing comes in their place.
fn removed(edits: &Edits) -> Vec<String> {
    edits.dropped().filter(|name| !edits.lines().any(|(line, _)| line == *name)).map(str::to_owned).collect()
}

pub(super) fn request(view: &View<'_>, edits: &Edits) -> RequestAnswer {
    RequestAnswer {
        path: edits.target().unwrap_or_else(|| view.target()).to_owned(),
        authority: edits.authority().unwrap_or_else(|| view.authority()).to_owned(),
        headers: lines(edits, |_| true),
        headers_removed: removed(edits),
    }
}

pub(super) fn response(edits: &Edits) -> ResponseAnswer {
    ResponseAnswer {
        headers_set: lines(edits, |name| edits.drops(name.as_bytes())),
        headers_added: lines(edits, |name| !edits.drops(name.as_bytes())),
        headers_removed: removed(edits),
    }
}

/// There is no response to look at when explaining.
pub(super) enum NoResponse {}

impl ResponseView for NoResponse {
    fn status(&self) -> u16 {
        match *self {}
    }

    fn header_lines<'a>(&'a self, _: &str) -> impl Iterator<Item = &'a [u8]> {
        match *self {}
        #[expect(unreachable_code, reason = "gives the empty match a type")]
        std::iter::empty()
    }
}
