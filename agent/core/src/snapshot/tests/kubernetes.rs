//! What Kubernetes' kinds of services and states of endpoints mean to clients.

use super::*;

/// Service `s`, with more in its spec, and its slice with these endpoints.
fn service(spec: &str, endpoints: &str) -> Snapshot {
    let service = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: shop}}, spec: {{{spec}, ports: [{{name: http, port: 80}}]}}}}"
    );
    let slice = format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s-1, namespace: shop, labels: {{kubernetes.io/service-name: s}}}}, addressType: IPv4, ports: [{{name: http, port: 80}}], endpoints: [{endpoints}]}}"
    );
    snapshot(&[&service, &slice])
}

const CLUSTER_IP: &str = "clusterIP: 10.96.1.1";
const READY: &str = "{addresses: [10.244.1.1], nodeName: n1, conditions: {ready: true}}";
const NOT_READY: &str = "{addresses: [10.244.1.2], nodeName: n1, conditions: {ready: false}}";
const SERVING: &str =
    "{addresses: [10.244.1.3], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}";
const ENDED: &str =
    "{addresses: [10.244.1.4], nodeName: n1, conditions: {ready: false, serving: false, terminating: true}}";
const FAR: &str = "{addresses: [10.244.2.1], nodeName: n2, conditions: {ready: true}}";

fn found(snapshot: &Snapshot, dialled: &str, node: &str) -> Vec<String> {
    let client = Client { node: node.into(), ..shopper() };
    let cluster = cluster(&snapshot.outbound(&client, at(dialled)), &Head::get("/"));
    ids(&cluster).into_iter().map(str::to_owned).collect()
}

#[test]
fn endpoints_that_serve_while_they_end_are_the_last_resort() {
    for (endpoints, want) in [
        ([READY, SERVING, ENDED], &["10.244.1.1"][..]),
        ([NOT_READY, SERVING, ENDED], &["10.244.1.3"]),
        ([NOT_READY, ENDED, ENDED], &[]),
    ] {
        let snapshot = service(CLUSTER_IP, &endpoints.join(", "));
        assert_eq!(found(&snapshot, "10.96.1.1:80", "n1"), want, "{endpoints:?}");
    }
}

#[test]
fn the_last_resort_of_a_subset_is_in_the_subset() {
    let pod = |name: &str, last: u8, version: &str, more: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, labels: {{app: s, version: {version}}}{more}}}, spec: {{containers: []}}, status: {{podIP: 10.244.1.{last}}}}}"
        )
    };
    let ends = ", deletionTimestamp: '2026-01-01T00:00:00Z'";
    let service = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {clusterIP: 10.96.1.1, selector: {app: s}, ports: [{name: http, port: 80}]}}";
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: s, namespace: shop}, spec: {host: s, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}";
    for (subset, want) in [("v1", "old"), ("v2", "new")] {
        let route =
            format!("{{hosts: [s], http: [{{route: [{{destination: {{host: s, subset: {subset}}}}}]}}]}}");
        let (old, new, other) =
            (pod("old", 1, "v1", ends), pod("new", 2, "v2", ""), pod("other", 3, "v2", ends));
        let snapshot = snapshot(&[service, rule, &old, &new, &other, &virtual_service("v", &route)]);
        assert_eq!(found(&snapshot, "10.96.1.1:80", ""), [want], "{subset}");
    }
}

#[test]
fn a_service_that_publishes_addresses_that_are_not_ready_uses_all() {
    let all = [READY, NOT_READY, SERVING].join(", ");
    let publishing = service("clusterIP: 10.96.1.1, publishNotReadyAddresses: true", &all);
    assert_eq!(found(&publishing, "10.96.1.1:80", "n1").len(), 3);
    assert_eq!(found(&service(CLUSTER_IP, &all), "10.96.1.1:80", "n1").len(), 1);
}

