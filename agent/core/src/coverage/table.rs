//! The tables. See the parent's text for what the answers mean.

use serde_json::Value;

use super::Coverage::{self, Enforced, Refused, Warned};
use super::MESH_CONFIG;

/// Answers of one kind: fields of which each is enforced itself, and fields that are not, with all below them.
struct Table {
    /// The answer for objects as such, also for one without any field.
    whole: Coverage,
    enforced: &'static [&'static str],
    others: &'static [(&'static str, Coverage)],
    /// Answers for single values of an enforced field.
    values: &'static [(&'static str, &'static [&'static str], Coverage)],
}

const TLS: Coverage =
    Refused("TLS towards services is not originated yet; nothing is sent in clear text instead");
const NO_SIDECAR: Coverage = Warned("there is no sidecar whose listener this could be");
const IDENTITY: Coverage = Warned("workloads have no identity yet");
const SERVER_TLS: Coverage = Warned("TLS is not terminated yet: nothing is served for this server");
const LISTENER_PROXY_PROTOCOL: Coverage =
    Warned("gateways do not read the PROXY protocol yet: connections that begin with it are refused");
/// What Istio would pass on in these is always removed.
const FORWARDED_CERTIFICATES: &[&str] = &["APPEND_FORWARD", "FORWARD_ONLY", "ALWAYS_FORWARD_ONLY"];
const NO_CERTIFICATES: Coverage =
    Warned("not enforced yet: clients' x-forwarded-client-cert is removed by gateways");

