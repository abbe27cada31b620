use std::sync::Arc;

use super::*;
use crate::cluster::Workload;

/// Endpoints named after their places: `region/zone/subzone`, then perhaps `@node` and `#label=value`.
fn endpoints(places: &[&str]) -> Vec<Endpoint> {
    let endpoint = |(number, place): (u8, &&str)| {
        let (place, label) = place.split_once('#').unwrap_or((place, ""));
        let (locality, node) = place.split_once('@').unwrap_or((place, ""));
        let labels = label.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        Endpoint {
            address: ([10, 0, 0, number], 80).into(),
            id: (*place).into(),
            workload: Arc::new(Workload { node: node.into(), ..Workload::default() }),
            labels: Arc::new(labels.into_iter().collect()),
            locality: locality.into(),
            weight: 1,
        }
    };
    (1u8..).zip(places).map(endpoint).collect()
}

fn client() -> Client {
    let labels = [("version".to_owned(), "v1".to_owned())];
    Client { locality: "r/z/s".into(), node: "n1".into(), ..Client::mesh("shop", labels) }
}

fn setting(yaml: &str) -> LocalityLbSetting {
    serde_yaml_ng::from_str(yaml).expect("a setting")
}

/// The ids of each level, in order.
fn levels_of(layout: &Layout) -> Vec<Vec<&str>> {
    let ids = |level: &Level| layout.endpoints[level.range.clone()].iter().map(|it| &*it.id).collect();
    layout.levels.as_ref().expect("levels").levels.iter().map(ids).collect()
}

fn locality(yaml: &str, places: &[&str]) -> Layout {
    lay_out(Setting::Locality(&setting(yaml)), &endpoints(places), &client(), Some(0), &[])
}

const EVERYWHERE: [&str; 5] = ["far/z/s", "r/y/s", "r/z/t", "r/z/s", "near/z/s"];

#[test]
fn the_nearest_come_first() {
    for (yaml, want) in [
        ("{}", vec![vec!["r/z/s"], vec!["r/z/t"], vec!["r/y/s"], vec!["far/z/s", "near/z/s"]]),
        (
            "failover: [{from: r, to: near}]",
            vec![vec!["r/z/s"], vec!["r/z/t"], vec!["r/y/s"], vec!["near/z/s"], vec!["far/z/s"]],
        ),
        // A rule for another region.
        (
            "failover: [{from: x, to: near}]",
            vec![vec!["r/z/s"], vec!["r/z/t"], vec!["r/y/s"], vec!["far/z/s", "near/z/s"]],
        ),
        (
            "failoverPriority: [topology.kubernetes.io/region, topology.kubernetes.io/zone]",
            vec![vec!["r/z/t", "r/z/s"], vec!["r/y/s"], vec!["far/z/s", "near/z/s"]],
        ),
        (
            "{failoverPriority: [topology.kubernetes.io/region], failover: [{from: r, to: near}]}",
            vec![vec!["r/z/s"], vec!["r/z/t"], vec!["r/y/s"], vec!["near/z/s"], vec!["far/z/s"]],
        ),
    ] {
        let layout = locality(yaml, &EVERYWHERE);
        let mut got = levels_of(&layout);
        got.iter_mut().for_each(|level| level.sort_unstable());
        let mut want = want;
        want.iter_mut().for_each(|level| level.sort_unstable());
        assert_eq!(got, want, "{yaml}");
    }
}

#[test]
fn priorities_have_no_gaps() {
    assert_eq!(levels_of(&locality("{}", &["r/y/s", "far/z/s"])), [["r/y/s"], ["far/z/s"]]);
}

#[test]
fn without_outlier_detection_all_are_equal() {
    for yaml in ["{}", "failover: [{from: r, to: near}]", "failoverPriority: [version]"] {
        let layout =
            lay_out(Setting::Locality(&setting(yaml)), &endpoints(&EVERYWHERE), &client(), None, &[]);
        assert_eq!((layout.levels, layout.left_out), (None, vec![]), "{yaml}");
    }
    let off = lay_out(Setting::Off, &endpoints(&EVERYWHERE), &client(), Some(0), &[]);
    assert_eq!(off.levels, None);
}

