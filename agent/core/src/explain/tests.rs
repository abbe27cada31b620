use serde_json::{Value, json};

use super::*;
use crate::compile::fixture::{REGISTRY, SUBSETS, compiled, virtual_service};

mod schema;

fn ask(parts: &[&str], request: Value) -> Value {
    let request: Request = serde_json::from_value(request).expect("a request");
    let snapshot = compiled(parts).snapshot.with_generation(3);
    serde_json::to_value(explain(&snapshot, &request)).expect("JSON")
}

fn catalog() -> Value {
    json!({"id": "r1", "source": {"namespace": "shop"}, "address": "10.96.0.1", "port": 8080, "authority": "catalog", "path": "/a?x"})
}

#[test]
fn the_answer_is_the_contract() {
    let rules = virtual_service(
        "v",
        "{hosts: [catalog], http: [{match: [{headers: {end-user: {exact: jason}}}], route: [{destination: {host: catalog, subset: v2}}]}, {name: rest, timeout: 3s, headers: {request: {set: {x-env: a}}, response: {add: {x-r: b}}}, route: [{destination: {host: catalog, subset: v1}, weight: 90}, {destination: {host: catalog, subset: v2}, weight: 10}]}]}",
    );
    let answer = ask(&[REGISTRY, SUBSETS, &rules], catalog());
    assert_eq!(
        answer,
        json!({
            "id": "r1", "outcome": "forward", "path": "proxy", "status": null, "flag": null,
            "service": {"host": "catalog.shop.svc.cluster.local", "port": 8080},
            "rule": {"kind": "VirtualService", "namespace": "shop", "name": "v", "route": 1, "match": null, "route_name": "rest", "file": "test.yaml", "line": 1},
            "destinations": [destination("v1", 0.9, "catalog-1", "10.244.0.1", "catalog-2", "10.244.0.2"), destination("v2", 0.1, "catalog-2", "10.244.0.2", "catalog-1", "10.244.0.1")],
            "redirect": null, "direct_response": null, "fault": null, "timeout_ms": 3000,
            "retries": {"attempts": 2, "per_try_timeout_ms": null, "retry_on": ["connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"]},
            "mirrors": [], "cors": null, "policy": [],
            "trace": [
                "10.96.0.1:8080 is port 8080 of catalog.shop.svc.cluster.local: its cluster IP",
                "host \"catalog\" is served by the rules of catalog.shop.svc.cluster.local",
                "VirtualService shop/v governs it by its host catalog.shop.svc.cluster.local",
                "VirtualService/shop/v#0 match 0: header end-user exact \"jason\" does not hold, the request has none",
                "VirtualService/shop/v#1: matches",
            ],
        })
    );
}

fn destination(subset: &str, share: f64, id: &str, address: &str, other: &str, other_address: &str) -> Value {
    let labels = |id: &str| json!({"app": "catalog", "version": id.replace("catalog-", "v")});
    json!({
        "host": "catalog.shop.svc.cluster.local", "subset": subset, "port": 8080, "share": share,
        "cluster": format!("outbound|8080|{subset}|catalog.shop.svc.cluster.local"),
        "unavailable": null, "discovery": "endpoints",
        "endpoints": [
            {"id": id, "address": address, "port": 9090, "labels": labels(id), "locality": "", "share": 1.0, "excluded": null},
            {"id": other, "address": other_address, "port": 9090, "labels": labels(other), "locality": "", "share": 0.0, "excluded": "not in the subset"},
        ],
        "balancer": "LEAST_REQUEST", "hash_key": null,
        "request": {"path": "/a?x", "authority": "catalog", "headers": {"x-env": ["a"]}, "headers_removed": []},
        "response": {"headers_set": {}, "headers_added": {"x-r": ["b"]}, "headers_removed": []},
    })
}

