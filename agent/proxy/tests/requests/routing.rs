//! Where requests go.

use serde_json::json;

use crate::world::{Upstream, World, destination_rule, service, virtual_service};

fn reviews(upstreams: [&Upstream; 3], weights: [u32; 2]) -> Vec<serde_json::Value> {
    let endpoints =
        [("v1", upstreams[0].address), ("v2", upstreams[1].address), ("v3", upstreams[2].address)];
    let mut objects = service(1, "reviews", "http", &endpoints);
    let subset = |name: &str| json!({"name": name, "labels": {"version": name}});
    objects.push(destination_rule("reviews", json!({"subsets": [subset("v1"), subset("v2"), subset("v3")]})));
    let to = |subset: &str| json!({"host": "reviews", "subset": subset});
    objects.push(virtual_service(
        "reviews",
        json!([
            {"match": [{"headers": {"end-user": {"exact": "jason"}}}], "route": [{"destination": to("v2")}]},
            {"route": [
                {"destination": to("v1"), "weight": weights[0]},
                {"destination": to("v3"), "weight": weights[1]},
            ]},
        ]),
    ));
    objects
}

#[test]
fn a_header_and_a_weighted_split_choose_the_version_and_the_log_names_the_rule() {
    let upstreams = [Upstream::named("v1"), Upstream::named("v2"), Upstream::named("v3")];
    let world = World::new(reviews([&upstreams[0], &upstreams[1], &upstreams[2]], [90, 10]));
    let mut connection = world.connect(1);
    for _ in 0..20 {
        assert_eq!(connection.get("reviews:80", "/", &[("end-user", "jason")]).body, "v2");
    }
    for _ in 0..400 {
        connection.get("reviews", "/", &[]);
    }
    let v3 = upstreams[2].count();
    // 40 expected, standard deviation 6.
    assert!((16..=64).contains(&v3) && upstreams[0].count() == 400 - v3, "v3 got {v3}");
    assert_eq!(upstreams[1].count(), 20);
    let line = world.log_line("reviews#0");
    assert!(
        line.contains("outbound|80|v2|reviews.default.svc.cluster.local") && line.contains("generation=1"),
        "{line}"
    );
    let metrics = world.metrics();
    assert!(
        metrics.contains("undermesh_rule_requests_total{rule=\"VirtualService/default/reviews#1\"} 400"),
        "{metrics}"
    );
    let series = metrics.lines().find(|line| {
        line.starts_with("istio_requests_total{")
            && line.contains("destination_version=\"v2\"")
            && line.ends_with(" 20")
    });
    let series = series.unwrap_or_else(|| panic!("{metrics}"));
    for label in [
        "reporter=\"source\"",
        "source_app=\"web\"",
        "destination_service=\"reviews.default.svc.cluster.local\"",
        "response_code=\"200\"",
        "response_flags=\"-\"",
        "request_protocol=\"http\"",
    ] {
        assert!(series.contains(label), "{label} in {series}");
    }
}

#[test]
fn a_new_snapshot_is_in_force_for_the_next_request_of_an_open_connection() {
    let upstreams = [Upstream::named("v1"), Upstream::named("v2"), Upstream::named("v3")];
    let mut world = World::new(reviews([&upstreams[0], &upstreams[1], &upstreams[2]], [100, 0]));
    let mut connection = world.connect(1);
    assert_eq!(connection.get("reviews", "/", &[]).body, "v1");
    world.objects = reviews([&upstreams[0], &upstreams[1], &upstreams[2]], [0, 100]);
    world.apply();
    assert_eq!(connection.get("reviews", "/", &[]).body, "v3");
    assert!(world.log_line("generation=2").contains("|v3|"));
}

#[test]
fn round_robin_visits_every_endpoint_in_turn() {
    let upstreams = [Upstream::named("a"), Upstream::named("b"), Upstream::named("c")];
    let endpoints: Vec<_> = upstreams.iter().map(|upstream| ("v1", upstream.address)).collect();
    let mut objects = service(1, "echo", "http", &endpoints);
    objects.push(destination_rule(
        "echo",
        json!({"trafficPolicy": {"loadBalancer": {"simple": "ROUND_ROBIN"}}}),
    ));
    let world = World::new(objects);
    let mut connection = world.connect(1);
    for _ in 0..9 {
        connection.get("echo", "/", &[]);
    }
    assert_eq!(upstreams.each_ref().map(Upstream::count), [3, 3, 3]);
}

