//! What a request meets when something is wrong, and what is tried again.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::{Reply, Upstream, World, destination_rule, refused, service, virtual_service};

#[test]
fn each_dead_end_has_its_status_flag_and_body() {
    let upstream = Upstream::named("ok");
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.extend(service(2, "empty", "http", &[]));
    objects.extend(service(3, "down", "http", &[("v1", refused())]));
    let to = |host: &str| json!([{"destination": {"host": host, "port": {"number": 80}}}]);
    objects.push(virtual_service(
        "echo",
        json!([
            {"match": [{"uri": {"exact": "/subset"}}], "route": [{"destination": {"host": "echo", "subset": "v9"}}]},
            {"match": [{"uri": {"exact": "/host"}}], "route": to("nobody")},
            {"match": [{"uri": {"exact": "/empty"}}], "route": to("empty")},
            {"match": [{"uri": {"exact": "/down"}}], "route": to("down"), "retries": {"attempts": 0}},
            {"match": [{"uri": {"exact": "/ok"}}], "route": to("echo")},
        ]),
    ));
    let world = World::new(objects);
    let mut connection = world.connect(1);
    for (path, status, flag, body) in [
        ("/nowhere", 404, "NR", ""),
        ("/subset", 503, "NC", ""),
        ("/host", 503, "NC", ""),
        ("/empty", 503, "UH", "no healthy upstream"),
        ("/down", 503, "UF", "remote connection failure"),
        ("/ok", 200, "-", "ok"),
    ] {
        let response = connection.get("echo", path, &[]);
        assert_eq!(response.status, status, "{path}");
        assert!(
            response.body.contains(body) && response.body.is_empty() == body.is_empty(),
            "{path}: {}",
            response.body
        );
        let line = world.log_line(&format!("\"GET {path} HTTP/1.1\""));
        assert!(line.contains(&format!(" {status} {flag} ")), "{line}");
    }
    assert_eq!(upstream.count(), 1);
}

#[test]
fn a_refused_connection_is_tried_again_elsewhere_by_default() {
    let upstream = Upstream::named("ok");
    let objects = service(1, "echo", "http", &[("v1", refused()), ("v1", upstream.address)]);
    let world = World::new(objects);
    let mut connection = world.connect(1);
    for _ in 0..30 {
        assert_eq!(connection.get("echo", "/", &[]).status, 200);
    }
    assert!(world.metrics().contains("undermesh_upstream_connections_total{result=\"failed\"}"));
}

#[test]
fn a_503_of_the_service_is_not_tried_again_by_default() {
    let upstream = Upstream::start(|_, _| Reply::Status(503));
    let world = World::new(service(1, "echo", "http", &[("v1", upstream.address)]));
    assert_eq!(world.connect(1).get("echo", "/", &[]).status, 503);
    assert_eq!(upstream.count(), 1);
    assert!(world.log_line(" 503 - via_upstream").contains("echo.default.svc.cluster.local"));
}

fn retrying(upstream: &Upstream, retries: serde_json::Value) -> World {
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.push(virtual_service(
        "echo",
        json!([{"route": [{"destination": {"host": "echo"}}], "retries": retries}]),
    ));
    World::new(objects)
}

#[test]
fn listed_codes_are_tried_again_with_a_counted_attempt_and_the_body_again() {
    let upstream = Upstream::start(|number, _| Reply::Status(if number < 3 { 503 } else { 200 }));
    let world = retrying(&upstream, json!({"attempts": 3, "retryOn": "503", "backoff": "1ms"}));
    let mut connection = world.connect(1);
    connection.send("POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 4\r\n\r\nbody");
    assert_eq!(connection.response().unwrap().status, 200);
    let counts: Vec<_> = upstream
        .requests
        .lock()
        .unwrap()
        .iter()
        .map(|head| crate::world::header(head, "x-envoy-attempt-count").unwrap())
        .collect();
    assert_eq!(counts, ["1", "2", "3"]);
    assert!(world.metrics().contains("undermesh_retries_total 2\n"));
}

