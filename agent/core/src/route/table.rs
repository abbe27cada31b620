//! The routing table of one client for one address (or one gateway port): virtual hosts and their routes, immutable.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::cors::CorsPolicy;
use super::headers::HeaderEdits;
use super::index::PathIndex;
use super::matching::RouteMatch;
use super::redirect::Redirect;
use super::retry::RetryPolicy;
use super::rewrite::Rewrite;
use crate::cluster::Cluster;
use crate::host::{self, HostKey};

/// Virtual hosts, found by the Host of a request, and what happens to requests of other hosts.
#[derive(Debug, Clone)]
pub struct HttpTable {
    hosts: Vec<VirtualHost>,
    /// Of the routes of each host, where there are many.
    indexes: Vec<Option<PathIndex>>,
    /// Lower case, without port.
    exact: HashMap<Box<str>, u16>,
    /// Suffixes with their dot (`.example.com`), longest first.
    suffixes: Vec<(Box<str>, u16)>,
    otherwise: Otherwise,
    /// The port that the client dialled, or the gateway server's.
    pub port: u16,
}

#[derive(Debug, Clone, Copy)]
enum Otherwise {
    Host(u16),
    None(NoHost),
}

/// What happens to a request whose host is not in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoHost {
    /// 404, flag NR: gateways.
    NotFound,
    /// Forwarded to the address the client dialled, without policy: ALLOW_ANY.
    Passthrough,
    /// 502: REGISTRY_ONLY.
    BadGateway,
}

impl HttpTable {
    /// A table without hosts.
    pub fn empty(port: u16, otherwise: NoHost) -> Self {
        HttpTableBuilder::new(port, otherwise).build()
    }

    /// The route at `index`; `None` only for an index from another table.
    pub fn route(&self, index: RouteIndex) -> Option<&Route> {
        self.hosts.get(usize::from(index.host))?.routes.get(usize::from(index.route))
    }

    /// The virtual host at `index`.
    pub fn host(&self, index: u16) -> Option<&VirtualHost> {
        self.hosts.get(usize::from(index))
    }

    /// What finds a route of the host at `index`; `None`: walk them.
    pub(super) fn path_index(&self, index: u16) -> Option<&PathIndex> {
        self.indexes.get(usize::from(index))?.as_ref()
    }

    /// All virtual hosts, in the order they were added.
    pub fn hosts(&self) -> &[VirtualHost] {
        &self.hosts
    }

    /// What happens to requests that no virtual host answers for; `None` if one answers for all.
    pub fn no_host(&self) -> Option<NoHost> {
        match self.otherwise {
            Otherwise::Host(_) => None,
            Otherwise::None(otherwise) => Some(otherwise),
        }
    }

    /// The virtual host that answers for `authority` (raw, with or without port): exact, then longest suffix, then `*`.
    pub(super) fn find(&self, authority: &str) -> Result<u16, NoHost> {
        let name = host::without_port(authority);
        let name = name.strip_suffix('.').unwrap_or(name);
        // Only a host with capitals needs a copy; on the stack if it has a legal length.
        let mut lower = [0; 253];
        let name = match lower.get_mut(..name.len()) {
            Some(copy) if name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                copy.copy_from_slice(name.as_bytes());
                copy.make_ascii_lowercase();
                std::str::from_utf8(copy).unwrap_or(name)
            }
            _ => name,
        };
        if let Some(&index) = self.exact.get(name) {
            return Ok(index);
        }
        for (suffix, index) in &self.suffixes {
            if name.len() > suffix.len() && name.ends_with(&**suffix) {
                return Ok(*index);
            }
        }
        match self.otherwise {
            Otherwise::Host(index) => Ok(index),
            Otherwise::None(otherwise) => Err(otherwise),
        }
    }
}

/// Builds an [`HttpTable`]. Of two hosts with one key the first stays.
#[derive(Debug)]
pub struct HttpTableBuilder {
    table: HttpTable,
}

impl HttpTableBuilder {
    /// Starts a table for a port.
    pub fn new(port: u16, otherwise: NoHost) -> Self {
        Self {
            table: HttpTable {
                hosts: Vec::new(),
                indexes: Vec::new(),
                exact: HashMap::new(),
                suffixes: Vec::new(),
                otherwise: Otherwise::None(otherwise),
                port,
            },
        }
    }

    /// Adds a virtual host for `keys`. Keys that an earlier one has are left to that one. More than 65535 hosts are not kept;
    /// no table comes near.
    pub fn push(&mut self, host: VirtualHost, keys: impl IntoIterator<Item = HostKey>) -> &mut Self {
        let Ok(index) = u16::try_from(self.table.hosts.len()) else { return self };
        self.table.indexes.push(PathIndex::new(&host.routes));
        self.table.hosts.push(host);
        for key in keys {
            match key {
                HostKey::Exact(name) => {
                    self.table.exact.entry(name.to_ascii_lowercase().into()).or_insert(index);
                }
                HostKey::Suffix(suffix) => {
                    let suffix: Box<str> = suffix.to_ascii_lowercase().into();
                    if !self.table.suffixes.iter().any(|(other, _)| *other == suffix) {
                        self.table.suffixes.push((suffix, index));
                    }
                }
                HostKey::Any => {
                    if let Otherwise::None(_) = self.table.otherwise {
                        self.table.otherwise = Otherwise::Host(index);
                    }
                }
            }
        }
        self
    }

