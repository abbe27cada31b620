use super::*;
use crate::balance::tests::Random;
use crate::cluster::{Availability, Cluster, Discovery, Missing};
use crate::compile::fixture::{REGISTRY, SUBSETS, compiled, virtual_service};
use crate::policy::Balancer;
use crate::route::fixture::Head;
use crate::route::{NoHost, Outcome, TcpAction, TcpDecision, decide, decide_tcp};

fn snapshot(parts: &[&str]) -> Snapshot {
    compiled(parts).snapshot
}

fn shopper() -> Client {
    Client::mesh("shop", [("app".to_owned(), "shopper".to_owned())])
}

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

const CATALOG: &str = "10.96.0.1:8080";

fn outcome(outbound: &Outbound, head: &Head) -> Outcome {
    decide(&outbound.http, head, &mut Random(1), &mut ()).outcome
}

/// The cluster that a request goes to.
fn cluster(outbound: &Outbound, head: &Head) -> Arc<Cluster> {
    let decision = decide(&outbound.http, head, &mut Random(1), &mut ());
    let Outcome::Forward { destination } = decision.outcome else { panic!("{decision:?}") };
    let route = decision.route.and_then(|index| outbound.http.route(index)).expect("a route");
    route.destinations[usize::from(destination)].cluster.clone()
}

fn ids(cluster: &Cluster) -> Vec<&str> {
    cluster.endpoints.iter().map(|endpoint| &*endpoint.id).collect()
}

#[test]
fn captures_are_the_tcp_addresses_of_services() {
    let captures: Vec<_> = snapshot(&[REGISTRY]).captures().collect();
    let address = |text: &str| {
        let address = at(text);
        Capture::Address { address: address.ip(), port: address.port() }
    };
    let want = [
        "10.96.0.1:8080",
        "10.96.0.2:80",
        "10.96.0.2:9000",
        "10.244.0.4:5432",
        "10.244.0.5:5432",
        "[fd00::2]:80",
        "[fd00::2]:9000",
    ];
    let mut want: Vec<_> = want.into_iter().map(address).collect();
    want.sort();
    assert_eq!(captures, want);
}

#[test]
fn services_without_addresses_claim_their_port() {
    let entry = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e, namespace: shop}, spec: {hosts: [ext.example], ports: [{number: 8443, name: tls, protocol: TLS}], resolution: DNS}}";
    let ports = |parts: &[&str]| {
        snapshot(parts).captures().filter(|it| matches!(it, Capture::Port(_))).collect::<Vec<_>>()
    };
    assert_eq!(ports(&[entry]), [Capture::Port(8443)]);
    let addressed = entry.replace("resolution: DNS", "addresses: [240.0.0.1], resolution: DNS");
    assert_eq!(ports(&[&addressed]), []);
    let made_up =
        virtual_service("v", "{hosts: [made-up.example], http: [{route: [{destination: {host: catalog}}]}]}");
    assert_eq!(ports(&[REGISTRY, &made_up]), [Capture::Port(80)]);
}

#[test]
fn a_plain_service_has_a_default_route_with_istios_retries() {
    let outbound = snapshot(&[REGISTRY]).with_generation(7).outbound(&shopper(), at(CATALOG));
    assert_eq!(outbound.generation, 7);
    let service = outbound.service.as_ref().expect("a service");
    assert_eq!((&*service.host, service.port), ("catalog.shop.svc.cluster.local", 8080));
    let decision = decide(&outbound.http, &Head::get("/"), &mut Random(1), &mut ());
    let route = decision.route.and_then(|index| outbound.http.route(index)).expect("a route");
    assert!(route.rule.is_none());
    assert_eq!(route.retries.attempts, 2);
    let cluster = &route.destinations[0].cluster;
    assert_eq!(&*cluster.name, "outbound|8080||catalog.shop.svc.cluster.local");
    assert_eq!(cluster.policy.balancer, Balancer::LeastRequest);
    let addresses: Vec<_> = cluster.endpoints.iter().map(|it| it.address.to_string()).collect();
    assert_eq!(addresses, ["10.244.0.1:9090", "10.244.0.2:9090"]);
}

#[test]
fn named_target_ports_are_looked_up_in_each_pod() {
    let outbound = snapshot(&[REGISTRY]).outbound(&shopper(), at("10.96.0.2:80"));
    assert_eq!(cluster(&outbound, &Head::get("/")).endpoints[0].address, at("10.244.0.3:8000"));
}