#[test]
fn what_we_answer_ourselves_has_status_and_flag() {
    for (http, outcome, status, flag) in [
        ("[{match: [{uri: {exact: /z}}], directResponse: {status: 201}}]", "reject", json!(404), json!("NR")),
        ("[{directResponse: {status: 201}}]", "direct_response", json!(201), json!(null)),
        ("[{redirect: {uri: /z}}]", "redirect", json!(301), json!(null)),
        ("[{route: [{destination: {host: gone}}]}]", "forward", json!(503), json!("NC")),
        (
            "[{route: [{destination: {host: catalog}, weight: 1}, {destination: {host: gone}, weight: 1}]}]",
            "forward",
            json!(null),
            json!(null),
        ),
        (
            "[{fault: {abort: {httpStatus: 418, percentage: {value: 100}}}, route: [{destination: {host: catalog}}]}]",
            "abort",
            json!(418),
            json!("FI"),
        ),
        (
            "[{fault: {abort: {httpStatus: 418, percentage: {value: 50}}}, route: [{destination: {host: catalog}}]}]",
            "forward",
            json!(null),
            json!(null),
        ),
    ] {
        let rules = virtual_service("v", &format!("{{hosts: [catalog], http: {http}}}"));
        let answer = ask(&[REGISTRY, &rules], catalog());
        assert_eq!(
            (answer["outcome"].as_str(), &answer["status"], &answer["flag"]),
            (Some(outcome), &status, &flag),
            "{http}"
        );
    }
}

#[test]
fn a_connection_that_no_destination_can_serve_is_closed_and_so_has_a_flag_but_no_status() {
    let request = json!({"id": "r1", "source": {"namespace": "shop"}, "address": "10.96.0.2", "port": 9000, "protocol": "tcp"});
    for (host, flag) in [("pay", json!(null)), ("gone", json!("NC"))] {
        let rules = virtual_service(
            "v",
            &format!(
                "{{hosts: [pay], tcp: [{{route: [{{destination: {{host: {host}, port: {{number: 9000}}}}}}]}}]}}"
            ),
        );
        let answer = ask(&[REGISTRY, &rules], request.clone());
        assert_eq!((&answer["status"], &answer["flag"]), (&json!(null), &flag), "{answer}");
        assert_eq!(answer["outcome"], "forward");
    }
}

fn rule(policy: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r, namespace: shop}}, spec: {{host: catalog, trafficPolicy: {policy}}}}}"
    )
}

fn shares(answer: &Value) -> Vec<f64> {
    let endpoints = answer["destinations"][0]["endpoints"].as_array().expect("endpoints");
    endpoints.iter().map(|it| it["share"].as_f64().expect("a share")).collect()
}

#[test]
fn a_hash_key_leads_to_one_endpoint_and_a_missing_one_to_any() {
    let hashing =
        rule("{loadBalancer: {consistentHash: {httpHeaderName: X-User, maglev: {tableSize: 251}}}}");
    let mut request = catalog();
    let answer = ask(&[REGISTRY, &hashing], request.clone());
    let said = |answer: &Value| {
        let destination = &answer["destinations"][0];
        (destination["balancer"].clone(), destination["hash_key"].clone())
    };
    assert_eq!(said(&answer), (json!("MAGLEV"), json!(null)));
    assert_eq!(shares(&answer), [0.5, 0.5]);
    request["headers"] = json!({"x-user": ["jason"]});
    let answer = ask(&[REGISTRY, &hashing], request.clone());
    assert_eq!(said(&answer), (json!("MAGLEV"), json!("httpHeaderName x-user")));
    let mut got = shares(&answer);
    got.sort_by(f64::total_cmp);
    assert_eq!(got, [0.0, 1.0]);
    // A cookie that will be made leads somewhere, but nobody knows yet where.
    let hashing = rule("{loadBalancer: {consistentHash: {httpCookie: {name: user, ttl: 0s}}}}");
    let answer = ask(&[REGISTRY, &hashing], request);
    assert_eq!(said(&answer), (json!("RING_HASH"), json!("httpCookie user")));
    assert_eq!(shares(&answer), [0.5, 0.5]);
}