const VIRTUAL_SERVICE: Table = Table {
    whole: Enforced,
    enforced: &[
        "hosts",
        "gateways",
        "exportTo",
        "http",
        "http[].name",
        "http[].match",
        "http[].match[].name",
        "http[].match[].uri",
        "http[].match[].uri.exact",
        "http[].match[].uri.prefix",
        "http[].match[].uri.regex",
        "http[].match[].scheme",
        "http[].match[].scheme.exact",
        "http[].match[].scheme.prefix",
        "http[].match[].scheme.regex",
        "http[].match[].method",
        "http[].match[].method.exact",
        "http[].match[].method.prefix",
        "http[].match[].method.regex",
        "http[].match[].authority",
        "http[].match[].authority.exact",
        "http[].match[].authority.prefix",
        "http[].match[].authority.regex",
        "http[].match[].headers",
        "http[].match[].headers{}.exact",
        "http[].match[].headers{}.prefix",
        "http[].match[].headers{}.regex",
        "http[].match[].withoutHeaders",
        "http[].match[].withoutHeaders{}.exact",
        "http[].match[].withoutHeaders{}.prefix",
        "http[].match[].withoutHeaders{}.regex",
        "http[].match[].queryParams",
        "http[].match[].queryParams{}.exact",
        "http[].match[].queryParams{}.prefix",
        "http[].match[].queryParams{}.regex",
        "http[].match[].ignoreUriCase",
        "http[].match[].port",
        "http[].match[].sourceLabels",
        "http[].match[].sourceNamespace",
        "http[].match[].gateways",
        "http[].route",
        "http[].route[].destination",
        "http[].route[].destination.host",
        "http[].route[].destination.subset",
        "http[].route[].destination.port",
        "http[].route[].destination.port.number",
        "http[].route[].weight",
        "http[].route[].headers",
        "http[].headers",
        "http[].headers.request",
        "http[].headers.request.set",
        "http[].headers.request.add",
        "http[].headers.request.remove",
        "http[].headers.response",
        "http[].headers.response.set",
        "http[].headers.response.add",
        "http[].headers.response.remove",
        "http[].redirect",
        "http[].redirect.uri",
        "http[].redirect.prefixRewrite",
        "http[].redirect.authority",
        "http[].redirect.port",
        "http[].redirect.derivePort",
        "http[].redirect.scheme",
        "http[].redirect.redirectCode",
        "http[].directResponse",
        "http[].directResponse.status",
        "http[].directResponse.body",
        "http[].directResponse.body.string",
        "http[].directResponse.body.bytes",
        "http[].delegate",
        "http[].delegate.name",
        "http[].delegate.namespace",
        "http[].rewrite",
        "http[].rewrite.uri",
        "http[].rewrite.authority",
        "http[].rewrite.uriRegexRewrite",
        "http[].rewrite.uriRegexRewrite.match",
        "http[].rewrite.uriRegexRewrite.rewrite",
        "http[].timeout",
        "http[].retries",
        "http[].retries.attempts",
        "http[].retries.perTryTimeout",
        "http[].retries.retryOn",
        "http[].retries.retryIgnorePreviousHosts",
        "http[].retries.retryRemoteLocalities",
        "http[].retries.backoff",
        "http[].fault",
        "http[].fault.delay",
        "http[].fault.delay.fixedDelay",
        "http[].fault.delay.percent",
        "http[].fault.delay.percentage",
        "http[].fault.delay.percentage.value",
        "http[].fault.abort",
        "http[].fault.abort.httpStatus",
        "http[].fault.abort.grpcStatus",
        "http[].fault.abort.percentage",
        "http[].fault.abort.percentage.value",
        "http[].mirror",
        "http[].mirror.host",
        "http[].mirror.subset",
        "http[].mirror.port",
        "http[].mirror.port.number",
        "http[].mirrors",
        "http[].mirrors[].destination",
        "http[].mirrors[].destination.host",
        "http[].mirrors[].destination.subset",
        "http[].mirrors[].destination.port",
        "http[].mirrors[].destination.port.number",
        "http[].mirrors[].percentage",
        "http[].mirrors[].percentage.value",
        "http[].mirrorPercent",
        "http[].mirrorPercentage",
        "http[].mirrorPercentage.value",
        "http[].corsPolicy",
        "http[].corsPolicy.allowOrigin",
        "http[].corsPolicy.allowOrigins",
        "http[].corsPolicy.allowOrigins[].exact",
        "http[].corsPolicy.allowOrigins[].prefix",
        "http[].corsPolicy.allowOrigins[].regex",
        "http[].corsPolicy.allowMethods",
        "http[].corsPolicy.allowHeaders",
        "http[].corsPolicy.exposeHeaders",
        "http[].corsPolicy.maxAge",
        "http[].corsPolicy.allowCredentials",
        "http[].corsPolicy.unmatchedPreflights",
        "tls",
        "tls[].match",
        "tls[].match[].sniHosts",
        "tls[].match[].destinationSubnets",
        "tls[].match[].port",
        "tls[].match[].sourceLabels",
        "tls[].match[].sourceNamespace",
        "tls[].match[].gateways",
        "tls[].route",
        "tls[].route[].destination",
        "tls[].route[].destination.host",
        "tls[].route[].destination.subset",
        "tls[].route[].destination.port",
        "tls[].route[].destination.port.number",
        "tls[].route[].weight",
        "tcp",
        "tcp[].match",
        "tcp[].match[].destinationSubnets",
        "tcp[].match[].port",
        "tcp[].match[].sourceLabels",
        "tcp[].match[].sourceNamespace",
        "tcp[].match[].gateways",
        "tcp[].route",
        "tcp[].route[].destination",
        "tcp[].route[].destination.host",
        "tcp[].route[].destination.subset",
        "tcp[].route[].destination.port",
        "tcp[].route[].destination.port.number",
        "tcp[].route[].weight",
    ],
    others: &[
        ("http[].match[].statPrefix", Warned("there are no statistics of single conditions")),
        ("http[].fault.delay.exponentialDelay", Warned("Istio has never implemented it")),
        ("http[].fault.abort.http2Error", Warned("Istio has never implemented it")),
        ("tcp[].match[].sourceSubnet", Warned("Istio has never implemented it")),
    ],
    values: &[],
};

/// Condition keys that begin with this are about the claims of a verified token.
const CLAIMS: &str = "@request.auth.claims";

