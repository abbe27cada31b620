//! Mirrored requests: the copy is whole, and nobody but its receiver notices.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::recorder::{Answer, Recorder};
use crate::world::{
    Connection, PATIENCE, Reply, Upstream, World, destination_rule, refused, service, virtual_service,
};

const SERVICE: u8 = 1;

/// A service `echo` at `primary`, whose rule has these fields besides its route, and a service `copy` for mirrors.
fn world(primary: std::net::SocketAddr, mirror: &[(&str, std::net::SocketAddr)], rule: Value) -> World {
    World::new(objects(primary, "http", mirror, rule))
}

fn objects(
    primary: std::net::SocketAddr,
    port_name: &str,
    mirror: &[(&str, std::net::SocketAddr)],
    mut rule: Value,
) -> Vec<Value> {
    let mut objects = service(SERVICE, "echo", "http", &[("v1", primary)]);
    objects.extend(service(2, "copy", port_name, mirror));
    rule["route"] = json!([{"destination": {"host": "echo"}}]);
    objects.push(virtual_service("echo", json!([rule])));
    objects
}

fn mirrored() -> Value {
    json!({"mirror": {"host": "copy", "port": {"number": 80}}})
}

fn counted(result: &str, count: usize) -> String {
    format!("undermesh_mirrored_requests_total{{result=\"{result}\"}} {count}")
}

