//! Clusters for one client: which service a destination means, which DestinationRule governs it, what remains of its policy.
//!
//! Look-up and precedence: istio-semantics section 3 (Istio's `destinationRule()` of PushContext, `MergeTrafficPolicy`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::State;
use super::service::{Service, ServiceKind, ServicePort};
use super::visibility::{Scope, Visibility};
use crate::api::connection_pool::{ConnectionPoolSettings, H2UpgradePolicy, RetryBudget};
use crate::api::destination_rule::{
    ClientTlsMode, ClientTlsSettings, OutlierDetection, ProxyProtocol, TrafficPolicy, TunnelSettings,
};
use crate::api::duration;
use crate::api::load_balancer::{LoadBalancerSettings, SimpleLb};
use crate::client::{Client, ClientKind};
use crate::cluster::{
    Availability, Cluster, ClusterKey, Discovery, DnsEndpoint, Endpoint, ExcludedEndpoint, Missing,
    ServiceRef, UpstreamProtocol,
};
use crate::host::HostKey;
use crate::inventory::Protocol;
use crate::policy::{self, Balancer, ConnectionPool, Policy, PolicyOrigin, TcpKeepalive};

/// DestinationRules by namespace; within one, rules for one host are merged and the oldest come first.
#[derive(Debug, Default)]
pub(crate) struct DestinationRules {
    pub(crate) by_namespace: HashMap<Arc<str>, Vec<CompiledDestinationRule>>,
}

/// One rule, or several for the same host, merged.
#[derive(Debug)]
pub(crate) struct CompiledDestinationRule {
    pub(crate) host: HostKey,
    pub(crate) visibility: Visibility,
    /// Only clients of the rule's namespace with these labels.
    pub(crate) selector: Option<BTreeMap<String, String>>,
    pub(crate) policy: Option<SourcedPolicy>,
    pub(crate) subsets: Vec<CompiledSubset>,
}

#[derive(Debug)]
pub(crate) struct CompiledSubset {
    pub(crate) name: Arc<str>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) policy: Option<SourcedPolicy>,
}

/// A policy and the places its blocks were written.
#[derive(Debug)]
pub(crate) struct SourcedPolicy {
    pub(crate) policy: TrafficPolicy,
    /// `DestinationRule default/reviews subset v2`.
    pub(crate) from: Arc<str>,
    pub(crate) file: Option<Arc<str>>,
    /// Block name to line; a block of a port has `port/block`.
    pub(crate) lines: BTreeMap<String, u32>,
}

impl DestinationRules {
    /// The rule for a service as `client` sees it: its own namespace, the service's, the root namespace; the first that has any
    /// rule for the host decides, by its most specific one.
    pub(crate) fn find(
        &self,
        client: &Client,
        host: &HostKey,
        service_namespace: &str,
        root_namespace: &str,
    ) -> Option<&CompiledDestinationRule> {
        let own: &str = &client.namespace;
        let in_namespace = |namespace: &str, usable: &dyn Fn(&CompiledDestinationRule) -> bool| {
            let rules = self.by_namespace.get(namespace)?;
            rules
                .iter()
                .filter(|rule| rule.host.covers(host) && usable(rule))
                .filter(|rule| {
                    rule.selector.as_ref().is_none_or(|it| namespace == own && client.has_labels(it))
                })
                // The oldest of the most specific; one that selects the client beats one for all.
                .min_by_key(|rule| (rule.host.clone(), rule.selector.is_none()))
        };
        let visible = |rule: &CompiledDestinationRule| rule.visibility.sees(own);
        // Clients of the root namespace are not governed by rules meant as everyone's default before the service's own.
        let private = |rule: &CompiledDestinationRule| rule.visibility.is_private_to(own);
        let first =
            if own == root_namespace { in_namespace(own, &private) } else { in_namespace(own, &visible) };
        first
            .or_else(|| {
                (service_namespace != own).then(|| in_namespace(service_namespace, &visible)).flatten()
            })
            .or_else(|| in_namespace(root_namespace, &visible))
    }
}

/// Makes the clusters of one client, each once.
pub(crate) struct Clusters<'a> {
    state: &'a State,
    client: &'a Client,
    scope: Option<&'a Scope>,
    /// The address dialled, if any.
    dialled: Option<IpAddr>,
    made: HashMap<ClusterKey, Arc<Cluster>>,
}