#[test]
fn a_mapped_address_is_the_address_it_maps() {
    let outbound = snapshot(&[REGISTRY]).outbound(&shopper(), at("[::ffff:10.96.0.1]:8080"));
    assert!(outbound.service.is_some());
}

#[test]
fn the_dialled_address_names_the_service_whatever_host_says() {
    let outbound = snapshot(&[REGISTRY]).outbound(&shopper(), at(CATALOG));
    for host in ["catalog", "pay", "pay.shop.svc.cluster.local", "anything:1", ""] {
        assert_eq!(ids(&cluster(&outbound, &Head::get("/").to(host))), ["catalog-1", "catalog-2"], "{host}");
    }
}

#[test]
fn an_unknown_address_passes_through_or_is_refused() {
    let client = shopper();
    let outbound = snapshot(&[REGISTRY]).outbound(&client, at("198.51.100.1:80"));
    assert_eq!(outbound.http.no_host(), Some(NoHost::Passthrough));
    assert_eq!(outcome(&outbound, &Head::get("/")), Outcome::Passthrough);
    let lock = "{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: l, namespace: shop}, spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}}";
    let outbound = snapshot(&[REGISTRY, lock]).outbound(&client, at("198.51.100.1:80"));
    assert_eq!(outcome(&outbound, &Head::get("/")), Outcome::Reject { status: 502 });
    assert_eq!(outbound.protocol, Protocol::Auto);
    // No HTTP service has this port, so nobody waits for a request to answer 502 to.
    let outbound = snapshot(&[REGISTRY, lock]).outbound(&client, at("198.51.100.1:9000"));
    assert_eq!((outbound.protocol, outbound.tcp.otherwise), (Protocol::Tcp, TcpAction::Reject));
    let outbound = snapshot(&[REGISTRY, lock]).outbound(&Client::mesh("ops", []), at("198.51.100.1:80"));
    assert_eq!(outbound.tcp.otherwise, TcpAction::Passthrough);
}

#[test]
fn who_dials_an_endpoint_of_a_headless_service_means_it() {
    let outbound = snapshot(&[REGISTRY]).outbound(&shopper(), at("10.244.0.5:5432"));
    let decision = decide_tcp(&outbound.tcp, at("10.244.0.5:5432").ip(), None, &mut Random(1));
    let (_, destination) = outbound.tcp.forward(decision).expect("a destination");
    assert_eq!(ids(&destination.cluster), ["db-1"]);
}

#[test]
fn the_exact_host_beats_a_wildcard_and_the_older_its_equal() {
    let to = |host: &str, code: u32| {
        format!("{{hosts: ['{host}'], http: [{{directResponse: {{status: {code}}}}}]}}")
    };
    let wild = virtual_service("a", &to("*.shop.svc.cluster.local", 201));
    let exact = virtual_service("b", &to("catalog", 202));
    let younger = virtual_service("c", &to("catalog", 203));
    let snapshot = snapshot(&[REGISTRY, &wild, &exact, &younger]);
    let status = |address| {
        let outbound = snapshot.outbound(&shopper(), at(address));
        let decision = decide(&outbound.http, &Head::get("/"), &mut Random(1), &mut ());
        crate::route::direct_response(&outbound.http, &decision).map(|(status, _)| status)
    };
    assert_eq!(status(CATALOG), Some(202));
    assert_eq!(status("10.96.0.2:80"), Some(201));
}

#[test]
fn rules_filtered_out_for_a_client_leave_the_plain_service() {
    let rules = virtual_service(
        "v",
        "{hosts: [catalog], http: [{match: [{sourceLabels: {app: other}}], directResponse: {status: 201}}, {match: [{sourceNamespace: red}], directResponse: {status: 202}}, {match: [{port: 1}], directResponse: {status: 203}}, {match: [{gateways: [x/y]}], directResponse: {status: 204}}]}",
    );
    let snapshot = snapshot(&[REGISTRY, &rules]);
    let outbound = snapshot.outbound(&shopper(), at(CATALOG));
    assert!(matches!(outcome(&outbound, &Head::get("/")), Outcome::Forward { .. }));
    let outbound = snapshot.outbound(&Client::mesh("red", []), at(CATALOG));
    assert_eq!(outcome(&outbound, &Head::get("/")), Outcome::DirectResponse);
}

