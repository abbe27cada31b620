use super::*;
use crate::api::Parsed;

fn parsed(kind: &str, spec: Value) -> Parsed {
    let object = json!({"apiVersion": "security.istio.io/v1", "kind": kind,
        "metadata": {"name": "x", "namespace": "shop"}, "spec": spec});
    parse(object, ObjectOrigin::default())
}

/// What admission says: severity, field, message.
fn verdict(kind: &str, spec: Value) -> Vec<(Severity, String, String)> {
    let parsed = parsed(kind, spec);
    let object = parsed.object.unwrap_or_else(|| panic!("does not parse: {:?}", parsed.diagnostics));
    validate(&object).into_iter().map(|said| (said.severity, said.field, said.message)).collect()
}

const AP: &str = "AuthorizationPolicy";
const PA: &str = "PeerAuthentication";
const RA: &str = "RequestAuthentication";

fn source(source: Value) -> Value {
    json!({"rules": [{"from": [{"source": source}]}]})
}

fn operation(operation: Value) -> Value {
    json!({"rules": [{"to": [{"operation": operation}]}]})
}

fn when(when: Value) -> Value {
    json!({"rules": [{"when": [when]}]})
}

fn jwt(rule: Value) -> Value {
    json!({"jwtRules": [merged(json!({"issuer": "a"}), rule)]})
}

