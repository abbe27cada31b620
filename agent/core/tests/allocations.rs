//! Deciding allocates nothing in the steady state: the data path calls it for every request.
#![expect(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use rand_core::RngCore;
use serde::Deserialize as _;
use undermesh_core::api::{origin::Origin, parse};
use undermesh_core::balance::{Ask, Cursor, Live, pick};
use undermesh_core::client::Client;
use undermesh_core::compile::compile;
use undermesh_core::edits::Edits;
use undermesh_core::inputs::Inputs;
use undermesh_core::route::{Facts, Outcome, decide, request_edits};
use undermesh_core::snapshot::Snapshot;
use undermesh_core::view::{HttpVersion, RequestView};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: all calls go to the system's allocator as they come; counting touches a thread-local cell without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as given.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as given.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as given.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Head;

impl RequestView for Head {
    fn version(&self) -> HttpVersion {
        HttpVersion::Http1
    }
    fn method(&self) -> &str {
        "GET"
    }
    fn scheme(&self) -> &str {
        "http"
    }
    fn authority(&self) -> &str {
        "Catalog:8080"
    }
    fn target(&self) -> &str {
        "/api/99/x?q=1"
    }
    fn header_lines<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        (name == "end-user").then_some(&b"jason"[..]).into_iter()
    }
}

struct Counter(u64);

impl RngCore for Counter {
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

/// 100 rules: paths, headers and expressions that do not match, then one that does, with every kind of edit.
fn config() -> String {
    config_with("{}")
}

/// With this policy for the service.
fn config_with(policy: &str) -> String {
    let mut rules = String::new();
    for index in 0..99 {
        let condition = match index % 3 {
            0 => format!("{{uri: {{prefix: /api/{index}/}}, headers: {{end-user: {{exact: nobody}}}}}}"),
            1 => format!("{{uri: {{exact: /api/{index}}}}}"),
            _ => format!("{{uri: {{regex: '/api/{index}/[a-z]+'}}, queryParams: {{q: {{exact: '1'}}}}}}"),
        };
        rules += &format!("{{match: [{condition}], directResponse: {{status: 201}}}}, ");
    }
    let rule = format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: d, namespace: shop}}, spec: {{host: catalog, trafficPolicy: {policy}}}}}"
    );
    format!(
        "{rule}
---
{{apiVersion: v1, kind: Service, metadata: {{name: catalog, namespace: shop}}, spec: {{clusterIP: 10.96.0.1, ports: [{{name: http, port: 8080}}]}}}}
---
{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: c, namespace: shop, labels: {{kubernetes.io/service-name: catalog}}}}, addressType: IPv4,
  endpoints: [{{addresses: [10.0.0.1], zone: a}}, {{addresses: [10.0.0.2], zone: b}}, {{addresses: [10.0.0.3], zone: a}}], ports: [{{name: http, port: 8080}}]}}
---
{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: v, namespace: shop}}, spec: {{hosts: [catalog], http: [{rules}
  {{match: [{{uri: {{prefix: /api/99/}}}}], rewrite: {{uri: /, authority: new.example}}, fault: {{delay: {{fixedDelay: 1s, percentage: {{value: 10}}}}}},
    headers: {{request: {{set: {{x-a: '1', x-copy: '%REQ(end-user)%'}}, add: {{x-b: '2'}}, remove: [x-c]}}}},
    route: [{{destination: {{host: catalog}}, weight: 90}}, {{destination: {{host: catalog}}, weight: 10}}]}}]}}}}"
    )
}

fn snapshot(config: &str) -> Snapshot {
    let mut inputs = Inputs::default();
    for document in serde_yaml_ng::Deserializer::from_str(config) {
        let value = serde_json::Value::deserialize(document).expect("valid YAML");
        inputs.insert(parse(value, Origin::default()).object.expect("a valid object"));
    }
    compile(&inputs).snapshot
}

#[test]
fn a_decision_and_its_edits_allocate_nothing() {
    let client = Client::mesh("shop", []);
    let outbound = snapshot(&config()).outbound(&client, ([10, 96, 0, 1], 8080).into());
    let (mut rng, mut edits, facts) = (Counter(1), Edits::default(), Facts::default());
    let mut once = || {
        edits.clear();
        let decision = decide(&outbound.http, &Head, &mut rng, &mut ());
        assert!(matches!(decision.outcome, Outcome::Forward { .. }));
        request_edits(&outbound.http, &decision, &Head, &facts, &mut edits);
        assert_eq!(edits.target(), Some("/x?q=1"));
    };
    // Buffers grow and expressions make their caches once.
    (0..10).for_each(|_| once());
    let before = COUNT.with(Cell::get);
    (0..1000).for_each(|_| once());
    assert_eq!(COUNT.with(Cell::get) - before, 0);
}

/// The second of three endpoints is out, if any is.
struct Picture {
    are_all_available: bool,
}

impl Live for Picture {
    fn active(&self, endpoint: usize) -> u32 {
        endpoint as u32
    }
    fn is_available(&self, endpoint: usize) -> bool {
        self.are_all_available || endpoint != 1
    }
    fn are_all_available(&self) -> bool {
        self.are_all_available
    }
    fn is_warming(&self) -> bool {
        true
    }
    fn age(&self, endpoint: usize) -> std::time::Duration {
        std::time::Duration::from_secs(endpoint as u64)
    }
}

#[test]
fn a_pick_allocates_nothing_whatever_the_balancer() {
    for policy in [
        "{loadBalancer: {simple: LEAST_REQUEST}}",
        "{loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 60s}}}",
        "{loadBalancer: {simple: RANDOM}, outlierDetection: {minHealthPercent: 50}}",
        "{loadBalancer: {consistentHash: {httpHeaderName: a}}}",
        "{loadBalancer: {consistentHash: {httpHeaderName: a, maglev: {tableSize: 251}}}, outlierDetection: {}}",
        "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}",
        "{loadBalancer: {localityLbSetting: {distribute: [{from: '*', to: {'*': 100}}]}}}",
    ] {
        let client = Client { locality: "/a".into(), ..Client::mesh("shop", []) };
        let outbound = snapshot(&config_with(policy)).outbound(&client, ([10, 96, 0, 1], 8080).into());
        let (mut rng, mut cursor) = (Counter(1), Cursor::default());
        let decision = decide(&outbound.http, &Head, &mut rng, &mut ());
        let route = outbound.http.route(decision.route.expect("a route")).expect("the route");
        let cluster = &route.destinations[0].cluster;
        assert_eq!(cluster.endpoints.len(), 3, "{policy}");
        for are_all_available in [true, false] {
            let live = Picture { are_all_available };
            let mut once = |hash| {
                let ask = Ask { hash, tried: &[0, 2], avoids_tried: true, leaves_tried: true };
                pick(cluster, &ask, &live, &mut cursor, &mut rng).expect("an endpoint");
            };
            // The first key of each priority makes its table.
            (0..100).for_each(|key| once(Some(key)));
            let before = COUNT.with(Cell::get);
            (0..100).for_each(|key| once(Some(key)));
            once(None);
            assert_eq!(COUNT.with(Cell::get) - before, 0, "{policy}");
        }
    }
}
