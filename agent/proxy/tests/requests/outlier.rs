//! Endpoints that keep failing are left out, by what their answers and connections say, and return.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{PATIENCE, Reply, Upstream, World, destination_rule, refused, service};

fn answering(status: u16) -> Upstream {
    Upstream::start(move |_, _| Reply::Status(status))
}

fn world_of(port_name: &str, endpoints: &[SocketAddr], detection: Value, workers: usize) -> World {
    let endpoints: Vec<_> = endpoints.iter().map(|address| ("v1", *address)).collect();
    let mut objects = service(1, "echo", port_name, &endpoints);
    let policy = json!({"loadBalancer": {"simple": "ROUND_ROBIN"}, "outlierDetection": detection});
    objects.push(destination_rule("echo", json!({"trafficPolicy": policy})));
    World::with_workers(objects, workers)
}

fn world(endpoints: &[SocketAddr], detection: Value) -> World {
    world_of("http", endpoints, detection, 1)
}

/// Statuses of `count` requests, one after the other.
fn statuses(world: &World, count: usize) -> Vec<u16> {
    let mut connection = world.connect(1);
    (0..count).map(|_| connection.get("echo", "/", &[]).status).collect()
}

fn out(world: &World) -> Vec<SocketAddr> {
    world.proxy.as_ref().unwrap().outliers().iter().map(|row| row.address).collect()
}