/// Bytes that differ from place to place.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(size) {
        out.extend_from_slice(format!("{:x};ext=1\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Not all at once: how far a mirror may fall behind is for another test.
fn paced(connection: &mut Connection, bytes: &[u8]) {
    for part in bytes.chunks(100_000) {
        connection.send_bytes(part);
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_copy_is_the_request_as_the_service_gets_it_and_the_answer_the_services() {
    let (primary, mirror) = (Recorder::start(Answer::Status(201)), Recorder::start(Answer::Status(500)));
    let mut rule = mirrored();
    rule["headers"] = json!({"request": {"set": {"x-set": "1"}, "remove": ["x-gone"]}});
    rule["match"] = json!([{"uri": {"prefix": "/o"}}]);
    rule["rewrite"] = json!({"uri": "/new"});
    let world = world(primary.address, &[("v1", mirror.address)], rule);
    let mut connection = world.connect(SERVICE);
    connection.send(
        "POST /o/1?q HTTP/1.1\r\nhost: echo:80\r\nx-gone: 1\r\nX-Kept: 2\r\ncontent-length: 7\r\n\r\npayload",
    );
    assert_eq!(connection.response().unwrap().status, 201);
    assert_eq!(connection.get("echo", "/o", &[]).status, 201);
    let (sent, copies) = (primary.wait(2), mirror.wait(2));
    for (sent, copy) in sent.iter().zip(&copies) {
        let sorted = |head: &str| {
            let mut lines: Vec<_> = head.lines().skip(1).map(str::to_ascii_lowercase).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&copy.head), sorted(&sent.head));
        assert_eq!(copy.head.lines().next(), sent.head.lines().next());
        assert_eq!(copy.body, sent.body);
    }
    assert_eq!(copies[0].body, b"payload");
    assert_eq!(
        (copies[0].header("host"), copies[0].header("x-set")),
        (Some("echo:80".into()), Some("1".into()))
    );
    assert!(copies[0].head.starts_with("POST /new/1?q HTTP/1.1\r\n"), "{}", copies[0].head);
    world.wait_for_metric(&counted("answered", 2));
    let metrics = world.metrics();
    assert!(!metrics.lines().any(|line| line.starts_with("istio_requests_total") && line.contains("copy")));
}

#[test]
fn bodies_larger_than_any_buffer_are_copied_by_length_and_in_chunks_with_trailers() {
    let (primary, mirror) = (Recorder::start(Answer::Status(200)), Recorder::start(Answer::Status(200)));
    let world = world(primary.address, &[("v1", mirror.address)], mirrored());
    let body = content(3_000_000);
    let mut connection = world.connect(SERVICE);
    connection.send(&format!("POST /l HTTP/1.1\r\nhost: echo\r\ncontent-length: {}\r\n\r\n", body.len()));
    paced(&mut connection, &body);
    assert_eq!(connection.response().unwrap().status, 200);
    connection.send("POST /c HTTP/1.1\r\nhost: echo\r\ntransfer-encoding: chunked\r\n\r\n");
    paced(&mut connection, &chunked(&body, 4099));
    connection.send("0\r\nx-sum: 5\r\n\r\n");
    assert_eq!(connection.response().unwrap().status, 200);
    let copies = mirror.wait(2);
    assert!(
        copies.iter().all(|copy| copy.body == body),
        "lengths {:?}",
        copies.iter().map(|it| it.body.len())
    );
    assert_eq!(copies[1].trailers, "x-sum: 5\r\n");
    assert!(primary.all().iter().all(|sent| sent.body == body));
}

#[test]
fn pipelined_requests_are_copied_one_by_one() {
    let (primary, mirror) = (Recorder::start(Answer::Status(200)), Recorder::start(Answer::Status(200)));
    let world = world(primary.address, &[("v1", mirror.address)], mirrored());
    let mut connection = world.connect(SERVICE);
    connection.send(
        "POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\none\
         POST /2 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n\
         GET /3 HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    for _ in 0..3 {
        assert_eq!(connection.response().unwrap().status, 200);
    }
    let mut copies = mirror.wait(3);
    copies.sort_by_key(|copy| copy.head.clone());
    let bodies: Vec<_> = copies.iter().map(|copy| String::from_utf8_lossy(&copy.body)).collect();
    assert_eq!(bodies, ["", "one", "two"]);
}

#[test]
fn each_mirror_of_a_list_gets_its_share() {
    let primary = Upstream::named("ok");
    let (all, half) = (Recorder::start(Answer::Status(200)), Recorder::start(Answer::Status(200)));
    let mut objects = objects(
        primary.address,
        "http",
        &[("v1", all.address)],
        json!({"mirrors": [
            {"destination": {"host": "copy"}},
            {"destination": {"host": "half"}, "percentage": {"value": 50}},
            {"destination": {"host": "copy"}, "percentage": {"value": 0}},
        ]}),
    );
    objects.extend(service(3, "half", "http", &[("v1", half.address)]));
    let world = World::new(objects);
    let mut connection = world.connect(SERVICE);
    for _ in 0..200 {
        assert_eq!(connection.get("echo", "/", &[]).body, "ok");
    }
    assert_eq!(all.wait(200).len(), 200);
    // Standard deviation 7.
    let count = half.all().len();
    assert!((70..=130).contains(&count), "{count} of 200");
}

#[test]
fn a_mirror_that_never_answers_or_is_not_there_delays_and_fails_nothing() {
    let primary = Upstream::named("ok");
    let deaf = Recorder::start(Answer::Never);
    let targets: [(&str, Vec<_>); 5] = [
        ("never answers", vec![("v1", deaf.address)]),
        ("refuses", vec![("v1", refused())]),
        ("goes where its client dialled", vec![]),
        ("no endpoints", vec![]),
        ("unknown host", vec![]),
    ];
    for (name, mirror) in targets {
        let rule = match name {
            "unknown host" => json!({"mirror": {"host": "nowhere"}}),
            "goes where its client dialled" => {
                json!({"mirror": {"host": "any.example", "port": {"number": 80}}})
            }
            _ => mirrored(),
        };
        let mut objects = objects(primary.address, "http", &mirror, rule);
        objects.push(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": "any", "namespace": "default"},
            "spec": {"hosts": ["any.example"], "resolution": "NONE", "location": "MESH_EXTERNAL",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]},
        }));
        let world = World::new(objects);
        let before = primary.count();
        let mut connection = world.connect(SERVICE);
        let started = Instant::now();
        for _ in 0..20 {
            assert_eq!(connection.get("echo", "/", &[]).body, "ok", "{name}");
        }
        assert!(started.elapsed() < Duration::from_secs(2), "{name} took {:?}", started.elapsed());
        if name != "never answers" {
            world.wait_for_metric(&counted("failed", 20));
        }
        assert_eq!(primary.count(), before + 20, "{name}");
    }
    assert_eq!(deaf.wait(20).len(), 20);
}

