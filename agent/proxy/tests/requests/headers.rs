//! Headers that the proxy itself adds, takes away or leaves alone.

use serde_json::{Value, json};

use crate::world::{Reply, Response, Upstream, World, header, service, virtual_service};

fn world(upstream: &Upstream, http: Value) -> World {
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.push(virtual_service("echo", http));
    World::new(objects)
}

/// The rule's fields, and a route.
fn forward(mut rule: Value) -> Value {
    rule["route"] = json!([{"destination": {"host": "echo"}}]);
    json!([rule])
}

/// An upstream that says these things about itself.
fn saying(headers: &[(&'static str, &'static str)]) -> Upstream {
    let headers: Vec<_> = headers.iter().map(|&(name, value)| (name, value.to_owned())).collect();
    Upstream::start(move |_, _| Reply::Body(200, headers.clone(), "ok".to_owned()))
}

#[test]
fn instructions_for_an_envoy_are_not_passed_on_and_other_headers_are() {
    let upstream = Upstream::named("ok");
    let world = world(&upstream, forward(json!({})));
    let gone = [
        "x-envoy-retriable-status-codes",
        "x-envoy-retriable-header-names",
        "x-envoy-retry-on",
        "x-envoy-retry-grpc-on",
        "x-envoy-max-retries",
        "x-envoy-upstream-alt-stat-name",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-upstream-rq-per-try-timeout-ms",
        "X-Envoy-Upstream-Rq-Timeout-Alt-Response",
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-force-trace",
        "x-envoy-ip-tags",
        "x-envoy-original-url",
        "x-envoy-hedge-on-per-try-timeout",
    ];
    let kept = ["x-envoy-decorator-operation", "x-b3-traceid", "traceparent", "x-envoymy"];
    let all: Vec<_> = gone.iter().chain(&kept).map(|&name| (name, "1")).collect();
    world.connect(1).get("echo", "/", &all);
    let head = upstream.last();
    for name in gone {
        assert_eq!(header(&head, name), None, "{name}");
    }
    for name in kept {
        assert_eq!(header(&head, name).as_deref(), Some("1"), "{name}");
    }
}

#[test]
fn the_rule_has_the_last_word_about_what_the_proxy_adds() {
    let upstream = saying(&[]);
    let says = json!({
        "request": {"set": {"x-request-id": "rule", "x-mine": "%REQ(x-forwarded-proto)%"}, "remove": ["x-forwarded-proto"]},
        "response": {"set": {"x-envoy-upstream-service-time": "rule"}, "remove": ["date"]},
    });
    let world = world(&upstream, forward(json!({"headers": says})));
    let response = world.connect(1).get("echo", "/", &[]);
    let head = upstream.last();
    assert_eq!(header(&head, "x-request-id").as_deref(), Some("rule"));
    assert_eq!(header(&head, "x-forwarded-proto"), None);
    assert_eq!(response.header("x-envoy-upstream-service-time").as_deref(), Some("rule"));
    assert_eq!(response.header("date"), None);
}

#[test]
fn the_expected_time_is_the_trys_within_the_routes() {
    let upstream = Upstream::named("ok");
    for (timeout, per_try, want) in [
        (None, None, None),
        (Some("3s"), None, Some("3000")),
        (Some("3s"), Some("1s"), Some("1000")),
        (Some("3s"), Some("5s"), Some("3000")),
        (None, Some("2s"), Some("2000")),
    ] {
        let mut rule = json!({});
        if let Some(timeout) = timeout {
            rule["timeout"] = timeout.into();
        }
        if let Some(per_try) = per_try {
            rule["retries"] = json!({"attempts": 1, "perTryTimeout": per_try});
        }
        let world = world(&upstream, forward(rule));
        world.connect(1).get("echo", "/", &[("x-envoy-expected-rq-timeout-ms", "7")]);
        let sent = header(&upstream.last(), "x-envoy-expected-rq-timeout-ms");
        assert_eq!(sent.as_deref(), want, "{timeout:?} {per_try:?}");
    }
}

