//! Istio's kinds: which version, and that they come and go.

use std::time::Duration;

use undermesh_fake_api::{Definition, FakeApi};

use crate::world::{World, api, row, rule};

#[test]
fn whichever_version_is_served_is_read_and_the_newest_of_several() {
    for (served, want) in [
        (&["v1", "v1beta1", "v1alpha3"][..], "v1"),
        (&["v1alpha3", "v1beta1"], "v1beta1"),
        (&["v1alpha3"], "v1alpha3"),
    ] {
        let api = FakeApi::start().unwrap();
        api.define(Definition::istio(served));
        api.apply(rule("r", served[0], "5s"));
        let mut world = World::start(api);
        let loaded = world.load();
        assert_eq!(loaded.inputs.virtual_services.len(), 1, "{want}: {:?}", loaded.diagnostics);
        assert_eq!(row(&world.source.link().status(), "VirtualService")["version"], want);
    }
}

#[test]
fn kinds_that_are_missing_are_not_waited_for_and_read_once_they_are_there() {
    let mut world = World::start(FakeApi::start().unwrap());
    assert!(world.load().inputs.virtual_services.is_empty());
    world.until_status("not served", |it| row(it, "VirtualService")["state"] == "not served");
    assert!(world.source.link().is_connected());
    world.api.define(Definition::istio(&["v1"]));
    world.api.apply(rule("r", "v1", "5s"));
    world.until("a rule", |it| it.inputs.virtual_services.len() == 1);
}

#[test]
fn one_kind_may_be_missing_while_the_others_of_its_group_are_there() {
    let api = FakeApi::start().unwrap();
    api.define(Definition::istio(&["v1"]).into_iter().filter(|it| it.kind != "Sidecar"));
    api.apply(rule("r", "v1", "5s"));
    let mut world = World::start(api);
    assert_eq!(world.load().inputs.virtual_services.len(), 1);
    world.until_status("not served", |it| row(it, "Sidecar")["state"] == "not served");
}

#[test]
fn a_kind_that_is_taken_away_takes_its_objects_along_and_may_come_back() {
    let api = api();
    api.apply(rule("r", "v1", "5s"));
    let mut world = World::start(api);
    assert_eq!(world.load().inputs.virtual_services.len(), 1);
    world.api.undefine("networking.istio.io", "virtualservices");
    world.api.disconnect();
    world.until("no rule", |it| it.inputs.virtual_services.is_empty());
    world.until_status("not served", |it| row(it, "VirtualService")["state"] == "not served");
    world.api.define(Definition::istio(&["v1"]).into_iter().take(1));
    world.api.apply(rule("r", "v1", "6s"));
    world.until("a rule", |it| it.inputs.virtual_services.len() == 1);
}

#[test]
fn a_server_that_does_not_know_a_kind_for_a_moment_does_not_cost_its_objects() {
    let api = api();
    api.apply(rule("r", "v1", "5s"));
    let mut world = World::start(api);
    assert_eq!(world.load().inputs.virtual_services.len(), 1);
    // As while it starts: the path is not there, though the group says that the kind is.
    world.api.faults(|faults| faults.refuse.push(("/virtualservices".into(), 404)));
    world.api.disconnect();
    world.until_status("failing", |it| row(it, "VirtualService")["state"] == "failing");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(world.load().inputs.virtual_services.len(), 1);
    world.api.faults(|faults| faults.refuse.clear());
    world.until_status("watching", |it| row(it, "VirtualService")["state"] == "watching");
    assert_eq!(world.load().inputs.virtual_services.len(), 1);
}