const DESTINATION_RULE: Table = Table {
    whole: Enforced,
    enforced: &[
        "host",
        "exportTo",
        "workloadSelector",
        "workloadSelector.matchLabels",
        "subsets",
        "subsets[].name",
        "subsets[].labels",
        "subsets[].trafficPolicy",
        "trafficPolicy",
        "trafficPolicy.portLevelSettings",
        "trafficPolicy.portLevelSettings[].port",
        "trafficPolicy.portLevelSettings[].port.number",
        "trafficPolicy.loadBalancer",
        "trafficPolicy.loadBalancer.simple",
        "trafficPolicy.loadBalancer.consistentHash",
        "trafficPolicy.loadBalancer.consistentHash.httpHeaderName",
        "trafficPolicy.loadBalancer.consistentHash.httpCookie",
        "trafficPolicy.loadBalancer.consistentHash.httpCookie.name",
        "trafficPolicy.loadBalancer.consistentHash.httpCookie.path",
        "trafficPolicy.loadBalancer.consistentHash.httpCookie.ttl",
        "trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes",
        "trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes[].name",
        "trafficPolicy.loadBalancer.consistentHash.httpCookie.attributes[].value",
        "trafficPolicy.loadBalancer.consistentHash.useSourceIp",
        "trafficPolicy.loadBalancer.consistentHash.httpQueryParameterName",
        "trafficPolicy.loadBalancer.consistentHash.ringHash",
        "trafficPolicy.loadBalancer.consistentHash.ringHash.minimumRingSize",
        "trafficPolicy.loadBalancer.consistentHash.maglev",
        "trafficPolicy.loadBalancer.consistentHash.maglev.tableSize",
        "trafficPolicy.loadBalancer.consistentHash.minimumRingSize",
        "trafficPolicy.loadBalancer.localityLbSetting",
        "trafficPolicy.loadBalancer.localityLbSetting.enabled",
        "trafficPolicy.loadBalancer.localityLbSetting.distribute",
        "trafficPolicy.loadBalancer.localityLbSetting.distribute[].from",
        "trafficPolicy.loadBalancer.localityLbSetting.distribute[].to",
        "trafficPolicy.loadBalancer.localityLbSetting.failover",
        "trafficPolicy.loadBalancer.localityLbSetting.failover[].from",
        "trafficPolicy.loadBalancer.localityLbSetting.failover[].to",
        "trafficPolicy.loadBalancer.localityLbSetting.failoverPriority",
        "trafficPolicy.loadBalancer.zoneAwareLbSetting",
        "trafficPolicy.loadBalancer.zoneAwareLbSetting.enabled",
        "trafficPolicy.loadBalancer.zoneAwareLbSetting.failover",
        "trafficPolicy.loadBalancer.zoneAwareLbSetting.failover[].from",
        "trafficPolicy.loadBalancer.zoneAwareLbSetting.failover[].to",
        "trafficPolicy.loadBalancer.zoneAwareLbSetting.failoverPriority",
        "trafficPolicy.loadBalancer.zoneAwareLbSetting.minClusterSize",
        "trafficPolicy.loadBalancer.warmup",
        "trafficPolicy.loadBalancer.warmup.duration",
        "trafficPolicy.loadBalancer.warmup.minimumPercent",
        "trafficPolicy.loadBalancer.warmup.aggression",
        "trafficPolicy.loadBalancer.warmupDurationSecs",
        "trafficPolicy.connectionPool",
        "trafficPolicy.connectionPool.tcp",
        "trafficPolicy.connectionPool.tcp.maxConnections",
        "trafficPolicy.connectionPool.tcp.connectTimeout",
        "trafficPolicy.connectionPool.tcp.tcpKeepalive",
        "trafficPolicy.connectionPool.tcp.tcpKeepalive.probes",
        "trafficPolicy.connectionPool.tcp.tcpKeepalive.time",
        "trafficPolicy.connectionPool.tcp.tcpKeepalive.interval",
        "trafficPolicy.connectionPool.tcp.maxConnectionDuration",
        "trafficPolicy.connectionPool.tcp.idleTimeout",
        "trafficPolicy.connectionPool.http",
        "trafficPolicy.connectionPool.http.http1MaxPendingRequests",
        "trafficPolicy.connectionPool.http.http2MaxRequests",
        "trafficPolicy.connectionPool.http.maxRequestsPerConnection",
        "trafficPolicy.connectionPool.http.maxRetries",
        "trafficPolicy.connectionPool.http.idleTimeout",
        "trafficPolicy.connectionPool.http.h2UpgradePolicy",
        "trafficPolicy.connectionPool.http.useClientProtocol",
        "trafficPolicy.connectionPool.http.maxConcurrentStreams",
        "trafficPolicy.connectionPool.http.http2KeepAlive",
        "trafficPolicy.connectionPool.http.http2KeepAlive.interval",
        "trafficPolicy.connectionPool.http.http2KeepAlive.timeout",
        "trafficPolicy.outlierDetection",
        "trafficPolicy.outlierDetection.splitExternalLocalOriginErrors",
        "trafficPolicy.outlierDetection.consecutiveLocalOriginFailures",
        "trafficPolicy.outlierDetection.consecutiveGatewayErrors",
        "trafficPolicy.outlierDetection.consecutive5xxErrors",
        "trafficPolicy.outlierDetection.interval",
        "trafficPolicy.outlierDetection.baseEjectionTime",
        "trafficPolicy.outlierDetection.maxEjectionPercent",
        "trafficPolicy.outlierDetection.minHealthPercent",
        "trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes",
        "trafficPolicy.retryBudget",
        "trafficPolicy.retryBudget.percent",
        "trafficPolicy.retryBudget.minRetryConcurrency",
        "trafficPolicy.retryBudget.budgetInterval",
        "trafficPolicy.tls",
        "trafficPolicy.tls.mode",
        "trafficPolicy.proxyProtocol",
        "trafficPolicy.proxyProtocol.version",
    ],
    others: &[
        (
            "trafficPolicy.outlierDetection.consecutiveErrors",
            Warned("deprecated, without effect as in Istio"),
        ),
        ("trafficPolicy.tls.clientCertificate", TLS),
        ("trafficPolicy.tls.privateKey", TLS),
        ("trafficPolicy.tls.caCertificates", TLS),
        ("trafficPolicy.tls.caCrl", TLS),
        ("trafficPolicy.tls.credentialName", TLS),
        ("trafficPolicy.tls.subjectAltNames", TLS),
        ("trafficPolicy.tls.sni", TLS),
        ("trafficPolicy.tls.insecureSkipVerify", TLS),
        ("trafficPolicy.tunnel", Refused("tunnels are not built yet; nothing is sent around them")),
    ],
    values: &[("trafficPolicy.tls.mode", &["SIMPLE", "MUTUAL", "ISTIO_MUTUAL"], TLS)],
};

