//! Connections that carry no HTTP, and the listener's own door.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use serde_json::json;

use crate::world::{Upstream, World, service};

/// Greets, then echoes until the client ends.
fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for io in listener.incoming() {
            let Ok(mut io) = io else { return };
            std::thread::spawn(move || {
                let _ = io.write_all(b"220 hello\r\n");
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = io.read(&mut buffer) {
                    let _ = io.write_all(&buffer[..count]);
                }
            });
        }
    });
    address
}

#[test]
fn a_server_that_speaks_first_does_not_stall_declared_or_not() {
    for port_name in ["tcp-mail", "mail"] {
        let world = World::new(service(1, "mail", port_name, &[("v1", greeter())]));
        let mut connection = world.connect(1);
        let started = std::time::Instant::now();
        assert_eq!(connection.read(11), b"220 hello\r\n", "{port_name}");
        assert!(started.elapsed() < std::time::Duration::from_secs(1), "{port_name}: no detection timer");
        connection.send("ping");
        assert_eq!(connection.read(4), b"ping");
        connection.shutdown_write();
        assert_eq!(connection.rest().unwrap(), b"");
        let line = world.log_line("\"- - -\" 0 -");
        assert!(line.contains("outbound|80||mail.default.svc.cluster.local"), "{line}");
        let metrics = world.metrics();
        assert!(metrics.contains("istio_tcp_connections_closed_total{"), "{metrics}");
        let received =
            metrics.lines().find(|line| line.starts_with("istio_tcp_received_bytes_total{")).unwrap();
        assert!(received.ends_with(" 4"), "{received}");
    }
}

#[test]
fn http_on_an_undeclared_port_is_routed_as_http() {
    let upstream = Upstream::named("ok");
    let mut objects = service(1, "echo", "any", &[("v1", upstream.address)]);
    objects.push(crate::world::virtual_service(
        "echo",
        json!([{"match": [{"uri": {"exact": "/tea"}}], "directResponse": {"status": 418}},
            {"route": [{"destination": {"host": "echo"}}]}]),
    ));
    let world = World::new(objects);
    let mut connection = world.connect(1);
    // A client that speaks at once may be understood before there is a connection that could be kept.
    crate::world::wait_until("the server was connected to", || upstream.opened() == 1);
    assert_eq!(connection.get("echo", "/tea", &[]).status, 418);
    assert_eq!(connection.get("echo", "/", &[]).body, "ok");
    assert_eq!(upstream.opened(), 1, "the connection made before the client spoke is used");
}

#[test]
fn a_service_that_is_down_resets_the_client() {
    let world = World::new(service(1, "mail", "tcp-mail", &[("v1", crate::world::refused())]));
    let mut connection = world.connect(1);
    assert_eq!(connection.rest().map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
    world.log_line("\"- - -\" 0 UF ");
    assert!(world.metrics().contains("undermesh_tcp_failed_total 1\n"));
}

#[test]
fn a_connection_to_the_listener_itself_is_reset_and_counted() {
    let upstream = Upstream::named("ok");
    let world = World::new(service(1, "echo", "http", &[("v1", upstream.address)]));
    let mut connection = world.connect_to_listener();
    assert_eq!(connection.rest().map_err(|error| error.kind()), Err(std::io::ErrorKind::ConnectionReset));
    assert!(world.metrics().contains("undermesh_connections_refused_total{reason=\"no_origin\"} 1\n"));
    assert_eq!(world.connect(1).get("echo", "/", &[]).status, 200, "others are served");
}

#[test]
fn connections_are_spread_over_the_workers() {
    let upstream = Upstream::named("ok");
    let world = World::with_workers(service(1, "echo", "http", &[("v1", upstream.address)]), 2);
    let mut connections: Vec<_> = (0..4).map(|_| world.connect(1)).collect();
    for connection in &mut connections {
        assert_eq!(connection.get("echo", "/", &[]).status, 200);
    }
    assert_eq!(upstream.opened(), 2, "each worker has a pool of its own, and both serve");
    assert!(world.metrics().contains("undermesh_connections_accepted_total 4\n"));
}