#[test]
fn the_original_path_is_told_when_it_was_changed_and_only_then() {
    let upstream = Upstream::named("ok");
    let world =
        world(&upstream, forward(json!({"match": [{"uri": {"prefix": "/a"}}], "rewrite": {"uri": "/b"}})));
    let mut connection = world.connect(1);
    connection.get("echo", "/a/x?q", &[]);
    let head = upstream.last();
    assert!(head.starts_with("GET /b/x?q "), "{head}");
    assert_eq!(header(&head, "x-envoy-original-path").as_deref(), Some("/a/x?q"));
}

/// `Mon, 23 Nov 2026 12:00:00 GMT`
fn is_date(response: &Response) -> bool {
    response.header("date").is_some_and(|date| date.len() == 29 && date.ends_with(" GMT"))
}

#[test]
fn every_response_has_a_date_and_says_how_long_the_service_took() {
    let upstream = saying(&[]);
    let world_of = |upstream: &Upstream| world(upstream, forward(json!({})));
    let response = world_of(&upstream).connect(1).get("echo", "/", &[]);
    assert!(is_date(&response), "{}", response.head);
    assert!(response.header("x-envoy-upstream-service-time").is_some());
    assert_eq!(response.header("server"), None, "none is made up");

    let own = [("date", "its own"), ("x-envoy-upstream-service-time", "77777"), ("server", "its own")];
    let response = world_of(&saying(&own)).connect(1).get("echo", "/", &[]);
    assert_eq!(response.header("date").as_deref(), Some("its own"));
    assert_eq!(response.header("server").as_deref(), Some("its own"));
    let time = response.header("x-envoy-upstream-service-time").unwrap();
    assert!(time.parse::<u64>().is_ok_and(|time| time < 77_777), "{time}");

    let direct = world(&upstream, json!([{"directResponse": {"status": 200, "body": {"string": "x"}}}]));
    assert!(is_date(&direct.connect(1).get("echo", "/", &[])));
}

#[test]
fn an_upgrade_to_anything_but_websocket_is_refused_before_anything_else_happens() {
    let upstream = Upstream::named("ok");
    let delay = json!({"delay": {"percentage": {"value": 100}, "fixedDelay": "60s"}});
    let world = world(&upstream, forward(json!({"fault": delay})));
    let mut connection = world.connect(1);
    let response = connection.get("echo", "/", &[("connection", "upgrade"), ("upgrade", "other")]);
    assert_eq!((response.status, upstream.count()), (403, 0));
    world.log_line("\"GET / HTTP/1.1\" 403 - upgrade_failed");
}

#[test]
fn at_a_gateway_clients_say_nothing_for_the_mesh() {
    let upstream = Upstream::named("ok");
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.push(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
            {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]},
        ]},
    }));
    let mut rule = virtual_service("echo", forward(json!({})));
    rule["spec"]["gateways"] = json!(["edge"]);
    rule["spec"]["hosts"] = json!(["shop.example"]);
    rule["spec"]["http"][0]["route"][0]["destination"]["port"] = json!({"number": 80});
    objects.push(rule);
    let world = World::new(objects);
    let names = [
        "x-envoy-decorator-operation",
        "x-envoy-internal",
        "x-envoy-downstream-service-cluster",
        "x-envoy-downstream-service-node",
        "x-envoy-max-retries",
        "x-forwarded-client-cert",
    ];
    let mut sent: Vec<_> = names.iter().map(|&name| (name, "1")).collect();
    sent.push(("x-request-id", "mine"));
    assert_eq!(world.connect_to_gateway().get("shop.example", "/", &sent).status, 200);
    let head = upstream.last();
    for name in names {
        assert_eq!(header(&head, name), None, "{name}");
    }
    assert_eq!(header(&head, "x-request-id").map(|id| id.len()), Some(36));
    assert_eq!(header(&head, "x-envoy-external-address").as_deref(), Some("127.0.0.1"));
}
