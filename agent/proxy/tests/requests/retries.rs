//! How many retries there may be, how long everything may take together, and what the log says then.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{
    Connection, PATIENCE, Reply, Upstream, World, destination_rule, header, service, silent, virtual_service,
};

/// A service with `retries` in its rule and `policy` in its DestinationRule.
fn world(address: std::net::SocketAddr, http: Value, policy: Value) -> World {
    let mut objects = service(1, "echo", "http", &[("v1", address)]);
    let mut route = json!({"route": [{"destination": {"host": "echo"}}]});
    route.as_object_mut().unwrap().extend(http.as_object().unwrap().clone());
    objects.push(virtual_service("echo", json!([route])));
    if !policy.is_null() {
        objects.push(destination_rule("echo", json!({"trafficPolicy": policy})));
    }
    World::new(objects)
}

fn until(what: impl Fn() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(started.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The status of a request that wants a retry while another one's retry is under way.
fn while_another_retries(policy: Value) -> (World, u16) {
    // The first request fails, its retry lasts; the second fails and, if it may, succeeds.
    let upstream = Upstream::start(|number, _| match number {
        1 | 3 => Reply::Body(503, vec![("x-try", number.to_string())], "busy".to_owned()),
        2 => Reply::After(Duration::from_millis(800)),
        _ => Reply::Status(200),
    });
    let retries = json!({"retries": {"attempts": 1, "retryOn": "503", "backoff": "1ms"}});
    let world = world(upstream.address, retries, policy);
    let mut first = world.connect(1);
    first.send("GET /first HTTP/1.1\r\nhost: echo\r\n\r\n");
    until(|| upstream.count() == 2);
    let second = world.connect(1).get("echo", "/second", &[]);
    assert_eq!(first.response().unwrap().status, 200);
    // Over now, so that the next may be tried again.
    assert_eq!(second.body.is_empty(), second.status == 200);
    (world, second.status)
}

#[test]
fn when_the_clusters_retries_are_used_up_the_answer_at_hand_is_relayed_with_uo() {
    for policy in [
        json!({"connectionPool": {"http": {"maxRetries": 1}}}),
        json!({"retryBudget": {"percent": 0.1, "minRetryConcurrency": 1}}),
        json!({"retryBudget": {"percent": 50, "minRetryConcurrency": 1}}),
        json!({"retryBudget": {"percent": 50, "minRetryConcurrency": 1, "budgetInterval": "10s"}}),
    ] {
        let (world, status) = while_another_retries(policy.clone());
        assert_eq!(status, 503, "{policy}");
        assert!(world.log_line("GET /second").contains(" 503 UO via_upstream"), "{policy}");
        assert!(world.metrics().contains("undermesh_retries_overflowed_total 1\n"));
        assert!(world.metrics().contains("undermesh_retries_total 1\n"));
    }
}

#[test]
fn a_budget_takes_the_place_of_max_retries_and_lets_its_share_through() {
    for policy in [
        json!({"connectionPool": {"http": {"maxRetries": 2}}}),
        json!({"retryBudget": {"percent": 100, "minRetryConcurrency": 1}}),
        json!({"retryBudget": {}, "connectionPool": {"http": {"maxRetries": 1}}}),
        // Three tries were begun within it.
        json!({"retryBudget": {"percent": 70, "minRetryConcurrency": 1, "budgetInterval": "10s"}}),
    ] {
        assert_eq!(while_another_retries(policy.clone()).1, 200, "{policy}");
    }
}

#[test]
fn the_routes_time_includes_connecting() {
    let (address, _queue) = silent();
    let world = world(address, json!({"timeout": "200ms"}), Value::Null);
    let started = Instant::now();
    let response = world.connect(1).get("echo", "/", &[]);
    assert_eq!((response.status, response.body.as_str()), (504, "upstream request timeout"));
    assert!(started.elapsed() < Duration::from_secs(3));
    world.log_line(" 504 UT response_timeout");
}

#[test]
fn a_client_that_leaves_while_its_request_waits_for_a_connection_is_seen() {
    let (address, _queue) = silent();
    let world = world(address, json!({}), Value::Null);
    let mut connection = world.connect(1);
    connection.send("GET /gone HTTP/1.1\r\nhost: echo\r\n\r\n");
    std::thread::sleep(Duration::from_millis(100));
    drop(connection);
    let started = Instant::now();
    assert!(world.log_line("/gone").contains(" 0 DC "));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn the_routes_time_includes_waiting_before_a_retry() {
    let upstream = Upstream::start(|_, _| Reply::Status(503));
    let world = world(
        upstream.address,
        json!({"timeout": "200ms", "retries": {"attempts": 9, "retryOn": "5xx", "backoff": "20s"}}),
        Value::Null,
    );
    let started = Instant::now();
    assert_eq!(world.connect(1).get("echo", "/", &[]).status, 504);
    assert!(started.elapsed() < Duration::from_secs(3));
    world.log_line(" 504 UT response_timeout");
}

fn call(connection: &mut Connection) -> Option<String> {
    connection
        .get("echo", "/shop.Catalog/List", &[("content-type", "application/grpc")])
        .header("grpc-status")
}

#[test]
fn a_grpc_status_in_the_head_is_tried_again_by_default_and_only_those_listed() {
    for (status, count) in [("14", 2), ("1", 2), ("13", 1), ("0", 1)] {
        let upstream = Upstream::start(move |number, _| {
            let status = if number == 1 { status } else { "0" };
            let headers =
                vec![("content-type", "application/grpc".to_owned()), ("grpc-status", status.to_owned())];
            Reply::Body(200, headers, String::new())
        });
        let world = World::new(service(1, "echo", "http", &[("v1", upstream.address)]));
        let want = if count == 2 { "0" } else { status };
        assert_eq!(call(&mut world.connect(1)).as_deref(), Some(want));
        assert_eq!(upstream.count(), count, "{status}");
        assert_eq!(header(&upstream.last(), "x-envoy-attempt-count"), Some(count.to_string()));
    }
}

#[test]
fn an_answer_that_no_condition_covers_ends_the_tries_without_urx() {
    let upstream = Upstream::start(|number, _| Reply::Status(if number == 1 { 503 } else { 500 }));
    let world = world(
        upstream.address,
        json!({"retries": {"attempts": 1, "retryOn": "503", "backoff": "1ms"}}),
        Value::Null,
    );
    assert_eq!(world.connect(1).get("echo", "/", &[]).status, 500);
    assert_eq!(upstream.count(), 2);
    world.log_line(" 500 - via_upstream");
}
