//! gRPC calls, and what else HTTP/2 brings: statuses in trailers, clients that break the protocol.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use serde_json::json;
use tokio::task::LocalSet;

use crate::world::{Reply, Upstream, World, header, service, virtual_service};

/// An HTTP/2 server in a thread of its own that answers each call with one message and `status` in the trailers.
fn server(status: &'static str) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((io, _)) = listener.accept().await {
                tokio::task::spawn_local(async move {
                    let mut connection = h2::server::handshake(io).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let head =
                            Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                        let mut stream = respond.send_response(head, false).unwrap();
                        stream.send_data(Bytes::from_static(b"message"), false).unwrap();
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", status.parse().unwrap());
                        stream.send_trailers(trailers).unwrap();
                    }
                });
            }
        });
    });
    address
}

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(work));
}

/// One call over HTTP/2, to its end.
fn call(world: &World) {
    let io = world.connect(1).into_inner();
    io.set_read_timeout(None).unwrap();
    io.set_nonblocking(true).unwrap();
    block_on(async move {
        let io = tokio::net::TcpStream::from_std(io).unwrap();
        let (mut client, connection) = h2::client::handshake(io).await.unwrap();
        tokio::task::spawn_local(connection);
        let request = Request::post("http://echo/shop.Catalog/List")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data.unwrap().len()).unwrap();
        }
        assert!(body.trailers().await.unwrap().is_some());
    });
}

fn counted(world: &World, status: &str) -> bool {
    let metrics = world.metrics();
    metrics
        .lines()
        .filter(|line| line.starts_with("istio_requests_total{"))
        .any(|line| line.contains(&format!("grpc_response_status=\"{status}\"")) && line.ends_with(" 1"))
}

#[test]
fn a_grpc_status_in_the_trailers_is_counted() {
    for status in ["0", "5"] {
        let world = World::new(service(1, "echo", "grpc", &[("v1", server(status))]));
        call(&world);
        assert!(counted(&world, status), "{}", world.metrics());
    }
}

#[test]
fn a_grpc_status_in_trailers_is_counted_also_for_a_client_of_http_1() {
    let world = World::new(service(1, "echo", "grpc", &[("v1", server("5"))]));
    let mut connection = world.connect(1);
    connection.send(
        "POST /shop.Catalog/List HTTP/1.1\r\nhost: echo\r\ncontent-type: application/grpc\r\n\
         content-length: 0\r\nconnection: close\r\n\r\n",
    );
    let answer = String::from_utf8(connection.rest().unwrap()).unwrap();
    assert!(answer.contains("grpc-status: 5\r\n"), "{answer}");
    assert!(counted(&world, "5"), "{}", world.metrics());
}

#[test]
fn the_status_of_what_is_no_grpc_call_is_not_counted_as_one() {
    let world = World::new(service(1, "echo", "http2", &[("v1", crate::world::refused())]));
    assert_eq!(world.connect(1).get("echo", "/", &[]).status, 503);
    assert!(counted(&world, ""), "{}", world.metrics());
}

#[test]
fn a_client_that_breaks_http2_is_counted_and_one_that_leaves_is_not() {
    let mut objects = service(1, "echo", "http2", &[("v1", server("0"))]);
    objects.push(virtual_service("echo", json!([{"directResponse": {"status": 204}}])));
    let world = World::new(objects);
    const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &str = "\0\0\0\x04\0\0\0\0\0";
    const DATA_ON_STREAM_0: &str = "\0\0\0\0\0\0\0\0\0";
    let mut leaves = world.connect(1);
    leaves.send(PREFACE);
    leaves.send(SETTINGS);
    leaves.shutdown_write();
    let _ = leaves.rest();
    let mut breaks = world.connect(1);
    breaks.send(PREFACE);
    breaks.send(SETTINGS);
    breaks.send(DATA_ON_STREAM_0);
    // Ends, however it does.
    let _ = breaks.rest();
    let metrics = world.metrics();
    assert!(metrics.contains("undermesh_http2_errors_total{reason=\"protocol\"} 1\n"), "{metrics}");
    assert!(metrics.contains("undermesh_http2_errors_total{reason=\"flood\"} 0\n"), "{metrics}");
}

/// An HTTP/1.1 or HTTP/2 server is not the matter here: `grpc-timeout` is a header like others.
#[test]
fn a_grpc_deadline_counts_up_to_the_timeout_of_the_route() {
    let slow = Upstream::start(|_, _| Reply::After(Duration::from_secs(2)));
    let grpc = ("content-type", "application/grpc");
    let json = ("content-type", "application/json");
    for (kind, deadline, timeout, status, told) in [
        // Cut: by the client, with and without a limit of the route, and by the route.
        (grpc, Some("100m"), None, Some("14"), Some("100m")),
        (grpc, Some("100m"), Some("1s"), Some("14"), Some("100m")),
        (grpc, Some("1H"), Some("0.1s"), Some("14"), Some("100m")),
        (grpc, None, Some("0.1s"), Some("14"), Some("100m")),
        // Not cut: what is no deadline, and whose it is not.
        (grpc, Some("soon"), None, None, Some("soon")),
        (json, Some("100m"), None, None, Some("100m")),
    ] {
        let mut objects = service(1, "echo", "http", &[("v1", slow.address)]);
        let mut rule = json!({"route": [{"destination": {"host": "echo"}}], "retries": {"attempts": 0}});
        if let Some(timeout) = timeout {
            rule["timeout"] = timeout.into();
        }
        objects.push(virtual_service("echo", json!([rule])));
        let world = World::new(objects);
        let mut headers = vec![kind];
        headers.extend(deadline.map(|deadline| ("grpc-timeout", deadline)));
        let response = world.connect(1).get("echo", "/shop.Catalog/List", &headers);
        let case = format!("{kind:?} {deadline:?} {timeout:?}");
        assert_eq!(response.header("grpc-status").as_deref(), status, "{case}");
        assert_eq!(header(&slow.last(), "grpc-timeout").as_deref(), told, "{case}");
    }
}