#[test]
fn an_endpoint_that_keeps_failing_is_left_out_and_shown() {
    let (bad, good) = (answering(500), answering(200));
    let world =
        world(&[bad.address, good.address], json!({"consecutive5xxErrors": 3, "maxEjectionPercent": 50}));
    assert_eq!(statuses(&world, 20).iter().filter(|status| **status == 500).count(), 3);
    assert_eq!(bad.count(), 3);
    let rows = world.proxy.as_ref().unwrap().outliers();
    assert_eq!(
        rows.iter().map(|row| (row.address, row.ejections, &*row.source)).collect::<Vec<_>>(),
        [(bad.address, 1, "default/web-1")]
    );
    assert!(rows[0].left > Duration::from_secs(20) && rows[0].left <= Duration::from_secs(30));
    let metrics = world.metrics();
    assert!(
        metrics.contains("undermesh_outlier_ejections_total{cause=\"consecutive_5xx\"} 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("undermesh_outlier_ejections_active 1\n"), "{metrics}");
}

#[test]
fn without_outlier_detection_nobody_is_left_out() {
    let (bad, good) = (answering(500), answering(200));
    let mut objects = service(1, "echo", "http", &[("v1", bad.address), ("v1", good.address)]);
    objects.push(destination_rule(
        "echo",
        json!({"trafficPolicy": {"loadBalancer": {"simple": "ROUND_ROBIN"}}}),
    ));
    let world = World::new(objects);
    assert_eq!(statuses(&world, 20).iter().filter(|status| **status == 500).count(), 10);
    assert_eq!(out(&world), []);
}

#[test]
fn gateway_errors_alone_may_count() {
    let (plain, gateway, good) = (answering(500), answering(502), answering(200));
    let world = world(
        &[plain.address, gateway.address, good.address],
        json!({"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 2, "maxEjectionPercent": 100}),
    );
    statuses(&world, 30);
    assert_eq!(out(&world), [gateway.address]);
    assert_eq!((gateway.count(), plain.count() > 10), (2, true));
}

#[test]
fn the_default_share_of_a_small_cluster_is_nobody() {
    let (bad, good) = (answering(500), answering(200));
    let world = world(&[bad.address, good.address], json!({"consecutive5xxErrors": 1}));
    statuses(&world, 20);
    assert_eq!((bad.count(), out(&world)), (10, vec![]));
    assert!(world.metrics().contains("undermesh_outlier_ejections_prevented_total 10\n"));
}

#[test]
fn codes_of_the_rule_replace_5xx() {
    let (limited, bad, good) = (answering(429), answering(500), answering(200));
    let world = world(
        &[limited.address, bad.address, good.address],
        json!({"consecutive5xxErrors": 2, "maxEjectionPercent": 100, "outlierDetectionHttpErrorCodes": [429]}),
    );
    statuses(&world, 30);
    assert_eq!(out(&world), [limited.address]);
}

#[test]
fn connections_that_fail_count_apart_when_split() {
    let (down, bad, good) = (refused(), answering(500), answering(200));
    let world = world(
        &[down, bad.address, good.address],
        json!({"splitExternalLocalOriginErrors": true, "consecutiveLocalOriginFailures": 2,
            "consecutive5xxErrors": 0, "maxEjectionPercent": 100}),
    );
    statuses(&world, 30);
    assert_eq!(out(&world), [down]);
    assert!(bad.count() > 10);
    assert!(
        world
            .metrics()
            .contains("undermesh_outlier_ejections_total{cause=\"consecutive_local_origin_failure\"} 1\n")
    );
}

#[test]
fn resets_and_late_answers_are_failures_too() {
    for script in [|| Reply::Hangup, || Reply::After(Duration::from_secs(5))] {
        let bad = Upstream::start(move |_, _| script());
        let mut world = world(
            &[bad.address],
            json!({"consecutiveGatewayErrors": 2, "maxEjectionPercent": 100, "interval": "1h"}),
        );
        world.objects.push(crate::world::virtual_service(
            "echo",
            json!([{"route": [{"destination": {"host": "echo"}}], "timeout": "100ms"}]),
        ));
        world.apply();
        statuses(&world, 2);
        assert_eq!(out(&world), [bad.address]);
    }
}

#[test]
fn when_all_are_out_there_is_no_healthy_upstream_until_they_return() {
    let upstream = Upstream::start(|number, _| Reply::Status(if number == 1 { 500 } else { 200 }));
    let world = world(
        &[upstream.address],
        json!({"consecutive5xxErrors": 1, "maxEjectionPercent": 100, "interval": "100ms", "baseEjectionTime": "500ms"}),
    );
    let before = Instant::now();
    assert_eq!(statuses(&world, 2), [500, 503]);
    world.log_line(" 503 UH no_healthy_upstream");
    while !out(&world).is_empty() {
        assert!(before.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(before.elapsed() >= Duration::from_millis(500));
    assert_eq!(statuses(&world, 1), [200]);
}

#[test]
fn an_ejection_outlives_a_new_configuration_and_not_the_end_of_outlier_detection() {
    let (bad, good) = (answering(500), answering(200));
    let mut world =
        world(&[bad.address, good.address], json!({"consecutive5xxErrors": 1, "maxEjectionPercent": 50}));
    statuses(&world, 4);
    assert_eq!(bad.count(), 1);
    world.apply();
    statuses(&world, 10);
    assert_eq!(bad.count(), 1, "still out");
    world.objects.pop();
    world.apply();
    statuses(&world, 40);
    assert!(bad.count() > 1, "nobody asks for it any more");
}

#[test]
fn workers_share_what_they_see() {
    let (bad, good) = (answering(500), answering(200));
    let world = world_of(
        "http",
        &[bad.address, good.address],
        json!({"consecutive5xxErrors": 4, "maxEjectionPercent": 50}),
        2,
    );
    let mut connections: Vec<_> = (0..2).map(|_| world.connect(1)).collect();
    for connection in &mut connections {
        for _ in 0..10 {
            connection.get("echo", "/", &[]);
        }
    }
    assert_eq!(bad.count(), 4);
}

#[test]
fn opaque_connections_that_fail_count() {
    let down = refused();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let up = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let world =
        world_of("tcp", &[down, up], json!({"consecutive5xxErrors": 2, "maxEjectionPercent": 100}), 1);
    let outcomes: Vec<_> = (0..10).map(|_| world.connect(1).rest().is_ok()).collect();
    assert_eq!(outcomes.iter().filter(|is_ok| !**is_ok).count(), 2, "{outcomes:?}");
    assert_eq!(out(&world), [down]);
}