#[test]
fn policies_that_are_let_in() {
    for (kind, spec) in [
        (AP, json!({})),
        (AP, json!({"rules": [{}]})),
        (AP, json!({"action": "DENY", "rules": [{}]})),
        (AP, json!({"action": "CUSTOM", "provider": {"name": "a"}, "rules": [{}]})),
        (AP, json!({"selector": {"matchLabels": {"a": "b"}}, "rules": [{}]})),
        (AP, json!({"targetRefs": [{"kind": "Service", "name": "a"}]})),
        (AP, json!({"targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "a"}})),
        (
            AP,
            source(json!({"principals": ["*"], "namespaces": ["a*"], "ipBlocks": ["10.0.0.0/8", "fd00::1"]})),
        ),
        (AP, source(json!({"serviceAccounts": ["a", "ns/a"], "trustDomains": ["*.b", "a*", "*"]}))),
        (AP, operation(json!({"paths": ["/a/{*}/b/{**}", "/c*"], "ports": ["80"], "methods": ["GET"]}))),
        (AP, when(json!({"key": "request.headers[x]", "values": ["a"]}))),
        (AP, when(json!({"key": "source.ip", "notValues": ["10.0.0.0/8"]}))),
        (AP, when(json!({"key": "request.auth.claims[a][b]", "values": ["c"]}))),
        (AP, when(json!({"key": "experimental.envoy.filters.a[b]", "values": ["c"]}))),
        (PA, json!({})),
        (PA, json!({"mtls": {"mode": "STRICT"}})),
        (PA, json!({"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"80": {"mode": "DISABLE"}}})),
        (RA, json!({})),
        (RA, jwt(json!({"jwksUri": "https://a.example/keys", "audiences": ["b"]}))),
        (RA, jwt(json!({"jwks": "{\"keys\": [{\"kty\": \"RSA\", \"n\": \"a\", \"e\": \"AQAB\"}]}"}))),
        (
            RA,
            jwt(
                json!({"fromHeaders": [{"name": "x", "prefix": "a "}], "fromCookies": ["c"], "timeout": "5s",
            "outputClaimToHeaders": [{"header": "x-a", "claim": "a.b"}]}),
            ),
        ),
    ] {
        assert_eq!(verdict(kind, spec.clone()), [], "{kind} {spec}");
    }
}

#[test]
fn policies_that_are_refused() {
    let rule = "spec.rules[0]";
    let from = "spec.rules[0].from[0].source";
    let to = "spec.rules[0].to[0].operation";
    let condition = "spec.rules[0].when[0]";
    let token = "spec.jwtRules[0]";
    let at = |place: &str, field: &str| format!("{place}{field}");
    for (kind, spec, field, message) in [
        (AP, json!({"action": "DENY"}), at("spec", ""), "DENY action without `rules` is meaningless"),
        (AP, json!({"action": "CUSTOM"}), at("spec", ""), "CUSTOM action without `rules` is meaningless"),
        (AP, json!({"action": "CUSTOM", "rules": [{}]}), at("spec", ""), "`provider.name` must not be empty"),
        (
            AP,
            json!({"provider": {"name": "a"}, "rules": [{}]}),
            at("spec", ".provider"),
            "non CUSTOM action, found ALLOW",
        ),
        (
            AP,
            json!({"action": "CUSTOM", "provider": {"name": "a"}, "rules": [{"from": [{"source": {"namespaces": ["a"]}}]}]}),
            at(from, ".namespaces"),
            "From.Namespaces is currently not supported with CUSTOM",
        ),
        (
            AP,
            json!({"selector": {"matchLabels": {"a": "b"}}, "targetRefs": [{"kind": "Service", "name": "a"}]}),
            at("spec", ""),
            "only one of targetRefs or workloadSelector",
        ),
        (AP, json!({"targetRefs": [{"kind": "Service"}]}), at("spec", ".targetRefs[0]"), "name must be set"),
        (
            AP,
            json!({"targetRefs": [{"kind": "Pod", "name": "a"}]}),
            at("spec", ".targetRefs[0]"),
            "must be to one of",
        ),
        (
            AP,
            json!({"targetRefs": [{"kind": "Service", "name": "a", "namespace": "b"}]}),
            at("spec", ".targetRefs[0].namespace"),
            "cross namespace",
        ),
        (
            AP,
            json!({"selector": {"matchLabels": {"a": "*"}}}),
            at("spec", ".selector.matchLabels.a"),
            "wildcard",
        ),
        (
            AP,
            json!({"rules": [{"from": [{}]}]}),
            at(rule, ".from[0]"),
            "`from.source` must not be nil, found at rule 0",
        ),
        (AP, source(json!({})), at(from, ""), "`from.source` must not be empty, found at rule 0"),
        (
            AP,
            source(json!({"principals": [""]})),
            at(from, ".principals[0]"),
            "empty value not allowed, found in Principals",
        ),
        (AP, source(json!({"ipBlocks": ["10.0.0.0/64"]})), at(from, ".ipBlocks[0]"), "bad CIDR range"),
        (AP, source(json!({"remoteIpBlocks": ["a"]})), at(from, ".remoteIpBlocks[0]"), "bad IP address (a)"),
        (
            AP,
            source(json!({"serviceAccounts": ["a*"]})),
            at(from, ".serviceAccounts[0]"),
            "wildcard not allowed",
        ),
        (
            AP,
            source(json!({"serviceAccounts": ["a/b/c"]})),
            at(from, ".serviceAccounts[0]"),
            "expected format",
        ),
        (AP, source(json!({"serviceAccounts": ["/b"]})), at(from, ".serviceAccounts[0]"), "empty namespace"),
        (
            AP,
            source(json!({"serviceAccounts": ["a"], "namespaces": ["b"]})),
            at(from, ""),
            "cannot set serviceAccounts with namespaces or principals",
        ),
        (AP, source(json!({"trustDomains": ["a*b"]})), at(from, ".trustDomains[0]"), "start or end"),
        (AP, source(json!({"trustDomains": ["a/b"]})), at(from, ".trustDomains[0]"), "must not contain '/'"),
        (AP, json!({"rules": [{"to": [{}]}]}), at(rule, ".to[0]"), "`to.operation` must not be nil"),
        (AP, operation(json!({})), at(to, ""), "`to.operation` must not be empty, found at rule 0"),
        (AP, operation(json!({"ports": ["65536"]})), at(to, ".ports[0]"), "bad port (65536)"),
        (
            AP,
            operation(json!({"paths": ["/{**}/{*}"]})),
            at(to, ".paths[0]"),
            "{**} is not the last operator",
        ),
        (AP, operation(json!({"paths": ["/{a}"]})), at(to, ".paths[0]"), "beyond a supported path template"),
        (AP, operation(json!({"notPaths": ["/{*}/a b"]})), at(to, ".notPaths[0]"), "invalid string literal"),
        (AP, when(json!({"values": ["a"]})), at(condition, ""), "`key` must not be empty"),
        (AP, when(json!({"key": "source.ip"})), at(condition, ""), "at least one of `values` or `notValues`"),
        (
            AP,
            when(json!({"key": "banana", "values": ["a"]})),
            at(condition, ".values"),
            "unknown attribute: banana",
        ),
        (
            AP,
            when(json!({"key": "request.headers", "values": ["a"]})),
            at(condition, ".values"),
            "should have format a[b]",
        ),
        (
            AP,
            when(json!({"key": "destination.port", "notValues": ["x"]})),
            at(condition, ".notValues"),
            "bad port (x)",
        ),
        (
            AP,
            when(json!({"key": "destination.labels[a]", "values": ["b"]})),
            at(condition, ".values"),
            "workload selector",
        ),
        (
            PA,
            json!({"portLevelMtls": {"80": {}}}),
            at("spec", ".portLevelMtls"),
            "cannot have port level mTLS",
        ),
        (
            PA,
            json!({"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"0": {}}}),
            at("spec", ".portLevelMtls.0"),
            "port must be in range 1..65535",
        ),
        (RA, json!({"jwtRules": [{}]}), at(token, ""), "issuer or jwksUri must be non-empty string"),
        (RA, jwt(json!({"audiences": [""]})), at(token, ".audiences[0]"), "audience must be non-empty"),
        (
            RA,
            jwt(json!({"jwksUri": "ftp://a"})),
            at(token, ".jwksUri"),
            "URI scheme \"ftp\" is not supported",
        ),
        (RA, jwt(json!({"jwks": "{"})), at(token, ".jwks"), "jwks parse error"),
        (
            RA,
            jwt(json!({"jwks": "{\"keys\": []}", "jwksUri": "http://a"})),
            at(token, ""),
            "only one of jwks or jwksUri",
        ),
        (
            RA,
            jwt(json!({"fromHeaders": [{"prefix": "a"}]})),
            at(token, ".fromHeaders[0]"),
            "location header name",
        ),
        (RA, jwt(json!({"fromParams": [""]})), at(token, ".fromParams[0]"), "location query"),
        (
            RA,
            jwt(json!({"outputClaimToHeaders": [{"header": "a"}]})),
            at(token, ".outputClaimToHeaders[0]"),
            "non-empty",
        ),
        (
            RA,
            jwt(json!({"outputClaimToHeaders": [{"header": "a b", "claim": "c"}]})),
            at(token, ".outputClaimToHeaders[0].header"),
            "not a valid header name",
        ),
        (RA, jwt(json!({"timeout": "0s"})), at(token, ".timeout"), "1ms"),
    ] {
        let said = verdict(kind, spec.clone());
        let fits = matches!(said.as_slice(), [(Severity::Error, place, text)] if *place == field && text.contains(message));
        assert!(fits, "{kind} {spec}: want {field}: {message}, have {said:?}");
    }
}

#[test]
fn a_deny_rule_of_http_alone_is_warned_about() {
    let deny = |spec: Value| merged(json!({"action": "DENY"}), spec);
    for (spec, is_warned) in [
        (deny(operation(json!({"paths": ["/a"]}))), true),
        (deny(source(json!({"requestPrincipals": ["*"]}))), true),
        (deny(operation(json!({"paths": ["/a"], "ports": ["80"]}))), false),
        (deny(source(json!({"namespaces": ["a"]}))), false),
        (operation(json!({"paths": ["/a"]})), false),
    ] {
        let said = verdict(AP, spec.clone());
        assert_eq!(
            said.iter().any(|(severity, ..)| *severity == Severity::Warning),
            is_warned,
            "{spec}: {said:?}"
        );
    }
    let private = verdict(RA, jwt(json!({"jwks": "{\"keys\": [{\"kty\": \"oct\", \"k\": \"a\"}]}"})));
    assert!(
        matches!(private.as_slice(), [(Severity::Warning, _, text)] if text.contains("private key material"))
    );
}

#[test]
fn what_restricts_is_refused_aloud_and_what_does_not_is_not() {
    for (kind, spec, severity, field) in [
        (AP, json!({}), Severity::Error, "spec"),
        (RA, jwt(json!({})), Severity::Error, "spec"),
        (PA, json!({"mtls": {"mode": "PERMISSIVE"}}), Severity::Warning, "spec.mtls.mode"),
        (PA, json!({"mtls": {"mode": "STRICT"}}), Severity::Error, "spec.mtls.mode"),
    ] {
        let parsed = parsed(kind, spec.clone());
        assert!(parsed.object.is_some(), "{kind} {spec}");
        let worst = parsed.diagnostics.iter().min_by_key(|said| said.severity).expect("something is said");
        assert_eq!((worst.severity, worst.field.as_str()), (severity, field), "{kind} {spec}");
        let of_fields = parsed.diagnostics.iter().filter(|said| said.severity == Severity::Error).count();
        assert!(of_fields <= 1, "said once: {:?}", parsed.diagnostics);
    }
    assert!(parsed(AP, json!({"ruels": []})).object.is_none(), "a misspelt field is refused");
}