#[test]
fn internal_traffic_policy_local_stays_on_the_node() {
    let local = "clusterIP: 10.96.1.1, internalTrafficPolicy: Local";
    let snapshot = service(local, &[READY, FAR].join(", "));
    assert_eq!(found(&snapshot, "10.96.1.1:80", "n1"), ["10.244.1.1"]);
    assert_eq!(found(&snapshot, "10.96.1.1:80", "n2"), ["10.244.2.1"]);
    assert_eq!(found(&snapshot, "10.96.1.1:80", "n3"), [""; 0]);
    let client = Client { node: "n1".into(), ..shopper() };
    let cluster = cluster(&snapshot.outbound(&client, at("10.96.1.1:80")), &Head::get("/"));
    let left_out: Vec<_> = cluster.excluded.iter().map(|it| (&*it.endpoint.id, it.why)).collect();
    assert_eq!(left_out, [("10.244.2.1", "on another node than the client (internalTrafficPolicy: Local)")]);
    // What still serves on the node comes before what is ready on another.
    let ending = service(local, &[SERVING, FAR].join(", "));
    assert_eq!(found(&ending, "10.96.1.1:80", "n1"), ["10.244.1.3"]);
    let anywhere = service("clusterIP: 10.96.1.1, internalTrafficPolicy: Cluster", &[READY, FAR].join(", "));
    assert_eq!(found(&anywhere, "10.96.1.1:80", "n3").len(), 2);
}

#[test]
fn who_dials_an_endpoint_of_a_headless_service_gets_it_ready_or_not() {
    let headless = service("clusterIP: None", &[READY, NOT_READY, SERVING].join(", "));
    for address in ["10.244.1.1", "10.244.1.2", "10.244.1.3"] {
        assert_eq!(found(&headless, &format!("{address}:80"), "n1"), [address]);
    }
    // The address of an endpoint of a service with a cluster IP is none of the service's.
    let outbound = service(CLUSTER_IP, READY).outbound(&shopper(), at("10.244.1.1:80"));
    assert!(outbound.service.is_none());
}

#[test]
fn a_cluster_ip_is_its_services_whoever_writes_it_into_the_endpoints_of_a_headless_one() {
    let headless = "{apiVersion: v1, kind: Service, metadata: {name: thief, namespace: aaa}, spec: {clusterIP: None, ports: [{name: http, port: 80}]}}";
    let slice = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: thief-1, namespace: aaa, labels: {kubernetes.io/service-name: thief}}, addressType: IPv4, ports: [{name: http, port: 80}], endpoints: [{addresses: [10.96.1.1]}, {addresses: [10.244.7.7]}]}";
    let owner = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {clusterIP: 10.96.1.1, ports: [{name: http, port: 80}]}}";
    let snapshot = snapshot(&[headless, slice, owner]);
    let host = |dialled: &str| {
        let outbound = snapshot.outbound(&shopper(), at(dialled));
        outbound.service.as_ref().map(|service| service.host.to_string())
    };
    assert_eq!(host("10.96.1.1:80").as_deref(), Some("s.shop.svc.cluster.local"));
    assert_eq!(
        host("10.244.7.7:80").as_deref(),
        Some("thief.aaa.svc.cluster.local"),
        "an address of nobody else"
    );
}

#[test]
fn a_pod_of_a_stateful_set_is_called_by_its_own_name_under_the_rules_of_its_service() {
    let set = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {clusterIP: None, selector: {app: s}, ports: [{name: http, port: 80}]}}";
    let pod = |n: u8| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: s-{n}, namespace: shop, labels: {{app: s}}}}, spec: {{hostname: s-{n}, subdomain: s, containers: []}}, status: {{podIP: 10.244.1.{n}}}}}"
        )
    };
    let rule = virtual_service("v", "{hosts: [s], http: [{name: mine, route: [{destination: {host: s}}]}]}");
    let snapshot = snapshot(&[set, &pod(1), &pod(2), &rule]);
    for (dialled, want) in [("10.244.1.1:80", "s-1"), ("10.244.1.2:80", "s-2")] {
        let outbound = snapshot.outbound(&shopper(), at(dialled));
        let head = Head::get("/").to(&format!("{want}.s.shop.svc.cluster.local"));
        assert_eq!(ids(&cluster(&outbound, &head)), [want]);
        let decision = decide(&outbound.http, &head, &mut Random(1), &mut ());
        let route = decision.route.and_then(|index| outbound.http.route(index)).expect("a route");
        assert_eq!(route.rule.as_ref().map(|rule| &*rule.route_name), Some("mine"));
    }
}

