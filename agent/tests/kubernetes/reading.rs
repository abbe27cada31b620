//! Lists, watches, and what counts as news.

use std::time::{Duration, Instant};

use serde_json::json;
use undermesh_core::api::meta::Key;

use crate::world::{TIMING, World, api, pod, row, rule, service};
use undermesh::source::kubernetes::Timing;

const SOON: Duration = Duration::from_millis(250);
/// Long enough for news to arrive if there were any.
const WHILE: Duration = Duration::from_millis(400);

#[test]
fn the_first_load_has_every_kind_and_waits_for_the_last_of_them() {
    let api = api();
    api.apply(service("a", 80));
    api.apply(rule("r", "v1", "5s"));
    api.apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
        "data": {"mesh": "outboundTrafficPolicy: {mode: REGISTRY_ONLY}"}}));
    api.faults(|faults| faults.refuse.push(("/nodes".into(), 503)));
    let mut world = World::start(api);
    assert!(!world.loads_within(Duration::from_millis(600)), "nodes are missing");
    world.api.faults(|faults| faults.refuse.clear());
    let loaded = world.load();
    assert_eq!((loaded.inputs.services.len(), loaded.inputs.virtual_services.len()), (1, 1));
    assert!(loaded.inputs.mesh.is_some() && loaded.diagnostics.is_empty());
}

#[test]
fn annotations_of_a_cluster_are_not_believed() {
    assert!(!World::start(api()).load().trusts_annotations);
    assert!(undermesh::source::files::load_text("a.yaml", "").trusts_annotations);
}

#[test]
fn objects_come_change_and_go_at_once() {
    let mut world = World::start(api());
    assert_eq!(world.load().inputs.services.len(), 0);
    let key = Key::new("ns1", "a");
    for (what, port) in [("new", Some(80)), ("changed", Some(81)), ("gone", None)] {
        let began = Instant::now();
        match port {
            Some(port) => world.api.apply(service("a", port)),
            None => assert!(world.api.delete("", "services", "ns1", "a")),
        }
        world.until(what, |it| it.inputs.services.get(&key).map(|it| it.spec.ports[0].number) == port);
        assert!(began.elapsed() < SOON, "{what} after {:?}", began.elapsed());
    }
}

#[test]
fn changes_that_come_together_are_handed_out_together() {
    let mut world = World::start(api());
    world.load();
    for port in 1..=50 {
        world.api.apply(service(&format!("s{port}"), port));
    }
    let mut loads = 0;
    while world.has_news_within(WHILE) {
        loads += 1;
        world.load();
    }
    assert_eq!(world.load().inputs.services.len(), 50);
    assert!(loads <= 3, "{loads} loads");
}

#[test]
fn a_change_of_what_nobody_reads_is_no_news() {
    let mut world = World::start(api());
    world.api.apply(service("a", 80));
    world.until("a", |it| it.inputs.services.len() == 1);
    let mut same = service("a", 80);
    same["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    same["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": "{}"});
    world.api.apply(same);
    assert!(!world.has_news_within(WHILE));
    world.api.apply(service("a", 81));
    assert!(world.has_news_within(WHILE));
}

#[test]
fn a_pod_that_has_ended_is_not_asked_for_and_gone_when_it_ends() {
    let api = api();
    api.apply(pod("done", "Succeeded"));
    api.apply(pod("broken", "Failed"));
    api.apply(pod("runs", "Running"));
    let mut world = World::start(api);
    let names = |it: &undermesh::source::Loaded| {
        it.inputs.pods.keys().map(|key| key.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&world.load()), ["runs"]);
    assert_eq!(world.count("Pod", "events"), 1);
    world.api.apply(pod("runs", "Succeeded"));
    world.until("no pod", |it| it.inputs.pods.is_empty());
}

#[test]
fn a_list_is_streamed_where_that_is_served_and_comes_in_pages_where_it_is_not() {
    for (refuses, ignores, pages) in [(false, false, 0), (true, false, 3), (false, true, 3)] {
        let api = api();
        for number in 0..1200 {
            api.apply(pod(&format!("p{number:04}"), "Running"));
        }
        api.faults(|faults| {
            faults.refuses_streams = refuses;
            faults.ignores_streams = ignores;
        });
        let mut world = World::start(api);
        assert_eq!(world.load().inputs.pods.len(), 1200);
        let asked = world.api.asked();
        let lists = asked.iter().filter(|it| it.path == "/api/v1/pods" && !it.is_watch()).count();
        assert_eq!(lists, pages, "refuses {refuses}, ignores {ignores}");
        world.api.apply(pod("new", "Running"));
        world.until("new", |it| it.inputs.pods.len() == 1201);
    }
}

#[test]
fn a_source_at_rest_asks_for_nothing() {
    let mut world = World::start(api());
    world.load();
    world.until_status("watching", |it| it["connected"] == true);
    std::thread::sleep(WHILE);
    let before = (world.api.asked().len(), world.api.bytes());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((world.api.asked().len(), world.api.bytes()), before);
    // Two groups, each with one version that has all kinds, and a streamed list of each of fifteen kinds.
    assert_eq!(before.0, 4 + 15, "{:#?}", world.api.asked());
}

#[test]
fn a_watch_goes_on_from_the_last_bookmark() {
    let api = api();
    api.faults(|faults| faults.bookmarks = Duration::from_millis(50));
    let mut world = World::start_with(api, Timing { silence: Duration::from_secs(5), ..TIMING });
    world.load();
    // Nothing happens to nodes, but the revision moves on.
    for port in 1..=20 {
        world.api.apply(service("a", port));
    }
    world.until("20", |it| it.inputs.services.values().any(|it| it.spec.ports[0].number == 20));
    std::thread::sleep(Duration::from_millis(200));
    world.api.disconnect();
    world.until_status("watching nodes again", |it| row(it, "Node")["watches"].as_u64() >= Some(2));
    let asked = world.api.asked();
    let last = asked.iter().rfind(|it| it.path == "/api/v1/nodes" && it.is_watch()).unwrap();
    let from = last.query.split('&').find_map(|it| it.strip_prefix("resourceVersion=")).unwrap();
    assert!(from.parse::<u64>().unwrap() >= 120, "{from}");
    assert_eq!(world.count("Node", "lists"), 1);
}

#[test]
fn a_watch_that_is_silent_is_begun_anew_without_a_list() {
    let mut world = World::start_with(api(), Timing { silence: Duration::from_millis(300), ..TIMING });
    world.load();
    world.until_status("a third watch", |it| row(it, "Service")["watches"].as_u64() >= Some(3));
    assert_eq!((world.count("Service", "lists"), world.count("Service", "failures")), (1, 0));
    assert!(world.source.link().is_connected());
    world.api.apply(service("a", 80));
    world.until("a", |it| it.inputs.services.len() == 1);
}
