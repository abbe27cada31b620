//! Connections that are routed by TLS server name, or by the gateway's port alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use serde_json::{Value, json};

use crate::world::{Connection, World, service};

/// Answers the first bytes with its name, then echoes until the client ends, and says goodbye.
fn named(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for io in listener.incoming() {
            let Ok(mut io) = io else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                if !matches!(io.read(&mut buffer), Ok(1..)) {
                    return;
                }
                let _ = io.write_all(name.as_bytes());
                while let Ok(count @ 1..) = io.read(&mut buffer) {
                    let _ = io.write_all(&buffer[..count]);
                }
                let _ = io.write_all(b"bye");
            });
        }
    });
    address
}

/// A ClientHello with this server name.
fn client_hello(name: &str) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let extension = |number: u16, bytes: &[u8]| [&number.to_be_bytes()[..], &sized(bytes)].concat();
    let host = sized(&[&[0][..], &sized(name.as_bytes())].concat());
    let key_share = sized(&[&[0, 29][..], &sized(&[7; 32])].concat());
    let extensions = [
        extension(0, &host),
        extension(10, &sized(&[0, 29])),
        extension(13, &sized(&[4, 3])),
        extension(43, &[2, 3, 4]),
        extension(51, &key_share),
    ]
    .concat();
    let body = [&[3, 3][..], &[5; 32], &[0], &sized(&[0x13, 1]), &[1, 0], &sized(&extensions)].concat();
    let handshake = [&[1, 0][..], &sized(&body)].concat();
    [&[0x16, 3, 1][..], &sized(&handshake)].concat()
}

impl Connection {
    fn is_reset(&mut self) -> bool {
        self.rest().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    }
}

fn tls_virtual_service(hosts: Value, gateways: Value, tls: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "tls", "namespace": "default"},
        "spec": {"hosts": hosts, "gateways": gateways, "tls": tls},
    })
}

fn gateway(servers: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": servers},
    })
}

fn two_services() -> Vec<Value> {
    let mut objects = service(1, "vault", "tls", &[("v1", named("vault"))]);
    objects.extend(service(2, "safe", "tls", &[("v1", named("safe"))]));
    objects
}

#[test]
fn a_server_name_picks_the_service_and_one_that_no_rule_has_is_reset() {
    let mut objects = two_services();
    let to = |host: &str| json!([{"destination": {"host": host}}]);
    objects.push(tls_virtual_service(
        json!(["vault", "*.example.com"]),
        json!(["mesh"]),
        json!([
            {"match": [{"sniHosts": ["*.example.com"]}], "route": to("vault")},
            {"match": [{"sniHosts": ["safe.example.com"]}], "route": to("safe")},
        ]),
    ));
    let world = World::new(objects);
    for (name, want) in
        [("a.example.com", "vault"), ("safe.example.com", "safe"), ("SAFE.example.com", "safe")]
    {
        let mut connection = world.connect(1);
        let hello = client_hello(name);
        let (first, rest) = hello.split_at(20);
        connection.send_bytes(first);
        std::thread::sleep(std::time::Duration::from_millis(20));
        connection.send_bytes(rest);
        assert_eq!(connection.read(want.len()), want.as_bytes(), "{name}");
        connection.shutdown_write();
        assert_eq!(connection.rest().unwrap(), b"bye", "an end is passed on, and what comes after it too");
        let line = world.log_line(&format!(" {} ", name.to_lowercase()));
        assert!(line.contains(&format!("outbound|80||{want}.default.svc.cluster.local")), "{line}");
        assert!(line.contains("rule=VirtualService/default/tls#"), "{line}");
    }
    for bytes in [client_hello("unknown.test"), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut connection = world.connect(1);
        connection.send_bytes(&bytes);
        assert!(connection.is_reset());
    }
    world.log_line("\"- - -\" 0 NR ");
    // The other service has no rule: whatever comes is its own.
    let mut connection = world.connect(2);
    connection.send_bytes(&client_hello("unknown.test"));
    assert_eq!(connection.read(4), b"safe");
}

#[test]
fn a_gateway_passes_tls_through_by_server_name() {
    let mut objects = two_services();
    objects.push(gateway(json!([
        {"port": {"number": 443, "name": "tls", "protocol": "TLS"}, "hosts": ["*.example.com"], "tls": {"mode": "PASSTHROUGH"}},
        {"port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["ours.example.com"],
         "tls": {"mode": "SIMPLE", "credentialName": "ours"}},
    ])));
    objects.push(tls_virtual_service(
        json!(["*.example.com"]),
        json!(["edge"]),
        json!([
            {"match": [{"sniHosts": ["*.example.com"], "port": 443}], "route": [{"destination": {"host": "vault"}}]},
            {"match": [{"sniHosts": ["safe.example.com"], "port": 443}], "route": [{"destination": {"host": "safe"}}]},
        ]),
    ));
    let mut world = World::new(objects);
    let address = world.open_gateway_port(443);
    for (name, want) in [("a.example.com", "vault"), ("safe.example.com", "safe")] {
        let mut connection = Connection::open(address);
        connection.send_bytes(&client_hello(name));
        assert_eq!(connection.read(want.len()), want.as_bytes(), "{name}");
    }
    // A name of nobody, one of a server that would have to speak TLS itself, and no TLS at all.
    for bytes in
        [client_hello("unknown.test"), client_hello("ours.example.com"), b"GET / HTTP/1.1\r\n\r\n".to_vec()]
    {
        let mut connection = Connection::open(address);
        connection.send_bytes(&bytes);
        assert!(connection.is_reset());
    }
}

#[test]
fn a_tcp_server_of_a_gateway_forwards_by_weight() {
    let mut objects = two_services();
    objects.push(gateway(json!([
        {"port": {"number": 31400, "name": "tcp", "protocol": "TCP"}, "hosts": ["*"]},
    ])));
    objects.push(json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": "tcp", "namespace": "default"},
        "spec": {"hosts": ["*"], "gateways": ["edge"], "tcp": [{"match": [{"port": 31400}], "route": [
            {"destination": {"host": "vault", "port": {"number": 80}}, "weight": 50},
            {"destination": {"host": "safe", "port": {"number": 80}}, "weight": 50},
        ]}]},
    }));
    let mut world = World::new(objects);
    let address = world.open_gateway_port(31400);
    let mut answers = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let mut connection = Connection::open(address);
        connection.send("x");
        answers.insert(String::from_utf8(connection.read(4)).unwrap());
    }
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), ["safe", "vaul"]);
    let metrics = world.metrics();
    let opened = |host: &str| {
        let lines = metrics.lines().filter(|line| line.starts_with("istio_tcp_connections_opened_total{"));
        let of_host = lines.filter(|line| line.contains(&format!("destination_service_name=\"{host}\"")));
        of_host.map(|line| line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum::<u32>()
    };
    assert_eq!(opened("safe") + opened("vault"), 40);
    assert!(opened("safe") > 0 && opened("vault") > 0);
}

#[test]
fn a_connection_that_was_never_made_is_counted_with_the_reason() {
    let world = World::new(service(1, "mail", "tcp-mail", &[("v1", crate::world::refused())]));
    assert!(world.connect(1).is_reset());
    world.log_line("\"- - -\" 0 UF ");
    let metrics = world.metrics();
    for name in ["opened", "closed"] {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&format!("istio_tcp_connections_{name}_total{{")))
            .unwrap();
        assert!(line.contains("response_flags=\"UF\"") && line.ends_with(" 1"), "{line}");
    }
}
