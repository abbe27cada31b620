use std::net::IpAddr;

use crate::balance::tests::Random;
use crate::client::Client;
use crate::compile::fixture::{REGISTRY, compiled, virtual_service};
use crate::diagnostic::Code;
use crate::inventory::Protocol;
use crate::route::{TcpDecision, decide_tcp};
use crate::snapshot::{GatewayPort, Snapshot};

/// A Gateway of namespace `shop` that is older the smaller `age` is.
fn gateway(name: &str, age: u32, servers: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: shop, creationTimestamp: '20{age:02}-01-01T00:00:00Z'}}, spec: {{selector: {{istio: in}}, servers: [{servers}]}}}}"
    )
}

fn server(number: u16, protocol: &str, hosts: &str, more: &str) -> String {
    format!("{{port: {{number: {number}, name: n{number}, protocol: {protocol}}}, hosts: [{hosts}]{more}}}")
}

const PASSTHROUGH: &str = ", tls: {mode: PASSTHROUGH}";

fn tls_rule(name: &str, host: &str, sni: &str, to: &str) -> String {
    virtual_service(
        name,
        &format!(
            "{{hosts: ['{host}'], gateways: [g, h], tls: [{{match: [{{sniHosts: [{sni}], sourceLabels: {{app: not-looked-at}}}}], route: [{{destination: {{host: {to}}}}}]}}]}}"
        ),
    )
}

fn edge() -> Client {
    Client::gateway("edge", [("istio".to_owned(), "in".to_owned())])
}

fn port(snapshot: &Snapshot, number: u16) -> GatewayPort {
    let local: IpAddr = "192.0.2.1".parse().expect("an address");
    snapshot.gateway_port(&edge(), number, local).expect("a port")
}

/// The service that a connection with this server name goes to; `None`: it is closed.
fn chosen(port: &GatewayPort, sni: Option<&str>) -> Option<String> {
    let local = "192.0.2.1".parse().expect("an address");
    match decide_tcp(&port.tcp, local, sni, &mut Random(1)) {
        TcpDecision::Passthrough => panic!("a gateway passes nothing on unasked"),
        decision => port
            .tcp
            .forward(decision)
            .map(|(_, to)| to.cluster.service.as_ref().expect("known").name.to_string()),
    }
}

fn left_out(parts: &[&str]) -> Vec<(String, String)> {
    let said = compiled(parts).diagnostics.into_iter();
    let about = said.filter(|said| said.code == Code::PortConflict);
    about.map(|said| (format!("{} {}", said.name, said.field), said.message)).collect()
}

#[test]
fn tls_is_passed_through_by_the_most_specific_server_name() {
    let gateway = gateway("g", 1, &server(443, "TLS", "'*.example.com', b.test", PASSTHROUGH));
    let wild = tls_rule("a", "*.example.com", "'*.example.com'", "catalog");
    let exact = tls_rule("b", "a.example.com", "a.example.com", "pay");
    let elsewhere = tls_rule("c", "c.test", "c.test", "pay");
    let snapshot = compiled(&[REGISTRY, &gateway, &wild, &exact, &elsewhere]).snapshot;
    let port = port(&snapshot, 443);
    assert_eq!((port.protocol, port.is_served()), (Protocol::Tls, true));
    for (sni, want) in [
        (Some("a.example.com"), Some("pay")),
        (Some("A.EXAMPLE.COM"), Some("pay")),
        (Some("b.example.com"), Some("catalog")),
        (Some("b.test"), None),
        (Some("c.test"), None),
        (None, None),
    ] {
        assert_eq!(chosen(&port, sni).as_deref(), want, "{sni:?}");
    }
}

#[test]
fn of_two_rules_for_one_server_name_the_first_counts() {
    let gateway = gateway("g", 1, &server(443, "HTTPS", "'*'", PASSTHROUGH));
    let first = tls_rule("a", "m.example.com", "m.example.com", "catalog");
    // An entry goes whole, with the names that nobody else has.
    let second = tls_rule("b", "*.example.com", "m.example.com, n.example.com", "pay");
    let snapshot = compiled(&[REGISTRY, &gateway, &first, &second]).snapshot;
    let port = port(&snapshot, 443);
    assert_eq!(chosen(&port, Some("m.example.com")).as_deref(), Some("catalog"));
    assert_eq!(chosen(&port, Some("n.example.com")), None);
}

