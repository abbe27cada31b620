//! Other proxies before and behind: whom a gateway believes, and what servers are told of their clients.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::world::{
    PATIENCE, Upstream, World, block_on, destination_rule, header, read_head, service, virtual_service,
    wait_until,
};

fn gateway(upstream: &Upstream) -> Vec<Value> {
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.push(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
            {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"], "tls": {"httpsRedirect": false}},
        ]},
    }));
    objects.push(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"hosts": ["*"], "gateways": ["edge"], "http": [
            {"match": [{"scheme": {"exact": "https"}}], "headers": {"request": {"set": {"x-scheme": "https"}}},
                "route": [{"destination": {"host": "echo"}}]},
            {"headers": {"request": {"set": {"x-scheme": "http"}}}, "route": [{"destination": {"host": "echo"}}]},
        ]},
    }));
    objects
}

fn trusting(proxies: u32) -> Value {
    json!({"kind": "MeshConfig", "defaultConfig": {"gatewayTopology": {"numTrustedProxies": proxies}}})
}

#[test]
fn a_gateway_believes_as_many_proxies_as_it_is_told_to() {
    let upstream = Upstream::named("ok");
    let sent = [("x-forwarded-for", "192.0.2.9, 203.0.113.1, 203.0.113.2"), ("x-forwarded-proto", "https")];
    for (proxies, client, proto) in [
        (0, "127.0.0.1", "http"),
        (1, "203.0.113.2", "https"),
        (2, "203.0.113.1", "https"),
        // More than there are: the peer.
        (9, "127.0.0.1", "https"),
    ] {
        let mut objects = gateway(&upstream);
        objects.push(trusting(proxies));
        let world = World::new(objects);
        let mut connection = world.connect_to_gateway();
        assert_eq!(connection.get("a.test", "/", &sent).status, 200);
        let seen = upstream.last();
        let value = |name: &str| header(&seen, name).unwrap_or_default().replace(' ', "");
        assert_eq!(value("x-envoy-external-address"), client, "{proxies}");
        assert_eq!(value("x-forwarded-proto"), proto, "{proxies}");
        assert_eq!(value("x-scheme"), proto, "what rules match follows: {proxies}");
        assert_eq!(value("x-forwarded-for"), "192.0.2.9,203.0.113.1,203.0.113.2,127.0.0.1", "{proxies}");
    }
}

#[test]
fn http_1_0_is_refused_where_http_is_declared_and_passed_on_elsewhere() {
    let upstream = Upstream::named("ok");
    let world = World::new(gateway(&upstream));
    let mut connection = world.connect_to_gateway();
    connection.send("GET / HTTP/1.0\r\nhost: a.test\r\n\r\n");
    assert_eq!(connection.response().unwrap().status, 426);
    assert_eq!(upstream.count(), 0);
    for (port_name, status) in [("http", 426), ("any", 200)] {
        let world = World::new(service(1, "echo", port_name, &[("v1", upstream.address)]));
        let mut connection = world.connect(1);
        connection.send("GET /old HTTP/1.0\r\nhost: echo\r\n\r\n");
        assert_eq!(connection.response().unwrap().status, status, "{port_name}");
    }
    assert!(upstream.last().starts_with("GET /old HTTP/1.0\r\n"), "as it came: {}", upstream.last());
}

/// What a server of the PROXY protocol saw.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// What a connection began with.
    First(String),
    /// The client's end of a connection.
    Closed,
}

/// Reads a line, then answers requests; tells what it sees.
fn behind_proxies() -> (SocketAddr, mpsc::Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for io in listener.incoming() {
            let Ok(mut io) = io else { return };
            let tell = tell.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(io.try_clone().unwrap());
                let mut line = String::new();
                // Where a client is silent at first, a connection is opened to hear the server speak; if the client turns out
                // to speak HTTP it is given up before anything was sent.
                if reader.read_line(&mut line).unwrap() == 0 {
                    return;
                }
                // The test may have seen enough.
                let _ = tell.send(Seen::First(line));
                while let Ok(Some(_)) = read_head(&mut reader) {
                    io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").unwrap();
                }
                let _ = tell.send(Seen::Closed);
            });
        }
    });
    (address, seen)
}

#[test]
fn the_proxy_protocol_says_whose_each_upstream_connection_is() {
    // Declared, sniffed and opaque.
    for port_name in ["http", "any", "tcp"] {
        let (address, seen) = behind_proxies();
        let next = || seen.recv_timeout(PATIENCE).unwrap();
        let mut objects = service(1, "echo", port_name, &[("v1", address)]);
        objects
            .push(destination_rule("echo", json!({"trafficPolicy": {"proxyProtocol": {"version": "V1"}}})));
        let world = World::new(objects);
        for _ in 0..2 {
            let mut connection = world.connect(1);
            for _ in 0..3 {
                assert_eq!(connection.get("echo", "/", &[]).body, "ok");
            }
            let io = connection.into_io();
            let own = io.local_addr().unwrap().port();
            let line = format!("PROXY TCP4 127.0.0.1 10.96.0.1 {own} 80\r\n");
            assert_eq!(next(), Seen::First(line), "{port_name}");
            assert!(seen.try_recv().is_err(), "the requests of one client share a connection: {port_name}");
            drop(io);
            assert_eq!(next(), Seen::Closed, "it ends with its client: {port_name}");
        }
    }
}