impl<'a> Clusters<'a> {
    pub(crate) fn new(state: &'a State, client: &'a Client, dialled: Option<IpAddr>) -> Self {
        let scope = match client.kind {
            ClientKind::Mesh => Scope::of(&state.scopes, client, &state.mesh.root_namespace),
            ClientKind::Gateway => None,
        };
        Self { state, client, scope, dialled, made: HashMap::new() }
    }

    pub(crate) fn client(&self) -> &'a Client {
        self.client
    }

    pub(crate) fn scope(&self) -> Option<&'a Scope> {
        self.scope
    }

    /// Whether the client sees the service when it dials `port`.
    pub(crate) fn sees(&self, service: &Service, port: u16) -> bool {
        service.visibility.sees(&self.client.namespace)
            && self.scope.is_none_or(|scope| scope.imports(&service.namespace, &service.key, port))
    }

    /// The service a destination host means. Destinations are not limited by a Sidecar's scope (Istio imports the destinations
    /// of imported VirtualServices along with them).
    pub(crate) fn service(&self, host: &str) -> Option<&'a Arc<Service>> {
        let visible = |service: &&Arc<Service>| service.visibility.sees(&self.client.namespace);
        let own = |service: &&Arc<Service>| service.namespace == self.client.namespace;
        // Istio compares destinations as written, unlike VirtualService hosts and Host.
        let found = self.state.services_of(host).filter(move |service| *service.host == *host);
        let best = found.clone().filter(own).find(visible).or_else(|| found.clone().find(visible))?;
        match &best.kind {
            ServiceKind::ExternalName(target) if **target != *host => {
                match self.state.services_of(target).find(visible) {
                    // One step: an alias of an alias means the latter's DNS name.
                    Some(target) => Some(target),
                    None => Some(best),
                }
            }
            _ => Some(best),
        }
    }

    /// The cluster of a destination. Without a port: the service's only one, else the one the client dialled.
    pub(crate) fn cluster(
        &mut self,
        host: &str,
        subset: &str,
        port: Option<u16>,
        dialled_port: u16,
    ) -> Arc<Cluster> {
        let service = self.service(host);
        let number = port.unwrap_or_else(|| match service.map(|it| &*it.ports) {
            Some([only]) => only.number,
            _ => dialled_port,
        });
        let host = service.map_or_else(|| host.into(), |it| it.host.clone());
        let key = ClusterKey { host, port: number, subset: subset.into() };
        if let Some(made) = self.made.get(&key) {
            return made.clone();
        }
        let cluster = Arc::new(match service {
            None => missing(key.clone(), Missing::Host, None),
            Some(service) => match (service.port(number), &service.kind) {
                (Some(port), _) => self.known(key.clone(), service, port),
                // An alias of an unknown name without ports of its own leads to the name, at the port in question.
                (None, ServiceKind::ExternalName(target)) if service.ports.is_empty() => {
                    external_name(key.clone(), service, target)
                }
                (None, _) => missing(
                    key.clone(),
                    Missing::Port,
                    service.ports.first().map(|port| port.service.clone()),
                ),
            },
        });
        self.made.insert(key, cluster.clone());
        cluster
    }

    fn known(&self, key: ClusterKey, service: &Service, port: &ServicePort) -> Cluster {
        let mesh = &self.state.mesh;
        let rule = self.state.destination_rules.find(
            self.client,
            &service.key,
            &service.namespace,
            &mesh.root_namespace,
        );
        let subset = match &*key.subset {
            "" => None,
            name => match rule.and_then(|rule| rule.subsets.iter().find(|subset| &*subset.name == name)) {
                Some(subset) => Some(subset),
                None => return missing(key, Missing::Subset, Some(port.service.clone())),
            },
        };
        let mut blocks = Blocks::default();
        if let Some(policy) = rule.and_then(|rule| rule.policy.as_ref()) {
            blocks.overlay(policy, port.number);
        }
        let mesh_policy = mesh.default_policy.as_ref().filter(|_| blocks.lacks_mesh_defaults());
        if let Some((policy, origin)) = mesh_policy {
            blocks.fill(policy, origin);
        }
        if let Some(policy) = subset.and_then(|subset| subset.policy.as_ref()) {
            blocks.overlay(policy, port.number);
        }
        let balancer = blocks.balancer();
        let discovery = match (&port.discovery, balancer) {
            (_, Balancer::Passthrough) => Discovery::OriginalDestination,
            (discovery, _) => discovery.clone(),
        };
        let (endpoints, excluded) =
            self.endpoints(service, port, subset.map(|subset| &subset.labels), &discovery);
        let (protocol, use_client_protocol) = blocks.protocol(port.protocol, mesh.upgrades_to_http2);
        let availability =
            blocks.refusal().map_or(Availability::Known, |why| Availability::Refused(why.into()));
        Cluster {
            name: Cluster::outbound_name(&key),
            key,
            protocol,
            use_client_protocol,
            discovery,
            endpoints,
            excluded,
            policy: blocks.policy(balancer, mesh.connect_timeout),
            availability,
            service: Some(port.service.clone()),
        }
    }

    /// The endpoints of a subset (`None`: all).
    fn endpoints(
        &self,
        service: &Service,
        port: &ServicePort,
        labels: Option<&BTreeMap<String, String>>,
        discovery: &Discovery,
    ) -> (Arc<[Endpoint]>, Arc<[ExcludedEndpoint]>) {
        if *discovery != Discovery::Endpoints {
            return (Arc::from([]), Arc::from([]));
        }
        let (mut endpoints, mut excluded) = (port.endpoints.clone(), port.excluded.clone());
        if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
            let in_subset = |endpoint: &&Endpoint| {
                labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value))
            };
            endpoints = port.endpoints.iter().filter(in_subset).cloned().collect();
            let others = port.endpoints.iter().filter(|endpoint| !in_subset(endpoint));
            excluded =
                excluded.iter().cloned().chain(others.map(|it| exclude(it, "not in the subset"))).collect();
        }
        // One address for each of several families' worth: the dialled family, as the client surely has that one.
        let wants_v6 = self.dialled.is_some_and(|dialled| dialled.is_ipv6());
        if endpoints.iter().any(|it| it.address.is_ipv6()) && endpoints.iter().any(|it| it.address.is_ipv4())
        {
            let wanted = |endpoint: &Endpoint| endpoint.address.is_ipv6() == wants_v6;
            let has_wanted: HashSet<&str> =
                endpoints.iter().filter(|it| wanted(it)).map(|it| &*it.id).collect();
            endpoints =
                endpoints.iter().filter(|it| wanted(it) || !has_wanted.contains(&*it.id)).cloned().collect();
        }
        // Who dials an endpoint of a headless service means that endpoint (a database's first replica).
        if let (ServiceKind::Headless, Some(dialled)) = (&service.kind, self.dialled) {
            let meant = |endpoint: &&Endpoint| endpoint.address.ip() == dialled;
            if endpoints.iter().any(|endpoint| meant(&endpoint)) {
                let others = endpoints.iter().filter(|endpoint| !meant(endpoint));
                let others = others.map(|it| exclude(it, "the client dialled another endpoint"));
                excluded = excluded.iter().cloned().chain(others).collect();
                endpoints = endpoints.iter().filter(meant).cloned().collect();
            }
        }
        (endpoints, excluded)
    }
}