const GATEWAY: Table = Table {
    whole: Enforced,
    enforced: &[
        "selector",
        "servers",
        "servers[].hosts",
        "servers[].port",
        "servers[].port.number",
        "servers[].port.protocol",
        "servers[].port.name",
        "servers[].tls",
        "servers[].tls.httpsRedirect",
        "servers[].tls.mode",
        "servers[].bind",
    ],
    others: &[
        ("servers[].defaultEndpoint", Warned("Istio has never implemented it")),
        ("servers[].name", Warned("there are no statistics of single servers")),
        ("servers[].port.targetPort", Warned("it has no impact on gateways")),
        ("servers[].tls.serverCertificate", SERVER_TLS),
        ("servers[].tls.privateKey", SERVER_TLS),
        ("servers[].tls.caCertificates", SERVER_TLS),
        ("servers[].tls.caCrl", SERVER_TLS),
        ("servers[].tls.credentialName", SERVER_TLS),
        ("servers[].tls.credentialNames", SERVER_TLS),
        ("servers[].tls.caCertCredentialName", SERVER_TLS),
        ("servers[].tls.tlsCertificates", SERVER_TLS),
        ("servers[].tls.subjectAltNames", SERVER_TLS),
        ("servers[].tls.verifyCertificateSpki", SERVER_TLS),
        ("servers[].tls.verifyCertificateHash", SERVER_TLS),
        ("servers[].tls.minProtocolVersion", SERVER_TLS),
        ("servers[].tls.maxProtocolVersion", SERVER_TLS),
        ("servers[].tls.cipherSuites", SERVER_TLS),
        ("servers[].tls.insecureSkipVerify", SERVER_TLS),
    ],
    values: &[
        ("servers[].tls.mode", &["SIMPLE", "MUTUAL", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"], SERVER_TLS),
        (
            "servers[].tls.mode",
            &["AUTO_PASSTHROUGH"],
            Warned(
                "it needs endpoints that demand Istio's mutual TLS, and would open all of them to everyone here: nothing \
                 is served for this server",
            ),
        ),
    ],
};

const SERVICE_ENTRY: Table = Table {
    whole: Enforced,
    enforced: &[
        "hosts",
        "addresses",
        "ports",
        "ports[].number",
        "ports[].protocol",
        "ports[].name",
        "ports[].targetPort",
        "location",
        "resolution",
        "endpoints",
        "workloadSelector",
        "workloadSelector.labels",
        "exportTo",
    ],
    others: &[("subjectAltNames", Warned("there is no TLS yet whose certificates could be checked"))],
    values: &[(
        "location",
        &["MESH_INTERNAL"],
        Warned("mutual TLS is not spoken yet: traffic is in clear text"),
    )],
};

const WORKLOAD_ENTRY: Table = Table {
    whole: Enforced,
    enforced: &["address", "ports", "labels", "locality", "weight"],
    others: &[
        ("network", Warned("all endpoints are taken to be reachable directly")),
        ("serviceAccount", IDENTITY),
    ],
    values: &[],
};

const SIDECAR: Table = Table {
    whole: Enforced,
    enforced: &[
        "workloadSelector",
        "workloadSelector.labels",
        "egress",
        "egress[].hosts",
        "egress[].port",
        "egress[].port.number",
        "outboundTrafficPolicy",
        "outboundTrafficPolicy.mode",
    ],
    others: &[
        ("ingress", NO_SIDECAR),
        ("inboundConnectionPool", Warned("policy happens at the client's node: set it in a DestinationRule")),
        ("egress[].port.protocol", Warned("the service's own declaration decides")),
        ("egress[].port.name", Warned("a name without effect")),
        ("egress[].port.targetPort", NO_SIDECAR),
        ("egress[].bind", NO_SIDECAR),
        ("egress[].captureMode", NO_SIDECAR),
        (
            "outboundTrafficPolicy.egressProxy",
            Warned("unknown destinations are passed through, not to a proxy"),
        ),
    ],
    values: &[],
};

const MESH: Table = Table {
    whole: Enforced,
    enforced: &[
        "rootNamespace",
        "outboundTrafficPolicy",
        "outboundTrafficPolicy.mode",
        "defaultServiceExportTo",
        "defaultVirtualServiceExportTo",
        "defaultDestinationRuleExportTo",
        "localityLbSetting",
        "zoneAwareLbSetting",
        "connectTimeout",
        "defaultHttpRetryPolicy",
        "defaultTrafficPolicy",
        "pathNormalization",
        "pathNormalization.normalization",
        "defaultConfig",
        "defaultConfig.gatewayTopology",
        "defaultConfig.gatewayTopology.numTrustedProxies",
        "defaultConfig.gatewayTopology.forwardClientCertDetails",
        "gatewayTopology",
        "gatewayTopology.numTrustedProxies",
        "gatewayTopology.forwardClientCertDetails",
        "h2UpgradePolicy",
        "enableAutoMtls",
    ],
    others: &[
        ("trustDomain", IDENTITY),
        (
            "outboundTrafficPolicy.egressProxy",
            Warned("unknown destinations are passed through, not to a proxy"),
        ),
        ("gatewayTopology.proxyProtocol", LISTENER_PROXY_PROTOCOL),
        ("defaultConfig.gatewayTopology.proxyProtocol", LISTENER_PROXY_PROTOCOL),
    ],
    values: &[
        ("enableAutoMtls", &["true"], Warned("mutual TLS is not spoken yet: traffic is in clear text")),
        ("gatewayTopology.forwardClientCertDetails", FORWARDED_CERTIFICATES, NO_CERTIFICATES),
        ("defaultConfig.gatewayTopology.forwardClientCertDetails", FORWARDED_CERTIFICATES, NO_CERTIFICATES),
    ],
};

/// Those that are let in and not enforced: `check` fails, so that nobody relies on them.
const AUTHORIZATION: Coverage = Refused("not enforced yet: traffic is not restricted by it");
const TOKENS: Coverage = Refused("tokens are not verified yet: requests are not restricted by it");
const PERMISSIVE: Coverage =
    Warned("mutual TLS is not spoken yet: traffic is in clear text, which this allows");

const AUTHORIZATION_POLICY: Table = Table {
    whole: AUTHORIZATION,
    enforced: &[],
    others: &[
        ("selector", AUTHORIZATION),
        ("targetRef", AUTHORIZATION),
        ("targetRefs", AUTHORIZATION),
        ("rules", AUTHORIZATION),
        ("action", AUTHORIZATION),
        ("provider", AUTHORIZATION),
    ],
    values: &[],
};

const STRICT: Coverage =
    Refused("mutual TLS is not spoken yet: traffic is in clear text, and nothing is turned away");

const PEER_AUTHENTICATION: Table = Table {
    whole: Enforced,
    enforced: &[
        "selector",
        "selector.matchLabels",
        "mtls",
        "mtls.mode",
        "portLevelMtls",
        "portLevelMtls{}.mode",
    ],
    others: &[],
    values: &[
        ("mtls.mode", &["STRICT"], STRICT),
        ("mtls.mode", &["PERMISSIVE"], PERMISSIVE),
        ("portLevelMtls{}.mode", &["STRICT"], STRICT),
        ("portLevelMtls{}.mode", &["PERMISSIVE"], PERMISSIVE),
    ],
};

const REQUEST_AUTHENTICATION: Table = Table {
    whole: TOKENS,
    enforced: &[],
    others: &[("selector", TOKENS), ("targetRef", TOKENS), ("targetRefs", TOKENS), ("jwtRules", TOKENS)],
    values: &[],
};

fn table(kind: &str) -> Option<&'static Table> {
    Some(match kind {
        "VirtualService" => &VIRTUAL_SERVICE,
        "DestinationRule" => &DESTINATION_RULE,
        "Gateway" => &GATEWAY,
        "ServiceEntry" => &SERVICE_ENTRY,
        "WorkloadEntry" => &WORKLOAD_ENTRY,
        "Sidecar" => &SIDECAR,
        "AuthorizationPolicy" => &AUTHORIZATION_POLICY,
        "PeerAuthentication" => &PEER_AUTHENTICATION,
        "RequestAuthentication" => &REQUEST_AUTHENTICATION,
        MESH_CONFIG => &MESH,
        _ => return None,
    })
}

/// Where a block that occurs in several places is answered for: its kind and path there.
fn canonical<'a>(kind: &'a str, pattern: &str) -> (&'a str, String) {
    let mut kind = kind;
    let mut pattern = pattern.to_owned();
    const SAME: [(&str, &str, &str, &str); 8] = [
        ("VirtualService", "http[].route[].headers.", "VirtualService", "http[].headers."),
        ("DestinationRule", "subsets[].trafficPolicy.", "DestinationRule", "trafficPolicy."),
        (MESH_CONFIG, "defaultTrafficPolicy.", "DestinationRule", "trafficPolicy."),
        (
            MESH_CONFIG,
            "localityLbSetting.",
            "DestinationRule",
            "trafficPolicy.loadBalancer.localityLbSetting.",
        ),
        (
            MESH_CONFIG,
            "zoneAwareLbSetting.",
            "DestinationRule",
            "trafficPolicy.loadBalancer.zoneAwareLbSetting.",
        ),
        (MESH_CONFIG, "defaultHttpRetryPolicy.", "VirtualService", "http[].retries."),
        ("ServiceEntry", "endpoints[].", "WorkloadEntry", ""),
        ("DestinationRule", "trafficPolicy.portLevelSettings[].", "DestinationRule", "trafficPolicy."),
    ];
    for (from_kind, from, to_kind, to) in SAME {
        let Some(rest) = pattern.strip_prefix(from).filter(|_| kind == from_kind) else { continue };
        // The port of a port's settings is no block of the policy.
        if from.ends_with("portLevelSettings[].") && (rest == "port" || rest.starts_with("port.")) {
            continue;
        }
        pattern = format!("{to}{rest}");
        kind = to_kind;
    }
    (kind, pattern)
}