/// As [`behind_proxies`], with HTTP/2.
fn behind_proxies_http2() -> (SocketAddr, mpsc::Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for io in listener.incoming() {
            let Ok(mut io) = io else { return };
            let tell = tell.clone();
            std::thread::spawn(move || {
                // Byte by byte: what follows is for another reader.
                let mut line = Vec::new();
                while line.last() != Some(&b'\n') {
                    let mut byte = [0];
                    io.read_exact(&mut byte).unwrap();
                    line.extend(byte);
                }
                let _ = tell.send(Seen::First(String::from_utf8(line).unwrap()));
                io.set_nonblocking(true).unwrap();
                block_on(async move {
                    let io = tokio::net::TcpStream::from_std(io).unwrap();
                    let mut connection = h2::server::handshake(io).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        respond.send_response(http::Response::new(()), true).unwrap();
                    }
                });
                let _ = tell.send(Seen::Closed);
            });
        }
    });
    (address, seen)
}

#[test]
fn it_does_so_for_http_2_too() {
    let (address, seen) = behind_proxies_http2();
    let next = || seen.recv_timeout(PATIENCE).unwrap();
    let mut objects = service(1, "echo", "http2", &[("v1", address)]);
    objects.push(destination_rule("echo", json!({"trafficPolicy": {"proxyProtocol": {"version": "V1"}}})));
    let world = World::new(objects);
    for _ in 0..2 {
        let mut connection = world.connect(1);
        for _ in 0..3 {
            assert_eq!(connection.get("echo", "/", &[]).status, 200);
        }
        let io = connection.into_io();
        let own = io.local_addr().unwrap().port();
        assert_eq!(next(), Seen::First(format!("PROXY TCP4 127.0.0.1 10.96.0.1 {own} 80\r\n")));
        assert!(seen.try_recv().is_err(), "the requests of one client share a connection");
        drop(io);
        assert_eq!(next(), Seen::Closed, "it ends with its client");
    }
}

#[test]
fn without_the_proxy_protocol_clients_share_a_connection_that_begins_with_a_request() {
    let (address, seen) = behind_proxies();
    let world = World::new(service(1, "echo", "http", &[("v1", address)]));
    // The server takes the first request's first line for the header, and answers at the end of the head all the same.
    for _ in 0..2 {
        assert_eq!(world.connect(1).get("echo", "/", &[]).body, "ok");
    }
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::First("GET / HTTP/1.1\r\n".to_owned()));
    assert!(seen.try_recv().is_err());
}

#[test]
fn connections_of_one_client_each_count_against_the_limit() {
    let (address, seen) = behind_proxies();
    let mut objects = service(1, "echo", "tcp", &[("v1", address)]);
    objects.push(destination_rule(
        "echo",
        json!({"trafficPolicy": {"proxyProtocol": {"version": "V2"}, "connectionPool": {"tcp": {"maxConnections": 1}}}}),
    ));
    let world = World::new(objects);
    let mut first = world.connect(1);
    assert_eq!(first.get("echo", "/", &[]).status, 200);
    // The second line of the signature is the first that is not empty.
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::First("\r\n".to_owned()));
    assert!(!is_answered(&world));
    drop(first);
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Closed);
    wait_until("the place is free again", || is_answered(&world));
}

/// Whether a connection is there for long enough.
fn is_answered(world: &World) -> bool {
    let mut io = world.connect(1).into_inner();
    io.write_all(b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n").is_ok()
        && matches!(read_head(&mut BufReader::new(io)), Ok(Some(_)))
}

#[test]
fn a_mirrors_copy_comes_from_no_client() {
    let upstream = Upstream::named("ok");
    let (address, seen) = behind_proxies();
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.extend(service(2, "copies", "http", &[("v1", address)]));
    objects.push(destination_rule("copies", json!({"trafficPolicy": {"proxyProtocol": {"version": "V1"}}})));
    objects.push(virtual_service(
        "echo",
        json!([{"route": [{"destination": {"host": "echo"}}], "mirror": {"host": "copies"}}]),
    ));
    let world = World::new(objects);
    let mut connection = world.connect(1);
    assert_eq!(connection.get("echo", "/", &[]).body, "ok");
    let Seen::First(line) = seen.recv_timeout(PATIENCE).unwrap() else { panic!("no header") };
    let end = format!(" {}\r\n", address.port());
    assert!(line.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && line.ends_with(&end), "{line}");
    let own = connection.into_io().local_addr().unwrap().port();
    assert!(!line.contains(&format!(" {own} ")), "{line}");
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Seen::Closed);
}
