//! The cases, named as facts.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use undermesh_common::MAX_CONNECTING;
use undermesh_redirect::netns::{Netns, NetnsError};
use undermesh_redirect::plan::{DesiredMaps, ExcludedPorts, FailMode, LocalWorkload, Place, plan};
use undermesh_redirect::{CgroupId, Counter, Error, Limits, Redirect, Settings};

use crate::world::*;

macro_rules! cases {
    ($($name:ident,)*) => {
        pub(crate) const ALL: &[(&str, fn())] = &[$((stringify!($name), $name),)*];
    };
}

cases! {
    an_ipv4_connection_to_a_service_is_redirected,
    an_ipv6_connection_to_a_service_is_redirected,
    a_v4_mapped_connection_is_redirected_to_the_ipv4_listener,
    a_claimed_port_is_redirected_on_any_address,
    tcp_fast_open_is_redirected,
    mptcp_is_redirected_though_its_socket_shows_the_listener,
    a_socket_bound_to_the_pods_address_keeps_it,
    a_socket_that_failed_elsewhere_is_redirected_like_a_new_one,
    what_is_no_service_is_untouched,
    udp_is_untouched,
    loopback_is_untouched_and_a_direct_connection_to_the_listener_has_no_origin,
    an_excluded_port_is_untouched,
    a_pod_that_is_not_enrolled_is_untouched,
    an_unknown_pod_is_untouched_or_refused_as_the_node_says,
    what_is_not_below_the_attach_point_is_untouched,
    nothing_is_touched_before_the_first_config,
    without_a_listener_the_fail_mode_decides,
    with_a_stale_heartbeat_the_fail_mode_decides,
    a_refused_or_aborted_connection_leaves_no_origin,
    a_client_that_closes_before_the_accept_keeps_its_origin,
    an_origin_that_nobody_took_is_swept,
    a_full_map_of_origins_is_counted,
    connects_that_nobody_answers_have_a_share_of_the_origins_for_each_workload,
    pods_in_the_nodes_namespace_are_told_apart_by_cgroup,
    the_agents_own_connections_are_never_redirected,
    nor_are_they_where_only_a_part_of_the_hierarchy_is_mounted,
    the_programs_are_never_attached_at_the_agents_own_cgroup,
    updates_write_what_changed_and_a_full_map_is_an_error,
    a_listeners_port_that_is_taken_in_the_pod_is_named,
    a_thread_comes_home_from_nested_namespaces,
    events_tell_what_happened,
    inspection_shows_what_is_in_the_kernel,
    dropping_it_detaches,
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// The reply of a child to a redirected connect: what it sees as its peer and as itself, without its port.
fn seen(reply: &str) -> (SocketAddr, String, &str) {
    let words: Vec<&str> = reply.split(' ').collect();
    let [_, peer, local, greeting] = words[..] else { panic!("the child says {reply}") };
    (address(peer), address(local).ip().to_string(), greeting)
}

fn an_ipv4_connection_to_a_service_is_redirected() {
    let mut world = World::new();
    let (reply, origin) = world.proxied("tcp", SERVICE4);
    assert_eq!(seen(&reply), (SERVICE4, POD4.to_string(), "proxied"));
    let origin = origin.expect("an origin");
    assert_eq!((origin.destination, origin.generation, origin.workload), (SERVICE4, 3, 7));
    assert_eq!(origin.cgroup_id, CgroupId::of_path(world.pods.path()).unwrap());
    assert_eq!(
        world.counted(),
        [("redirected4", 1), ("origin_inserted", 1), ("peername", 1), ("sockname", 1)]
    );
}

fn an_ipv6_connection_to_a_service_is_redirected() {
    let mut world = World::new();
    let (reply, origin) = world.proxied("tcp", SERVICE6);
    assert_eq!(seen(&reply), (SERVICE6, POD6.to_string(), "proxied"));
    assert_eq!(origin.expect("an origin").destination, SERVICE6);
    assert_eq!(
        world.counted(),
        [("redirected6", 1), ("origin_inserted", 1), ("peername", 1), ("sockname", 1)]
    );
}

fn a_v4_mapped_connection_is_redirected_to_the_ipv4_listener() {
    let mut world = World::new();
    let (reply, origin) = world.proxied("mapped", SERVICE4);
    let (peer, local, greeting) = seen(&reply);
    assert_eq!((peer, local.as_str()), (address("[::ffff:10.96.0.10]:80"), "::ffff:10.244.1.3"));
    assert_eq!(greeting, "proxied");
    assert_eq!(origin.expect("an origin").destination, SERVICE4);
    assert_eq!(
        world.counted(),
        [("redirected_mapped", 1), ("origin_inserted", 1), ("peername", 1), ("sockname", 1)]
    );
}

fn a_claimed_port_is_redirected_on_any_address() {
    let mut world = World::new();
    for target in ["203.0.113.9:8443", "[2001:db8::9]:8443"].map(address) {
        let (reply, origin) = world.proxied("tcp", target);
        assert_eq!(seen(&reply).0, target);
        assert_eq!(origin.expect("an origin").destination, target);
    }
}

fn tcp_fast_open_is_redirected() {
    let mut world = World::new();
    let (reply, origin) = world.proxied("fastopen", SERVICE4);
    assert_eq!(seen(&reply), (SERVICE4, POD4.to_string(), "proxied"));
    assert_eq!(origin.expect("an origin").destination, SERVICE4);
}

fn mptcp_is_redirected_though_its_socket_shows_the_listener() {
    let mut world = World::new();
    let supported = std::fs::read_to_string("/proc/sys/net/mptcp/enabled").is_ok_and(|on| on.trim() == "1");
    if !supported {
        eprintln!("this kernel has no MPTCP: not tested");
        return;
    }
    let (reply, origin) = world.proxied("mptcp", SERVICE4);
    assert_eq!(origin.expect("an origin").destination, SERVICE4);
    // A known limit (see ebpf/src/program/names.rs); a kernel where this fails has overcome it.
    assert_eq!(seen(&reply), (LISTENER4, LISTENER4.ip().to_string(), "proxied"));
}

fn a_socket_bound_to_the_pods_address_keeps_it() {
    let mut world = World::new();
    let (reply, origin) = world.proxied("bound", SERVICE4);
    assert_eq!(seen(&reply), (SERVICE4, POD4.to_string(), "proxied"));
    assert_eq!(origin.expect("an origin").destination, SERVICE4);
    // Nothing to answer in place of: it is the pod's address.
    assert!(!world.counted().iter().any(|(name, _)| *name == "sockname"), "{:?}", world.counted());
}

fn a_socket_that_failed_elsewhere_is_redirected_like_a_new_one() {
    let mut world = World::new();
    let (reply, origin) = world.proxied("again", SERVICE4);
    assert_eq!(seen(&reply), (SERVICE4, POD4.to_string(), "proxied"));
    assert_eq!(origin.expect("an origin").destination, SERVICE4);
}

fn what_is_no_service_is_untouched() {
    let mut world = World::new();
    for own in [SocketAddr::new(POD4, 8080), SocketAddr::new(POD6, 8080)] {
        let listener = world.netns.listen(own, 8).expect("a server in the pod");
        world.mark();
        let reply = world.direct("tcp", &listener);
        assert_eq!(seen(&reply), (own, own.ip().to_string(), "direct"));
        assert_eq!(world.counted(), [("not_a_service", 1)]);
    }
    // Another port of a service's address is no service either; there is no route to it.
    world.mark();
    assert_eq!(world.pod.ask("connect tcp 10.96.0.10:81"), format!("err {}", libc::ENETUNREACH));
    assert_eq!(world.counted(), [("not_a_service", 1)]);
}

fn udp_is_untouched() {
    let mut world = World::new();
    // To the service's own address there is no route, so the same port on an address that has one.
    assert_eq!(world.pod.ask("connect udp 10.96.0.10:80"), format!("err {}", libc::ENETUNREACH));
    let reply = world.pod.ask("connect udp 10.244.1.3:8443");
    assert_eq!(seen(&reply), (address("10.244.1.3:8443"), POD4.to_string(), "-"));
    assert_eq!(world.counted(), [("not_tcp", 2)]);
}

fn loopback_is_untouched_and_a_direct_connection_to_the_listener_has_no_origin() {
    let mut world = World::new();
    for listener in [LISTENER4, LISTENER6] {
        world.mark();
        let (reply, origin) = world.proxied("tcp", listener);
        assert_eq!(origin, None);
        assert_eq!(seen(&reply), (listener, listener.ip().to_string(), "proxied"));
        assert_eq!(world.counted(), [("loopback", 1)]);
    }
}

fn an_excluded_port_is_untouched() {
    let mut world = World::with(|workload, _| {
        workload.excluded_ports = ExcludedPorts::new([80.try_into().unwrap()]).unwrap();
    });
    assert_eq!(world.pod.ask(&format!("connect tcp {SERVICE4}")), format!("err {}", libc::ENETUNREACH));
    assert_eq!(world.counted(), [("excluded_port", 1)]);
}

fn a_pod_that_is_not_enrolled_is_untouched() {
    let mut world = World::with(|workload, _| workload.is_enrolled = false);
    assert_eq!(world.pod.ask(&format!("connect tcp {SERVICE4}")), format!("err {}", libc::ENETUNREACH));
    assert_eq!(world.counted(), [("not_enrolled", 1)]);
}

fn an_unknown_pod_is_untouched_or_refused_as_the_node_says() {
    for (mode, error, counted) in [
        (FailMode::Open, libc::ENETUNREACH, vec![("unknown_pod", 1)]),
        (FailMode::Closed, libc::EPERM, vec![("unknown_pod", 1), ("fail_closed", 1)]),
    ] {
        let mut world = World::with(|_, node| node.unknown = mode);
        let mut stranger = Process::start("pod", &world.pods);
        assert_eq!(stranger.ask(&format!("connect tcp {SERVICE4}")), format!("err {error}"));
        assert_eq!(world.counted(), counted);
        world.mark();
        // Its own loopback is its own: nobody listens, and nobody forbids.
        assert_eq!(stranger.ask("connect tcp 127.0.0.1:9"), format!("err {}", libc::ECONNREFUSED));
        assert_eq!(world.counted(), [("loopback", 1)]);
    }
}

fn what_is_not_below_the_attach_point_is_untouched() {
    let world = World::new();
    let elsewhere = Cgroup::top();
    let mut other = Process::start("pod", &elsewhere);
    assert_eq!(other.ask(&format!("connect tcp {SERVICE4}")), format!("err {}", libc::ENETUNREACH));
    assert_eq!(world.counted(), []);
}

fn nothing_is_touched_before_the_first_config() {
    let top = Cgroup::top();
    let settings = Settings { cgroup: Some(top.path().to_owned()), ..Settings::default() };
    let redirect = Redirect::load(&settings).expect("load");
    let mut pod = Process::start("pod", &top);
    assert_eq!(pod.ask(&format!("connect tcp {SERVICE4}")), format!("err {}", libc::ENETUNREACH));
    assert_eq!(count(&redirect, Counter::NotConfigured), 1);
}

fn without_a_listener_the_fail_mode_decides() {
    for (mode, error, counted) in [
        (FailMode::Open, libc::ENETUNREACH, vec![("no_listener", 1), ("fail_open", 1)]),
        (FailMode::Closed, libc::EPERM, vec![("no_listener", 1), ("fail_closed", 1)]),
    ] {
        let mut world = World::with(|workload, _| {
            workload.listener6 = None;
            workload.fail_mode = mode;
        });
        assert_eq!(world.pod.ask(&format!("connect tcp {SERVICE6}")), format!("err {error}"));
        assert_eq!(world.counted(), counted);
        let (_, origin) = world.proxied("tcp", SERVICE4);
        assert!(origin.is_some(), "the other family has a listener");
    }
}

fn with_a_stale_heartbeat_the_fail_mode_decides() {
    for (mode, error, counted) in [
        (FailMode::Open, libc::ENETUNREACH, vec![("heartbeat_stale", 1), ("fail_open", 1)]),
        (FailMode::Closed, libc::EPERM, vec![("heartbeat_stale", 1), ("fail_closed", 1)]),
    ] {
        let mut world = World::with(|workload, node| {
            workload.fail_mode = mode;
            // Stale at once; a heartbeat is a moment old whenever it is looked at.
            node.heartbeat_timeout = Some(Duration::ZERO);
        });
        assert_eq!(world.pod.ask(&format!("connect tcp {SERVICE4}")), format!("err {error}"));
        assert_eq!(world.counted(), counted);
    }
    let mut world = World::with(|_, node| node.heartbeat_timeout = Some(Duration::from_secs(60)));
    world.redirect.heartbeat().expect("a heartbeat");
    assert!(world.proxied("tcp", SERVICE4).1.is_some());
}

fn a_refused_or_aborted_connection_leaves_no_origin() {
    // A second pod with the listeners' ports in its entry and nobody behind them.
    let mut world = World::new();
    let mut deaf = Process::start("pod", &world.pods);
    let netns = deaf.netns();
    let workload = workload(8, Place::Netns(netns.cookie()));
    let node = world.redirect.node();
    world.redirect.apply(&plan(captures(), &[workload], &node, 4)).expect("apply");
    world.mark();
    assert_eq!(deaf.ask(&format!("connect tcp {SERVICE4}")), format!("err {}", libc::ECONNREFUSED));
    assert_eq!(
        world.counted(),
        [("redirected4", 1), ("origin_inserted", 1), ("origin_dropped_on_close", 1),]
    );

    let _listener = netns.listen(LISTENER4, 8).expect("listen");
    world.mark();
    assert_eq!(deaf.ask(&format!("connect abort {SERVICE4}")), "ok");
    assert_eq!(
        world.counted(),
        [("redirected4", 1), ("origin_inserted", 1), ("origin_dropped_on_close", 1),]
    );
    assert_eq!(world.redirect.inspect().expect("inspect").origins.len(), 0);
}

fn a_client_that_closes_before_the_accept_keeps_its_origin() {
    let mut world = World::new();
    assert_eq!(world.pod.ask(&format!("connect send-and-close {SERVICE4}")), "ok");
    let (stream, peer) = accept(&world.listener4);
    let origin = world.redirect.origins().take(world.netns.cookie(), peer);
    assert_eq!(origin.expect("an origin").destination, SERVICE4);
    assert_eq!(read_all(stream), "last words");
}

fn an_origin_that_nobody_took_is_swept() {
    let mut world = World::new();
    let origins = world.redirect.origins();
    world.pod.ask(&format!("connect hold {SERVICE4}"));
    assert_eq!(origins.sweep(Duration::from_secs(60)).expect("sweep"), 0, "it is young");
    assert_eq!(origins.sweep(Duration::ZERO).expect("sweep"), 1);
    let (_stream, peer) = accept(&world.listener4);
    assert_eq!(origins.take(world.netns.cookie(), peer), None);
}

fn a_full_map_of_origins_is_counted() {
    let top = Cgroup::top();
    let settings = Settings {
        cgroup: Some(top.path().to_owned()),
        limits: Limits { origins: 1, ..Limits::default() },
        ..Settings::default()
    };
    let mut redirect = Redirect::load(&settings).expect("load");
    let mut pod = Process::start("pod", &top);
    let netns = pod.netns();
    let listener = netns.listen(LISTENER4, 64).expect("listen");
    let place = Place::Netns(netns.cookie());
    let desired = plan(captures(), &[workload(7, place)], &redirect.node(), 1);
    redirect.apply(&desired).expect("apply");
    for _ in 0..4 {
        let reply = pod.ask(&format!("connect hold {SERVICE4}"));
        assert_eq!(seen(&reply).0, SERVICE4, "the connect itself cannot fail");
    }
    let (inserted, full) = (count(&redirect, Counter::OriginInserted), count(&redirect, Counter::OriginFull));
    assert!(full > 0 && inserted + full == 4, "{inserted} inserted, {full} full");
    let served = (0..4)
        .filter(|_| redirect.origins().take(netns.cookie(), accept(&listener).1).is_some())
        .count() as u64;
    assert_eq!(served, inserted);
}

fn connects_that_nobody_answers_have_a_share_of_the_origins_for_each_workload() {
    let mut world = World::new();
    let mut other = Process::start("pod", &world.pods);
    let netns = other.netns();
    let _listener = netns.listen(LISTENER4, 8).expect("listen");
    let workloads =
        [workload(7, Place::Netns(world.netns.cookie())), workload(8, Place::Netns(netns.cookie()))];
    world.redirect.apply(&plan(captures(), &workloads, &world.redirect.node(), 4)).expect("apply");
    let counts = |redirect: &Redirect| {
        [Counter::OriginInserted, Counter::OriginQuota].map(|which| count(redirect, which))
    };

    // What is answered takes nothing of the share, accepted or not.
    for _ in 0..10 {
        world.pod.ask(&format!("connect hold {SERVICE6}"));
    }
    assert_eq!(world.pod.ask(&format!("flood {MAX_CONNECTING} {SERVICE6}")), "flooded");
    assert_eq!(counts(&world.redirect), [10 + MAX_CONNECTING, 0]);
    assert_eq!(world.pod.ask(&format!("flood 3 {SERVICE6}")), "flooded");
    assert_eq!(counts(&world.redirect), [10 + MAX_CONNECTING, 3]);
    other.ask(&format!("connect hold {SERVICE4}"));
    assert_eq!(counts(&world.redirect), [11 + MAX_CONNECTING, 3], "nobody else pays for it");

    // Each gives its place back, once.
    world.pod.ask("release");
    assert_eq!(world.pod.ask(&format!("flood {MAX_CONNECTING} {SERVICE6}")), "flooded");
    assert_eq!(counts(&world.redirect), [11 + 2 * MAX_CONNECTING, 3]);
    assert_eq!(world.pod.ask(&format!("flood 1 {SERVICE6}")), "flooded");
    assert_eq!(counts(&world.redirect), [11 + 2 * MAX_CONNECTING, 4]);
}

fn pods_in_the_nodes_namespace_are_told_apart_by_cgroup() {
    let top = Cgroup::top();
    let settings = Settings { cgroup: Some(top.path().to_owned()), ..Settings::default() };
    let mut redirect = Redirect::load(&settings).expect("load");
    let node = Netns::current().expect("the node's namespace");
    let listeners =
        [15001, 15011].map(|port| node.listen(SocketAddr::new(LISTENER4.ip(), port), 8).expect("listen"));
    let pods = [top.child("pod-a"), top.child("pod-b"), top.child("daemon")];
    let container = pods[0].child("container");
    let id = |cgroup: &Cgroup| Place::Cgroup(CgroupId::of_path(cgroup.path()).unwrap());
    let workloads = [
        workload(1, id(&pods[0])),
        LocalWorkload { listener4: 15011.try_into().ok(), ..workload(2, id(&pods[1])) },
    ];
    redirect.apply(&plan(captures(), &workloads, &redirect.node(), 1)).expect("apply");

    for (cgroup, listener, workload) in [(&container, &listeners[0], 1), (&pods[1], &listeners[1], 2)] {
        let mut process = Process::start("host-process", cgroup);
        process.tell(&format!("connect tcp {SERVICE4}"));
        let (mut stream, peer) = accept(listener);
        let origin = redirect.origins().take(node.cookie(), peer).expect("an origin");
        assert_eq!(origin.workload, workload);
        assert_eq!(origin.cgroup_id, CgroupId::of_path(cgroup.path()).unwrap());
        stream.write_all(b"proxied\n").expect("greet");
        assert_eq!(seen(&process.reply()).2, "proxied");
    }
    let mut daemon = Process::start("host-process", &pods[2]);
    assert_eq!(daemon.ask(&format!("connect tcp {SERVICE4}")), format!("err {}", libc::ENETUNREACH));
    assert_eq!(count(&redirect, Counter::HostProcess), 1);
}

fn the_agents_own_connections_are_never_redirected() {
    let top = Cgroup::top();
    let (agent, pods) = (top.child("agent"), top.child("pods"));
    let inside = agent.child("inside");
    let pod = Process::start("pod", &pods);
    for cgroup in [&agent, &inside] {
        let mut process = Process::start("agent", cgroup);
        let path = pod.netns().path().display().to_string();
        let reply = process.ask(&format!("own-traffic {} {path}", top.path().display()));
        assert!(
            reply.starts_with(&format!("Err(Some({})) own=1 redirected=0 level=Some(", libc::ENETUNREACH)),
            "{reply}"
        );
    }
}

fn nor_are_they_where_only_a_part_of_the_hierarchy_is_mounted() {
    let top = Cgroup::top();
    let (agent, pods) = (top.child("agent"), top.child("pods"));
    let inside = agent.child("inside");
    let pod = Process::start("pod", &pods);
    for cgroup in [&agent, &inside] {
        let mut process = Process::start("agent", cgroup);
        let path = pod.netns().path().display().to_string();
        let reply = process.ask(&format!("own-traffic-in-part {} {path}", top.path().display()));
        let want = format!(
            "Err(Some({})) own=1 redirected=0 level=Some({})",
            libc::ENETUNREACH,
            undermesh_common::LEVEL_UNKNOWN
        );
        assert_eq!(reply, want);
    }
}

fn the_programs_are_never_attached_at_the_agents_own_cgroup() {
    let top = Cgroup::top();
    let agent = top.child("agent");
    let mut process = Process::start("agent", &agent);
    let reply = process.ask(&format!("load {}", agent.path().display()));
    assert!(reply.contains("agent's own cgroup"), "{reply}");
    assert_eq!(process.ask(&format!("load {}", top.path().display())), "loaded");
    let error =
        Redirect::load(&Settings { cgroup: Some("/proc".into()), ..Settings::default() }).unwrap_err();
    assert!(matches!(error, Error::NotCgroup2 { .. }), "{error}");
}

fn updates_write_what_changed_and_a_full_map_is_an_error() {
    let top = Cgroup::top();
    let settings = Settings {
        cgroup: Some(top.path().to_owned()),
        limits: Limits { services: 2, ..Limits::default() },
        ..Settings::default()
    };
    let mut redirect = Redirect::load(&settings).expect("load");
    let node = redirect.node();
    let desired = |addresses: &[&str], generation| -> DesiredMaps {
        let captures = addresses.iter().map(|text| undermesh_core::capture::Capture::Address {
            address: text.parse().expect("an address"),
            port: 80,
        });
        plan(captures, &[], &node, generation)
    };
    let applied = redirect.apply(&desired(&["10.0.0.1", "10.0.0.2"], 1)).expect("apply");
    assert_eq!((applied.written, applied.removed), (2, 0));
    let applied = redirect.apply(&desired(&["10.0.0.1", "10.0.0.2"], 2)).expect("apply");
    assert_eq!((applied.written, applied.removed), (0, 0));
    assert_eq!(redirect.inspect().expect("inspect").generation, 2);
    // Old and new do not fit side by side, but the new alone does.
    let applied = redirect.apply(&desired(&["10.0.0.3", "10.0.0.4"], 3)).expect("apply");
    assert_eq!((applied.written, applied.removed), (2, 2));

    let error = redirect.apply(&desired(&["10.0.0.5", "10.0.0.6", "10.0.0.7"], 4)).unwrap_err();
    assert!(matches!(error, Error::MapFull { map: "SERVICES", wanted: 3, limit: 2, .. }), "{error}");
    let inspection = redirect.inspect().expect("inspect");
    assert_eq!(inspection.generation, 3, "nothing of it is in force");
    let mut services = inspection.services;
    services.sort();
    assert_eq!(services, ["10.0.0.3:80", "10.0.0.4:80"].map(address));
}

fn a_listeners_port_that_is_taken_in_the_pod_is_named() {
    let world = World::new();
    let error = world.netns.listen(LISTENER4, 8).unwrap_err();
    assert!(matches!(error, NetnsError::PortTaken { address: LISTENER4, .. }), "{error}");
    let error = world.netns.listen(address("192.0.2.1:15001"), 8).unwrap_err();
    assert!(matches!(error, NetnsError::NoSuchAddress { .. }), "{error}");
    // And the thread is back where it was.
    let home = Netns::current().expect("the node's namespace");
    assert!(!home.is_same(&world.netns));
    assert_ne!(home.cookie(), world.netns.cookie());
    home.listen(LISTENER4, 8).expect("free here");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.netns.enter(|| panic!("expected: in a pod's namespace"))
    }));
    assert!(panicked.is_err());
    assert!(Netns::current().expect("the namespace").is_same(&home), "back also after a panic");
}