#[test]
fn a_mirror_that_does_not_read_loses_its_copy_and_the_request_goes_on() {
    let primary = Recorder::start(Answer::Status(200));
    let deaf = Recorder::start(Answer::Deaf);
    let world = world(primary.address, &[("v1", deaf.address)], mirrored());
    let body = content(20_000_000);
    let mut connection = world.connect(SERVICE);
    connection.send(&format!("POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: {}\r\n\r\n", body.len()));
    connection.send_bytes(&body);
    assert_eq!(connection.response().unwrap().status, 200);
    assert_eq!(primary.all()[0].body.len(), body.len());
    world.wait_for_metric(&counted("overflowed", 1));
}

#[test]
fn copies_count_against_the_limits_of_the_mirrors_cluster_alone() {
    let primary = Upstream::named("ok");
    let never = Recorder::start(Answer::Never);
    let mut objects = objects(primary.address, "http", &[("v1", never.address)], mirrored());
    objects.push(destination_rule(
        "copy",
        json!({"trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": 2}}}}),
    ));
    let world = World::new(objects);
    let mut connection = world.connect(SERVICE);
    for _ in 0..5 {
        assert_eq!(connection.get("echo", "/", &[]).body, "ok");
    }
    world.wait_for_metric(&counted("overflowed", 3));
    assert_eq!(never.wait(2).len(), 2);
}

#[test]
fn the_routes_timeout_ends_a_copy_too() {
    let primary = Upstream::named("ok");
    let never = Recorder::start(Answer::Never);
    let mut rule = mirrored();
    rule["timeout"] = "200ms".into();
    let world = world(primary.address, &[("v1", never.address)], rule);
    assert_eq!(world.connect(SERVICE).get("echo", "/", &[]).body, "ok");
    world.wait_for_metric(&counted("failed", 1));
}

#[test]
fn a_request_that_is_tried_again_is_copied_once() {
    let primary = Upstream::start(|number, _| Reply::Status(if number < 3 { 503 } else { 200 }));
    let mirror = Recorder::start(Answer::Status(200));
    let mut rule = mirrored();
    rule["retries"] = json!({"attempts": 3, "retryOn": "503", "backoff": "1ms"});
    let world = world(primary.address, &[("v1", mirror.address)], rule);
    let mut connection = world.connect(SERVICE);
    connection.send("POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 4\r\n\r\nbody");
    assert_eq!((connection.response().unwrap().status, primary.count()), (200, 3));
    world.wait_for_metric(&counted("answered", 1));
    let copies = mirror.all();
    assert_eq!((copies.len(), &*copies[0].body), (1, &b"body"[..]));
    assert_eq!(copies[0].header("x-envoy-attempt-count").as_deref(), Some("1"));
}

#[test]
fn faults_come_first() {
    let primary = Upstream::named("ok");
    let mirror = Recorder::start(Answer::Status(200));
    let fault = |fault: Value| {
        let mut rule = mirrored();
        rule["fault"] = fault;
        world(primary.address, &[("v1", mirror.address)], rule)
    };
    let all = json!({"value": 100});
    let aborted = fault(json!({"abort": {"httpStatus": 500, "percentage": all}}));
    assert_eq!(aborted.connect(SERVICE).get("echo", "/", &[]).status, 500);
    let delayed = fault(json!({"delay": {"fixedDelay": "300ms", "percentage": all}}));
    let mut connection = delayed.connect(SERVICE);
    connection.send("POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 4\r\n\r\nbody");
    std::thread::sleep(Duration::from_millis(100));
    assert!(mirror.all().is_empty());
    assert_eq!(connection.response().unwrap().status, 200);
    assert_eq!(mirror.wait(1)[0].body, b"body");
    assert_eq!(mirror.all().len(), 1, "the aborted one was not copied");
}