#[test]
fn endpoints_of_a_lower_priority_stand_by() {
    let locality =
        rule("{outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: [version=v2]}}}");
    let answer = ask(&[REGISTRY, &locality], catalog());
    let endpoints = &answer["destinations"][0]["endpoints"];
    assert_eq!(
        (&endpoints[0]["id"], &endpoints[0]["priority"], &endpoints[0]["share"], &endpoints[0]["excluded"]),
        (&json!("catalog-2"), &json!(0), &json!(1.0), &json!(null))
    );
    assert_eq!(
        (&endpoints[1]["id"], &endpoints[1]["priority"], &endpoints[1]["share"], &endpoints[1]["excluded"]),
        (&json!("catalog-1"), &json!(1), &json!(0.0), &json!("stands by for nearer endpoints"))
    );
    // Nobody would ever be ejected.
    let without = rule("{loadBalancer: {localityLbSetting: {failoverPriority: [version=v2]}}}");
    assert_eq!(shares(&ask(&[REGISTRY, &without], catalog())), [0.5, 0.5]);
}

#[test]
fn an_address_nobody_captures_is_not_touched() {
    let answer =
        ask(&[REGISTRY], json!({"id": "x", "address": "198.51.100.1", "port": 443, "protocol": "tls"}));
    assert_eq!((answer["outcome"].as_str(), answer["path"].as_str()), (Some("passthrough"), Some("none")));
}

fn said(answer: &Value, text: &str) -> bool {
    answer["trace"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|line| line.as_str().is_some_and(|it| it.contains(text)))
}

#[test]
fn a_name_or_port_that_nobody_has_is_told() {
    let ask = |authority: &str, port: u16| {
        let source = json!({"namespace": "shop"});
        ask(&[REGISTRY], json!({"id": "x", "source": source, "port": port, "authority": authority}))
    };
    assert!(said(&ask("catalogue", 8080), "no service of the mesh is named catalogue"));
    assert!(said(&ask("catalog", 81), "catalog.shop.svc.cluster.local has no port 81; its ports are: 8080"));
    let right = ask("catalog", 8080);
    assert!(!said(&right, "has no port") && !said(&right, "no service of the mesh"), "{right}");
}

#[test]
fn a_host_whose_address_dns_tells_is_told_and_not_an_address_of_zeros() {
    const OUTSIDE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec:
  hosts: [api.example.com]
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP}]
";
    let request =
        json!({"id": "x", "source": {"namespace": "shop"}, "port": 80, "authority": "api.example.com"});
    let answer = ask(&[REGISTRY, OUTSIDE], request.clone());
    assert!(said(&answer, "api.example.com is api.example.com, which has no address here"), "{answer}");
    assert!(said(&answer, "an address that is no service's, port 80: the port is captured"), "{answer}");
    let without = ask(&[REGISTRY], request);
    assert!(said(&without, "no service of the mesh is named api.example.com"), "{without}");
    assert!(said(&without, "the connection is not touched"), "{without}");
}

#[test]
fn the_part_that_fails_is_told() {
    let rules = |weights: &str| {
        virtual_service("v", &format!("{{hosts: [catalog], http: [{{route: [{weights}]}}]}}"))
    };
    let gone = "{destination: {host: catalog, subset: v1}, weight: 80}, {destination: {host: catalog, subset: v9}, weight: 20}";
    let answer = ask(&[REGISTRY, SUBSETS, &rules(gone)], catalog());
    assert!(said(&answer, "so 20.0 % answers 503 (NC)"), "{answer}");
    let idle = SUBSETS.replace("version: v2", "version: v3");
    let one = "{destination: {host: catalog, subset: v2}}";
    let answer = ask(&[REGISTRY, &idle, &rules(one)], catalog());
    assert!(said(&answer, "so everything answers 503 (UH)"), "{answer}");
    assert!(!said(&ask(&[REGISTRY, SUBSETS, &rules(one)], catalog()), "answers 503"));
}

