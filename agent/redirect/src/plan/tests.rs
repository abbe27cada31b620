use std::net::IpAddr;

use super::*;

fn node() -> Node {
    Node {
        host_netns: NetnsCookie(1),
        agent_cgroup: Some(AgentCgroup { id: CgroupId(500), level: 3 }),
        unknown: FailMode::Open,
        heartbeat_timeout: None,
        event_sample: 0,
    }
}

fn workload(id: u32, place: Place) -> LocalWorkload {
    LocalWorkload {
        id,
        place,
        is_enrolled: true,
        listener4: NonZeroU16::new(15001),
        listener6: None,
        address4: Some(Ipv4Addr::new(10, 244, 1, 3)),
        address6: None,
        fail_mode: FailMode::Open,
        excluded_ports: ExcludedPorts::default(),
    }
}

fn address(address: &str, port: u16) -> Capture {
    Capture::Address { address: address.parse().unwrap(), port }
}

#[test]
fn every_capture_lands_in_its_map_or_is_named_as_skipped() {
    let captures = [
        address("10.96.0.10", 80),
        address("fd00::10", 80),
        address("10.96.0.10", 80),
        Capture::Port(8443),
        address("127.0.0.1", 80),
        address("::1", 80),
        address("0.0.0.0", 80),
        address("10.96.0.11", 0),
        Capture::Port(0),
    ];
    let maps = plan(captures, &[], &node(), 5);
    assert_eq!(maps.services.len(), 2);
    assert!(maps.services.keys().any(|key| IpAddr::from(key.address).to_string() == "10.96.0.10"));
    assert!(maps.services.values().all(|service| service.generation == 5));
    assert_eq!(maps.ports.keys().map(|key| key.port.to_host()).collect::<Vec<_>>(), [8443]);
    assert_eq!(
        maps.skipped,
        [
            Skipped::OwnHost(captures[4]),
            Skipped::OwnHost(captures[5]),
            Skipped::OwnHost(captures[6]),
            Skipped::PortZero(captures[7]),
            Skipped::PortZero(captures[8]),
        ]
    );
}

#[test]
fn a_workload_goes_to_the_map_of_its_place_with_all_it_says() {
    let netns = LocalWorkload {
        is_enrolled: false,
        fail_mode: FailMode::Closed,
        listener4: None,
        listener6: NonZeroU16::new(15002),
        address4: None,
        address6: Some("fd00::3".parse().unwrap()),
        excluded_ports: ExcludedPorts::new([NonZeroU16::new(5432).unwrap()]).unwrap(),
        ..workload(7, Place::Netns(NetnsCookie(4097)))
    };
    let maps = plan([], &[netns, workload(8, Place::Cgroup(CgroupId(30)))], &node(), 5);

    let entry = maps.workloads[&4097];
    assert_eq!((entry.id, entry.flags, entry.generation), (7, WORKLOAD_FAIL_CLOSED, 5));
    assert_eq!((entry.listener4.to_host(), entry.listener6.to_host()), (0, 15002));
    assert!(entry.address4.is_unspecified());
    assert_eq!(IpAddr::from(entry.address6).to_string(), "fd00::3");
    assert_eq!(entry.excluded_ports[0].to_host(), 5432);

    let entry = maps.workloads_by_cgroup[&30];
    assert_eq!((entry.id, entry.flags), (8, WORKLOAD_ENROLLED));
    assert_eq!(entry.listener4.to_host(), 15001);
    assert_eq!(IpAddr::from(entry.address4).to_string(), "10.244.1.3");
    assert_eq!((maps.workloads.len(), maps.workloads_by_cgroup.len()), (1, 1));
}

#[test]
fn of_two_workloads_in_one_place_the_first_is_in_force() {
    let place = Place::Netns(NetnsCookie(4097));
    let maps = plan([], &[workload(7, place), workload(8, place)], &node(), 5);
    assert_eq!(maps.workloads[&4097].id, 7);
    assert_eq!(maps.skipped, [Skipped::SamePlace { first: 7, second: 8, place }]);
    // The same number as a cookie and as a cgroup id is not one place.
    let maps = plan([], &[workload(7, place), workload(8, Place::Cgroup(CgroupId(4097)))], &node(), 5);
    assert_eq!(maps.skipped, []);
}