#[test]
fn a_rule_matching_nothing_is_404_and_not_the_plain_service() {
    let rules = virtual_service(
        "v",
        "{hosts: [catalog], http: [{match: [{uri: {exact: /a}}], route: [{destination: {host: catalog}}]}]}",
    );
    let outbound = snapshot(&[REGISTRY, &rules]).outbound(&shopper(), at(CATALOG));
    assert_eq!(outcome(&outbound, &Head::get("/b")), Outcome::NoRoute);
}

#[test]
fn destinations_that_name_nothing_keep_their_weight_and_fail() {
    let rules = virtual_service(
        "v",
        "{hosts: [catalog], http: [{route: [{destination: {host: gone}, weight: 1}, {destination: {host: catalog, subset: no}, weight: 1}, {destination: {host: catalog, port: {number: 1}}, weight: 2}]}]}",
    );
    let outbound = snapshot(&[REGISTRY, SUBSETS, &rules]).outbound(&shopper(), at(CATALOG));
    let route = &outbound.http.hosts()[0].routes[0];
    let have: Vec<_> =
        route.destinations.iter().map(|it| (it.cluster.availability.clone(), it.weight)).collect();
    assert_eq!(
        have,
        [
            (Availability::Missing(Missing::Host), 1),
            (Availability::Missing(Missing::Subset), 1),
            (Availability::Missing(Missing::Port), 2),
        ]
    );
    assert_eq!((route.total_weight, have[0].0.flag()), (4, Some("NC")));
}

#[test]
fn name_and_namespace_name_a_service_as_destination() {
    let rules = virtual_service(
        "v",
        "{hosts: [catalog], http: [{route: [{destination: {host: pay.shop.svc, port: {number: 80}}}]}]}",
    );
    let outbound = snapshot(&[REGISTRY, &rules]).outbound(&shopper(), at(CATALOG));
    assert_eq!(ids(&cluster(&outbound, &Head::get("/"))), ["pay-1"]);
}

#[test]
fn tls_that_is_not_originated_is_never_clear_text() {
    for (policy, refused) in [
        ("{tls: {mode: SIMPLE}}", true),
        ("{tls: {mode: ISTIO_MUTUAL}}", true),
        ("{tls: {mode: DISABLE}}", false),
        ("{portLevelSettings: [{port: {number: 8080}, tls: {mode: SIMPLE}}]}", true),
        ("{portLevelSettings: [{port: {number: 9}, tls: {mode: SIMPLE}}]}", false),
        (
            "{tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 8080}, loadBalancer: {simple: RANDOM}}]}",
            false,
        ),
    ] {
        let rule = rule(&format!("{{host: catalog, trafficPolicy: {policy}}}"));
        let Some(rule) = rule else { panic!("{policy} is refused as a whole") };
        let outbound = compiled_with(&[REGISTRY], rule).outbound(&shopper(), at(CATALOG));
        let availability = &cluster(&outbound, &Head::get("/")).availability;
        assert_eq!(matches!(availability, Availability::Refused(_)), refused, "{policy}");
    }
}

/// A DestinationRule, around admission: it may hold what a source would refuse.
fn rule(
    spec: &str,
) -> Option<Arc<crate::api::meta::Resource<crate::api::destination_rule::DestinationRule>>> {
    Some(Arc::new(crate::api::meta::Resource {
        meta: crate::api::meta::ObjectMeta {
            name: "r".into(),
            namespace: "shop".into(),
            ..Default::default()
        },
        spec: serde_yaml_ng::from_str(spec).ok()?,
        origin: Arc::default(),
    }))
}

fn compiled_with(
    parts: &[&str],
    rule: Arc<crate::api::meta::Resource<crate::api::destination_rule::DestinationRule>>,
) -> Snapshot {
    let mut inputs = crate::compile::fixture::inputs(parts);
    inputs.insert(crate::api::Object::DestinationRule(rule));
    crate::compile::compile(&inputs).snapshot
}