#[test]
fn a_client_that_leaves_midway_leaves_no_whole_copy() {
    let primary = Recorder::start(Answer::Status(200));
    let mirror = Recorder::start(Answer::Status(200));
    let world = world(primary.address, &[("v1", mirror.address)], mirrored());
    let mut connection = world.connect(SERVICE);
    connection.send("POST / HTTP/1.1\r\nhost: echo\r\ncontent-length: 10\r\n\r\nhalf");
    std::thread::sleep(Duration::from_millis(100));
    drop(connection);
    world.wait_for_metric(&counted("cancelled", 1));
    assert!(mirror.all().is_empty());
}

#[test]
fn an_upgrade_is_not_copied() {
    let primary = Upstream::named("ok");
    let mirror = Recorder::start(Answer::Status(200));
    let world = world(primary.address, &[("v1", mirror.address)], mirrored());
    let mut connection = world.connect(SERVICE);
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    assert_eq!(connection.get("echo", "/ws", &upgrade).body, "ok");
    assert_eq!(connection.get("echo", "/plain", &[]).body, "ok");
    assert!(mirror.wait(1)[0].head.starts_with("GET /plain "));
}

#[test]
fn an_http1_client_is_mirrored_to_an_http2_service() {
    let primary = Recorder::start(Answer::Status(200));
    let mirror = Recorder::start_http2();
    let world = World::new(objects(primary.address, "http2", &[("v1", mirror.address)], mirrored()));
    let body = content(300_000);
    let mut connection = world.connect(SERVICE);
    connection.send("POST /c HTTP/1.1\r\nhost: echo\r\ntransfer-encoding: chunked\r\n\r\n");
    connection.send_bytes(&chunked(&body, 1000));
    connection.send("0\r\nx-sum: 5\r\n\r\n");
    assert_eq!(connection.response().unwrap().status, 200);
    let copy = mirror.wait(1).remove(0);
    assert!(copy.head.starts_with("POST http://echo/c HTTP/2\r\n"), "{}", copy.head);
    assert!(copy.body == body, "{} bytes", copy.body.len());
    assert_eq!(copy.trailers, "x-sum: 5\r\n");
    world.wait_for_metric(&counted("answered", 1));
}

#[test]
fn an_http2_client_is_mirrored_to_both_kinds() {
    for is_http2 in [false, true] {
        let primary = Recorder::start(Answer::Status(200));
        let mirror = if is_http2 { Recorder::start_http2() } else { Recorder::start(Answer::Status(503)) };
        let port = if is_http2 { "http2" } else { "http" };
        let world = World::new(objects(primary.address, port, &[("v1", mirror.address)], mirrored()));
        let body = content(400_000);
        let status = post_http2(world.connect(SERVICE).into_io(), &body);
        assert_eq!(status, 200);
        let copy = mirror.wait(1).remove(0);
        assert!(copy.body == body, "{} bytes", copy.body.len());
        assert_eq!(copy.trailers, "x-sum: 5\r\n");
        assert_eq!(copy.header("x-envoy-attempt-count").as_deref(), Some("1"));
        world.wait_for_metric(&counted("answered", 1));
    }
}

/// The status of a POST with `body` and a trailer, over HTTP/2.
pub fn post_http2(io: std::net::TcpStream, body: &[u8]) -> u16 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let io = tokio::net::TcpStream::from_std(io).unwrap();
        let (mut handle, connection) = h2::client::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post("http://echo/h2").body(()).unwrap();
        let (response, mut send) = handle.send_request(request, false).unwrap();
        let mut data = Bytes::copy_from_slice(body);
        while !data.is_empty() {
            send.reserve_capacity(data.len());
            let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
            send.send_data(data.split_to(room.min(data.len())), false).unwrap();
        }
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", "5".parse().unwrap());
        send.send_trailers(trailers).unwrap();
        let response = tokio::time::timeout(PATIENCE, response).await.unwrap().unwrap();
        response.status().as_u16()
    })
}
