// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Each row is one rule; each rule has the row in which it does not hold.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use undermesh_common::{FAIL_OPEN, Origin};

use super::*;

const POD: u64 = 4097;
const HOST: u64 = 1;
const AGENT_CGROUP: u64 = 500;

/// One task's view.
struct Task {
    netns: u64,
    /// Cgroup ids from level 1 down to the task's own.
    cgroups: Vec<u64>,
    now_ns: u64,
    by_netns: HashMap<u64, Workload>,
    by_cgroup: HashMap<u64, Workload>,
    services: HashSet<ServiceKey>,
    ports: HashSet<PortKey>,
}

impl World for Task {
    fn netns_cookie(&self) -> u64 {
        self.netns
    }
    fn cgroup_id(&self) -> u64 {
        self.cgroups.last().copied().unwrap_or(1)
    }
    fn ancestor_cgroup_id(&self, level: u32) -> u64 {
        if level == 0 { 1 } else { self.cgroups.get(level as usize - 1).copied().unwrap_or(0) }
    }
    fn now_ns(&self) -> u64 {
        self.now_ns
    }
    fn workload_by_netns(&self, cookie: u64) -> Option<&Workload> {
        self.by_netns.get(&cookie)
    }
    fn workload_by_cgroup(&self, id: u64) -> Option<&Workload> {
        self.by_cgroup.get(&id)
    }
    fn is_service(&self, key: &ServiceKey) -> bool {
        self.services.contains(key)
    }
    fn is_claimed(&self, key: &PortKey) -> bool {
        self.ports.contains(key)
    }
}

fn net(text: &str) -> NetAddr {
    text.parse::<IpAddr>().unwrap().into()
}

fn service(address: &str, port: u16) -> ServiceKey {
    ServiceKey { address: net(address), port: NetPort::from_host(port), padding: 0 }
}

fn workload(id: u32) -> Workload {
    Workload {
        id,
        flags: WORKLOAD_ENROLLED,
        listener4: NetPort::from_host(15001),
        listener6: NetPort::from_host(15002),
        excluded_ports: {
            let mut ports = [NetPort::NONE; 8];
            ports[1] = NetPort::from_host(5432);
            ports
        },
        ..Workload::default()
    }
}

/// A pod in the mesh, and the services 10.96.0.10:80, 10.96.0.10:5432, [fd00::10]:80 and port 8443 anywhere.
fn task() -> Task {
    Task {
        netns: POD,
        cgroups: vec![10, 20, 30],
        now_ns: 1_000,
        by_netns: HashMap::from([(POD, workload(7))]),
        by_cgroup: HashMap::new(),
        services: HashSet::from([
            service("10.96.0.10", 80),
            service("10.96.0.10", 5432),
            service("fd00::10", 80),
        ]),
        ports: HashSet::from([PortKey { port: NetPort::from_host(8443), padding: 0 }]),
    }
}

fn config() -> Config {
    Config {
        layout: LAYOUT_VERSION,
        host_netns_cookie: HOST,
        agent_cgroup_id: AGENT_CGROUP,
        agent_cgroup_level: 2,
        unknown: FAIL_OPEN,
        ..Config::default()
    }
}

fn dial(address: &str, port: u16) -> Connect {
    let destination = net(address);
    let form = match address.parse::<IpAddr>().unwrap() {
        IpAddr::V4(_) => Form::V4,
        IpAddr::V6(_) => Form::of_v6_socket(destination),
    };
    Connect { destination, port: NetPort::from_host(port), form, is_tcp: true }
}

/// The counter and, for a redirect, the listener's port in host order.
fn seen(verdict: Verdict<'_>) -> (Counter, Option<u16>) {
    match verdict {
        Verdict::Untouched { why, .. } => (why, None),
        Verdict::Fail(failure) => (failure.why, None),
        Verdict::Redirect { why, listener, .. } => (why, Some(listener.to_host())),
    }
}

#[test]
fn the_destination_decides_for_an_enrolled_pod() {
    for (address, port, want) in [
        ("10.96.0.10", 80, (Counter::Redirected4, Some(15001))),
        ("::ffff:10.96.0.10", 80, (Counter::RedirectedMapped, Some(15001))),
        ("fd00::10", 80, (Counter::Redirected6, Some(15002))),
        ("10.96.0.10", 81, (Counter::NotAService, None)),
        ("10.96.0.11", 80, (Counter::NotAService, None)),
        ("fd00::11", 80, (Counter::NotAService, None)),
        ("10.96.0.10", 5432, (Counter::ExcludedPort, None)),
        ("203.0.113.9", 8443, (Counter::Redirected4, Some(15001))),
        ("2001:db8::9", 8443, (Counter::Redirected6, Some(15002))),
        ("203.0.113.9", 8444, (Counter::NotAService, None)),
        ("203.0.113.9", 0, (Counter::NotAService, None)),
        // Loopback is the pod's own, even on a claimed port.
        ("127.0.0.1", 8443, (Counter::Loopback, None)),
        ("::1", 8443, (Counter::Loopback, None)),
        ("::ffff:127.0.0.1", 8443, (Counter::Loopback, None)),
    ] {
        assert_eq!(seen(connect(&dial(address, port), &config(), &task())), want, "{address}:{port}");
    }
}

