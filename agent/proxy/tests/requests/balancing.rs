//! Who gets a request: by key, by locality, by how long an endpoint has been known.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{Reply, Response, Upstream, World, destination_rule, refused, service, virtual_service};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn upstreams() -> Vec<Upstream> {
    NAMES.map(Upstream::named).into()
}

fn endpoints(upstreams: &[Upstream]) -> Vec<(&'static str, SocketAddr)> {
    upstreams.iter().map(|upstream| ("v1", upstream.address)).collect()
}

fn world_of(port_name: &str, upstreams: &[Upstream], load_balancer: Value) -> World {
    let mut objects = service(1, "echo", port_name, &endpoints(upstreams));
    objects.push(destination_rule("echo", json!({"trafficPolicy": {"loadBalancer": load_balancer}})));
    World::new(objects)
}

fn hashing(upstreams: &[Upstream], by: Value) -> World {
    world_of("http", upstreams, json!({"consistentHash": by}))
}

/// The upstreams that `count` connections with one such request each reach.
fn reached(world: &World, path: &str, headers: &[(&str, &str)], count: usize) -> BTreeSet<String> {
    (0..count).map(|_| world.connect(1).get("echo", path, headers).body).collect()
}

#[test]
fn a_key_leads_to_one_endpoint_and_keys_spread() {
    for (by, maglev) in [("ringHash", json!({})), ("maglev", json!({"tableSize": 251}))] {
        let upstreams = upstreams();
        let world = hashing(&upstreams, json!({"httpHeaderName": "X-User", by: maglev}));
        let mut all = BTreeSet::new();
        for key in 0..30 {
            let reached = reached(&world, "/", &[("x-user", &key.to_string())], 3);
            assert_eq!(reached.len(), 1, "{by} key {key}: {reached:?}");
            all.extend(reached);
        }
        assert!(all.len() >= 3, "{by}: {all:?}");
        // Without a key, anybody.
        assert!(reached(&world, "/", &[], 40).len() >= 3, "{by}");
    }
}

#[test]
fn nobody_waits_for_the_large_table_of_another_service() {
    let upstreams = upstreams();
    let by = json!({"httpHeaderName": "x-user", "ringHash": {"minimumRingSize": 200_000}});
    let mut objects = service(1, "echo", "http", &endpoints(&upstreams));
    objects
        .push(destination_rule("echo", json!({"trafficPolicy": {"loadBalancer": {"consistentHash": by}}})));
    objects.extend(service(2, "plain", "http", &endpoints(&upstreams)[..1]));
    let world = World::new(objects);
    let (mut hashed, mut plain) = (world.connect(1), world.connect(2));
    plain.get("plain", "/", &[]);
    hashed.send("GET / HTTP/1.1\r\nhost: echo\r\nx-user: a\r\n\r\n");
    let is_answered = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let response = hashed.response();
            is_answered.store(true, Ordering::SeqCst);
            response.unwrap().status
        });
        // In turn: a worker that stood still until now would not come to the last before it answers the other.
        for _ in 0..3 {
            plain.get("plain", "/", &[]);
        }
        assert!(!is_answered.load(Ordering::SeqCst));
        assert_eq!(waiting.join().unwrap(), 200);
    });
    assert_eq!(reached(&world, "/", &[("x-user", "a")], 5).len(), 1);
}

#[test]
fn a_query_parameter_is_a_key() {
    let upstreams = upstreams();
    let world = hashing(&upstreams, json!({"httpQueryParameterName": "user"}));
    assert_eq!(reached(&world, "/x?a=b&user=jason", &[], 20).len(), 1);
    assert!(reached(&world, "/x?a=b", &[], 40).len() >= 3);
}

#[test]
fn the_source_is_a_key_of_requests_and_of_opaque_connections() {
    let upstreams = upstreams();
    let world = hashing(&upstreams, json!({"useSourceIp": true}));
    assert_eq!(reached(&world, "/", &[], 20).len(), 1);
    let world = world_of("tcp", &upstreams, json!({"consistentHash": {"useSourceIp": true}}));
    assert_eq!(reached(&world, "/", &[], 20).len(), 1);
    // Opaque connections have no headers.
    let world = world_of("tcp", &upstreams, json!({"consistentHash": {"httpHeaderName": "x-user"}}));
    assert!(reached(&world, "/", &[("x-user", "a")], 40).len() >= 3);
}