#[test]
fn labels_count_in_order_and_may_name_their_value() {
    let places = ["r/z/s#version=v1", "r/z/s#version=v2", "far/z/s#version=v1"];
    let ids = |yaml: &str| {
        let layout = locality(yaml, &places);
        let firsts: Vec<_> =
            layout.levels.as_ref().expect("levels").levels.iter().map(|it| it.range.len()).collect();
        (firsts, layout.endpoints.iter().map(|it| it.address.ip().to_string()).collect::<Vec<_>>())
    };
    let order = |numbers: [u8; 3]| numbers.map(|number| format!("10.0.0.{number}")).to_vec();
    // The label first: version v2 is furthest.
    let version_first = ids("failoverPriority: [version, topology.kubernetes.io/region]");
    assert_eq!(version_first, (vec![1, 1, 1], order([1, 3, 2])));
    let region_first = ids("failoverPriority: [topology.kubernetes.io/region, version]");
    assert_eq!(region_first, (vec![1, 1, 1], order([1, 2, 3])));
    let named = ids("failoverPriority: [version=v2]");
    assert_eq!(named, (vec![1, 2], order([2, 1, 3])));
}

#[test]
fn preferences_of_a_service_need_no_outlier_detection() {
    let mesh = Mesh::default();
    let of = |preference, places: &[&str]| {
        let setting = Setting::in_force(None, Some(preference), &mesh);
        lay_out(setting, &endpoints(places), &client(), None, &[])
    };
    let zone = of(TrafficDistribution::PreferSameZone, &["r/z/t", "r/y/s", "r/z/s", "far/z/s"]);
    assert_eq!(levels_of(&zone), [vec!["r/z/s", "r/z/t"], vec!["r/y/s"], vec!["far/z/s"]]);
    let node = of(TrafficDistribution::PreferSameNode, &["r/z/s@n2", "r/z/s@n1", "r/z/t@n3"]);
    assert_eq!(levels_of(&node), [["r/z/s@n1"], ["r/z/s@n2"], ["r/z/t@n3"]]);
    assert_eq!(of(TrafficDistribution::Any, &EVERYWHERE).levels, None);
}

#[test]
fn the_network_is_a_penalty_and_does_not_end_the_comparison() {
    let places = ["r/z/s#topology.istio.io/network=n", "r/y/s#topology.istio.io/network=n", "far/z/s"];
    let layout = lay_out(
        Setting::in_force(None, Some(TrafficDistribution::PreferSameZone), &Mesh::default()),
        &endpoints(&places),
        &client(),
        None,
        &[],
    );
    // The client has no network: another region in no network is nearer than the same zone in another network.
    assert_eq!(levels_of(&layout), [["far/z/s"], ["r/z/s"], ["r/y/s"]]);
}

#[test]
fn distribute_gives_named_localities_their_shares_and_others_none() {
    let yaml =
        "distribute: [{from: 'x/*', to: {'far/*': 100}}, {from: 'r/*', to: {'near/*': 80, 'r/*': 20}}]";
    for panic_percent in [None, Some(0)] {
        let setting = setting(yaml);
        let layout =
            lay_out(Setting::Locality(&setting), &endpoints(&EVERYWHERE), &client(), panic_percent, &[]);
        let left_out: Vec<_> = layout.left_out.iter().map(|it| &*it.id).collect();
        assert_eq!(left_out, ["far/z/s"]);
        assert_eq!(levels_of(&layout).len(), 1);
        let groups = &layout.levels.as_ref().expect("levels").levels[0].groups;
        let weights: BTreeMap<&str, u32> =
            groups.iter().map(|it| (&*layout.endpoints[it.range.start].id, it.weight)).collect();
        // 20 among three localities, rounded up as in Istio.
        assert_eq!(weights, BTreeMap::from([("near/z/s", 80), ("r/y/s", 7), ("r/z/s", 7), ("r/z/t", 7)]));
    }
    // Nothing is said about clients from here: everyone has their weight.
    let other = locality("distribute: [{from: 'x/*', to: {'far/*': 100}}]", &EVERYWHERE);
    assert!(other.left_out.is_empty());
}

