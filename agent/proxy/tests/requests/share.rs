//! What one client may take of what all share.

use std::net::{Ipv4Addr, SocketAddr};

use undermesh_proxy::probe;

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

#[test]
fn who_dials_the_probes_address_is_told_who_it_is_and_no_other_address_is_answered() {
    let world = World::new(Vec::new());
    for ip in probe::ADDRESSES {
        let answer = world.connect_to(SocketAddr::new(ip, probe::PORT)).rest().unwrap();
        let text = std::str::from_utf8(&answer).unwrap();
        assert!(
            probe::read(text).is_some_and(|(generation, pod)| generation > 0 && pod.contains('/')),
            "{text}"
        );
    }
    // Nobody listens there; the proxy does not answer in its place.
    let mut other = world.connect_to(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), probe::PORT));
    assert!(!other.rest().unwrap_or_default().starts_with(b"undermesh"));
}
