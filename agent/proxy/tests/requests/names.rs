//! Upstreams that have only names.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{Upstream, World};

/// Nobody's address, on a port that a ServiceEntry claims.
const ANYWHERE: [u8; 4] = [198, 51, 100, 1];

fn entry(hosts: Value, protocol: &str, target: u16, more: Value) -> Value {
    let mut spec = json!({
        "hosts": hosts, "ports": [{"number": 80, "name": "p", "protocol": protocol, "targetPort": target}],
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": "ext", "namespace": "default"}, "spec": spec,
    })
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < crate::world::PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_first_request_waits_for_the_answer_and_later_ones_follow_its_changes() {
    let upstream = Upstream::named("here");
    let port = upstream.address.port();
    let world =
        World::new(vec![entry(json!(["api.example.com"]), "HTTP", port, json!({"resolution": "DNS"}))]);
    world.zone.set("api.example.com", &["127.0.0.1"]);
    let mut connection = world.connect_to((ANYWHERE, 80).into());
    for _ in 0..3 {
        assert_eq!(connection.get("api.example.com", "/", &[]).body, "here");
    }
    assert_eq!(upstream.opened(), 1, "the pool is kept under the address");
    world.log_line("outbound|80||api.example.com");
    // The name moves: nobody is at the new address.
    world.zone.set("api.example.com", &["127.9.9.9"]);
    wait("the name has moved", || connection.get("api.example.com", "/", &[]).status == 503);
    world.zone.set("api.example.com", &["127.0.0.1"]);
    wait("the name is back", || connection.get("api.example.com", "/", &[]).status == 200);
    let rows = world.proxy.as_ref().unwrap().names();
    assert_eq!(
        (&*rows[0].name, rows[0].addresses[0].to_string()),
        ("api.example.com", "127.0.0.1".to_owned())
    );
}

#[test]
fn a_failed_look_up_keeps_the_last_answer_and_a_name_without_one_has_no_endpoint() {
    let upstream = Upstream::named("here");
    let port = upstream.address.port();
    let world = World::new(vec![entry(
        json!(["api.example.com", "nobody.example.com"]),
        "HTTP",
        port,
        json!({"resolution": "DNS"}),
    )]);
    world.zone.set("api.example.com", &["127.0.0.1"]);
    let mut connection = world.connect_to((ANYWHERE, 80).into());
    assert_eq!(connection.get("api.example.com", "/", &[]).status, 200);
    world.zone.remove("api.example.com");
    wait("a look-up has failed", || {
        world.metrics().contains("undermesh_dns_lookups_total{result=\"failed\"} 1\n")
    });
    assert_eq!(connection.get("api.example.com", "/", &[]).status, 200);
    let response = connection.get("nobody.example.com", "/", &[]);
    assert_eq!((response.status, response.body.as_str()), (503, "no healthy upstream"));
}

#[test]
fn of_a_round_robin_name_the_first_address_is_used_and_of_others_all() {
    let upstream = Upstream::named("here");
    let port = upstream.address.port();
    for (resolution, all) in [("DNS_ROUND_ROBIN", false), ("DNS", true)] {
        let world = World::new(vec![entry(
            json!(["api.example.com"]),
            "HTTP",
            port,
            json!({"resolution": resolution}),
        )]);
        world.zone.set("api.example.com", &["127.0.0.1", "127.9.9.9"]);
        let mut connection = world.connect_to((ANYWHERE, 80).into());
        let mut statuses: Vec<_> = (0..30)
            .map(|_| connection.get("api.example.com", "/", &[("x-envoy-max-retries", "0")]).status)
            .collect();
        statuses.sort_unstable();
        statuses.dedup();
        // Refused connections are tried elsewhere; what shows is that there is an elsewhere.
        assert_eq!(statuses, [200], "{resolution}");
        let retried = !world.metrics().contains("undermesh_retries_total 0\n");
        assert_eq!(retried, all, "{resolution}");
    }
}

#[test]
fn endpoints_of_an_entry_may_be_names_with_labels_of_their_own() {
    let (one, two) = (Upstream::named("one"), Upstream::named("two"));
    let endpoint = |name: &str, upstream: &Upstream| json!({"address": name, "labels": {"version": name.split('.').next()}, "ports": {"p": upstream.address.port()}});
    let mut objects = vec![entry(
        json!(["api.example.com"]),
        "HTTP",
        80,
        json!({"resolution": "DNS", "endpoints": [endpoint("one.example.com", &one), endpoint("two.example.com", &two)]}),
    )];
    objects.push(crate::world::destination_rule(
        "api.example.com",
        json!({"subsets": [{"name": "two", "labels": {"version": "two"}}]}),
    ));
    objects.push(crate::world::virtual_service(
        "api.example.com",
        json!([{"route": [{"destination": {"host": "api.example.com", "subset": "two"}}]}]),
    ));
    let world = World::new(objects);
    for name in ["one.example.com", "two.example.com"] {
        world.zone.set(name, &["127.0.0.1"]);
    }
    let mut connection = world.connect_to((ANYWHERE, 80).into());
    for _ in 0..8 {
        assert_eq!(connection.get("api.example.com", "/", &[]).body, "two");
    }
    assert_eq!((one.opened(), two.opened()), (0, 1));
    assert!(two.last().contains("api.example.com"), "the Host stays: {}", two.last());
}

#[test]
fn a_wildcard_entry_resolves_the_name_that_each_request_asks_for() {
    let upstream = Upstream::named("here");
    let port = upstream.address.port();
    let mut objects =
        vec![entry(json!(["*.example.com"]), "HTTP", port, json!({"resolution": "DYNAMIC_DNS"}))];
    // A rule of another host that leads there must not open other names.
    objects.push(crate::world::virtual_service(
        "other.test",
        json!([{"route": [{"destination": {"host": "*.example.com"}}]}]),
    ));
    let world = World::new(objects);
    world.zone.set("a.example.com", &["127.0.0.1"]);
    world.zone.set("other.test", &["127.0.0.1"]);
    let mut connection = world.connect_to((ANYWHERE, 80).into());
    assert_eq!(connection.get("A.example.com:80", "/", &[]).body, "here");
    assert_eq!(connection.get("b.example.com", "/", &[]).status, 503);
    assert_eq!(connection.get("other.test", "/", &[]).status, 503);
    let names: Vec<_> = world.proxy.as_ref().unwrap().names().into_iter().map(|row| row.name).collect();
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["a.example.com", "b.example.com"]);
}

#[test]
fn opaque_connections_go_to_names_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for io in listener.incoming() {
            let _ = io.unwrap().write_all(b"hello");
        }
    });
    let world = World::new(vec![entry(
        json!(["db.example.com"]),
        "TCP",
        port,
        json!({"resolution": "DNS", "addresses": ["203.0.113.9"]}),
    )]);
    world.zone.set("db.example.com", &["127.0.0.1"]);
    let mut connection = world.connect_to(([203, 0, 113, 9], 80).into());
    assert_eq!(connection.rest().unwrap(), b"hello");
}