fn exclude(endpoint: &Endpoint, why: &'static str) -> ExcludedEndpoint {
    ExcludedEndpoint {
        id: endpoint.id.clone(),
        address: endpoint.address,
        labels: endpoint.labels.clone(),
        why,
    }
}

fn missing(key: ClusterKey, what: Missing, service: Option<Arc<ServiceRef>>) -> Cluster {
    Cluster {
        name: Cluster::outbound_name(&key),
        key,
        protocol: UpstreamProtocol::Http1,
        use_client_protocol: false,
        discovery: Discovery::Endpoints,
        endpoints: Arc::from([]),
        excluded: Arc::from([]),
        policy: Policy::default(),
        availability: Availability::Missing(what),
        service,
    }
}

fn external_name(key: ClusterKey, service: &Service, target: &Arc<str>) -> Cluster {
    let endpoint = DnsEndpoint { host: target.clone(), port: key.port, weight: 1 };
    let named = ServiceRef {
        host: service.host.clone(),
        port: key.port,
        name: service.name.clone(),
        namespace: service.namespace.clone(),
    };
    Cluster {
        discovery: Discovery::Dns(Arc::from([endpoint])),
        availability: Availability::Known,
        ..missing(key, Missing::Host, Some(Arc::new(named)))
    }
}