fn a_thread_comes_home_from_nested_namespaces() {
    let top = Cgroup::top();
    let pods = [Process::start("pod", &top), Process::start("pod", &top)];
    let [a, b] = [pods[0].netns(), pods[1].netns()];
    let home = Netns::current().expect("the node's namespace");
    for _ in 0..2 {
        a.enter(|| {
            for _ in 0..2 {
                b.enter(|| assert!(Netns::current().expect("here").is_same(&b))).expect("enter");
                assert!(Netns::current().expect("here").is_same(&a));
            }
        })
        .expect("enter");
        assert!(Netns::current().expect("here").is_same(&home));
    }
    // Each thread has its own.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            a.enter(|| ()).expect("enter");
            assert!(Netns::current().expect("here").is_same(&home));
        });
    });
}

fn events_tell_what_happened() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::with(|_, node| node.event_sample = 1);
        let mut events = world.redirect.take_events().expect("events").expect("the first to ask");
        assert!(world.redirect.take_events().expect("events").is_none());
        world.pod.ask("connect tcp 10.96.0.10:81");
        world.proxied("tcp", SERVICE4);
        let mut next = async || {
            let next = tokio::time::timeout(Duration::from_secs(5), events.next());
            next.await.expect("in time").expect("an event")
        };
        let (first, second) = (next().await, next().await);
        assert_eq!((first.outcome, first.destination), (Counter::NotAService, address("10.96.0.10:81")));
        assert_eq!((second.outcome, second.destination), (Counter::Redirected4, SERVICE4));
        assert_eq!((second.netns, second.workload), (world.netns.cookie(), 7));
        assert_eq!(second.cgroup, CgroupId::of_path(world.pods.path()).unwrap());
        assert!(second.at >= first.at && !second.is_refused && second.pid != 0);
        assert!(!second.command.is_empty());
    });
    let mut world = World::new();
    world.proxied("tcp", SERVICE4);
    runtime.block_on(async {
        let mut events = world.redirect.take_events().expect("events").expect("the first to ask");
        let none = tokio::time::timeout(Duration::from_millis(50), events.next()).await;
        assert!(none.is_err(), "no events are asked for: {none:?}");
    });
}