fn cookie(response: &Response) -> Option<String> {
    response.header("set-cookie")?.split(';').next().map(str::to_owned)
}

#[test]
fn a_client_without_the_cookie_is_given_one_that_leads_back() {
    let upstreams = upstreams();
    let by = json!({"httpCookie": {"name": "user", "ttl": "60s", "path": "/x",
        "attributes": [{"name": "SameSite", "value": "Lax"}]}});
    let world = hashing(&upstreams, by);
    for _ in 0..5 {
        let mut connection = world.connect(1);
        let first = connection.get("echo", "/", &[]);
        let line = first.header("set-cookie").unwrap();
        assert!(line.ends_with("; Max-Age=60; Path=/x; SameSite=Lax; HttpOnly"), "{line}");
        let given = cookie(&first).unwrap();
        // All requests of the connection are given the same one.
        assert_eq!(cookie(&connection.get("echo", "/", &[])).as_ref(), Some(&given));
        let reached = reached(&world, "/", &[("cookie", &given)], 5);
        assert_eq!(reached, BTreeSet::from([first.body]));
        let again = world.connect(1).get("echo", "/", &[("cookie", &given)]);
        assert_eq!(again.header("set-cookie"), None);
    }
}

#[test]
fn without_a_ttl_no_cookie_is_given() {
    let upstreams = upstreams();
    let world = hashing(&upstreams, json!({"httpCookie": {"name": "sess"}}));
    assert_eq!(world.connect(1).get("echo", "/", &[]).header("set-cookie"), None);
    assert!(reached(&world, "/", &[], 40).len() >= 3);
    assert_eq!(reached(&world, "/", &[("cookie", "a=b; sess=abc")], 20).len(), 1);
}

#[test]
fn a_retry_stays_with_its_key_unless_it_is_told_not_to() {
    for (retries, stays) in [
        (json!({"attempts": 3, "retryOn": "5xx"}), true),
        (json!({"attempts": 3, "retryOn": "5xx", "retryIgnorePreviousHosts": true}), false),
    ] {
        let upstreams: Vec<_> = (0..4).map(|_| Upstream::start(|_, _| Reply::Status(500))).collect();
        let mut objects = service(1, "echo", "http", &endpoints(&upstreams));
        let by = json!({"consistentHash": {"httpHeaderName": "x-user", "ringHash": {}}});
        objects.push(destination_rule("echo", json!({"trafficPolicy": {"loadBalancer": by}})));
        objects.push(virtual_service(
            "echo",
            json!([{"route": [{"destination": {"host": "echo"}}], "retries": retries}]),
        ));
        let world = World::new(objects);
        // Another endpoint is looked for in the ring's next places, which may all lead back to where a try was: that is
        // rare for one user, and does not happen to half of them.
        let reached: Vec<usize> = ["a", "b", "c", "d", "e", "f", "g", "h"]
            .iter()
            .map(|user| {
                let before: Vec<_> = upstreams.iter().map(Upstream::count).collect();
                assert_eq!(world.connect(1).get("echo", "/", &[("x-user", user)]).status, 500);
                let tries =
                    upstreams.iter().map(Upstream::count).zip(before).map(|(now, before)| now - before);
                let tries: Vec<_> = tries.filter(|&tries| tries > 0).collect();
                assert_eq!(tries.iter().sum::<usize>(), 4, "{retries}");
                tries.len()
            })
            .collect();
        let several = reached.iter().filter(|&&endpoints| endpoints >= 2).count();
        assert_eq!(several > reached.len() / 2, !stays, "{retries}: {reached:?}");
        assert!(!stays || several == 0, "{retries}: {reached:?}");
    }
}