#[test]
fn a_tcp_server_goes_by_the_first_rule_for_its_port() {
    let gateway = gateway("g", 1, &server(31400, "TCP", "'*'", ""));
    let other_port = virtual_service(
        "a",
        "{hosts: ['*'], gateways: [g], tcp: [{match: [{port: 1}], route: [{destination: {host: catalog}}]}]}",
    );
    let rule = virtual_service(
        "b",
        "{hosts: ['*'], gateways: [g], tcp: [{match: [{port: 31400, sourceLabels: {app: x}, destinationSubnets: [198.51.100.0/24]}], route: [{destination: {host: pay, port: {number: 9000}}}]}, {route: [{destination: {host: catalog}}]}]}",
    );
    let snapshot = compiled(&[REGISTRY, &gateway, &other_port, &rule]).snapshot;
    let port = port(&snapshot, 31400);
    assert_eq!((port.protocol, chosen(&port, None).as_deref()), (Protocol::Tcp, Some("pay")));
    let unbound = compiled(&[REGISTRY, &gateway, &other_port]).snapshot;
    assert!(!super::super::gateway::ports(&unbound.state, &edge())[0].is_served());
}

#[test]
fn what_terminates_tls_is_served_by_nobody_not_even_by_a_wildcard_beside_it() {
    let servers = [
        server(443, "HTTPS", "'*.example.com'", PASSTHROUGH),
        server(443, "HTTPS", "a.example.com", ", tls: {mode: SIMPLE, credentialName: c}"),
    ];
    let gateway = gateway("g", 1, &servers.join(", "));
    let wild = tls_rule("a", "*.example.com", "'*.example.com'", "catalog");
    let snapshot = compiled(&[REGISTRY, &gateway, &wild]).snapshot;
    let port = port(&snapshot, 443);
    assert_eq!(chosen(&port, Some("b.example.com")).as_deref(), Some("catalog"));
    assert_eq!(chosen(&port, Some("a.example.com")), None);
    let idle: Vec<_> = port.servers.iter().map(|server| server.idle.is_some()).collect();
    assert_eq!(idle, [false, true]);
}

#[test]
fn of_servers_that_exclude_one_another_the_first_counts_and_the_others_are_told() {
    let older = gateway("g", 1, &server(80, "HTTP", "'*'", ""));
    let younger = gateway("h", 2, &server(80, "TCP", "'*'", ""));
    assert_eq!(
        left_out(&[REGISTRY, &older, &younger]),
        [(
            "h spec.servers[0].port".to_owned(),
            "left out on port 80: server 0 of Gateway shop/g has the port already, with protocol Http"
                .to_owned()
        )]
    );
    let older = gateway("g", 1, &server(443, "TLS", "a.test", PASSTHROUGH));
    let younger = gateway("h", 2, &server(443, "TLS", "'*.test', a.test", PASSTHROUGH));
    assert_eq!(left_out(&[REGISTRY, &older, &younger]).len(), 1);
    let snapshot = compiled(&[REGISTRY, &older, &younger]).snapshot;
    let idle: Vec<_> = port(&snapshot, 443).servers.iter().map(|server| server.idle.is_some()).collect();
    assert_eq!(idle, [false, true]);
    // Two plain HTTP servers merge, and two of different workloads never meet.
    let merged = gateway("h", 2, &server(80, "HTTP2", "'*'", ""));
    let elsewhere = younger.replace("istio: in", "istio: out");
    for other in [&merged, &elsewhere] {
        let older = gateway(
            "g",
            1,
            &format!("{}, {}", server(80, "HTTP", "'*'", ""), server(443, "TLS", "a.test", PASSTHROUGH)),
        );
        assert_eq!(left_out(&[REGISTRY, &older, other]), []);
    }
}

#[test]
fn servers_bound_to_different_addresses_do_not_meet() {
    let servers = [
        server(80, "HTTP", "'*'", ""),
        server(80, "TCP", "'*'", ", bind: 192.0.2.1").replace("name: n80", "name: bound"),
    ];
    let gateway = gateway("g", 1, &servers.join(", "));
    let rule = virtual_service(
        "b",
        "{hosts: ['*'], gateways: [g], tcp: [{route: [{destination: {host: catalog}}]}]}",
    );
    assert_eq!(left_out(&[REGISTRY, &gateway, &rule]), []);
    let snapshot = compiled(&[REGISTRY, &gateway, &rule]).snapshot;
    for (local, want) in
        [("192.0.2.1", Protocol::Tcp), ("192.0.2.2", Protocol::Http), ("2001:db8::1", Protocol::Http)]
    {
        let local = local.parse().expect("an address");
        assert_eq!(snapshot.gateway_port(&edge(), 80, local).expect("a port").protocol, want, "{local}");
    }
}

#[test]
fn a_unix_socket_is_refused_aloud() {
    let servers = "{port: {number: 0, name: n, protocol: HTTP}, hosts: ['*'], bind: 'unix:///run/gw.sock'}";
    let compiled = compiled(&[REGISTRY, &gateway("g", 1, servers)]);
    assert!(compiled.snapshot.gateway(&edge()).is_empty());
    let said: Vec<_> = compiled.diagnostics.iter().map(|said| (said.code, said.field.as_str())).collect();
    assert_eq!(said, [(Code::NotEnforced, "spec.servers[0].bind")]);
}