    /// The finished table.
    pub fn build(mut self) -> HttpTable {
        self.table.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        self.table
    }
}

/// A host and its routes.
#[derive(Debug, Clone)]
pub struct VirtualHost {
    /// The host the rules govern, for logs.
    pub name: Arc<str>,
    /// Tried in order; at most 65535.
    pub routes: Vec<Route>,
    /// Any request is answered 301 to https (Gateway: `tls.httpsRedirect`).
    pub https_redirect: bool,
}

/// A route within its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteIndex {
    /// Position of the virtual host.
    pub host: u16,
    /// Position of the route in it.
    pub route: u16,
}

/// One match entry of one rule, and what the rule does. Static filters have been applied.
#[derive(Debug, Clone)]
pub struct Route {
    /// The conditions left for the request to meet.
    pub matches: Arc<RouteMatch>,
    /// The rule it comes from; `None` for the default route of a plain service.
    pub rule: Option<Arc<RuleRef>>,
    /// What to do.
    pub action: Action,
    /// Where to, for [`Action::Forward`]. Weights sum up to [`Route::total_weight`].
    pub destinations: Arc<[WeightedDestination]>,
    /// Sum of the weights, above 0 if there is a destination.
    pub total_weight: u64,
    /// Path and authority to send in place of the received ones.
    pub rewrite: Rewrite,
    /// Header operations of the rule.
    pub headers: Arc<HeaderEdits>,
    /// Istio: `HTTPRoute.timeout`: whole request over all tries; `None` (default): no limit.
    pub timeout: Option<Duration>,
    /// When and how to try again.
    pub retries: Arc<RetryPolicy>,
    /// Injected delay and abort.
    pub fault: Fault,
    /// Copies to send.
    pub mirrors: Arc<[Mirror]>,
    /// Istio: `corsPolicy`; only of use with [`Action::Forward`].
    pub cors: Option<Arc<CorsPolicy>>,
}

/// What a rule does with a request.
#[derive(Debug, Clone)]
pub enum Action {
    /// To one of the destinations.
    Forward,
    /// Answer with a redirect.
    Redirect(Arc<Redirect>),
    /// Answer with a fixed response.
    DirectResponse(Arc<DirectResponse>),
    /// The rule cannot be carried out as written: 500 for its requests, its neighbours live. The text says why.
    Refused(Arc<str>),
}

/// Names a rule. `Display` gives the id in access logs: `VirtualService/default/reviews#0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRef {
    /// `VirtualService`, `Gateway`.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Position of the rule in its list (`spec.http[route]`).
    pub route: u32,
    /// Position of the match entry that stands for this route; `None` if the rule has none.
    pub match_index: Option<u32>,
    /// Istio's name of the route: the rule's `name`, with the entry's appended after a dot.
    pub route_name: Arc<str>,
    /// The root's rule for a delegated one: the file and line are the delegate's.
    pub delegated_by: Option<Arc<str>>,
    /// File, if it was read from one.
    pub file: Option<Arc<str>>,
    /// Line in it.
    pub line: Option<u32>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}#{}", self.kind, self.namespace, self.name, self.route)
    }
}

/// A cluster with its share.
#[derive(Debug, Clone)]
pub struct WeightedDestination {
    /// Where to.
    pub cluster: Arc<Cluster>,
    /// Share relative to the route's sum; 0 gets nothing.
    pub weight: u32,
    /// Header operations of the destination.
    pub headers: Arc<HeaderEdits>,
}

/// A copy of requests.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Where to.
    pub cluster: Arc<Cluster>,
    /// Which share.
    pub percent: Percent,
}

/// A share in units of 1/10000 per cent, Envoy's resolution.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

impl Percent {
    /// 100 %.
    pub const ALL: Self = Self(Self::WHOLE);
    /// Units in the whole.
    const WHOLE: u32 = 1_000_000;

    /// From per cent; what is outside 0 to 100 (or no number) is cut to it.
    pub fn new(percent: f64) -> Self {
        // The cast saturates, and NaN gives 0.
        Self(((percent * 10_000.0).round() as u32).min(Self::WHOLE))
    }

    /// In per cent.
    pub fn value(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// Whether one request falls into the share.
    pub fn draw(self, rng: &mut impl rand_core::RngCore) -> bool {
        match self.0 {
            0 => false,
            Self::WHOLE => true,
            share => (u64::from(rng.next_u32()) * u64::from(Self::WHOLE)) >> 32 < u64::from(share),
        }
    }
}

/// Injected faults; drawn independently, the delay comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Fault {
    /// Wait before forwarding.
    pub delay: Option<FaultDelay>,
    /// Answer in place of the service.
    pub abort: Option<FaultAbort>,
}

/// An injected delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultDelay {
    /// The wait.
    pub delay: Duration,
    /// For which share.
    pub percent: Percent,
}

/// An injected error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultAbort {
    /// The answer.
    pub abort: Abort,
    /// For which share.
    pub percent: Percent,
}

/// An answer in the service's stead: body `fault filter abort`, flag FI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Abort {
    /// This status. A gRPC request gets HTTP 200 and the mapped grpc-status.
    Http(u16),
    /// HTTP 200 with this grpc-status.
    Grpc(u32),
}

/// A fixed response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// The body.
    pub body: Arc<[u8]>,
}