fn inspection_shows_what_is_in_the_kernel() {
    let mut world = World::new();
    world.pod.ask(&format!("connect hold {SERVICE4}"));
    let inspection = world.redirect.inspect().expect("inspect");
    assert_eq!(inspection.cgroup, world.top.path().display().to_string());
    assert_eq!(inspection.generation, 3);
    assert_eq!(inspection.programs.len(), 7);
    assert!(inspection.programs.iter().all(|program| program.id != 0 && program.link_id != 0));
    assert!(inspection.programs.iter().all(|program| program.tag.len() == 16));
    let entries = |name: &str| {
        inspection.maps.iter().find(|map| map.name == name).unwrap_or_else(|| panic!("no {name}")).entries
    };
    assert_eq!(
        ["SERVICES", "PORTS", "WORKLOADS", "WL_BY_CGROUP", "ORIGINS"].map(entries),
        [Some(3), Some(1), Some(1), Some(0), Some(1)]
    );
    assert!(inspection.services.contains(&SERVICE4) && inspection.services.contains(&SERVICE6));
    assert_eq!(inspection.ports, [8443]);
    let workload = &inspection.workloads[0];
    assert_eq!((workload.id, workload.place, workload.key), (7, "netns", world.netns.cookie().0));
    assert_eq!((workload.listener4, workload.listener6), (LISTENER4.port(), LISTENER6.port()));
    assert_eq!((workload.address4, workload.address6), (Some(POD4), Some(POD6)));
    let origin = &inspection.origins[0];
    assert_eq!((origin.destination, origin.source.ip()), (SERVICE4, LISTENER4.ip()));
}

fn dropping_it_detaches() {
    let top = Cgroup::top();
    let mut pod = Process::start("pod", &top);
    let settings = Settings { cgroup: Some(top.path().to_owned()), ..Settings::default() };
    let mut redirect = Redirect::load(&settings).expect("load");
    let netns = pod.netns();
    let listener = netns.listen(LISTENER4, 8).expect("listen");
    let place = Place::Netns(netns.cookie());
    redirect.apply(&plan(captures(), &[workload(7, place)], &redirect.node(), 1)).expect("apply");
    assert!(pod.ask(&format!("connect hold {SERVICE4}")).starts_with("ok"));
    accept(&listener);
    drop(redirect);
    assert_eq!(pod.ask(&format!("connect tcp {SERVICE4}")), format!("err {}", libc::ENETUNREACH));
}
