//! What goes wrong, and that what was read stays.

use std::time::Duration;

use serde_json::{Value, json};
use undermesh_core::api::meta::Key;
use undermesh_core::diagnostic::Code;

use crate::world::{World, api, row, rule, service};

#[test]
fn connections_that_break_lose_no_change_and_need_no_new_list() {
    let mut world = World::start(api());
    world.load();
    for port in 1..=5 {
        world.api.disconnect();
        world.api.apply(service("a", port));
        world.until("the port", |it| it.inputs.services.values().any(|it| it.spec.ports[0].number == port));
    }
    assert_eq!(world.count("Service", "lists"), 1);
    world.until_status("connected", |it| it["connected"] == true);
}

#[test]
fn a_server_that_is_away_costs_nothing_but_news_and_its_absence_is_told() {
    let api = api();
    api.apply(service("stays", 80));
    api.apply(service("goes", 80));
    let mut world = World::start(api);
    let before = world.load();
    world.until_status("connected", |it| it["connected"] == true);
    world.api.faults(|faults| faults.is_down = true);
    let status = world.until_status("disconnected", |it| it["connected"] == false);
    let failing = row(&status, "Service");
    assert_eq!(failing["state"], "failing", "{failing}");
    assert!(failing["error"].as_str().is_some_and(|it| !it.is_empty()), "{failing}");
    // More happens than the server remembers.
    world.api.delete("", "services", "ns1", "goes");
    world.api.apply(service("new", 80));
    world.api.compact();
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(world.load().inputs, before.inputs);
    let status = world.source.link().status();
    assert!(
        status["last_contact_seconds"].as_u64() >= Some(1) && status["since_seconds"].as_u64() >= Some(1),
        "{status}"
    );
    let mut metrics = String::new();
    world.source.link().render(&mut metrics);
    assert!(metrics.lines().any(|it| it == "undermesh_source_connected 0"), "{metrics}");

    world.api.faults(|faults| faults.is_down = false);
    let loaded = world.until("new", |it| {
        it.inputs.services.contains_key(&Key::new("ns1", "new")) && it.inputs.services.len() == 2
    });
    assert!(loaded.inputs.services.contains_key(&Key::new("ns1", "stays")));
    world.until_status("connected", |it| it["connected"] == true);
}

#[test]
fn a_server_that_is_away_at_the_start_is_waited_for() {
    let api = api();
    api.apply(service("a", 80));
    api.faults(|faults| faults.is_down = true);
    let mut world = World::start(api);
    assert!(!world.loads_within(Duration::from_millis(300)));
    assert!(!world.source.link().is_connected());
    world.api.faults(|faults| faults.is_down = false);
    assert_eq!(world.load().inputs.services.len(), 1);
}

#[test]
fn after_410_everything_is_listed_anew_and_what_is_the_same_is_no_news() {
    let api = api();
    api.apply(service("a", 80));
    let mut world = World::start(api);
    let before = world.load();
    world.api.compact();
    world.until_status("a second list", |it| {
        row(it, "Service")["lists"] == 2 && row(it, "Service")["state"] == "watching"
    });
    assert!(!world.has_news_within(Duration::from_millis(300)));
    assert!(world.load().inputs.services.is_same(&before.inputs.services));
    assert_eq!(world.count("Service", "failures"), 0);
    world.api.apply(service("a", 81));
    world.until("81", |it| it.inputs.services.values().any(|it| it.spec.ports[0].number == 81));
}

#[test]
fn what_is_no_object_is_counted_and_left_out_and_the_rest_goes_on() {
    let api = api();
    api.apply(service("good", 80));
    api.put_raw("", "services", "ns1", "x", json!({"metadata": "nonsense", "spec": 5}));
    api.put_raw("", "services", "ns1", "y", json!("no object at all"));
    let mut world = World::start(api);
    assert_eq!(world.load().inputs.services.len(), 1);
    assert_eq!(world.count("Service", "malformed"), 2);
    world.until_status("watching", |it| it["connected"] == true);
    for line in
        ["{\"type\": \"ADDED\", \"object\": {", "null", "{}", "\u{1}", "{\"type\":\"ADDED\",\"object\":7}"]
    {
        world.api.inject("", "services", line);
    }
    world.api.apply(service("later", 80));
    world.until("later", |it| it.inputs.services.len() == 2);
    assert_eq!(world.count("Service", "malformed"), 7);
    assert_eq!((world.count("Service", "lists"), world.count("Service", "failures")), (1, 0));
}

#[test]
fn a_bad_object_keeps_its_last_good_version_with_a_remark_that_names_it_and_no_file() {
    let mut world = World::start(api());
    world.api.apply(rule("r", "v1", "5s"));
    let good = world.until("r", |it| it.inputs.virtual_services.len() == 1);
    world.api.apply(rule("r", "v1", "five"));
    world.api.apply(rule("other", "v1", "5s"));
    let loaded =
        world.until("both", |it| it.inputs.virtual_services.len() == 2 && !it.diagnostics.is_empty());
    let key = Key::new("ns1", "r");
    assert_eq!(loaded.inputs.virtual_services.get(&key), good.inputs.virtual_services.get(&key));
    let said = &loaded.diagnostics;
    assert!(said.iter().any(|it| it.code == Code::LastGoodKept), "{said:?}");
    assert!(said.iter().any(|it| it.is_error() && it.field == "spec.http[0].timeout"), "{said:?}");
    assert!(
        said.iter().all(|it| it.file.is_none()
            && it.line.is_none()
            && (it.namespace.as_str(), it.name.as_str()) == ("ns1", "r")),
        "{said:?}"
    );
    world.api.apply(rule("r", "v1", "7s"));
    world.until("no remark", |it| it.diagnostics.is_empty());
}

#[test]
fn a_missing_permission_is_told_with_its_kind_and_does_not_disturb_the_others() {
    let mut world = World::start(api());
    world.load();
    world.api.faults(|faults| faults.refuse.push(("/services".into(), 403)));
    world.api.disconnect();
    let is_refused =
        |it: &Value| row(it, "Service")["error"].as_str().is_some_and(|it| it.starts_with("403: "));
    world.until_status("refused", |it| is_refused(it) && row(it, "Node")["state"] == "watching");
    world.api.apply(rule("r", "v1", "5s"));
    world.until("r", |it| it.inputs.virtual_services.len() == 1);
}

#[test]
fn a_slow_server_is_waited_for() {
    let api = api();
    api.apply(service("a", 80));
    api.faults(|faults| faults.latency = Duration::from_millis(300));
    let mut world = World::start(api);
    assert_eq!(world.load().inputs.services.len(), 1);
}

#[test]
fn a_source_that_is_dropped_ends_its_connections() {
    let mut world = World::start(api());
    world.load();
    let before = std::time::Instant::now();
    drop(world);
    assert!(before.elapsed() < Duration::from_secs(2));
}