pub(super) fn of_kind(kind: &str) -> Coverage {
    table(kind).map_or(Enforced, |table| table.whole)
}

pub(super) fn of_field(kind: &str, pattern: &str) -> Option<Coverage> {
    let (kind, pattern) = canonical(kind, pattern);
    let table = table(kind)?;
    if table.enforced.contains(&pattern.as_str()) {
        return Some(Enforced);
    }
    let is_at_or_below = |above: &str| {
        pattern.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[', '{']))
    };
    table.others.iter().find(|(above, _)| is_at_or_below(above)).map(|&(_, coverage)| coverage)
}

pub(super) fn of_value(kind: &str, pattern: &str, value: &Value) -> Option<Coverage> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    values_of(kind, pattern)
        .into_iter()
        .find(|(values, _)| values.contains(&text.as_str()))
        .map(|(_, answer)| answer)
}

/// Answers for single values of a field.
pub(super) fn values_of(kind: &str, pattern: &str) -> Vec<(&'static [&'static str], Coverage)> {
    let (kind, pattern) = canonical(kind, pattern);
    let values = table(kind).map_or(&[][..], |table| table.values);
    values.iter().filter(|(of, ..)| *of == pattern).map(|&(_, values, answer)| (values, answer)).collect()
}

/// The answer for a key of a map, if it differs from that for the map.
pub(super) fn of_key(kind: &str, pattern: &str, key: &str) -> Option<Coverage> {
    let is_condition = matches!(pattern, "http[].match[].headers{}" | "http[].match[].withoutHeaders{}");
    (kind == "VirtualService" && is_condition && key.starts_with(CLAIMS))
        .then_some(Warned("tokens are not verified yet: no request has a claim"))
}

/// All paths the table of a kind speaks of.
#[cfg(test)]
pub(super) fn paths(kind: &str) -> Vec<&'static str> {
    let Some(table) = table(kind) else { return Vec::new() };
    let others = table.others.iter().map(|(path, _)| *path);
    table.enforced.iter().copied().chain(others).chain(table.values.iter().map(|(path, ..)| *path)).collect()
}