#[test]
fn blocks_of_policy_replace_one_another_whole() {
    let spec = "{host: catalog, trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 5}, http: {maxRetries: 3}}}, subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 1s}}}}]}";
    let to_v1 = virtual_service(
        "v",
        "{hosts: [catalog], http: [{match: [{uri: {exact: /1}}], route: [{destination: {host: catalog, subset: v1}}]}, {route: [{destination: {host: catalog}}]}]}",
    );
    let snapshot = compiled_with(&[REGISTRY, &to_v1], rule(spec).expect("valid"));
    let outbound = snapshot.outbound(&shopper(), at(CATALOG));
    let whole = cluster(&outbound, &Head::get("/")).policy.clone();
    assert_eq!((whole.connection_pool.max_connections, whole.connection_pool.max_retries), (5, 3));
    let subset = cluster(&outbound, &Head::get("/1")).policy.clone();
    assert_eq!(subset.balancer, Balancer::Random);
    // The subset's block is all there is: nothing of the rule's shines through.
    assert_eq!(
        (subset.connection_pool.max_connections, subset.connection_pool.max_retries),
        (u32::MAX, u32::MAX)
    );
    assert_eq!(subset.connection_pool.connect_timeout, std::time::Duration::from_secs(1));
    let origins: Vec<_> = subset.origins.iter().map(|it| (it.block, &*it.from)).collect();
    assert_eq!(
        origins,
        [("connectionPool", "DestinationRule shop/r subset v1"), ("loadBalancer", "DestinationRule shop/r")]
    );
}

#[test]
fn endpoints_that_are_not_ready_or_end_are_left_out_with_the_reason() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {clusterIP: 10.96.1.1, ports: [{name: http, port: 80}]}}";
    let slice = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s-1, namespace: shop, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{name: http, port: 8000}], endpoints: [{addresses: [10.244.1.1]}, {addresses: [10.244.1.2], conditions: {ready: false}}, {addresses: [10.244.1.3], conditions: {ready: false, serving: true, terminating: true}}]}";
    let outbound = snapshot(&[service, slice]).outbound(&shopper(), at("10.96.1.1:80"));
    let found = cluster(&outbound, &Head::get("/"));
    assert_eq!(ids(&found), ["10.244.1.1"]);
    let excluded: Vec<_> = found.excluded.iter().map(|it| (&*it.endpoint.id, it.why)).collect();
    assert_eq!(excluded, [("10.244.1.2", "not ready"), ("10.244.1.3", "terminating")]);
    // A slice for the service is the last word: no pods are looked for.
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop, labels: {app: s}}, spec: {containers: []}, status: {podIP: 10.244.9.9}}";
    let selecting = service.replace("spec: {", "spec: {selector: {app: s}, ");
    let outbound = snapshot(&[&selecting, slice, pod]).outbound(&shopper(), at("10.96.1.1:80"));
    assert_eq!(ids(&cluster(&outbound, &Head::get("/"))), ["10.244.1.1"]);
}

#[test]
fn a_service_of_both_families_counts_each_pod_once() {
    let service = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}, spec: {clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1, 'fd00::1'], selector: {app: s}, ports: [{name: http, port: 80}]}}";
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop, labels: {app: s}}, spec: {containers: []}, status: {podIP: 10.244.1.1, podIPs: [{ip: 10.244.1.1}, {ip: 'fd01::1'}]}}";
    let snapshot = snapshot(&[service, pod]);
    for (dialled, want) in [("10.96.1.1:80", "10.244.1.1:80"), ("[fd00::1]:80", "[fd01::1]:80")] {
        let outbound = snapshot.outbound(&shopper(), at(dialled));
        let addresses: Vec<_> =
            cluster(&outbound, &Head::get("/")).endpoints.iter().map(|it| it.address).collect();
        assert_eq!(addresses, [at(want)]);
    }
}

#[test]
fn a_service_entry_without_addresses_is_found_by_host_or_sni() {
    let entry = "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e, namespace: shop}, spec: {hosts: [ext.example], ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}, {number: 7, name: tcp, protocol: TCP}], resolution: DNS}}";
    let snapshot = snapshot(&[entry]);
    let outbound = snapshot.outbound(&shopper(), at("192.0.2.1:80"));
    assert!(
        matches!(&cluster(&outbound, &Head::get("/").to("ext.example:80")).discovery, Discovery::Dns(names) if &*names[0].host == "ext.example")
    );
    assert_eq!(outcome(&outbound, &Head::get("/").to("other.example")), Outcome::Passthrough);
    let outbound = snapshot.outbound(&shopper(), at("192.0.2.1:443"));
    let by_name = |sni| decide_tcp(&outbound.tcp, at("192.0.2.1:443").ip(), sni, &mut Random(1));
    assert!(matches!(by_name(Some("EXT.example")), TcpDecision::Forward { .. }));
    assert_eq!(
        (by_name(Some("other.example")), by_name(None)),
        (TcpDecision::Passthrough, TcpDecision::Passthrough)
    );
    let outbound = snapshot.outbound(&shopper(), at("192.0.2.1:7"));
    assert!(matches!(
        decide_tcp(&outbound.tcp, at("192.0.2.1:7").ip(), None, &mut Random(1)),
        TcpDecision::Forward { .. }
    ));
}

