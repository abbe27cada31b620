#![allow(clippy::needless_pass_by_value, reason = "fixtures read best when a json! value is handed on")]

use serde_json::{Value, json};

use super::*;
use crate::api::{Origin as ObjectOrigin, parse};

/// What validation says of a spec: severity, field, message.
fn said(kind: &str, spec: Value) -> Vec<(Severity, String, String)> {
    let object = json!({"apiVersion": "networking.istio.io/v1", "kind": kind,
        "metadata": {"name": "x", "namespace": "shop"}, "spec": spec});
    let parsed = parse(object, ObjectOrigin::default());
    let object = parsed.object.unwrap_or_else(|| panic!("does not parse: {:?}", parsed.diagnostics));
    validate(&object).into_iter().map(|said| (said.severity, said.field, said.message)).collect()
}

/// Merges `more` into `base`, object by object.
fn merged(mut base: Value, more: Value) -> Value {
    match (&mut base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                let old = base.remove(&key).unwrap_or(Value::Null);
                base.insert(key, merged(old, value));
            }
        }
        (base, more) => *base = more,
    }
    base
}

fn rule(more: Value) -> Value {
    json!({"hosts": ["a.example"], "http": [merged(json!({"route": [{"destination": {"host": "b"}}]}), more)]})
}

fn policy(policy: Value) -> Value {
    json!({"host": "a", "trafficPolicy": policy})
}

fn server(more: Value) -> Value {
    let server = json!({"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["a.example"],
        "tls": {"mode": "SIMPLE", "credentialName": "c"}});
    json!({"servers": [merged(server, more)]})
}

