//! Every answer has every key of docs/explain-schema.md, with the type it says: for each outcome, protocol and way in.

use serde_json::{Value, json};

use super::{catalog, compiled};
use crate::compile::fixture::{REGISTRY, SUBSETS, virtual_service};
use crate::explain::{Requests, explain_all};

/// What a place may hold. `|null` is said by `maybe`.
enum Type {
    Text,
    Number,
    Share,
    /// One of these texts.
    Word(&'static [&'static str]),
    /// These keys and no others.
    Keys(Vec<(&'static str, Type)>),
    /// Names to lists of texts.
    Headers,
    /// Names to texts.
    Labels,
    List(Box<Type>),
    Maybe(Box<Type>),
    /// Whatever it is; others add to it.
    Any,
}

use Type::{Any, Headers, Keys, Labels, Number, Share, Text, Word};

fn maybe(inner: Type) -> Type {
    Type::Maybe(Box::new(inner))
}

fn list(inner: Type) -> Type {
    Type::List(Box::new(inner))
}

fn answer() -> Type {
    let place = |more: Vec<(&'static str, Type)>| {
        Keys([("host", Text), ("subset", maybe(Text)), ("port", Number)].into_iter().chain(more).collect())
    };
    let endpoint = Keys(vec![
        ("id", Text),
        ("address", Text),
        ("port", Number),
        ("labels", Labels),
        ("locality", Text),
        ("share", Share),
        ("excluded", maybe(Text)),
    ]);
    let request = Keys(vec![
        ("path", Text),
        ("authority", Text),
        ("headers", Headers),
        ("headers_removed", list(Text)),
    ]);
    let response =
        Keys(vec![("headers_set", Headers), ("headers_added", Headers), ("headers_removed", list(Text))]);
    let destination = place(vec![
        ("share", Share),
        ("cluster", Text),
        ("unavailable", maybe(Text)),
        ("discovery", Word(&["endpoints", "original_destination", "dns"])),
        ("endpoints", list(endpoint)),
        ("balancer", Text),
        ("hash_key", Any),
        ("request", maybe(request)),
        ("response", maybe(response)),
    ]);
    let rule = Keys(vec![
        ("kind", Text),
        ("namespace", Text),
        ("name", Text),
        ("route", Number),
        ("match", maybe(Number)),
        ("route_name", Text),
        ("file", maybe(Text)),
        ("line", maybe(Number)),
    ]);
    let fault = Keys(vec![
        ("delay_ms", maybe(Number)),
        ("delay_percent", Number),
        ("abort_status", maybe(Number)),
        ("abort_grpc_status", maybe(Number)),
        ("abort_percent", Number),
    ]);
    let retries =
        Keys(vec![("attempts", Number), ("per_try_timeout_ms", maybe(Number)), ("retry_on", list(Text))]);
    Keys(vec![
        ("id", Text),
        ("outcome", Word(&["forward", "redirect", "direct_response", "abort", "passthrough", "reject"])),
        ("path", Word(&["proxy", "kernel", "none"])),
        ("status", maybe(Number)),
        ("flag", maybe(Text)),
        ("service", maybe(Keys(vec![("host", Text), ("port", Number)]))),
        ("rule", maybe(rule)),
        ("destinations", list(destination)),
        ("redirect", maybe(Keys(vec![("location", Text), ("code", Number)]))),
        ("direct_response", maybe(Keys(vec![("status", Number), ("body", Text)]))),
        ("fault", maybe(fault)),
        ("timeout_ms", maybe(Number)),
        ("retries", maybe(retries)),
        ("mirrors", list(place(vec![("percent", Number)]))),
        ("cors", Any),
        (
            "policy",
            list(Keys(vec![("block", Text), ("from", Text), ("file", maybe(Text)), ("line", maybe(Number))])),
        ),
        ("trace", list(Text)),
    ])
}

fn check(value: &Value, want: &Type, path: &str) {
    let fits = match want {
        Text => value.is_string(),
        Number => value.is_number(),
        Share => value.as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)),
        Word(words) => value.as_str().is_some_and(|word| words.contains(&word)),
        Any => true,
        Type::Maybe(inner) => {
            if !value.is_null() {
                check(value, inner, path);
            }
            return;
        }
        Labels => value.as_object().is_some_and(|labels| labels.values().all(Value::is_string)),
        Headers => {
            let texts =
                |lines: &Value| lines.as_array().is_some_and(|lines| lines.iter().all(Value::is_string));
            value.as_object().is_some_and(|headers| headers.values().all(texts))
        }
        Type::List(inner) => {
            let items = value.as_array().unwrap_or_else(|| panic!("{path}: {value}"));
            return items.iter().for_each(|item| check(item, inner, &format!("{path}[]")));
        }
        Keys(keys) => {
            let object = value.as_object().unwrap_or_else(|| panic!("{path}: {value}"));
            for (key, inner) in keys {
                let value = object.get(*key).unwrap_or_else(|| panic!("{path}.{key} is missing"));
                check(value, inner, &format!("{path}.{key}"));
            }
            return;
        }
    };
    assert!(fits, "{path}: {value}");
}

