//! What one client may take of what all share.

use crate::world::{Upstream, World, service};

#[test]
fn a_client_with_all_its_connections_is_refused_one_more_until_one_ends() {
    let upstream = Upstream::named("web");
    let mut world = World::with_limits(service(1, "web", "http", &[("web-1", upstream.address)]), 2, 2);
    world.apply();
    let mut first = world.connect(1);
    let mut second = world.connect(1);
    assert_eq!(first.get("web", "/", &[]).status, 200);
    assert_eq!(second.get("web", "/", &[]).status, 200);

    let mut third = world.connect(1);
    assert!(third.response().is_none(), "it is reset");
    world.wait_for_metric("undermesh_connections_refused_total{reason=\"too_many_of_client\"} 1");
    assert_eq!(first.get("web", "/", &[]).status, 200, "those it has go on");

    drop(second);
    world.wait_for_metric("undermesh_connections_active 1");
    assert_eq!(world.connect(1).get("web", "/", &[]).status, 200);
}