#[test]
fn a_service_without_selector_has_the_endpoints_that_somebody_wrote_and_no_pods() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop, labels: {app: s}}, spec: {containers: []}, status: {podIP: 10.244.9.9}}";
    let bare = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {clusterIP: 10.96.1.1, ports: [{name: http, port: 80}]}}";
    assert_eq!(found(&snapshot(&[bare, pod]), "10.96.1.1:80", ""), [""; 0]);
    assert_eq!(found(&service(CLUSTER_IP, READY), "10.96.1.1:80", ""), ["10.244.1.1"]);
}

#[test]
fn each_port_of_a_service_has_the_endpoints_of_its_name() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {clusterIP: 10.96.1.1, ports: [{name: http, port: 80, targetPort: web}, {name: http-admin, port: 81, targetPort: 9000}]}}";
    // Pods may number a named port differently: then there are two slices.
    let slice = |name: &str, address: &str, web: u16| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: s}}}}, addressType: IPv4, ports: [{{name: http, port: {web}}}, {{name: http-admin, port: 9000}}], endpoints: [{{addresses: [{address}]}}]}}"
        )
    };
    let snapshot = snapshot(&[service, &slice("a", "10.244.1.1", 8000), &slice("b", "10.244.1.2", 8001)]);
    for (dialled, want) in [
        ("10.96.1.1:80", ["10.244.1.1:8000", "10.244.1.2:8001"]),
        ("10.96.1.1:81", ["10.244.1.1:9000", "10.244.1.2:9000"]),
    ] {
        let cluster = cluster(&snapshot.outbound(&shopper(), at(dialled)), &Head::get("/"));
        let addresses: Vec<_> = cluster.endpoints.iter().map(|it| it.address.to_string()).collect();
        assert_eq!(addresses, want);
    }
}

#[test]
fn captures_stay_the_same_while_only_endpoints_change() {
    let mut compiler = crate::compile::Compiler::default();
    let mut inputs = crate::compile::fixture::inputs(&[REGISTRY]);
    let before = compiler.compile(&inputs).snapshot;
    let add = |inputs: &mut crate::inputs::Inputs, yaml: &str| {
        crate::compile::fixture::objects(yaml).into_iter().for_each(|object| inputs.insert(object));
    };
    add(
        &mut inputs,
        "{apiVersion: v1, kind: Pod, metadata: {name: catalog-3, namespace: shop, labels: {app: catalog}}, spec: {containers: []}, status: {podIP: 10.244.0.9}}",
    );
    let pods = compiler.compile(&inputs).snapshot;
    assert!(before.captures_same(&pods));
    // The endpoints of a headless service are what is captured.
    add(
        &mut inputs,
        "{apiVersion: v1, kind: Pod, metadata: {name: db-2, namespace: shop, labels: {app: db}}, spec: {containers: []}, status: {podIP: 10.244.0.10}}",
    );
    let headless = compiler.compile(&inputs).snapshot;
    assert!(!pods.captures_same(&headless));
    add(
        &mut inputs,
        "{apiVersion: v1, kind: Service, metadata: {name: new, namespace: shop}, spec: {clusterIP: 10.96.0.9, ports: [{port: 1}]}}",
    );
    assert!(!headless.captures_same(&compiler.compile(&inputs).snapshot));
}