/// Two endpoints of version v1, then one of v2, which stands by for them.
fn preferred(first: [SocketAddr; 2], second: SocketAddr, detection: Value, retries: Value) -> World {
    let mut objects = service(1, "echo", "http", &[("v1", first[0]), ("v1", first[1]), ("v2", second)]);
    let locality = json!({"failoverPriority": ["version=v1"]});
    let policy = json!({"outlierDetection": detection, "loadBalancer": {"localityLbSetting": locality}});
    objects.push(destination_rule("echo", json!({"trafficPolicy": policy})));
    objects.push(virtual_service(
        "echo",
        json!([{"route": [{"destination": {"host": "echo"}}], "retries": retries}]),
    ));
    World::new(objects)
}

#[test]
fn the_next_priority_takes_over_when_the_first_is_ejected() {
    let (bad, near, far) =
        (Upstream::start(|_, _| Reply::Status(500)), Upstream::named("near"), Upstream::named("far"));
    let detection = json!({"consecutive5xxErrors": 1, "maxEjectionPercent": 100});
    let world = preferred([bad.address, near.address], far.address, detection, json!({}));
    let mut connection = world.connect(1);
    while bad.count() == 0 {
        connection.get("echo", "/", &[]);
    }
    assert_eq!(far.count(), 0, "as long as all are well, nobody else is used");
    for _ in 0..400 {
        assert_eq!(connection.get("echo", "/", &[]).status, 200);
    }
    // Half of the first are left: they keep 70 per cent. Standard deviation 9.
    assert!((75..=165).contains(&far.count()), "{} of 400", far.count());
}

#[test]
fn retries_leave_a_locality_only_if_they_may() {
    for (leaves, want) in [(true, 200), (false, 503)] {
        let far = Upstream::named("far");
        let retries = json!({"attempts": 2, "retryOn": "connect-failure", "backoff": "1ms", "retryRemoteLocalities": leaves});
        let detection = json!({"consecutive5xxErrors": 100});
        let world = preferred([refused(), refused()], far.address, detection, retries);
        assert_eq!(world.connect(1).get("echo", "/", &[]).status, want);
        assert_eq!(far.count(), usize::from(leaves));
    }
}

#[test]
fn below_the_panic_threshold_the_ejected_are_used_again() {
    for (threshold, want) in [(0, 503), (50, 500)] {
        let bad = Upstream::start(|_, _| Reply::Status(500));
        let mut objects = service(1, "echo", "http", &[("v1", bad.address)]);
        let detection =
            json!({"consecutive5xxErrors": 1, "maxEjectionPercent": 100, "minHealthPercent": threshold});
        objects.push(destination_rule("echo", json!({"trafficPolicy": {"outlierDetection": detection}})));
        let world = World::new(objects);
        let mut connection = world.connect(1);
        assert_eq!(connection.get("echo", "/", &[]).status, 500);
        assert_eq!(connection.get("echo", "/", &[]).status, want);
    }
}

#[test]
fn an_endpoint_that_comes_gets_little_at_first() {
    let (old, new) = (Upstream::named("old"), Upstream::named("new"));
    for balancer in ["ROUND_ROBIN", "LEAST_REQUEST"] {
        let rule = destination_rule(
            "echo",
            json!({"trafficPolicy": {"loadBalancer": {"simple": balancer, "warmup": {"duration": "2s"}}}}),
        );
        let mut world = World::new(service(1, "echo", "http", &[("v1", old.address)]));
        world.objects.push(rule);
        world.apply();
        // Known from now on.
        world.connect(1).get("echo", "/", &[]);
        std::thread::sleep(Duration::from_millis(2100));
        let (before, rule) = (new.count(), world.objects.pop().unwrap());
        world.objects = service(1, "echo", "http", &[("v1", old.address), ("v1", new.address)]);
        world.objects.push(rule);
        world.apply();
        let mut connection = world.connect(1);
        for _ in 0..200 {
            connection.get("echo", "/", &[]);
        }
        let count = new.count() - before;
        // A tenth at first; half an equal share by the middle of the window, when this is long over.
        assert!((4..=60).contains(&count), "{balancer}: {count} of 200");
    }
}