/// The blocks of a policy, each from one place.
#[derive(Default)]
struct Blocks<'a> {
    load_balancer: Option<&'a LoadBalancerSettings>,
    connection_pool: Option<&'a ConnectionPoolSettings>,
    outlier_detection: Option<&'a OutlierDetection>,
    tls: Option<&'a ClientTlsSettings>,
    tunnel: Option<&'a TunnelSettings>,
    proxy_protocol: Option<&'a ProxyProtocol>,
    retry_budget: Option<&'a RetryBudget>,
    origins: BTreeMap<&'static str, PolicyOrigin>,
}

impl<'a> Blocks<'a> {
    /// Lays a policy over: each block it has replaces the one below; an entry for the port replaces all four it can have, also
    /// by nothing.
    fn overlay(&mut self, sourced: &'a SourcedPolicy, port: u16) {
        let policy = &sourced.policy;
        let from = |block| PolicyOrigin {
            block,
            from: sourced.from.clone(),
            file: sourced.file.clone(),
            line: sourced.lines.get(block).copied(),
        };
        macro_rules! over {
            ($($field:ident $block:literal),*) => {
                $(if let Some(block) = &policy.$field {
                    self.$field = Some(block);
                    self.origins.insert($block, from($block));
                })*
            };
        }
        over!(load_balancer "loadBalancer", connection_pool "connectionPool", outlier_detection "outlierDetection",
              tls "tls", tunnel "tunnel", proxy_protocol "proxyProtocol", retry_budget "retryBudget");
        let own = policy
            .port_level_settings
            .iter()
            .find(|it| it.port.as_ref().is_some_and(|it| it.number == u32::from(port)));
        if let Some(own) = own {
            let from = |block: &'static str| PolicyOrigin {
                from: format!("{} port {port}", sourced.from).into(),
                line: sourced.lines.get(&format!("{port}/{block}")).copied(),
                ..from(block)
            };
            macro_rules! replace {
                ($($field:ident $block:literal),*) => {
                    $(self.$field = own.$field.as_ref();
                    match &own.$field {
                        Some(_) => { self.origins.insert($block, from($block)); }
                        None => { self.origins.remove($block); }
                    })*
                };
            }
            replace!(load_balancer "loadBalancer", connection_pool "connectionPool", outlier_detection "outlierDetection",
                     tls "tls");
        }
    }

    fn lacks_mesh_defaults(&self) -> bool {
        self.connection_pool.is_none() || self.outlier_detection.is_none()
    }

    /// MeshConfig `defaultTrafficPolicy`.
    fn fill(&mut self, policy: &'a TrafficPolicy, origin: &PolicyOrigin) {
        if let (None, Some(pool)) = (self.connection_pool, &policy.connection_pool) {
            self.connection_pool = Some(pool);
            self.origins.insert("connectionPool", PolicyOrigin { block: "connectionPool", ..origin.clone() });
        }
        if let (None, Some(detection)) = (self.outlier_detection, &policy.outlier_detection) {
            self.outlier_detection = Some(detection);
            self.origins
                .insert("outlierDetection", PolicyOrigin { block: "outlierDetection", ..origin.clone() });
        }
    }

    fn balancer(&self) -> Balancer {
        match self.load_balancer.and_then(|settings| settings.simple) {
            Some(SimpleLb::RoundRobin) => Balancer::RoundRobin,
            Some(SimpleLb::Random) => Balancer::Random,
            Some(SimpleLb::Passthrough) => Balancer::Passthrough,
            Some(SimpleLb::LeastConn | SimpleLb::LeastRequest | SimpleLb::Unspecified) | None => {
                Balancer::LeastRequest
            }
        }
    }

    /// What would be wrong to leave out: such a cluster gets no traffic at all.
    fn refusal(&self) -> Option<&'static str> {
        if self.tls.is_some_and(|tls| tls.mode != ClientTlsMode::Disable) {
            Some(
                "the DestinationRule asks for TLS, which is not originated here yet; nothing is sent in clear text",
            )
        } else if self.tunnel.is_some() {
            Some(
                "the DestinationRule asks for a tunnel, which is not built here yet; nothing is sent around it",
            )
        } else if self.proxy_protocol.is_some() {
            Some("the DestinationRule asks for the PROXY protocol, which is not sent here yet")
        } else {
            None
        }
    }

    fn protocol(&self, port: Protocol, mesh_upgrades: bool) -> (UpstreamProtocol, bool) {
        let http = self.connection_pool.and_then(|pool| pool.http.as_ref());
        let upgrade = match http.map(|http| http.h2_upgrade_policy).unwrap_or_default() {
            H2UpgradePolicy::Upgrade => true,
            H2UpgradePolicy::DoNotUpgrade => false,
            H2UpgradePolicy::Default => mesh_upgrades,
        };
        // An undeclared port speaks whatever its clients speak.
        let as_client = http.is_some_and(|http| http.use_client_protocol) || port == Protocol::Auto;
        let is_http2 = port.is_http2() || upgrade && port == Protocol::Http;
        (if is_http2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 }, as_client)
    }

    fn policy(self, balancer: Balancer, connect_timeout: Duration) -> Policy {
        Policy {
            balancer,
            connection_pool: connection_pool(self.connection_pool, connect_timeout),
            outlier_detection: self.outlier_detection.map(outlier_detection),
            retry_budget: self.retry_budget.map(|budget| policy::RetryBudget {
                percent: budget.percent.unwrap_or(20.0),
                min_retry_concurrency: if budget.min_retry_concurrency == 0 {
                    3
                } else {
                    budget.min_retry_concurrency
                },
                budget_interval: budget.budget_interval.map(duration::Duration::get).unwrap_or_default(),
            }),
            origins: self.origins.into_values().collect(),
        }
    }
}