#[test]
fn only_tcp_is_touched() {
    let udp = Connect { is_tcp: false, ..dial("10.96.0.10", 80) };
    assert_eq!(seen(connect(&udp, &config(), &task())), (Counter::NotTcp, None));
}

#[test]
fn nothing_is_touched_before_the_agent_wrote_a_config_of_this_layout() {
    for layout in [0, LAYOUT_VERSION + 1] {
        let config = Config { layout, ..config() };
        assert_eq!(seen(connect(&dial("10.96.0.10", 80), &config, &task())), (Counter::NotConfigured, None));
    }
}

#[test]
fn the_agents_cgroup_and_its_children_are_never_touched() {
    for (name, cgroups, level, own) in [
        ("in it", vec![10, AGENT_CGROUP], 2, true),
        ("below it", vec![10, AGENT_CGROUP, 30, 40], 2, true),
        ("beside it", vec![10, 501], 2, false),
        ("above it", vec![10], 2, false),
        ("below it, level unknown", vec![10, 20, AGENT_CGROUP, 40], LEVEL_UNKNOWN, true),
        ("beside it, level unknown", vec![10, 20, 30, 40], LEVEL_UNKNOWN, false),
    ] {
        let task = Task { cgroups, ..task() };
        let config = Config { agent_cgroup_level: level, ..config() };
        let want = if own { (Counter::OwnTraffic, None) } else { (Counter::Redirected4, Some(15001)) };
        assert_eq!(seen(connect(&dial("10.96.0.10", 80), &config, &task)), want, "{name}");
    }
}

#[test]
fn no_cgroup_is_the_agents_when_it_lies_outside_the_attach_point() {
    let config = Config { agent_cgroup_id: 0, agent_cgroup_level: 9, ..config() };
    assert_eq!(seen(connect(&dial("10.96.0.10", 80), &config, &task())).0, Counter::Redirected4);
}

#[test]
fn a_pod_that_is_known_but_not_enrolled_is_untouched() {
    let mut task = task();
    task.by_netns.insert(POD, Workload { flags: WORKLOAD_FAIL_CLOSED, ..workload(7) });
    let verdict = connect(&dial("10.96.0.10", 80), &config(), &task);
    assert_eq!(verdict, Verdict::Untouched { why: Counter::NotEnrolled, workload: 7 });
}

#[test]
fn an_unknown_pod_meets_the_nodes_mode() {
    for (mode, address, want) in [
        (FAIL_OPEN, "10.96.0.10", Verdict::Untouched { why: Counter::UnknownPod, workload: 0 }),
        (
            FAIL_CLOSED,
            "10.96.0.10",
            Verdict::Fail(Failure { why: Counter::UnknownPod, mode: Counter::FailClosed, workload: 0 }),
        ),
        (FAIL_CLOSED, "127.0.0.1", Verdict::Untouched { why: Counter::Loopback, workload: 0 }),
    ] {
        let task = Task { netns: 9999, ..task() };
        let config = Config { unknown: mode, ..config() };
        assert_eq!(connect(&dial(address, 80), &config, &task), want, "{mode} {address}");
    }
}

#[test]
fn in_the_nodes_netns_the_nearest_cgroup_tells_who_it_is() {
    for (name, cgroups, want) in [
        ("container", vec![10, 20, 30], Some(30)),
        ("another container of the pod", vec![10, 20, 31], Some(20)),
        ("a process of the node", vec![10, 21], None),
        ("at the root", vec![], None),
    ] {
        let mut task = Task { netns: HOST, cgroups, ..task() };
        task.by_netns.insert(HOST, workload(1));
        task.by_cgroup.insert(20, workload(20));
        task.by_cgroup.insert(30, workload(30));
        // Also with `unknown: closed`: the node itself is not a pod.
        let config = Config { unknown: FAIL_CLOSED, ..config() };
        match (connect(&dial("10.96.0.10", 80), &config, &task), want) {
            (Verdict::Redirect { workload, .. }, Some(id)) => assert_eq!(workload.id, id, "{name}"),
            (verdict, None) => {
                assert_eq!(verdict, Verdict::Untouched { why: Counter::HostProcess, workload: 0 }, "{name}");
            }
            (verdict, _) => panic!("{name}: {verdict:?}"),
        }
    }
}