#[test]
fn the_config_carries_the_nodes_facts_and_settings() {
    let set = Node {
        unknown: FailMode::Closed,
        heartbeat_timeout: Some(Duration::from_secs(3)),
        event_sample: 100,
        ..node()
    };
    let config = plan([], &[], &set, 5).config;
    assert_eq!((config.generation, config.layout, config.event_sample), (5, LAYOUT_VERSION, 100));
    assert_eq!((config.agent_cgroup_id, config.agent_cgroup_level), (500, 3));
    assert_eq!((config.unknown, config.heartbeat_timeout_ns), (FAIL_CLOSED, 3_000_000_000));

    let outside = Node { agent_cgroup: None, heartbeat_timeout: Some(Duration::ZERO), ..node() };
    let config = plan([], &[], &outside, 5).config;
    assert_eq!(config.agent_cgroup_id, 0);
    assert_eq!(config.heartbeat_timeout_ns, 1, "0 would switch the check off");
}

#[test]
fn excluded_ports_count_once_and_are_limited() {
    let port = |port| NonZeroU16::new(port).unwrap();
    assert!(ExcludedPorts::new((1..=8).chain(1..=8).map(port)).is_ok());
    assert_eq!(ExcludedPorts::new((1..=9).map(port)), Err(TooManyExcludedPorts { found: 9 }));
}

#[test]
fn an_entry_that_says_the_same_is_not_written_again() {
    let current = plan([address("10.0.0.1", 80), address("10.0.0.2", 80)], &[], &node(), 1);
    let desired = plan([address("10.0.0.2", 80), address("10.0.0.3", 80)], &[], &node(), 2);
    let changes = diff(&current.services, &desired.services);
    assert_eq!((changes.upserts.len(), changes.inserts, changes.removals.len()), (1, 1, 1));
    assert!(diff(&desired.services, &desired.services).is_empty());

    let place = Place::Netns(NetnsCookie(1));
    let before = plan([], &[workload(7, place)], &node(), 1).workloads;
    let same = plan([], &[workload(7, place)], &node(), 2).workloads;
    let other = plan([], &[LocalWorkload { is_enrolled: false, ..workload(7, place) }], &node(), 2).workloads;
    assert!(diff(&before, &same).is_empty());
    let changes = diff(&before, &other);
    assert_eq!((changes.upserts.len(), changes.inserts), (1, 0));
    assert_eq!(changes.upserts[0].1.generation, 2);
}

/// Any two states: after the changes the maps say what is desired, nothing is written that was right, and every entry
/// that was written has the new generation.
#[test]
fn the_changes_lead_to_what_is_desired() {
    // A small generator of its own: 2000 pairs of states over few keys and values, so that every case comes up.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..2000 {
        let mut side = |generation: u64| -> BTreeMap<u64, Workload> {
            (0..random(7))
                .map(|_| {
                    let key = random(6);
                    (key, Workload { generation, id: random(3) as u32, ..Workload::default() })
                })
                .collect()
        };
        let (current, desired) = (side(1), side(2));
        let changes = diff(&current, &desired);

        let mut result = current.clone();
        for (key, value) in &changes.upserts {
            let before = result.insert(*key, *value);
            assert!(before.is_none_or(|before| before.id != value.id), "{key} was right already");
            assert_eq!(value.generation, 2);
        }
        for key in &changes.removals {
            assert!(result.remove(key).is_some(), "{key} was not there");
        }
        assert!(result.keys().eq(desired.keys()));
        assert!(result.values().zip(desired.values()).all(|(a, b)| a.says_the_same(*b)));
        assert_eq!(changes.inserts, desired.keys().filter(|key| !current.contains_key(key)).count());
    }
}