fn entry(more: Value) -> Value {
    merged(
        json!({"hosts": ["a.example"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "resolution": "STATIC"}),
        more,
    )
}

/// Each spec has exactly one remark: an error at `field` with `message` in it.
fn refused(cases: Vec<(&str, Value, &str, &str)>) {
    for (kind, spec, field, message) in cases {
        let said = said(kind, spec.clone());
        let fits =
            matches!(said.as_slice(), [(Severity::Error, at, text)] if at == field && text.contains(message));
        assert!(fits, "{kind} {spec}: want {field}: {message}, have {said:?}");
    }
}

fn warned(cases: Vec<(&str, Value, &str, &str)>) {
    for (kind, spec, field, message) in cases {
        let said = said(kind, spec.clone());
        let fits = matches!(said.as_slice(), [(Severity::Warning, at, text)] if at == field && text.contains(message));
        assert!(fits, "{kind} {spec}: want {field}: {message}, have {said:?}");
    }
}

fn admitted(cases: Vec<(&str, Value)>) {
    for (kind, spec) in cases {
        assert_eq!(said(kind, spec.clone()), [], "{kind} {spec}");
    }
}

#[test]
fn virtual_services_that_are_let_in() {
    let vs = "VirtualService";
    admitted(vec![
        (vs, rule(json!({}))),
        (
            vs,
            rule(
                json!({"match": [{"uri": {"prefix": ""}, "headers": {":method": {"exact": "GET"}, "x": {}}}]}),
            ),
        ),
        (
            vs,
            rule(
                json!({"match": [{"withoutHeaders": {"x": {"regex": "*"}}, "queryParams": {"k": {"exact": ""}}}]}),
            ),
        ),
        (vs, rule(json!({"headers": {"request": {"set": {":authority": "x", "y": "%REQ(z)% 100%%"}}}}))),
        (vs, rule(json!({"route": [{"destination": {"host": "b"}, "weight": 0}]}))),
        (
            vs,
            rule(
                json!({"retries": {"attempts": 2, "retryOn": "5xx,connect-failure,503", "perTryTimeout": "1s"}}),
            ),
        ),
        (vs, rule(json!({"retries": {"attempts": 0}}))),
        (vs, rule(json!({"rewrite": {"uriRegexRewrite": {"match": "^/a/(.*)", "rewrite": "/\\1"}}}))),
        (vs, rule(json!({"fault": {"delay": {"fixedDelay": "2s", "percentage": {"value": 100}}}}))),
        (
            vs,
            rule(json!({"fault": {"abort": {"grpcStatus": "UNAVAILABLE", "percentage": {"value": 0.0001}}}})),
        ),
        (
            vs,
            rule(
                json!({"corsPolicy": {"allowOrigins": [{"regex": ".*"}], "allowMethods": ["GET"], "maxAge": "24h"}}),
            ),
        ),
        (vs, json!({"hosts": ["a"], "http": [{"redirect": {"derivePort": "FROM_REQUEST_PORT"}}]})),
        (
            vs,
            json!({"hosts": ["a"], "http": [{"redirect": {"prefixRewrite": "/y"}, "match": [{"uri": {"prefix": "/x"}}]}]}),
        ),
        (
            vs,
            json!({"hosts": ["a"], "http": [{"directResponse": {"status": 503, "body": {"bytes": "aGk="}}}]}),
        ),
        (vs, json!({"hosts": ["a"], "http": [{"delegate": {"name": "kid", "namespace": "ns"}}]})),
        (vs, json!({"http": [{"route": [{"destination": {"host": "b"}}]}]})),
        (
            vs,
            json!({"hosts": ["*"], "gateways": ["g", "ns/g"], "http": [{"route": [{"destination": {"host": "b"}}]}]}),
        ),
        (
            vs,
            json!({"hosts": ["1.2.3.4", "a.b.", "*.x.y"], "http": [{"route": [{"destination": {"host": "b"}}]}]}),
        ),
        (
            vs,
            json!({"hosts": ["*.x.y"], "tls": [{"match": [{"sniHosts": ["a.x.y"]}],
            "route": [{"destination": {"host": "b"}}]}], "exportTo": ["."]}),
        ),
        (
            vs,
            json!({"hosts": ["a"], "tcp": [{"match": [{"port": 80, "destinationSubnets": ["10.0.0.0/8"]}],
            "route": [{"destination": {"host": "b"}}]}]}),
        ),
        (
            vs,
            json!({"hosts": ["outbound_.80_._.a.example"], "gateways": ["g"], "tls": [{"match":
            [{"sniHosts": ["outbound_.80_._.a.example"]}], "route": [{"destination": {"host": "b"}}]}]}),
        ),
    ]);
}

#[test]
fn hosts_gateways_and_exports_are_checked() {
    let vs = "VirtualService";
    let route = json!([{"route": [{"destination": {"host": "b"}}]}]);
    let with = |more: Value| merged(json!({"hosts": ["a"], "http": route}), more);
    refused(vec![
        (
            vs,
            with(json!({"hosts": ["a_b"]})),
            "spec.hosts[0]",
            "domain name \"a_b\" invalid (label \"a_b\" invalid)",
        ),
        (vs, with(json!({"hosts": [""]})), "spec.hosts[0]", "empty domain name not allowed"),
        (vs, with(json!({"hosts": ["1.2.3.400"]})), "spec.hosts[0]", "cannot be all-numeric"),
        (vs, with(json!({"hosts": ["a..b"]})), "spec.hosts[0]", "label \"\" invalid"),
        (vs, with(json!({"hosts": ["x.*.y"]})), "spec.hosts[0]", "label \"*\" invalid"),
        (vs, with(json!({"hosts": ["*"]})), "spec.hosts[0]", "wildcard host * is not allowed"),
        (
            vs,
            with(json!({"hosts": ["a.b", "*.b"]})),
            "spec.hosts",
            "duplicate hosts in virtual service: a.b & *.b",
        ),
        (vs, with(json!({"gateways": ["/x"]})), "spec.gateways[0]", "cannot be empty"),
        (vs, with(json!({"gateways": ["a_b"]})), "spec.gateways[0]", "label \"a_b\" invalid"),
        (vs, with(json!({"exportTo": [".", "shop"]})), "spec.exportTo", "in exportTo for entry shop"),
        (vs, with(json!({"exportTo": ["shop", "."]})), "spec.exportTo", ". and current namespace shop"),
        (vs, with(json!({"exportTo": ["~"]})), "spec.exportTo", "exportTo ~ (none) is not allowed"),
        (
            vs,
            with(json!({"exportTo": ["x", "x"]})),
            "spec.exportTo",
            "duplicate entries in exportTo for entry x",
        ),
        (
            vs,
            with(json!({"exportTo": ["*", "x"]})),
            "spec.exportTo",
            "cannot have both public (*) and non-public",
        ),
        (vs, with(json!({"exportTo": ["A_b"]})), "spec.exportTo", "valid DNS 1123 label"),
        (vs, json!({"hosts": ["a"]}), "spec", "http, tcp or tls must be provided in virtual service"),
        (
            vs,
            json!({"tcp": [{"route": [{"destination": {"host": "b"}}]}]}),
            "spec.tcp",
            "must have no tcp route specified",
        ),
    ]);
    warned(vec![
        (vs, with(json!({"hosts": ["*a.b"]})), "spec.hosts[0]", "partial wildcard"),
        // Requests do not tell them apart, Istio's admission does.
        (vs, with(json!({"hosts": ["A.b", "a.B"]})), "spec.hosts", "duplicate hosts"),
    ]);
    // Istio looks no further than the first name without namespace.
    admitted(vec![(vs, with(json!({"gateways": ["a", "B_c/d"]})))]);
}

#[test]
fn http_actions_are_checked() {
    let vs = "VirtualService";
    let only = |route: Value| json!({"hosts": ["a"], "http": [route]});
    refused(vec![
        (vs, only(json!({})), "spec.http[0]", "HTTP route, redirect or direct_response is required"),
        (vs, rule(json!({"route": [{}]})), "spec.http[0].route[0]", "destination is required"),
        (
            vs,
            rule(json!({"route": [{"destination": {"host": "*"}}]})),
            "spec.http[0].route[0].destination.host",
            "*",
        ),
        (
            vs,
            rule(json!({"route": [{"destination": {"host": "b", "subset": "V_1"}}]})),
            "spec.http[0].route[0].destination.subset",
            "subset name is invalid: V_1",
        ),
        (
            vs,
            rule(json!({"route": [{"destination": {"host": "b", "port": {"number": 70000}}}]})),
            "spec.http[0].route[0].destination.port.number",
            "must be in the range 1..65535",
        ),
        (
            vs,
            rule(json!({"route": [{"destination": {"host": "b"}, "weight": -1}]})),
            "spec.http[0].route[0].weight",
            "weight -1 < 0",
        ),
        (
            vs,
            rule(json!({"route": [{"destination": {"host": "b"}}, {"destination": {"host": "c"}}]})),
            "spec.http[0].route",
            "total destination weight = 0",
        ),
        (vs, rule(json!({"timeout": "1.5ms"})), "spec.http[0].timeout", "only durations to ms precision"),
        (
            vs,
            rule(json!({"retries": {"attempts": -1}})),
            "spec.http[0].retries.attempts",
            "cannot be negative",
        ),
        (
            vs,
            rule(json!({"retries": {"attempts": 1, "retryOn": "5xx, reset"}})),
            "spec.http[0].retries.retryOn",
            "\" reset\"",
        ),
        (
            vs,
            rule(json!({"retries": {"attempts": 1, "retryOn": "299"}})),
            "spec.http[0].retries.retryOn",
            "\"299\"",
        ),
        (
            vs,
            rule(json!({"retries": {"attempts": 1, "backoff": "0s"}})),
            "spec.http[0].retries.backoff",
            "greater than 1ms",
        ),
        (vs, rule(json!({"rewrite": {}})), "spec.http[0].rewrite", "rewrite must specify at least one"),
        (
            vs,
            rule(json!({"rewrite": {"uri": "/", "uriRegexRewrite": {"match": "a", "rewrite": "b"}}})),
            "spec.http[0].rewrite",
            "rewrite may only contain one of",
        ),
        (
            vs,
            rule(json!({"rewrite": {"uriRegexRewrite": {"match": "(", "rewrite": "b"}}})),
            "spec.http[0].rewrite.uriRegexRewrite.match",
            "RE2",
        ),
        (
            vs,
            rule(json!({"rewrite": {"uriRegexRewrite": {"match": "a"}}})),
            "spec.http[0].rewrite.uriRegexRewrite",
            "requires both",
        ),
        (
            vs,
            rule(json!({"rewrite": {"authority": "x"}, "headers": {"request": {"set": {"Host": "y"}}}})),
            "spec.http[0]",
            "authority header cannot be set multiple times: have \"x\", attempting to set \"y\"",
        ),
        (
            vs,
            only(json!({"redirect": {"uri": "/", "redirectCode": 200}})),
            "spec.http[0].redirect.redirectCode",
            "must be 3xx",
        ),
        (
            vs,
            only(json!({"redirect": {"uri": "/", "prefixRewrite": "/"}})),
            "spec.http[0].redirect",
            "only specify one of uri or prefix_rewrite",
        ),
        (
            vs,
            only(json!({"redirect": {"port": 1, "derivePort": "FROM_REQUEST_PORT"}})),
            "spec.http[0].redirect",
            "both port and derivePort",
        ),
        (
            vs,
            only(json!({"redirect": {"scheme": "ftp"}})),
            "spec.http[0].redirect.scheme",
            "invalid redirect scheme",
        ),
        (
            vs,
            only(json!({"directResponse": {"status": 199}})),
            "spec.http[0].directResponse.status",
            "200-599",
        ),
        (
            vs,
            only(json!({"directResponse": {"status": 200, "body": {"string": "x".repeat((1 << 20) + 1)}}})),
            "spec.http[0].directResponse.body",
            "must be less than 1MB",
        ),
        (
            vs,
            only(json!({"directResponse": {"status": 200, "body": {"bytes": "a"}}})),
            "spec.http[0].directResponse.body.bytes",
            "not base64",
        ),
        (
            vs,
            only(json!({"directResponse": {"status": 200}, "redirect": {"uri": "/"}})),
            "spec.http[0]",
            "both direct_response and redirect",
        ),
        (
            vs,
            rule(json!({"mirror": {"host": "b"}, "mirrors": [{"destination": {"host": "b"}}]})),
            "spec.http[0]",
            "cannot contain both mirror and mirrors",
        ),
        (
            vs,
            rule(json!({"mirrors": [{"destination": {"host": "b"}, "percentage": {"value": -1}}]})),
            "spec.http[0].mirrors[0].percentage.value",
            "min value of 0",
        ),
        (
            vs,
            rule(json!({"fault": {"abort": {"httpStatus": 99, "percentage": {"value": 1}}}})),
            "spec.http[0].fault.abort.httpStatus",
            "HTTP status 99 is not in range 200-599",
        ),
        (
            vs,
            rule(json!({"fault": {"delay": {"exponentialDelay": "1s", "percentage": {"value": 1}}}})),
            "spec.http[0].fault.delay.exponentialDelay",
            "not supported yet",
        ),
        (
            vs,
            rule(json!({"corsPolicy": {"allowMethods": ["get"]}})),
            "spec.http[0].corsPolicy.allowMethods[0]",
            "\"get\" is not a supported",
        ),
        (
            vs,
            rule(json!({"corsPolicy": {"maxAge": "1.5s"}})),
            "spec.http[0].corsPolicy.maxAge",
            "seconds precision",
        ),
        (
            vs,
            rule(json!({"corsPolicy": {"allowHeaders": ["a b"]}})),
            "spec.http[0].corsPolicy.allowHeaders[0]",
            "not a valid header name",
        ),
        (
            vs,
            only(json!({"delegate": {"name": "x"}, "route": [{"destination": {"host": "b"}}]})),
            "spec.http[0]",
            "must not specify route",
        ),
    ]);
    warned(vec![
        (
            vs,
            rule(json!({"fault": {"delay": {"fixedDelay": "1s"}}})),
            "spec.http[0].fault.delay",
            "0 % of requests",
        ),
        (
            vs,
            rule(json!({"fault": {"abort": {"percentage": {"value": 1}}}})),
            "spec.http[0].fault.abort",
            "error type not set",
        ),
        (
            vs,
            only(json!({"directResponse": {"status": 200, "body": {"string": "x".repeat((100 << 10) + 1)}}})),
            "spec.http[0].directResponse.body",
            "may impact",
        ),
    ]);
}

#[test]
fn conditions_and_headers_are_checked() {
    let vs = "VirtualService";
    let condition = |condition: Value| rule(json!({"match": [condition]}));
    let at = "spec.http[0].match[0]";
    refused(vec![
        (
            vs,
            condition(json!({"headers": {"x": {"prefix": ""}}})),
            &format!("{at}.headers.x.prefix"),
            "should not be empty",
        ),
        (vs, condition(json!({"headers": {"x": {"regex": "*"}}})), &format!("{at}.headers.x.regex"), "RE2"),
        (
            vs,
            condition(json!({"queryParams": {"x": {"regex": "*"}}})),
            &format!("{at}.queryParams.x.regex"),
            "RE2",
        ),
        (
            vs,
            condition(json!({"method": {"regex": ""}})),
            &format!("{at}.method.regex"),
            "should not be empty",
        ),
        (vs, condition(json!({"uri": {"regex": "a".repeat(1025)}})), &format!("{at}.uri.regex"), "too large"),
        (vs, condition(json!({"uri": {"regex": "(?=a)"}})), &format!("{at}.uri.regex"), "RE2"),
        (vs, condition(json!({"uri": {"regex": "(a)\\1"}})), &format!("{at}.uri.regex"), "RE2"),
        (vs, condition(json!({"uri": {"exact": "/a", "prefix": "/"}})), &format!("{at}.uri"), "only one of"),
        (vs, condition(json!({"port": 70000})), &format!("{at}.port"), "1..65535"),
        (
            vs,
            condition(json!({"sourceLabels": {"a b": "c"}})),
            &format!("{at}.sourceLabels[\"a b\"]"),
            "invalid tag key",
        ),
        (
            vs,
            condition(json!({"headers": {"@request.auth.claims.sub": {"exact": "a"}}})),
            &format!("{at}.headers[\"@request.auth.claims.sub\"]"),
            "only supported for gateway",
        ),
        (
            vs,
            rule(json!({"headers": {"request": {"remove": ["host"]}}})),
            "spec.http[0].headers.request.remove[0]",
            "cannot set Host header",
        ),
        (
            vs,
            rule(json!({"headers": {"request": {"add": {":path": "x"}}}})),
            "spec.http[0].headers.request.add[\":path\"]",
            "cannot have \":\" prefix",
        ),
        (
            vs,
            rule(json!({"headers": {"response": {"set": {":authority": "x"}}}})),
            "spec.http[0].headers.response.set[\":authority\"]",
            "cannot have \":\" prefix",
        ),
        (
            vs,
            rule(json!({"headers": {"request": {"set": {"a": "x\r\ny"}}}})),
            "spec.http[0].headers.request.set.a",
            "header value configuration",
        ),
        (
            vs,
            rule(json!({"headers": {"request": {"set": {"a b": "x"}}}})),
            "spec.http[0].headers.request.set[\"a b\"]",
            "not a valid header name",
        ),
        (
            vs,
            rule(
                json!({"route": [{"destination": {"host": "b"}, "headers": {"response": {"add": {"a": "5%"}}}}]}),
            ),
            "spec.http[0].route[0].headers.response.add.a",
            "header value configuration",
        ),
        (
            vs,
            condition(json!({"headers": {":banana": {"exact": "a"}}})),
            &format!("{at}.headers[\":banana\"]"),
            "not a valid header name",
        ),
        (
            vs,
            condition(json!({"headers": {"@request.auth.claims": {"exact": "a"}}})),
            &format!("{at}.headers[\"@request.auth.claims\"]"),
            "not a valid header name",
        ),
        (
            vs,
            json!({"hosts": ["a"], "http": [{"match": [{"gateways": ["g"], "headers":
                {"@request.auth.claims[a]": {"exact": "b"}}}], "route": [{"destination": {"host": "b"}}]}]}),
            &format!("{at}.headers[\"@request.auth.claims[a]\"]"),
            "found no gateways",
        ),
        (
            vs,
            rule(json!({"headers": {"request": {"set": {"a": "%REQ(x):8%"}}}})),
            "spec.http[0].headers.request.set.a",
            "Expecting '%' or whitespace",
        ),
    ]);
}

#[test]
fn tls_and_tcp_routes_are_checked() {
    let vs = "VirtualService";
    let route = json!([{"destination": {"host": "b"}}]);
    let tls = |sni: Value| json!({"hosts": ["a.b"], "tls": [{"match": [{"sniHosts": sni}], "route": route}]});
    refused(vec![
        (vs, tls(json!(["c.d"])), "spec.tls[0].match[0].sniHosts[0]", "not a compatible subset"),
        (vs, tls(json!(["a_b"])), "spec.tls[0].match[0].sniHosts[0]", "invalid"),
        (
            vs,
            json!({"hosts": ["a"], "tls": [{"route": route}]}),
            "spec.tls[0]",
            "at least one match condition",
        ),
        (
            vs,
            json!({"hosts": ["a"], "tls": [{"match": [{"sniHosts": ["a"]}]}]}),
            "spec.tls[0]",
            "TLS route is required",
        ),
        (
            vs,
            json!({"hosts": ["a"], "tcp": [{"match": [{"destinationSubnets": ["10.0.0.0/40"]}], "route": route}]}),
            "spec.tcp[0].match[0].destinationSubnets[0]",
            "not a valid IP address or CIDR",
        ),
    ]);
    warned(vec![(vs, tls(json!(["1.2.3.4"])), "spec.tls[0].match[0].sniHosts[0]", "goes against SNI spec")]);
}

#[test]
fn what_can_never_apply_is_pointed_out() {
    let rules = |matches: Value| {
        let rules: Vec<_> = matches
            .as_array()
            .expect("a list of matches")
            .iter()
            .map(|matches| json!({"match": matches, "route": [{"destination": {"host": "b"}}]}))
            .collect();
        json!({"hosts": ["a.example"], "http": rules})
    };
    let fields = |matches: Value| -> Vec<String> {
        said("VirtualService", rules(matches)).into_iter().map(|(_, field, _)| field).collect()
    };
    let nothing: [&str; 0] = [];
    for (matches, want) in [
        (json!([[], []]), &["spec.http[1]"][..]),
        (json!([[], [{"uri": {"prefix": "/a"}}]]), &["spec.http[1]"]),
        (
            json!([[{"uri": {"prefix": "/a"}}], [{"uri": {"exact": "/ab"}}]]),
            &["spec.http[1].match[0]", "spec.http[1]"],
        ),
        (
            json!([[{"uri": {"prefix": "/a"}}], [{"uri": {"exact": "/ab"}}, {"uri": {"exact": "/b"}}]]),
            &["spec.http[1].match[0]"],
        ),
        (
            json!([[{"uri": {"prefix": "/"}}], [{"uri": {"regex": ".*"}}]]),
            &["spec.http[1].match[0]", "spec.http[1]"],
        ),
        (
            json!([[{"name": "x", "uri": {"exact": "/a"}}], [{"name": "y", "uri": {"exact": "/a"}}]]),
            &["spec.http[1].match[0]", "spec.http[1]"],
        ),
        (
            json!([[{"uri": {"prefix": "/a"}, "method": {"exact": "GET"}}], [{"uri": {"prefix": "/a"}}]]),
            &nothing,
        ),
        (json!([[{"uri": {"prefix": "/ab"}}], [{"uri": {"prefix": "/a"}}]]), &nothing),
        (json!([[{"uri": {"prefix": "/a"}, "ignoreUriCase": true}], [{"uri": {"prefix": "/a"}}]]), &nothing),
        (json!([[{"sourceLabels": {"a": "b"}}], [{"uri": {"prefix": "/a"}}]]), &nothing),
        (json!([[{"gateways": ["g"]}], [{"uri": {"prefix": "/a"}}]]), &nothing),
        (json!([[{"port": 80}], [{"port": 81}]]), &nothing),
    ] {
        assert_eq!(fields(matches.clone()), want, "{matches}");
    }
}

#[test]
fn destination_rules_are_checked() {
    let dr = "DestinationRule";
    let tp = "spec.trafficPolicy";
    admitted(vec![
        (dr, json!({"host": "a"})),
        (dr, json!({"host": "*.a.b", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]})),
        (dr, policy(json!({"tls": {"mode": "ISTIO_MUTUAL"}, "outlierDetection": {}}))),
        (
            dr,
            policy(json!({"connectionPool": {"tcp": {"idleTimeout": "0s"}, "http": {"idleTimeout": "1s"}}})),
        ),
        (
            dr,
            policy(
                json!({"loadBalancer": {"consistentHash": {"httpCookie": {"name": "a", "ttl": "0s"}, "maglev": {"tableSize": 65537}}}}),
            ),
        ),
        (
            dr,
            policy(
                json!({"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "a/*", "to": {"b/*": 100}}]}}}),
            ),
        ),
        (
            dr,
            policy(
                json!({"portLevelSettings": [{"port": {"number": 80}, "loadBalancer": {"simple": "RANDOM"}}]}),
            ),
        ),
        (dr, json!({"host": "a", "exportTo": ["."], "workloadSelector": {"matchLabels": {"a": "b"}}})),
    ]);
    refused(vec![
        (dr, json!({"host": ""}), "spec.host", "empty domain name"),
        (
            dr,
            json!({"host": "a", "subsets": [{"name": "v"}, {"name": "v"}]}),
            "spec.subsets[1].name",
            "duplicate subset names: v",
        ),
        (dr, json!({"host": "a", "subsets": [{"labels": {}}]}), "spec.subsets[0].name", "cannot be empty"),
        (
            dr,
            json!({"host": "a", "subsets": [{"name": "v", "trafficPolicy": {}}]}),
            "spec.subsets[0].trafficPolicy",
            "at least one field",
        ),
        (
            dr,
            json!({"host": "a", "subsets": [{"name": "v", "labels": {"a": "*"}}]}),
            "spec.subsets[0].labels.a",
            "invalid tag value",
        ),
        (dr, policy(json!({"connectionPool": {}})), &format!("{tp}.connectionPool"), "at least one field"),
        (
            dr,
            policy(json!({"connectionPool": {"tcp": {"maxConnections": -1}}})),
            &format!("{tp}.connectionPool.tcp.maxConnections"),
            "non-negative",
        ),
        (
            dr,
            policy(json!({"connectionPool": {"tcp": {"connectTimeout": "0s"}}})),
            &format!("{tp}.connectionPool.tcp.connectTimeout"),
            "1ms",
        ),
        (
            dr,
            policy(json!({"connectionPool": {"http": {"http2KeepAlive": {"interval": "1s"}}}})),
            &format!("{tp}.connectionPool.http.http2KeepAlive"),
            "http2 keepalive timeout is required",
        ),
        (
            dr,
            policy(
                json!({"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE", "useClientProtocol": true}}}),
            ),
            &format!("{tp}.connectionPool.http.useClientProtocol"),
            "must not be true",
        ),
        (
            dr,
            policy(json!({"loadBalancer": {"simple": "RANDOM", "consistentHash": {"useSourceIp": true}}})),
            &format!("{tp}.loadBalancer"),
            "only one of",
        ),
        (
            dr,
            policy(json!({"loadBalancer": {"consistentHash": {"httpCookie": {}}}})),
            &format!("{tp}.loadBalancer.consistentHash.httpCookie"),
            "name required",
        ),
        (
            dr,
            policy(json!({"loadBalancer": {"consistentHash": {"maglev": {"tableSize": 9}}}})),
            &format!("{tp}.loadBalancer.consistentHash.maglev.tableSize"),
            "prime",
        ),
        (
            dr,
            policy(json!({"loadBalancer": {"warmup": {}}})),
            &format!("{tp}.loadBalancer.warmup"),
            "duration is required",
        ),
        (
            dr,
            policy(json!({"loadBalancer": {"localityLbSetting": {"distribute": [
                {"from": "a/*", "to": {"b": 100}}, {"from": "a/b", "to": {"b": 100}}]}}})),
            &format!("{tp}.loadBalancer.localityLbSetting.distribute[1].from"),
            "overlap with previous",
        ),
        (
            dr,
            policy(
                json!({"loadBalancer": {"localityLbSetting": {"failover": [{"from": "*", "to": "b"}]}}, "outlierDetection": {}}),
            ),
            &format!("{tp}.loadBalancer.localityLbSetting.failover[0].from"),
            "wildcard",
        ),
        (
            dr,
            policy(json!({"outlierDetection": {"maxEjectionPercent": 101}})),
            &format!("{tp}.outlierDetection.maxEjectionPercent"),
            "0..100",
        ),
        (
            dr,
            policy(json!({"outlierDetection": {"consecutiveLocalOriginFailures": 1}})),
            &format!("{tp}.outlierDetection.consecutiveLocalOriginFailures"),
            "is set to false",
        ),
        (
            dr,
            policy(json!({"portLevelSettings": [{"port": {"number": 80}}]})),
            &format!("{tp}.portLevelSettings[0]"),
            "at least one field",
        ),
        (
            dr,
            policy(json!({"tls": {"mode": "SIMPLE", "credentialName": "a", "caCertificates": "/b"}})),
            &format!("{tp}.tls"),
            "If credentialName is set",
        ),
        (
            dr,
            policy(json!({"tls": {"mode": "SIMPLE", "insecureSkipVerify": true, "subjectAltNames": ["a"]}})),
            &format!("{tp}.tls"),
            "InsecureSkipVerify",
        ),
        (
            dr,
            policy(json!({"tls": {"mode": "MUTUAL", "clientCertificate": "/a"}})),
            &format!("{tp}.tls"),
            "private key required",
        ),
        (
            dr,
            policy(json!({"tunnel": {"targetHost": "a", "targetPort": 0}})),
            &format!("{tp}.tunnel.targetPort"),
            "1..65535",
        ),
        (
            dr,
            json!({"host": "a", "workloadSelector": {"matchLabels": {"a": "*"}}}),
            "spec.workloadSelector.matchLabels.a",
            "wildcard",
        ),
    ]);
}

#[test]
fn gateways_are_checked() {
    let gw = "Gateway";
    let at = "spec.servers[0]";
    admitted(vec![
        (gw, server(json!({}))),
        (gw, server(json!({"hosts": ["*", "./*.a.b", "ns/a.b", "*/a.b"]}))),
        (
            gw,
            server(
                json!({"tls": {"credentialName": null, "mode": "MUTUAL", "serverCertificate": "/a", "privateKey": "/b", "caCertificates": "/c"}}),
            ),
        ),
    ]);
    refused(vec![
        (gw, json!({}), "spec", "at least one server"),
        (gw, server(json!({"hosts": []})), at, "at least one host"),
        (gw, server(json!({"hosts": ["A_b/a.b"]})), &format!("{at}.hosts[0]"), "namespace"),
        (gw, server(json!({"hosts": ["/a.b"]})), &format!("{at}.hosts[0]"), "cannot be empty"),
        (gw, server(json!({"port": null})), at, "port is required"),
        (gw, server(json!({"port": {"number": 0}})), &format!("{at}.port.number"), "1..65535"),
        (gw, server(json!({"port": {"name": ""}})), &format!("{at}.port.name"), "port name must be set"),
        (
            gw,
            server(json!({"port": {"protocol": "FTP"}})),
            &format!("{at}.port.protocol"),
            "invalid protocol \"FTP\"",
        ),
        (gw, server(json!({"port": {"protocol": "TCP"}})), &format!("{at}.tls"), "non HTTPS/TLS ports"),
        (gw, server(json!({"tls": null})), at, "server must have TLS settings"),
        (
            gw,
            server(json!({"tls": {"mode": "ISTIO_MUTUAL"}})),
            &format!("{at}.tls.credentialName"),
            "ISTIO_MUTUAL TLS cannot",
        ),
        (
            gw,
            server(json!({"tls": {"credentialName": null, "serverCertificate": "/a"}})),
            &format!("{at}.tls"),
            "requires a private key",
        ),
        (
            gw,
            server(
                json!({"tls": {"mode": "MUTUAL", "credentialName": null, "serverCertificate": "/a", "privateKey": "/b"}}),
            ),
            &format!("{at}.tls"),
            "requires a client CA bundle",
        ),
        (gw, server(json!({"bind": "a"})), &format!("{at}.bind"), "not a valid IP"),
    ]);
    warned(vec![
        (
            gw,
            server(json!({"tls": {"mode": "PASSTHROUGH"}})),
            &format!("{at}.tls"),
            "PASSTHROUGH mode does not use certificates",
        ),
        (
            gw,
            server(json!({"tls": {"minProtocolVersion": "TLSV1_3", "maxProtocolVersion": "TLSV1_2"}})),
            &format!("{at}.tls.maxProtocolVersion"),
            "below minProtocolVersion",
        ),
    ]);
}

#[test]
fn service_and_workload_entries_are_checked() {
    let se = "ServiceEntry";
    let we = "WorkloadEntry";
    admitted(vec![
        (
            se,
            entry(
                json!({"endpoints": [{"address": "1.2.3.4", "ports": {"http": 8080}}, {"address": "unix:///a"}]}),
            ),
        ),
        (se, entry(json!({"hosts": ["*.a.b"], "resolution": "DYNAMIC_DNS"}))),
        (se, entry(json!({"resolution": "DNS", "endpoints": [{"address": "b.example"}], "exportTo": ["~"]}))),
        (we, json!({"address": "vm.example", "labels": {"a": "b"}})),
    ]);
    refused(vec![
        (se, entry(json!({"hosts": ["*"]})), "spec.hosts[0]", "invalid host *"),
        (
            se,
            entry(json!({"hosts": ["*.a.b"], "resolution": "DNS"})),
            "spec.hosts[0]",
            "hosts must be FQDN or contain only prefix wildcards",
        ),
        (se, entry(json!({"addresses": ["a"]})), "spec.addresses[0]", "not a valid IP address or CIDR"),
        (
            se,
            entry(json!({"endpoints": [{"address": "b.example"}]})),
            "spec.endpoints[0].address",
            "is not a valid IP address",
        ),
        (
            se,
            entry(json!({"endpoints": [{"address": "1.2.3.4", "ports": {"x": 1}}]})),
            "spec.endpoints[0].ports.x",
            "not defined by the service entry",
        ),
        (
            se,
            entry(
                json!({"resolution": "DNS_ROUND_ROBIN", "endpoints": [{"address": "a"}, {"address": "b"}]}),
            ),
            "spec.endpoints",
            "0 or 1 endpoint",
        ),
        (
            se,
            entry(json!({"ports": [{"number": 80, "name": "a"}, {"number": 80, "name": "b"}]})),
            "spec.ports[1].number",
            "service entry port 80 already defined",
        ),
        (
            se,
            entry(json!({"ports": [{"number": 80, "name": "a", "protocol": "X"}]})),
            "spec.ports[0].protocol",
            "unsupported protocol: X",
        ),
        (we, json!({}), "spec.address", "address is required"),
        (we, json!({"address": "a_b"}), "spec.address", "not a valid FQDN or an IP address"),
        (we, json!({"address": "unix://a"}), "spec.address", "not an absolute path"),
    ]);
}

#[test]
fn sidecars_are_checked() {
    let sc = "Sidecar";
    let egress = |egress: Value| json!({"egress": egress});
    admitted(vec![
        (sc, egress(json!([{"hosts": ["./*", "istio-system/*", "*/a.b", "~/x.y", "~prod/*", "~./z.y"]}]))),
        (
            sc,
            egress(
                json!([{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*/*"]}, {"hosts": ["*/*"]}]),
            ),
        ),
        (sc, json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}})),
    ]);
    refused(vec![
        (sc, json!({}), "spec", "sidecar: empty configuration provided"),
        (
            sc,
            egress(json!([{"hosts": ["a"]}])),
            "spec.egress[0].hosts[0]",
            "host must be of form namespace/dnsName",
        ),
        (sc, egress(json!([{"hosts": ["*/a"]}])), "spec.egress[0].hosts[0]", "short names"),
        (sc, egress(json!([{}])), "spec.egress[0]", "at least one host"),
        (
            sc,
            json!({"ingress": [{"port": {"number": 80, "name": "a", "protocol": "HTTP"}, "defaultEndpoint": "1.2.3.4:80"}]}),
            "spec.ingress[0].defaultEndpoint",
            "must be of form",
        ),
    ]);
}

/// More of the rules of istio/istio `pkg/config/validation`, by kind.
mod admission;
mod security;

#[test]
fn mesh_settings_are_checked() {
    let settings = json!({"connectTimeout": "0s", "defaultHttpRetryPolicy": {"attempts": 1, "retryOn": "x"}});
    let parsed = crate::api::parse_mesh_config(settings, &ObjectMeta::default(), ObjectOrigin::default());
    let said = validate(&parsed.object.expect("parses"));
    let fields: Vec<_> = said.iter().map(|said| said.field.as_str()).collect();
    assert_eq!(fields, ["connectTimeout", "defaultHttpRetryPolicy.retryOn"]);
}