/// 0 means default everywhere; there is no way to say zero.
fn limit(value: i32) -> u32 {
    u32::try_from(value).ok().filter(|&value| value > 0).unwrap_or(u32::MAX)
}

/// 0 switches an idle time-out off.
fn idle(value: Option<duration::Duration>, default: Option<Duration>) -> Option<Duration> {
    value.map_or(default, |value| Some(value.get()).filter(|value| !value.is_zero()))
}

fn connection_pool(settings: Option<&ConnectionPoolSettings>, connect_timeout: Duration) -> ConnectionPool {
    let mut pool = ConnectionPool { connect_timeout, ..ConnectionPool::default() };
    if let Some(tcp) = settings.and_then(|settings| settings.tcp.as_ref()) {
        pool.max_connections = limit(tcp.max_connections);
        pool.connect_timeout = tcp.connect_timeout.map_or(connect_timeout, duration::Duration::get);
        pool.tcp_idle_timeout = idle(tcp.idle_timeout, pool.tcp_idle_timeout);
        pool.max_connection_duration = idle(tcp.max_connection_duration, None);
        pool.tcp_keepalive = tcp.tcp_keepalive.as_ref().map(|keepalive| TcpKeepalive {
            probes: Some(keepalive.probes).filter(|&probes| probes > 0),
            time: keepalive.time.map(duration::Duration::get),
            interval: keepalive.interval.map(duration::Duration::get),
        });
    }
    if let Some(http) = settings.and_then(|settings| settings.http.as_ref()) {
        pool.max_pending_requests = limit(http.http1_max_pending_requests);
        pool.max_requests = limit(http.http2_max_requests);
        pool.max_requests_per_connection = limit(http.max_requests_per_connection);
        pool.max_retries = limit(http.max_retries);
        pool.http_idle_timeout = idle(http.idle_timeout, pool.http_idle_timeout);
        pool.max_concurrent_streams = limit(http.max_concurrent_streams).min(pool.max_concurrent_streams);
        pool.http2_keep_alive = http
            .http2_keep_alive
            .as_ref()
            .and_then(|keep_alive| Some((keep_alive.interval?.get(), keep_alive.timeout?.get())));
    }
    pool
}

fn outlier_detection(settings: &OutlierDetection) -> policy::OutlierDetection {
    let percent =
        |value: i32, default| u32::try_from(value).ok().filter(|&value| value > 0).unwrap_or(default);
    let split = settings.split_external_local_origin_errors;
    policy::OutlierDetection {
        consecutive_5xx: settings.consecutive_5xx_errors.unwrap_or(5),
        consecutive_gateway_errors: settings.consecutive_gateway_errors.unwrap_or(0),
        split_local_origin: split,
        consecutive_local_origin_failures: settings.consecutive_local_origin_failures.unwrap_or(5),
        interval: settings.interval.map_or(Duration::from_secs(10), duration::Duration::get),
        base_ejection_time: settings
            .base_ejection_time
            .map_or(Duration::from_secs(30), duration::Duration::get),
        max_ejection_percent: percent(settings.max_ejection_percent, 10).min(100),
        min_health_percent: percent(settings.min_health_percent, 0).min(100),
        error_codes: settings
            .outlier_detection_http_error_codes
            .iter()
            .filter_map(|&code| u16::try_from(code).ok())
            .collect(),
    }
}