#[test]
fn an_external_name_alias_with_rules_takes_its_names_of_the_target() {
    let alias = "{apiVersion: v1, kind: Service, metadata: {name: old, namespace: shop}, spec: {type: ExternalName, externalName: catalog.shop.svc.cluster.local, ports: [{name: http, port: 8080}]}}";
    let rules = virtual_service("v", "{hosts: [old], http: [{directResponse: {status: 201}}]}");
    let outbound = snapshot(&[REGISTRY, alias, &rules]).outbound(&shopper(), at(CATALOG));
    for (host, want) in [("old", true), ("old.shop:8080", true), ("catalog", false), ("other", false)] {
        let direct = outcome(&outbound, &Head::get("/").to(host)) == Outcome::DirectResponse;
        assert_eq!(direct, want, "{host}");
    }
    // Without rules of its own it is the service it names.
    let outbound = snapshot(&[REGISTRY, alias]).outbound(&shopper(), at(CATALOG));
    assert_eq!(ids(&cluster(&outbound, &Head::get("/").to("old"))), ["catalog-1", "catalog-2"]);
    let to_alias = virtual_service("v", "{hosts: [catalog], http: [{route: [{destination: {host: old}}]}]}");
    let outbound = snapshot(&[REGISTRY, alias, &to_alias]).outbound(&shopper(), at(CATALOG));
    assert_eq!(&*cluster(&outbound, &Head::get("/")).key.host, "catalog.shop.svc.cluster.local");
}

#[test]
fn tcp_rules_split_connections_and_default_to_the_service() {
    let rules = virtual_service(
        "v",
        "{hosts: [pay], tcp: [{match: [{port: 9000, destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: db, port: {number: 5432}}}]}]}",
    );
    let outbound = snapshot(&[REGISTRY, &rules]).outbound(&shopper(), at("10.96.0.2:9000"));
    let host = |address: &str| {
        let decision = decide_tcp(&outbound.tcp, address.parse().expect("an address"), None, &mut Random(1));
        outbound.tcp.forward(decision).map(|(_, destination)| destination.cluster.key.host.to_string())
    };
    assert_eq!(host("10.96.0.2").as_deref(), Some("db.shop.svc.cluster.local"));
    assert_eq!(host("fd00::2").as_deref(), Some("pay.shop.svc.cluster.local"));
}

#[test]
fn gateways_serve_the_rules_that_are_bound_to_them() {
    let gateway = "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: g, namespace: shop}, spec: {selector: {istio: in}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*.example.com', 'other/x.test']}, {port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}]}}";
    let bound = virtual_service(
        "v",
        "{hosts: [a.example.com, b.test, x.test], gateways: [g], http: [{route: [{destination: {host: catalog}}]}]}",
    );
    let snapshot = snapshot(&[REGISTRY, gateway, &bound]);
    let ports = snapshot.gateway(&Client::gateway("edge", [("istio".to_owned(), "in".to_owned())]));
    let served: Vec<_> = ports.iter().map(|port| (port.port, port.is_served())).collect();
    assert_eq!(served, [(80, true), (443, false)], "nothing is bound for TLS");
    for (host, want) in [
        ("a.example.com", true),
        ("A.example.com:80", true),
        ("b.example.com", false),
        ("b.test", false),
        ("x.test", false),
    ] {
        let decision = decide(&ports[0].http, &Head::get("/").to(host), &mut Random(1), &mut ());
        assert_eq!(matches!(decision.outcome, Outcome::Forward { .. }), want, "{host}");
    }
    assert!(snapshot.gateway(&Client::gateway("edge", [])).is_empty());
    // Rules of a gateway are not rules of the mesh.
    assert!(snapshot.outbound(&shopper(), at(CATALOG)).http.hosts()[0].routes[0].rule.is_none());
}

mod kubernetes;