#[test]
fn patterns_of_localities() {
    for (locality, pattern, want) in [
        ("r/z/s", "r/z/s", true),
        ("r/z/s", "r/*", true),
        ("r/z/s", "r", true),
        ("r/z/s", "*", true),
        ("r/z/s", "r/z/*", true),
        ("r/z/s", "r/y/*", false),
        ("r", "r/*", true),
        ("r", "r/z", false),
        ("", "r/*", false),
    ] {
        assert_eq!(matches(locality, pattern), want, "{locality} in {pattern}");
    }
}

#[test]
fn the_rule_beats_the_service_and_the_service_the_mesh() {
    let rule: LoadBalancerSettings =
        serde_yaml_ng::from_str("localityLbSetting: {failoverPriority: [a]}").expect("settings");
    let zone: LoadBalancerSettings = serde_yaml_ng::from_str("zoneAwareLbSetting: {}").expect("settings");
    let off: LoadBalancerSettings =
        serde_yaml_ng::from_str("localityLbSetting: {enabled: false}").expect("settings");
    let preference = Some(TrafficDistribution::PreferSameZone);
    let mesh = Mesh::default();
    let zoned = Mesh { zone_aware: Some(ZoneAwareLbSetting::default()), ..Mesh::default() };
    assert!(
        matches!(Setting::in_force(Some(&rule), preference, &mesh), Setting::Locality(it) if it.failover_priority == ["a"])
    );
    assert!(matches!(Setting::in_force(Some(&zone), preference, &mesh), Setting::ZoneAware(_)));
    assert_eq!(Setting::in_force(Some(&off), preference, &zoned), Setting::Off);
    assert!(matches!(Setting::in_force(None, preference, &zoned), Setting::Preference(_)));
    assert!(matches!(Setting::in_force(None, None, &zoned), Setting::ZoneAware(_)));
    assert!(matches!(Setting::in_force(None, None, &mesh), Setting::Locality(_)));
    let disabled = Mesh { locality: setting("enabled: false"), ..Mesh::default() };
    assert_eq!(Setting::in_force(None, None, &disabled), Setting::Off);
}

#[test]
fn zone_aware_keeps_other_regions_back_and_counts_the_clients() {
    let zone_aware = ZoneAwareLbSetting::default();
    let places = ["far/z/s", "r/y/s", "r/z/s", "r/z/s"];
    let with = |clients: &[&str]| {
        lay_out(Setting::ZoneAware(&zone_aware), &endpoints(&places), &client(), None, clients)
    };
    let known = with(&["r/z/s", "r/z/s", "r/y/s", "r/y/s"]);
    assert_eq!(levels_of(&known), [vec!["r/z/s", "r/z/s", "r/y/s"], vec!["far/z/s"]]);
    let levels = known.levels.expect("levels");
    assert_eq!(levels.zones, Some(Zones { clients: [5000, 5000].into(), minimum: 6 }));
    assert_eq!(levels.levels[0].groups.len(), 2);
    // Nobody knows where the others are: only regions count.
    for clients in [&[][..], &["r/z/s"], &["r/y/s", "far/z/s"]] {
        let levels = with(clients).levels.expect("levels");
        assert_eq!(levels.zones, None, "{clients:?}");
        assert!(levels.levels.iter().all(|level| level.groups.is_empty()));
    }
}

#[test]
fn a_panic_threshold_makes_a_level_of_its_own() {
    let layout = lay_out(Setting::Off, &endpoints(&["r/z/s", "far/z/s"]), &client(), Some(50), &[]);
    assert_eq!(levels_of(&layout), [["r/z/s", "far/z/s"]]);
    assert_eq!(layout.levels.expect("levels").panic_percent, 50);
}