#[test]
fn a_pod_fills_in_what_the_request_leaves_out() {
    let rules = virtual_service(
        "v",
        "{hosts: [catalog], http: [{match: [{sourceLabels: {app: pay}}], directResponse: {status: 201}}]}",
    );
    let mut request = catalog();
    request["source"] = json!({"pod": "shop/pay-1"});
    assert_eq!(ask(&[REGISTRY, &rules], request.clone())["outcome"], "direct_response");
    request["source"]["labels"] = json!({"app": "other"});
    assert_eq!(ask(&[REGISTRY, &rules], request.clone())["outcome"], "forward");
    request["source"] = json!({"pod": "shop/nobody"});
    let answer = ask(&[REGISTRY, &rules], request);
    assert_eq!(answer["trace"][0], "no Pod shop/nobody is known; only what the request says of it counts");
}

#[test]
fn a_malformed_path_is_400_and_a_misspelt_request_an_error() {
    let mut request = catalog();
    request["path"] = json!("/%zz");
    let answer = ask(&[REGISTRY], request);
    assert_eq!((answer["outcome"].as_str(), answer["status"].as_u64()), (Some("reject"), Some(400)));
    assert!(serde_json::from_value::<Request>(json!({"id": "x", "adress": "10.0.0.1"})).is_err());
}

#[test]
fn results_keep_the_order_and_name_version_and_generation() {
    let requests: Requests =
        serde_json::from_value(json!({"requests": [{"id": "b"}, {"id": "a"}]})).expect("requests");
    let results = explain_all(&compiled(&[REGISTRY]).snapshot.with_generation(4), &requests);
    let ids: Vec<_> = results.results.iter().map(|it| &*it.id).collect();
    assert_eq!((results.version, results.generation, ids), (1, 4, vec!["b", "a"]));
}

#[test]
fn a_cross_origin_policy_is_shown_with_what_it_makes_of_the_request() {
    let rules = virtual_service(
        "v",
        "{hosts: [catalog], http: [{corsPolicy: {allowOrigins: [{exact: a}, {prefix: b}], allowMethods: [GET], maxAge: 1m}, route: [{destination: {host: catalog}}]}]}",
    );
    let of = |origin: &str, method: &str| {
        let mut request = catalog();
        request["method"] = method.into();
        request["headers"] = json!({"origin": [origin], "access-control-request-method": ["GET"]});
        ask(&[REGISTRY, &rules], request)
    };
    let answer = of("a", "OPTIONS");
    assert_eq!((&answer["outcome"], &answer["status"]), (&json!("direct_response"), &json!(200)));
    assert_eq!(answer["direct_response"], json!({"status": 200, "body": ""}));
    assert_eq!(
        answer["cors"],
        json!({
            "allow_origins": ["exact \"a\"", "prefix \"b\""], "allow_methods": "GET", "allow_headers": "", "expose_headers": "",
            "max_age_seconds": 60, "allow_credentials": false, "unmatched_preflights": "FORWARD",
            "origin_allowed": true, "preflight": true,
            "response_headers": {
                "access-control-allow-origin": ["a"], "access-control-allow-methods": ["GET"],
                "access-control-max-age": ["60"],
            },
        })
    );
    let answer = of("b2", "GET");
    assert_eq!(answer["outcome"], "forward");
    assert_eq!(
        answer["destinations"][0]["response"]["headers_set"],
        json!({"access-control-allow-origin": ["b2"]})
    );
    let answer = of("c", "OPTIONS");
    assert_eq!((&answer["outcome"], &answer["cors"]["origin_allowed"]), (&json!("forward"), &json!(false)));
    assert_eq!(answer["destinations"][0]["response"]["headers_set"], json!({}));
    assert_eq!(ask(&[REGISTRY, &rules], catalog())["cors"]["origin_allowed"], json!(null));
}