#[test]
fn when_retries_are_used_up_the_last_answer_is_given_with_urx() {
    let upstream = Upstream::start(|_, _| Reply::Status(503));
    let world = retrying(&upstream, json!({"attempts": 2, "retryOn": "5xx", "backoff": "1ms"}));
    assert_eq!(world.connect(1).get("echo", "/", &[]).status, 503);
    assert_eq!(upstream.count(), 3);
    world.log_line(" 503 URX via_upstream");
}

#[test]
fn a_reset_without_an_answer_is_503_uc_and_tried_again_only_if_asked() {
    let upstream = Upstream::start(|_, _| Reply::Hangup);
    let world = World::new(service(1, "echo", "http", &[("v1", upstream.address)]));
    let response = world.connect(1).get("echo", "/", &[]);
    assert_eq!((response.status, response.body.contains("connection termination")), (503, true));
    assert_eq!(upstream.count(), 1);
    world.log_line(" 503 UC ");

    let upstream = Upstream::start(|number, _| if number == 1 { Reply::Hangup } else { Reply::Status(200) });
    let world = retrying(&upstream, json!({"attempts": 1, "retryOn": "reset", "backoff": "1ms"}));
    assert_eq!(world.connect(1).get("echo", "/", &[]).status, 200);
}

#[test]
fn the_routes_timeout_bounds_the_request_and_the_tries_timeout_the_try() {
    let upstream =
        Upstream::start(
            |number, _| if number == 1 { Reply::After(Duration::from_secs(3)) } else { Reply::Status(200) },
        );
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.push(virtual_service(
        "echo",
        json!([{"route": [{"destination": {"host": "echo"}}], "timeout": "300ms"}]),
    ));
    let world = World::new(objects);
    let started = Instant::now();
    let response = world.connect(1).get("echo", "/", &[]);
    assert_eq!((response.status, response.body.as_str()), (504, "upstream request timeout"));
    assert!(started.elapsed() >= Duration::from_millis(300) && started.elapsed() < Duration::from_secs(2));
    world.log_line(" 504 UT response_timeout");
    assert_eq!(
        crate::world::header(&upstream.last(), "x-envoy-expected-rq-timeout-ms").as_deref(),
        Some("300")
    );

    let upstream =
        Upstream::start(
            |number, _| if number == 1 { Reply::After(Duration::from_secs(3)) } else { Reply::Status(200) },
        );
    let world = retrying(
        &upstream,
        json!({"attempts": 1, "perTryTimeout": "200ms", "retryOn": "5xx", "backoff": "1ms"}),
    );
    assert_eq!(world.connect(1).get("echo", "/", &[]).status, 200);
}

#[test]
fn bytes_that_are_no_request_are_refused_recorded_and_never_sent_on() {
    let upstream = Upstream::named("ok");
    let world = World::new(service(1, "echo", "http", &[("v1", upstream.address)]));
    let mut connection = world.connect(1);
    connection.send("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n");
    assert_eq!(connection.response().unwrap().status, 400);
    world.log_line(" 400 DPE ");
    assert_eq!(upstream.count(), 0);
    assert!(world.metrics().contains("undermesh_malformed_requests_total 1\n"));
}

#[test]
fn a_rule_that_asks_for_tls_is_never_served_in_clear_text() {
    let upstream = Upstream::named("ok");
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.push(destination_rule("echo", json!({"trafficPolicy": {"tls": {"mode": "SIMPLE"}}})));
    let world = World::new(objects);
    assert_eq!(world.connect(1).get("echo", "/", &[]).status, 503);
    assert_eq!(upstream.opened(), 0);
}

#[test]
fn a_client_that_leaves_is_recorded_as_such_and_its_upstream_connection_is_closed() {
    let upstream = Upstream::start(|_, _| Reply::After(Duration::from_secs(2)));
    let world = World::new(service(1, "echo", "http", &[("v1", upstream.address)]));
    let mut connection = world.connect(1);
    connection.send("GET /gone HTTP/1.1\r\nhost: echo\r\n\r\n");
    while upstream.count() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(connection);
    assert!(world.log_line("/gone").contains(" 0 DC "));
}
