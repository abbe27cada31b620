//! What no type says: which fields are required, which exclude each other, how long a text may be. Istio's CRDs (1.31) say the
//! same in the same words; a test on a real API server compares them.

/// A rule is for every path that ends in its pattern, at a boundary. It is merged into the schema of the value: bounds and
/// words replace those of the type, lists grow, and null takes away.
const RULES: &[(&str, &str)] = &[
    // Required.
    ("DestinationRule", r#"{"required": ["host"]}"#),
    ("DestinationRule.subsets[]", r#"{"required": ["name"]}"#),
    ("ServiceEntry", r#"{"required": ["hosts"]}"#),
    ("ServiceEntry.ports[]", r#"{"required": ["number", "name"]}"#),
    ("Gateway.servers[]", r#"{"required": ["port", "hosts"]}"#),
    ("Gateway.servers[].port", r#"{"required": ["number", "protocol", "name"]}"#),
    ("Sidecar.egress[]", r#"{"required": ["hosts"]}"#),
    ("Sidecar.ingress[]", r#"{"required": ["port"]}"#),
    ("outboundTrafficPolicy.egressProxy", r#"{"required": ["host"]}"#),
    ("http[].directResponse", r#"{"required": ["status"]}"#),
    ("http[].mirror", r#"{"required": ["host"]}"#),
    ("http[].mirrors[]", r#"{"required": ["destination"]}"#),
    ("route[]", r#"{"required": ["destination"]}"#),
    ("destination", r#"{"required": ["host"]}"#),
    ("VirtualService.tls[]", r#"{"required": ["match"]}"#),
    ("tls[].match[]", r#"{"required": ["sniHosts"]}"#),
    ("httpCookie", r#"{"required": ["name"]}"#),
    ("httpCookie.attributes[]", r#"{"required": ["name"]}"#),
    ("warmup", r#"{"required": ["duration"]}"#),
    ("tunnel", r#"{"required": ["targetHost", "targetPort"]}"#),
    ("rules[].when[]", r#"{"required": ["key"]}"#),
    ("fromHeaders[]", r#"{"required": ["name"]}"#),
    ("outputClaimToHeaders[]", r#"{"required": ["header", "claim"]}"#),
    ("targetRef", r#"{"required": ["kind", "name"]}"#),
    ("targetRefs[]", r#"{"required": ["kind", "name"]}"#),
    // At most one of these.
    ("match[].uri", STRING_MATCH),
    ("match[].scheme", STRING_MATCH),
    ("match[].method", STRING_MATCH),
    ("match[].authority", STRING_MATCH),
    ("match[].headers{}", STRING_MATCH),
    ("match[].queryParams{}", STRING_MATCH),
    ("match[].withoutHeaders{}", STRING_MATCH),
    ("allowOrigins[]", STRING_MATCH),
    ("http[].redirect", PORT_OR_DERIVED),
    ("directResponse.body", BODY),
    ("fault.delay", DELAY),
    ("fault.abort", ABORT),
    ("loadBalancer", BALANCER),
    ("loadBalancer.consistentHash", HASH),
    (
        "ServiceEntry",
        r#"{"x-kubernetes-validations": [
            {"message": "only one of WorkloadSelector or Endpoints can be set",
             "rule": "(has(self.workloadSelector) ? 1 : 0) + (has(self.endpoints) ? 1 : 0) <= 1"},
            {"message": "CIDR addresses are allowed only for NONE/STATIC resolution types",
             "rule": "!((has(self.addresses) ? self.addresses : []).exists(k, k.contains('/')) && !((has(self.resolution) ? self.resolution : 'NONE') in ['STATIC', 'NONE']))"},
            {"message": "NONE mode cannot set endpoints",
             "rule": "((has(self.resolution) ? self.resolution : 'NONE') == 'NONE') ? !has(self.endpoints) : true"},
            {"message": "DNS_ROUND_ROBIN mode cannot have multiple endpoints",
             "rule": "((has(self.resolution) ? self.resolution : '') == 'DNS_ROUND_ROBIN') ? ((has(self.endpoints) ? self.endpoints : []).size() <= 1) : true"}]}"#,
    ),
    ("AuthorizationPolicy", TARGETS),
    ("RequestAuthentication", TARGETS),
    ("servers[].tls", CERTIFICATES),
    ("ingress[].tls", CERTIFICATES),
    (
        "jwtRules[]",
        r#"{"x-kubernetes-validations": [{"message": "only one of jwks or jwksUri can be set",
            "rule": "(has(self.jwksUri) ? 1 : 0) + (has(self.jwks_uri) ? 1 : 0) + (has(self.jwks) ? 1 : 0) <= 1"}]}"#,
    ),
    (
        "rules[].from[].source",
        r#"{"x-kubernetes-validations": [{"message": "Cannot set serviceAccounts with namespaces or principals",
            "rule": "(has(self.serviceAccounts) || has(self.notServiceAccounts)) ? (!has(self.principals) && !has(self.notPrincipals) && !has(self.namespaces) && !has(self.notNamespaces)) : true"}]}"#,
    ),
    (
        "PeerAuthentication",
        r#"{"x-kubernetes-validations": [{"message": "portLevelMtls requires selector",
            "rule": "has(self.portLevelMtls) ? (((has(self.selector) && has(self.selector.matchLabels)) ? self.selector.matchLabels : {}).size() > 0) : true"}]}"#,
    ),
    // Selectors.
    ("selector.matchLabels", MATCH_LABELS),
    ("selector.matchLabels{}", MATCH_LABEL),
    ("DestinationRule.workloadSelector.matchLabels", MATCH_LABELS),
    ("DestinationRule.workloadSelector.matchLabels{}", MATCH_LABEL),
    ("workloadSelector.labels", r#"{"maxProperties": 256}"#),
    (
        "workloadSelector.labels{}",
        r#"{"maxLength": 63, "x-kubernetes-validations": [
            {"message": "wildcard is not supported in selector", "rule": "!self.contains('*')"}]}"#,
    ),
    ("targetRef.group", GROUP),
    ("targetRefs[].group", GROUP),
    ("targetRef.kind", TARGET_KIND),
    ("targetRefs[].kind", TARGET_KIND),
    ("targetRef.name", r#"{"minLength": 1, "maxLength": 253}"#),
    ("targetRefs[].name", r#"{"minLength": 1, "maxLength": 253}"#),
    ("targetRef.namespace", OWN_NAMESPACE),
    ("targetRefs[].namespace", OWN_NAMESPACE),
    // Endpoints.
    ("WorkloadEntry", ENDPOINT),
    ("ServiceEntry.endpoints[]", ENDPOINT),
    ("WorkloadEntry.address", ENDPOINT_ADDRESS),
    ("endpoints[].address", ENDPOINT_ADDRESS),
    ("WorkloadEntry.ports", ENDPOINT_PORTS),
    ("endpoints[].ports", ENDPOINT_PORTS),
    ("WorkloadEntry.ports{}", PORT_NUMBER),
    ("endpoints[].ports{}", PORT_NUMBER),
    ("WorkloadEntry.labels", r#"{"maxProperties": 256}"#),
    ("endpoints[].labels", r#"{"maxProperties": 256}"#),
    ("WorkloadEntry.locality", r#"{"maxLength": 2048}"#),
    ("endpoints[].locality", r#"{"maxLength": 2048}"#),
    ("WorkloadEntry.network", r#"{"maxLength": 2048}"#),
    ("endpoints[].network", r#"{"maxLength": 2048}"#),
    ("WorkloadEntry.serviceAccount", r#"{"maxLength": 253}"#),
    ("endpoints[].serviceAccount", r#"{"maxLength": 253}"#),
    // Sizes and forms.
    ("ServiceEntry.hosts", r#"{"minItems": 1, "maxItems": 256}"#),
    (
        "ServiceEntry.hosts[]",
        r#"{"x-kubernetes-validations": [{"message": "hostname cannot be wildcard", "rule": "self != '*'"}]}"#,
    ),
    ("ServiceEntry.addresses", r#"{"maxItems": 256}"#),
    ("ServiceEntry.addresses[]", r#"{"maxLength": 64}"#),
    ("ServiceEntry.endpoints", r#"{"maxItems": 4096}"#),
    (
        "ServiceEntry.ports",
        r#"{"maxItems": 256, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "x-kubernetes-validations": [{"message": "port number cannot be duplicated",
            "rule": "self.all(l1, self.exists_one(l2, l1.number == l2.number))"}]}"#,
    ),
    ("ServiceEntry.ports[].name", r#"{"maxLength": 256}"#),
    ("ServiceEntry.ports[].protocol", r#"{"maxLength": 256}"#),
    ("ServiceEntry.ports[].number", PORT_NUMBER),
    ("ServiceEntry.ports[].targetPort", PORT_NUMBER),
    ("portLevelSettings", r#"{"maxItems": 4096}"#),
    ("outlierDetectionHttpErrorCodes[]", r#"{"minimum": 100, "maximum": 599}"#),
    ("credentialNames", r#"{"minItems": 1, "maxItems": 2}"#),
    ("tlsCertificates", r#"{"minItems": 1, "maxItems": 2}"#),
    (
        "PeerAuthentication.portLevelMtls",
        r#"{"minProperties": 1, "x-kubernetes-validations": [
            {"message": "port must be between 1-65535", "rule": "self.all(key, 0 < int(key) && int(key) <= 65535)"}]}"#,
    ),
    ("AuthorizationPolicy.rules", r#"{"maxItems": 512}"#),
    ("AuthorizationPolicy.rules[].from", r#"{"maxItems": 512}"#),
    ("source.serviceAccounts", r#"{"maxItems": 16}"#),
    ("source.notServiceAccounts", r#"{"maxItems": 16}"#),
    ("source.serviceAccounts[]", r#"{"maxLength": 320}"#),
    ("source.notServiceAccounts[]", r#"{"maxLength": 320}"#),
    ("AuthorizationPolicy.targetRefs", r#"{"maxItems": 16}"#),
    ("RequestAuthentication.targetRefs", r#"{"maxItems": 16}"#),
    ("RequestAuthentication.jwtRules", r#"{"maxItems": 4096}"#),
    ("jwtRules[].issuer", NOT_EMPTY),
    ("jwtRules[].audiences[]", NOT_EMPTY),
    ("jwtRules[].fromCookies[]", NOT_EMPTY),
    ("jwtRules[].fromParams[]", NOT_EMPTY),
    ("fromHeaders[].name", NOT_EMPTY),
    ("outputClaimToHeaders[].claim", NOT_EMPTY),
    ("outputClaimToHeaders[].header", r#"{"minLength": 1, "pattern": "^[-_A-Za-z0-9]+$"}"#),
    ("jwtRules[].spaceDelimitedClaims", r#"{"maxItems": 64}"#),
    ("jwtRules[].spaceDelimitedClaims[]", NOT_EMPTY),
    (
        "jwtRules[].jwksUri",
        r#"{"minLength": 1, "maxLength": 2048, "x-kubernetes-validations": [
            {"message": "url must have scheme http:// or https://",
             "rule": "url(self).getScheme() in ['http', 'https']"}]}"#,
    ),
    ("warmup.minimumPercent", r#"{"minimum": 0, "maximum": 100, "nullable": true}"#),
    ("warmup.aggression", r#"{"minimum": 0, "nullable": true}"#),
    ("retryBudget.percent", r#"{"minimum": 0, "maximum": 100, "nullable": true}"#),
    ("directResponse.body.bytes", r#"{"format": "byte"}"#),
    // What the type takes for the sake of the mesh-wide settings, and a Sidecar cannot say.
    ("Sidecar.outboundTrafficPolicy.mode", r#"{"enum": ["REGISTRY_ONLY", "ALLOW_ANY"]}"#),
    // Zero means something.
    ("tcp.idleTimeout", ANY_DURATION),
    ("retryBudget.budgetInterval", ANY_DURATION),
    ("httpCookie.ttl", ANY_DURATION),
    // Protobuf's wrappers, for which null is a value.
    ("zoneAwareLbSetting.minClusterSize", r#"{"minimum": 1, "maximum": 4294967295, "nullable": true}"#),
    ("zoneAwareLbSetting.enabled", NULL),
    ("localityLbSetting.enabled", NULL),
    ("consecutive5xxErrors", NULL),
    ("consecutiveGatewayErrors", NULL),
    ("consecutiveLocalOriginFailures", NULL),
    ("insecureSkipVerify", NULL),
    ("allowCredentials", NULL),
    ("retryIgnorePreviousHosts", NULL),
    ("retryRemoteLocalities", NULL),
    ("http[].mirrorPercent", NULL),
];

/// Fields that Istio's CRDs also know by another name. The parser takes it, too.
const OTHER_NAMES: &[(&str, &str)] =
    &[("http[].mirrorPercent", "mirror_percent"), ("jwtRules[].jwksUri", "jwks_uri")];

const ANY_DURATION: &str = r#"{"x-kubernetes-validations": null}"#;
const NULL: &str = r#"{"nullable": true}"#;
const NOT_EMPTY: &str = r#"{"minLength": 1}"#;
const STRING_MATCH: &str = r#"{"oneOf": [
    {"not": {"anyOf": [{"required": ["exact"]}, {"required": ["prefix"]}, {"required": ["regex"]}]}},
    {"required": ["exact"]}, {"required": ["prefix"]}, {"required": ["regex"]}]}"#;
const PORT_OR_DERIVED: &str = r#"{"oneOf": [
    {"not": {"anyOf": [{"required": ["port"]}, {"required": ["derivePort"]}]}},
    {"required": ["port"]}, {"required": ["derivePort"]}]}"#;
const BODY: &str = r#"{"oneOf": [
    {"not": {"anyOf": [{"required": ["string"]}, {"required": ["bytes"]}]}},
    {"required": ["string"]}, {"required": ["bytes"]}]}"#;
const DELAY: &str = r#"{"oneOf": [
    {"not": {"anyOf": [{"required": ["fixedDelay"]}, {"required": ["exponentialDelay"]}]}},
    {"required": ["fixedDelay"]}, {"required": ["exponentialDelay"]}]}"#;
const ABORT: &str = r#"{"oneOf": [
    {"not": {"anyOf": [{"required": ["httpStatus"]}, {"required": ["grpcStatus"]}, {"required": ["http2Error"]}]}},
    {"required": ["httpStatus"]}, {"required": ["grpcStatus"]}, {"required": ["http2Error"]}]}"#;
const BALANCER: &str = r#"{"oneOf": [
    {"not": {"anyOf": [{"required": ["simple"]}, {"required": ["consistentHash"]}]}},
    {"required": ["simple"]}, {"required": ["consistentHash"]}]}"#;
const HASH: &str = r#"{"allOf": [
    {"oneOf": [
        {"not": {"anyOf": [{"required": ["httpHeaderName"]}, {"required": ["httpCookie"]}, {"required": ["useSourceIp"]},
            {"required": ["httpQueryParameterName"]}]}},
        {"required": ["httpHeaderName"]}, {"required": ["httpCookie"]}, {"required": ["useSourceIp"]},
        {"required": ["httpQueryParameterName"]}]},
    {"oneOf": [
        {"not": {"anyOf": [{"required": ["ringHash"]}, {"required": ["maglev"]}]}},
        {"required": ["ringHash"]}, {"required": ["maglev"]}]}]}"#;
const TARGETS: &str = r#"{"x-kubernetes-validations": [
    {"message": "only one of targetRefs or selector can be set",
     "rule": "(has(self.selector) ? 1 : 0) + (has(self.targetRef) ? 1 : 0) + (has(self.targetRefs) ? 1 : 0) <= 1"}]}"#;
const CERTIFICATES: &str = r#"{"x-kubernetes-validations": [
    {"message": "only one of credentialNames or tlsCertificates can be set",
     "rule": "(has(self.tlsCertificates) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1"},
    {"message": "only one of credentialName or credentialNames can be set",
     "rule": "(has(self.credentialName) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1"}]}"#;
const MATCH_LABELS: &str = r#"{"maxProperties": 4096, "x-kubernetes-validations": [
    {"message": "wildcard not allowed in label key match", "rule": "self.all(key, !key.contains('*'))"},
    {"message": "key must not be empty", "rule": "self.all(key, key.size() != 0)"}]}"#;
const MATCH_LABEL: &str = r#"{"maxLength": 63, "x-kubernetes-validations": [
    {"message": "wildcard not allowed in label value match", "rule": "!self.contains('*')"}]}"#;
const GROUP: &str = r#"{"maxLength": 253, "pattern": "^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"}"#;
const TARGET_KIND: &str =
    r#"{"minLength": 1, "maxLength": 63, "pattern": "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"}"#;
const OWN_NAMESPACE: &str = r#"{"x-kubernetes-validations": [
    {"message": "cross namespace referencing is not currently supported", "rule": "self.size() == 0"}]}"#;
const ENDPOINT: &str = r#"{"x-kubernetes-validations": [
    {"message": "Address is required", "rule": "has(self.address) || has(self.network)"},
    {"message": "UDS may not include ports",
     "rule": "(has(self.address) ? self.address : '').startsWith('unix://') ? !has(self.ports) : true"}]}"#;
const ENDPOINT_ADDRESS: &str = r#"{"maxLength": 256, "x-kubernetes-validations": [
    {"message": "UDS must be an absolute path or abstract socket",
     "rule": "self.startsWith('unix://') ? (self.substring(7, 8) == '/' || self.substring(7, 8) == '@') : true"},
    {"message": "UDS may not be a dir", "rule": "self.startsWith('unix://') ? !self.endsWith('/') : true"}]}"#;
const ENDPOINT_PORTS: &str = r#"{"maxProperties": 128, "x-kubernetes-validations": [
    {"message": "port name must be valid",
     "rule": "self.all(key, size(key) < 63 && key.matches('^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$'))"}]}"#;
const PORT_NUMBER: &str = r#"{"x-kubernetes-validations": [
    {"message": "port must be between 1-65535", "rule": "0 < self && self <= 65535"}]}"#;

/// The rules for a path.
pub fn of(path: &str) -> impl Iterator<Item = &'static str> {
    RULES.iter().filter(move |(pattern, _)| is_end(path, pattern)).map(|(_, rule)| *rule)
}

/// The patterns, for the test that each is of use.
pub fn patterns() -> impl Iterator<Item = &'static str> {
    RULES.iter().chain(OTHER_NAMES).map(|(pattern, _)| *pattern)
}

/// The other name of a field.
#[must_use]
pub fn other_name(path: &str) -> Option<&'static str> {
    OTHER_NAMES.iter().find(|(pattern, _)| is_end(path, pattern)).map(|(_, name)| *name)
}

/// Whether `path` ends in `pattern`, between two fields.
#[must_use]
pub fn is_end(path: &str, pattern: &str) -> bool {
    path.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