const DESTINATION: &str = "
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: pool, namespace: shop}, spec: {host: pay, trafficPolicy: {connectionPool: {tcp: {maxConnections: 5}}}}}
";
const GATEWAY: &str = "
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: edge, namespace: shop}, spec: {selector: {istio: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}}
";
const TCP: &str = "
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: admin, namespace: shop}, spec: {hosts: [pay], tcp: [{match: [{port: 9000}], route: [{destination: {host: pay, port: {number: 9000}}}]}]}}
";

#[test]
fn every_answer_has_every_key_with_its_type() {
    let rules = virtual_service(
        "v",
        "{hosts: [catalog], http: [
            {match: [{uri: {prefix: /redirect}}], redirect: {uri: /z}},
            {match: [{uri: {prefix: /direct}}], directResponse: {status: 201, body: {string: hi}}},
            {match: [{uri: {prefix: /abort}}], fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: catalog}}]},
            {match: [{uri: {prefix: /none}}], route: [{destination: {host: gone}}]},
            {match: [{uri: {prefix: /a}}], timeout: 1s, fault: {delay: {fixedDelay: 1s, percentage: {value: 5}}}, rewrite: {uri: /b, authority: x}, mirror: {host: pay, port: {number: 80}},
                headers: {request: {set: {x: y}, remove: [z]}, response: {add: {r: s}, remove: [t]}},
                route: [{destination: {host: catalog, subset: v1}, weight: 1}, {destination: {host: pay, port: {number: 80}}, weight: 3}]}]}",
    );
    let edge = virtual_service(
        "edge",
        "{hosts: ['a.example'], gateways: [edge], http: [{route: [{destination: {host: pay, port: {number: 80}}}]}]}",
    );
    let asked = |more: Value| {
        let mut request = catalog();
        for (key, value) in more.as_object().expect("a mapping") {
            request[key] = value.clone();
        }
        request
    };
    let gateway = |host: &str, port: u16| json!({"id": "g", "gateway": {"namespace": "shop", "labels": {"istio": "edge"}, "port": port}, "authority": host, "path": "/"});
    let mut requests = Vec::new();
    for protocol in ["http1", "http2", "grpc"] {
        for path in ["/redirect", "/direct", "/abort", "/none", "/a?b=c", "/nothing", "/%zz"] {
            requests.push(asked(json!({"path": path, "protocol": protocol})));
        }
    }
    requests.extend([
        asked(json!({"source": {"pod": "shop/nobody"}})),
        asked(json!({"source": {"pod": "shop/pay-1"}})),
        json!({"id": "tls", "address": "10.96.0.2", "port": 9000, "protocol": "tls", "sni": "a"}),
        json!({"id": "tcp", "address": "10.96.0.2", "port": 9000, "protocol": "tcp"}),
        json!({"id": "out", "address": "198.51.100.1", "port": 443, "protocol": "tls"}),
        json!({"id": "name", "port": 80, "authority": "pay.shop"}),
        gateway("a.example", 80),
        gateway("b.example", 80),
        gateway("a.example", 81),
    ]);
    let parsed = Requests::parse(json!({"requests": requests}).to_string().as_bytes()).expect("requests");
    let snapshot = compiled(&[REGISTRY, SUBSETS, DESTINATION, GATEWAY, TCP, &rules, &edge]).snapshot;
    let results = serde_json::to_value(explain_all(&snapshot, &parsed)).expect("JSON");
    let results = results["results"].as_array().expect("a list");
    assert_eq!(results.len(), requests.len());
    let want = answer();
    let mut outcomes = std::collections::BTreeSet::new();
    for result in results {
        check(result, &want, "result");
        outcomes.insert(result["outcome"].as_str().expect("a text").to_owned());
        let shares: f64 = result["destinations"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|it| it["share"].as_f64())
            .sum();
        assert!(shares == 0.0 || (shares - 1.0).abs() < 1e-9, "{result}");
    }
    let all = ["abort", "direct_response", "forward", "passthrough", "redirect", "reject"];
    assert!(outcomes.iter().eq(all.iter()), "{outcomes:?}");
}