#[test]
fn the_trace_says_which_rules_lost_and_which_were_never_tried() {
    let named = |name: &str, namespace: &str, spec: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}"
        )
    };
    let host = "catalog.shop.svc.cluster.local";
    let http = "http: [{match: [{sourceLabels: {app: a}}, {port: 1}, {sourceNamespace: red}, {gateways: [edge]}], directResponse: {status: 200}}, {route: [{destination: {host: catalog}}]}]";
    let parts = [
        named("a", "shop", &format!("{{hosts: [{host}], {http}}}")),
        named("b", "shop", &format!("{{hosts: [{host}], {http}}}")),
        named("c", "shop", &format!("{{hosts: ['*.shop.svc.cluster.local'], {http}}}")),
        named("d", "red", &format!("{{hosts: [{host}], exportTo: ['.'], {http}}}")),
    ];
    let all: Vec<&str> = std::iter::once(REGISTRY).chain(parts.iter().map(String::as_str)).collect();
    let answer = ask(&all, catalog());
    let trace: Vec<_> =
        answer["trace"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(
        trace[2..],
        [
            format!("VirtualService shop/a governs it by its host {host}"),
            format!("VirtualService shop/b has {host} too; it is not used: VirtualService shop/a is older, or of the same age and first by name"),
            format!("VirtualService red/d has {host}; it is not exported to namespace shop"),
            "VirtualService shop/c has *.shop.svc.cluster.local too; it is not used: its host is less specific".to_owned(),
            "VirtualService/shop/a#0 match 0: not for this client: sourceLabels app=a, and the client has none".to_owned(),
            "VirtualService/shop/a#0 match 1: not for this client: port 1, and it is 8080".to_owned(),
            "VirtualService/shop/a#0 match 2: not for this client: sourceNamespace red, and it is shop".to_owned(),
            "VirtualService/shop/a#0 match 3: not for this client: gateways shop/edge, and it is mesh".to_owned(),
            "VirtualService/shop/a#1: matches".to_owned(),
        ]
    );
}

#[test]
fn a_request_without_address_dials_what_dns_says() {
    let mut request = catalog();
    request["address"] = Value::Null;
    let answer = ask(&[REGISTRY], request.clone());
    assert_eq!(answer["service"]["host"], "catalog.shop.svc.cluster.local");
    assert_eq!(
        answer["trace"][0],
        "catalog is 10.96.0.1 to a client of namespace shop: catalog.shop.svc.cluster.local"
    );
    request["source"] = json!({"namespace": "red"});
    assert_eq!(ask(&[REGISTRY], request)["service"], Value::Null);
}

#[test]
fn a_bad_entry_is_named_by_position_and_id() {
    for (entry, says) in [
        (json!({"id": "a", "adress": "10.0.0.1"}), "requests[1] (\"a\"): adress: unknown field `adress`"),
        (
            json!({"id": "a", "port": 80, "address": "x"}),
            "requests[1] (\"a\"): address: invalid IP address syntax",
        ),
        (
            json!({"id": "a", "port": 80, "protocol": "smtp"}),
            "requests[1] (\"a\"): protocol: unknown variant `smtp`",
        ),
        (
            json!({"id": "a", "port": 80, "headers": {"x": "y"}}),
            "requests[1] (\"a\"): headers.x: invalid type",
        ),
        (json!({"port": 80, "path": "x"}), "requests[1]: path \"x\" does not begin with /"),
        (json!({"id": "a", "authority": "b"}), "requests[1] (\"a\"): port is missing"),
        (json!({"id": "a", "gateway": {"labels": {}}}), "requests[1] (\"a\"): gateway.port is missing"),
        (json!({"id": "a", "port": 80, "scheme": "ftp"}), "requests[1] (\"a\"): scheme \"ftp\""),
        (json!("x"), "requests[1]: invalid type"),
    ] {
        let text = json!({"requests": [{"id": "good", "port": 80}, entry]}).to_string();
        let error = Requests::parse(text.as_bytes()).expect_err("a bad entry").to_string();
        assert!(error.contains(says), "{entry}: {error}");
        assert!(!error.contains("good"), "{error}");
    }
    for (text, says) in [
        ("", "not JSON"),
        ("[]", "a list without the key `requests`"),
        ("[{\"port\": 80}]", "a list without the key `requests`"),
        ("{}", "no key `requests`"),
        ("{\"requests\": 1}", "`requests` is no list"),
        ("7", "neither a mapping nor a list"),
    ] {
        let error = Requests::parse(text.as_bytes()).expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
        assert!(error.contains("docs/explain-schema.md"), "{text}: {error}");
    }
    assert_eq!(Requests::parse(b"{\"requests\": []}").map(|it| it.requests.len()), Ok(0));
}
