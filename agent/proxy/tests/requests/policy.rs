//! Injected faults, and draining.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::mirror::post_http2;
use crate::recorder::{Answer, Recorder};
use crate::world::{PATIENCE, Reply, Upstream, World, service, virtual_service};

fn faulty(upstream: &Upstream, fault: serde_json::Value) -> World {
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.push(virtual_service(
        "echo",
        json!([{"match": [{"uri": {"prefix": "/f"}}], "fault": fault, "route": [{"destination": {"host": "echo"}}]},
            {"route": [{"destination": {"host": "echo"}}]}]),
    ));
    World::new(objects)
}

#[test]
fn a_delay_holds_the_request_and_nobody_else() {
    let upstream = Upstream::named("ok");
    let world = faulty(&upstream, json!({"delay": {"percentage": {"value": 100}, "fixedDelay": "400ms"}}));
    let mut delayed = world.connect(1);
    let started = Instant::now();
    delayed.send("GET /f HTTP/1.1\r\nhost: echo\r\n\r\n");
    assert_eq!(world.connect(1).get("echo", "/other", &[]).status, 200);
    assert!(started.elapsed() < Duration::from_millis(400), "another connection had to wait");
    assert_eq!(delayed.response().unwrap().status, 200);
    assert!(started.elapsed() >= Duration::from_millis(400));
    world.log_line("\"GET /f HTTP/1.1\" 200 DI ");
}

#[test]
fn an_abort_answers_in_the_services_stead_also_for_grpc() {
    let upstream = Upstream::named("ok");
    let world = faulty(&upstream, json!({"abort": {"percentage": {"value": 100}, "httpStatus": 503}}));
    let mut connection = world.connect(1);
    let response = connection.get("echo", "/f", &[]);
    assert_eq!((response.status, response.body.as_str()), (503, "fault filter abort"));
    let response = connection.get("echo", "/f", &[("content-type", "application/grpc")]);
    assert_eq!((response.status, response.header("grpc-status").as_deref()), (200, Some("14")));
    assert_eq!(response.header("grpc-message").as_deref(), Some("fault filter abort"));
    assert_eq!((upstream.count(), connection.get("echo", "/", &[]).status), (0, 200));
    world.log_line(" 503 FI fault_filter_abort");
}

#[test]
fn half_the_requests_are_aborted_when_half_is_asked_for() {
    let upstream = Upstream::named("ok");
    let world = faulty(&upstream, json!({"abort": {"percentage": {"value": 50}, "httpStatus": 555}}));
    let mut connection = world.connect(1);
    let aborted = (0..400).filter(|_| connection.get("echo", "/f", &[]).status == 555).count();
    // Standard deviation 10.
    assert!((150..=250).contains(&aborted), "{aborted} of 400");
}

#[test]
fn draining_ends_idle_connections_and_finishes_current_requests() {
    let upstream = Upstream::start(|_, _| Reply::After(Duration::from_millis(500)));
    let mut world = World::new(service(1, "echo", "http", &[("v1", upstream.address)]));
    let mut idle = world.connect(1);
    assert_eq!(idle.get("echo", "/", &[]).status, 200);
    let mut busy = world.connect(1);
    busy.send("GET /slow HTTP/1.1\r\nhost: echo\r\n\r\n");
    while upstream.count() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let proxy = world.proxy.take().unwrap();
    let drained = std::thread::spawn(move || proxy.drain(PATIENCE));
    assert_eq!(idle.rest().unwrap(), b"", "an idle connection ends");
    let response = busy.response().unwrap();
    assert_eq!((response.status, response.header("connection").as_deref()), (200, Some("close")));
    assert_eq!(busy.rest().unwrap(), b"");
    drained.join().unwrap();
}

#[test]
fn a_request_on_an_idle_connection_that_meets_a_drain_is_answered_and_the_last() {
    let upstream = Upstream::named("v1");
    let mut world = World::new(service(1, "echo", "http", &[("v1", upstream.address)]));
    let mut idle = world.connect(1);
    assert_eq!(idle.get("echo", "/", &[]).status, 200);
    let proxy = world.proxy.take().unwrap();
    let drained = std::thread::spawn(move || proxy.drain(PATIENCE));
    std::thread::sleep(Duration::from_millis(300));
    let response = idle.get("echo", "/", &[]);
    assert_eq!((response.status, response.header("connection").as_deref()), (200, Some("close")));
    assert_eq!(idle.rest().unwrap(), b"");
    drained.join().unwrap();
}

#[test]
fn a_client_that_is_let_go_of_is_told_by_its_next_response_and_its_idle_connections_end_later() {
    let upstream = Upstream::named("v1");
    let world = World::new(service(1, "echo", "http", &[("v1", upstream.address)]));
    let (mut busy, mut idle) = (world.connect(1), world.connect(1));
    for connection in [&mut busy, &mut idle] {
        let response = connection.get("echo", "/", &[]);
        assert_eq!((response.status, response.header("connection")), (200, None));
    }
    let began = Instant::now();
    world.let_go();
    // It knows nothing of it yet, and sends what it had to send.
    std::thread::sleep(Duration::from_millis(300));
    let response = busy.get("echo", "/", &[]);
    assert_eq!((response.status, response.header("connection").as_deref()), (200, Some("close")));
    assert_eq!(busy.rest().unwrap(), b"");
    assert_eq!(idle.rest().unwrap(), b"", "one that is not used ends, too");
    assert!(began.elapsed() >= Duration::from_secs(2), "but not while a request may be on its way");
}

#[test]
fn a_delay_is_outside_the_routes_timeout_which_begins_after_it() {
    let rule = |upstream: &Upstream| {
        let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
        objects.push(virtual_service(
            "echo",
            json!([{
                "fault": {"delay": {"percentage": {"value": 100}, "fixedDelay": "700ms"}}, "timeout": "300ms",
                "route": [{"destination": {"host": "echo"}}],
            }]),
        ));
        World::new(objects)
    };
    let quick = Upstream::named("ok");
    let world = rule(&quick);
    let started = Instant::now();
    assert_eq!(world.connect(1).get("echo", "/quick", &[]).status, 200);
    assert!(started.elapsed() >= Duration::from_millis(700));
    world.log_line("\"GET /quick HTTP/1.1\" 200 DI ");
    let slow = Upstream::start(|_, _| Reply::After(Duration::from_secs(2)));
    let world = rule(&slow);
    let started = Instant::now();
    assert_eq!(world.connect(1).get("echo", "/slow", &[]).status, 504);
    assert!(started.elapsed() >= Duration::from_millis(1000));
    assert!(started.elapsed() < Duration::from_millis(1900), "it was cut by the timeout");
    // HTTP/2 counts by a clock of its own.
    let recorder = Recorder::start(Answer::Status(200));
    let mut objects = service(1, "echo", "http", &[("v1", recorder.address)]);
    objects.push(world.objects.last().unwrap().clone());
    assert_eq!(post_http2(World::new(objects).connect(1).into_io(), b"body"), 200);
}
