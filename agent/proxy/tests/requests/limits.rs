//! Connection pools and their limits.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{Reply, Upstream, World, destination_rule, service, silent};

fn limited(upstream: &Upstream, pool: Value) -> World {
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.push(destination_rule("echo", json!({"trafficPolicy": {"connectionPool": pool}})));
    World::new(objects)
}

/// Statuses of `count` requests made at once.
fn at_once(world: &World, count: usize) -> Vec<(u16, Option<String>)> {
    let mut connections: Vec<_> = (0..count).map(|_| world.connect(1)).collect();
    for connection in &mut connections {
        connection.send("GET / HTTP/1.1\r\nhost: echo\r\n\r\n");
        // So that they arrive one after the other.
        std::thread::sleep(Duration::from_millis(30));
    }
    connections
        .iter_mut()
        .map(|connection| {
            let response = connection.response().unwrap();
            (response.status, response.header("x-envoy-overloaded"))
        })
        .collect()
}

#[test]
fn requests_over_the_limit_overflow_visibly_and_those_below_do_not() {
    let upstream = Upstream::start(|_, _| Reply::After(Duration::from_millis(400)));
    let world = limited(&upstream, json!({"http": {"http2MaxRequests": 2}}));
    let answers = at_once(&world, 3);
    assert_eq!(answers[..2], [(200, None), (200, None)]);
    assert_eq!(answers[2], (503, Some("true".to_owned())));
    world.log_line(" 503 UO ");
    assert_eq!(at_once(&world, 2), [(200, None), (200, None)], "the limit counts what is in progress");
}

#[test]
fn one_connection_is_shared_in_turn_and_what_cannot_wait_overflows() {
    let upstream = Upstream::start(|_, _| Reply::After(Duration::from_millis(300)));
    let world =
        limited(&upstream, json!({"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 1}}));
    let mut statuses: Vec<_> = at_once(&world, 3).into_iter().map(|(status, _)| status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503]);
    assert_eq!(upstream.opened(), 1);
}

#[test]
fn connections_are_pooled_unless_each_may_carry_one_request() {
    let upstream = Upstream::named("ok");
    let world = limited(&upstream, json!({"tcp": {"maxConnections": 100}}));
    let mut connection = world.connect(1);
    for _ in 0..5 {
        connection.get("echo", "/", &[]);
    }
    assert_eq!(upstream.opened(), 1);

    let upstream = Upstream::named("ok");
    let world = limited(&upstream, json!({"http": {"maxRequestsPerConnection": 1}}));
    let mut connection = world.connect(1);
    for _ in 0..5 {
        connection.get("echo", "/", &[]);
    }
    assert_eq!(upstream.opened(), 5);
}

#[test]
fn a_connection_that_the_upstream_closed_meanwhile_is_not_used_again() {
    let upstream = Upstream::start(|number, _| if number == 2 { Reply::Hangup } else { Reply::Status(200) });
    let world = limited(&upstream, json!({"tcp": {"maxConnections": 100}}));
    let mut connection = world.connect(1);
    assert_eq!(connection.get("echo", "/", &[]).status, 200);
    // The second request meets a connection that is closed instead of answered: being idempotent, it goes out again.
    assert_eq!(connection.get("echo", "/", &[]).status, 200);
    assert!(world.metrics().contains("undermesh_upstream_stale_total 1\n"));
    assert!(world.metrics().contains("undermesh_retries_total 0\n"), "a stale connection is no retry");
}

#[test]
fn a_connection_that_cannot_be_made_in_time_is_given_up() {
    let (address, _queue) = silent();
    let mut objects = service(1, "echo", "http", &[("v1", address)]);
    objects.push(destination_rule(
        "echo",
        json!({"trafficPolicy": {"connectionPool": {"tcp": {"connectTimeout": "200ms"}}}}),
    ));
    let world = World::new(objects);
    let started = std::time::Instant::now();
    assert_eq!(world.connect(1).get("echo", "/", &[]).status, 503);
    assert!(started.elapsed() < Duration::from_secs(5));
    world.log_line(" 503 UF,URX ");
}