#[test]
fn a_cgroup_in_a_pods_own_netns_does_not_change_who_it_is() {
    let mut task = task();
    task.by_cgroup.insert(30, workload(30));
    let Verdict::Redirect { workload, .. } = connect(&dial("10.96.0.10", 80), &config(), &task) else {
        panic!("not redirected");
    };
    assert_eq!(workload.id, 7);
}

#[test]
fn what_cannot_be_captured_meets_the_workloads_fail_mode() {
    let no_listener = Workload { listener4: NetPort::NONE, ..workload(7) };
    let stale = Config { heartbeat_ns: 100, heartbeat_timeout_ns: 899, ..config() };
    let fresh = Config { heartbeat_ns: 100, heartbeat_timeout_ns: 900, ..config() };
    let ahead = Config { heartbeat_ns: 5_000, heartbeat_timeout_ns: 1, ..config() };
    let off = Config { heartbeat_ns: 0, heartbeat_timeout_ns: 0, ..config() };
    for (name, caller, config, want) in [
        ("no listener", no_listener, config(), Some(Counter::NoListener)),
        ("stale heartbeat", workload(7), stale, Some(Counter::HeartbeatStale)),
        ("fresh heartbeat", workload(7), fresh, None),
        ("heartbeat ahead of this CPU", workload(7), ahead, None),
        ("no heartbeat wanted", workload(7), off, None),
    ] {
        for (flags, mode) in [(0, Counter::FailOpen), (WORKLOAD_FAIL_CLOSED, Counter::FailClosed)] {
            let mut task = task();
            task.by_netns.insert(POD, Workload { flags: caller.flags | flags, ..caller });
            let verdict = connect(&dial("10.96.0.10", 80), &config, &task);
            match want {
                Some(why) => {
                    let failure = Failure { why, mode, workload: 7 };
                    assert_eq!(verdict, Verdict::Fail(failure), "{name}");
                    assert_eq!(failure.is_closed(), flags != 0, "{name}");
                }
                None => assert_eq!(seen(verdict).0, Counter::Redirected4, "{name}"),
            }
            // What is not ours is untouched whatever state we are in.
            let verdict = connect(&dial("203.0.113.9", 80), &config, &task);
            assert_eq!(verdict, Verdict::Untouched { why: Counter::NotAService, workload: 7 }, "{name}");
        }
    }
}

#[test]
fn a_listener_of_the_other_family_does_not_serve() {
    let mut task = task();
    task.by_netns.insert(POD, Workload { listener6: NetPort::NONE, ..workload(7) });
    assert_eq!(seen(connect(&dial("fd00::10", 80), &config(), &task)), (Counter::NoListener, None));
    assert_eq!(
        seen(connect(&dial("::ffff:10.96.0.10", 80), &config(), &task)),
        (Counter::RedirectedMapped, Some(15001))
    );
}

fn record() -> SocketOrigin {
    SocketOrigin {
        origin: Origin {
            destination: net("10.96.0.10"),
            port: NetPort::from_host(80),
            netns_cookie: POD,
            ..Origin::default()
        },
        local: net("10.244.1.3"),
        listener: NetPort::from_host(15001),
        ..SocketOrigin::default()
    }
}

#[test]
fn getpeername_answers_what_was_dialled_only_while_connected_to_the_listener() {
    let dialled = Some((net("10.96.0.10"), NetPort::from_host(80)));
    for (address, port, want) in
        [("127.0.0.1", 15001, dialled), ("127.0.0.1", 8080, None), ("10.1.1.1", 15001, None)]
    {
        assert_eq!(peer_name(&record(), net(address), NetPort::from_host(port)), want, "{address}:{port}");
    }
}

#[test]
fn getsockname_answers_the_pods_address_only_in_place_of_loopback() {
    let pod = Some(net("10.244.1.3"));
    for (address, peer, want) in
        [("127.0.0.1", 15001, pod), ("10.244.1.9", 15001, None), ("127.0.0.1", 8080, None)]
    {
        assert_eq!(socket_name(&record(), net(address), NetPort::from_host(peer)), want, "{address}");
    }
    let unknown = SocketOrigin { local: NetAddr::UNSPECIFIED, ..record() };
    assert_eq!(socket_name(&unknown, net("127.0.0.1"), NetPort::from_host(15001)), None);
}

#[test]
fn the_origin_key_is_the_connection_as_the_listener_sees_it() {
    let key = origin_key(&record(), net("127.0.0.1"), NetPort::from_host(40000));
    assert_eq!(key.netns_cookie, POD);
    assert_eq!(key.source, net("127.0.0.1"));
    assert_eq!(key.port.to_host(), 40000);
}