#[test]
fn a_plain_service_is_forwarded_with_the_headers_a_proxy_adds() {
    let upstream = Upstream::named("ok");
    let world = World::new(service(1, "echo", "http", &[("v1", upstream.address)]));
    let response = world.connect(1).get(
        "echo",
        "/a?b=c",
        &[("x-envoy-max-retries", "9"), ("connection", "x-mine"), ("x-mine", "1")],
    );
    assert_eq!((response.status, response.body.as_str()), (200, "ok"));
    assert!(response.header("x-envoy-upstream-service-time").is_some());
    let head = upstream.last();
    assert!(head.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{head}");
    let get = |name| crate::world::header(&head, name);
    assert_eq!(get("host").as_deref(), Some("echo"));
    assert_eq!(get("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(get("x-envoy-attempt-count").as_deref(), Some("1"));
    assert_eq!(get("x-request-id").map(|id| id.len()), Some(36));
    assert_eq!((get("x-envoy-max-retries"), get("x-mine"), get("x-forwarded-for")), (None, None, None));
}

#[test]
fn rewrite_and_header_operations_change_both_heads() {
    let upstream = Upstream::named("ok");
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.push(virtual_service(
        "echo",
        json!([{
            "match": [{"uri": {"prefix": "/api/"}}],
            "rewrite": {"uri": "/", "authority": "other"},
            "headers": {"request": {"set": {"x-env": "prod"}, "remove": ["x-secret"]}, "response": {"add": {"x-by": "mesh"}}},
            "route": [{"destination": {"host": "echo"}}],
        }]),
    ));
    let world = World::new(objects);
    let response = world.connect(1).get("echo", "/api/v1?q=1", &[("x-secret", "s"), ("x-env", "dev")]);
    assert_eq!(response.header("x-by").as_deref(), Some("mesh"));
    let head = upstream.last();
    let get = |name| crate::world::header(&head, name);
    assert!(head.starts_with("GET /v1?q=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(get("host").as_deref(), Some("other"));
    assert_eq!(get("x-env").as_deref(), Some("prod"));
    assert_eq!(get("x-secret"), None);
    assert_eq!(get("x-envoy-original-path").as_deref(), Some("/api/v1?q=1"));
}

#[test]
fn redirects_and_direct_responses_are_answered_here() {
    let upstream = Upstream::named("ok");
    let mut objects = service(1, "echo", "http", &[("v1", upstream.address)]);
    objects.push(virtual_service(
        "echo",
        json!([
            {"match": [{"uri": {"prefix": "/old"}}], "redirect": {"uri": "/new", "authority": "b.example.com", "redirectCode": 308}},
            {"match": [{"uri": {"exact": "/tea"}}], "directResponse": {"status": 418, "body": {"string": "short"}},
                "headers": {"response": {"set": {"x-by": "mesh"}}}},
            {"route": [{"destination": {"host": "echo"}}]},
        ]),
    ));
    let world = World::new(objects);
    let mut connection = world.connect(1);
    let response = connection.get("echo", "/old?a=1", &[]);
    assert_eq!(
        (response.status, response.header("location").as_deref()),
        (308, Some("http://b.example.com/new?a=1"))
    );
    let response = connection.get("echo", "/tea", &[]);
    assert_eq!(
        (response.status, response.body.as_str(), response.header("x-by").as_deref()),
        (418, "short", Some("mesh"))
    );
    assert_eq!(upstream.count(), 0);
    assert_eq!(connection.get("echo", "/", &[]).status, 200, "the connection goes on");
}

#[test]
fn a_gateway_serves_its_hosts_and_answers_404_for_the_rest() {
    let upstream = Upstream::named("page");
    let mut objects = service(1, "productpage", "http", &[("v1", upstream.address)]);
    objects.push(json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "Gateway", "metadata": {"name": "gw", "namespace": "default"},
        "spec": {"selector": {"istio": "ingressgateway"},
            "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["istio.k3s.local"]}]},
    }));
    objects.push(json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "VirtualService", "metadata": {"name": "page", "namespace": "default"},
        "spec": {"hosts": ["istio.k3s.local"], "gateways": ["gw"], "http": [
            {"match": [{"uri": {"exact": "/productpage"}}], "route": [{"destination": {"host": "productpage", "port": {"number": 80}}}]},
        ]},
    }));
    let world = World::new(objects);
    let mut connection = world.connect_to_gateway();
    let response = connection.get(
        "istio.k3s.local:8080",
        "/productpage",
        &[("x-forwarded-for", "1.2.3.4"), ("x-request-id", "mine")],
    );
    assert_eq!((response.status, response.body.as_str()), (200, "page"));
    let head = upstream.last();
    let get = |name| crate::world::header(&head, name);
    assert_eq!(get("x-forwarded-for").as_deref(), Some("1.2.3.4,127.0.0.1"));
    assert_ne!(get("x-request-id").as_deref(), Some("mine"), "an edge makes its own");
    for (host, path) in [("istio.k3s.local", "/productpage/x"), ("other.local", "/productpage")] {
        let response = connection.get(host, path, &[]);
        assert_eq!((response.status, response.body.as_str()), (404, ""), "{host}{path}");
    }
    assert!(world.log_line(" 404 NR route_not_found").contains("source=istio-system/gateway-1"));
}
