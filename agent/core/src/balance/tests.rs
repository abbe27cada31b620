use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::levels::Group;
use super::*;
use crate::cluster::Workload;
use crate::policy::{ConsistentHash, HashTable};

const ALL: [Balancer; 5] =
    [Balancer::RoundRobin, Balancer::Random, Balancer::LeastRequest, Balancer::RingHash, Balancer::Maglev];

/// A small deterministic generator (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next_u64() as u8);
    }
}

#[derive(Default)]
struct Pool {
    active: Vec<u32>,
    ejected: Vec<usize>,
    /// Seconds; those not listed are old.
    ages: Vec<u64>,
}

impl Live for Pool {
    fn active(&self, endpoint: usize) -> u32 {
        self.active.get(endpoint).copied().unwrap_or(0)
    }

    fn is_available(&self, endpoint: usize) -> bool {
        !self.ejected.contains(&endpoint)
    }

    fn are_all_available(&self) -> bool {
        self.ejected.is_empty()
    }

    fn is_warming(&self) -> bool {
        !self.ages.is_empty()
    }

    fn age(&self, endpoint: usize) -> Duration {
        self.ages.get(endpoint).map_or(Duration::MAX, |&seconds| Duration::from_secs(seconds))
    }
}

fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
    let endpoint = |(number, weight): (u8, &u32)| Endpoint {
        address: ([10, 0, 0, number], 80).into(),
        id: "e".into(),
        workload: Arc::new(Workload::default()),
        labels: Arc::new(BTreeMap::new()),
        locality: "".into(),
        weight: *weight,
    };
    (1u8..).zip(weights).map(endpoint).collect()
}

fn policy(balancer: Balancer) -> Policy {
    let hash = |table| Some(Arc::new(ConsistentHash { key: None, table }));
    let consistent_hash = match balancer {
        Balancer::RingHash => hash(HashTable::Ring { minimum_size: 1024 }),
        Balancer::Maglev => hash(HashTable::Maglev { size: 65537 }),
        _ => None,
    };
    Policy { balancer, consistent_hash, ..Policy::default() }
}

fn counts(balancer: Balancer, weights: &[u32], live: &Pool, picks: u32) -> Vec<u32> {
    asked(&policy(balancer), weights, None, &Ask::default(), live, picks)
}

/// How often each endpoint is picked.
fn asked(
    policy: &Policy,
    weights: &[u32],
    levels: Option<Levels>,
    ask: &Ask<'_>,
    live: &Pool,
    picks: u32,
) -> Vec<u32> {
    let (endpoints, mut cursor, mut rng) = (endpoints(weights), Cursor::default(), Random(7));
    let spread = Spread::new(policy, &endpoints, levels, &Tables::default());
    let mut counts = vec![0; weights.len()];
    for _ in 0..picks {
        counts[spread.pick(&endpoints, ask, live, &mut cursor, &mut rng).expect("an endpoint")] += 1;
    }
    counts
}

#[test]
fn round_robin_takes_turns() {
    assert_eq!(counts(Balancer::RoundRobin, &[1, 1, 1], &Pool::default(), 300), [100, 100, 100]);
}

#[test]
fn weighted_round_robin_is_exact_over_a_round_and_spread_out() {
    for weights in [&[5, 1, 1][..], &[1, 2, 3, 4], &[100, 1], &[2, 2, 1]] {
        let total = weights.iter().sum();
        assert_eq!(counts(Balancer::RoundRobin, weights, &Pool::default(), total), weights);
    }
    let (endpoints, mut cursor, mut rng) = (endpoints(&[5, 5]), Cursor::default(), Random(1));
    let spread = Spread::flat(&policy(Balancer::RoundRobin), &endpoints);
    let mut run = 0;
    let mut last = usize::MAX;
    for _ in 0..100 {
        let choice =
            spread.pick(&endpoints, &Ask::default(), &Pool::default(), &mut cursor, &mut rng).expect("one");
        run = if choice == last { run + 1 } else { 1 };
        assert!(run <= 2, "an endpoint got {run} in a row");
        last = choice;
    }
}

#[test]
fn random_and_least_request_are_fair_to_the_idle() {
    for balancer in [Balancer::Random, Balancer::LeastRequest] {
        for count in counts(balancer, &[1, 1, 1, 1], &Pool::default(), 8000) {
            assert!((1800..2200).contains(&count), "{balancer:?} gave {count} of 8000");
        }
        let unequal = counts(balancer, &[3, 1], &Pool::default(), 8000);
        assert!((5800..6200).contains(&unequal[0]), "{balancer:?} gave {unequal:?} for 3:1");
    }
}

#[test]
fn least_request_avoids_the_busy_and_random_does_not() {
    let live = Pool { active: vec![10, 0, 0, 0], ..Pool::default() };
    let least = counts(Balancer::LeastRequest, &[1, 1, 1, 1], &live, 8000);
    // Only drawn against itself: 1 in 16.
    assert!((350..650).contains(&least[0]), "{least:?}");
    let random = counts(Balancer::Random, &[1, 1, 1, 1], &live, 8000);
    assert!(random[0] > 1800, "{random:?}");
    // With unequal weights: 2/(10+1) against 1/(0+1).
    let live = Pool { active: vec![10, 0], ..Pool::default() };
    let weighted = counts(Balancer::LeastRequest, &[2, 1], &live, 8000);
    assert!((1000..1450).contains(&weighted[0]), "{weighted:?}");
}

#[test]
fn the_ejected_get_nothing_and_the_rest_all() {
    let live = Pool { ejected: vec![1], ..Pool::default() };
    for balancer in [Balancer::RoundRobin, Balancer::Random, Balancer::LeastRequest] {
        for weights in [&[1, 1, 1][..], &[1, 5, 2]] {
            let counts = counts(balancer, weights, &live, 600);
            assert_eq!(counts[1], 0, "{balancer:?}");
            assert!(counts[0] > 100 && counts[2] > 100, "{balancer:?} {counts:?}");
        }
    }
}

#[test]
fn no_endpoint_is_an_error_that_says_which() {
    let all = Pool { ejected: vec![0, 1], ..Pool::default() };
    let picked = |balancer, weights: &[u32]| {
        let endpoints = endpoints(weights);
        let spread = Spread::flat(&policy(balancer), &endpoints);
        spread.pick(&endpoints, &Ask::default(), &all, &mut Cursor::default(), &mut Random(1))
    };
    for balancer in ALL {
        for weights in [&[1, 1][..], &[1, 2]] {
            assert_eq!(picked(balancer, weights), Err(NoEndpoint::AllUnavailable), "{balancer:?}");
        }
        assert_eq!(picked(balancer, &[]), Err(NoEndpoint::Empty));
    }
}

#[test]
fn a_retry_goes_elsewhere_if_there_is_an_elsewhere() {
    let ask = Ask { tried: &[0], avoids_tried: true, ..Ask::default() };
    let picks = |balancer, weights: &[u32], picks| {
        asked(&policy(balancer), weights, None, &ask, &Pool::default(), picks)
    };
    assert_eq!(picks(Balancer::RoundRobin, &[1, 1], 100)[0], 0);
    for balancer in ALL {
        assert!(picks(balancer, &[1, 1], 1000)[0] < 60, "{balancer:?}");
    }
    assert_eq!(picks(Balancer::RoundRobin, &[1], 10), [10]);
    // Unless it may go where it was.
    let ask = Ask { avoids_tried: false, ..ask };
    let stays = asked(&policy(Balancer::RoundRobin), &[1, 1], None, &ask, &Pool::default(), 100);
    assert_eq!(stays, [50, 50]);
}

#[test]
fn a_retry_by_a_key_goes_elsewhere_only_if_asked_to() {
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        for key in 0..15u64 {
            let hash = Some(xxhash::hash(&key.to_le_bytes(), 0));
            let first = owner(&policy(balancer), &[1; 5], hash, &Pool::default());
            let tried = [first];
            let pick = |avoids_tried| {
                let ask = Ask { hash, tried: &tried, avoids_tried, ..Ask::default() };
                asked(&policy(balancer), &[1; 5], None, &ask, &Pool::default(), 1)[first]
            };
            assert_eq!(pick(false), 1);
            assert_eq!(pick(true), 0, "{balancer:?} {key}");
        }
    }
}

/// Where a key leads.
fn owner(policy: &Policy, weights: &[u32], hash: Option<u64>, live: &Pool) -> usize {
    let ask = Ask { hash, ..Ask::default() };
    asked(policy, weights, None, &ask, live, 1).iter().position(|&count| count > 0).expect("one")
}

fn owners(spread: &Spread, endpoints: &[Endpoint], live: &Pool, keys: u64) -> Vec<SocketAddr> {
    (0..keys)
        .map(|key| {
            let ask = Ask { hash: Some(xxhash::hash(&key.to_le_bytes(), 0)), ..Ask::default() };
            let index = spread.pick(endpoints, &ask, live, &mut Cursor::default(), &mut Random(1));
            endpoints[index.expect("an endpoint")].address
        })
        .collect()
}

fn moved(before: &[SocketAddr], after: &[SocketAddr]) -> f64 {
    let moved = before.iter().zip(after).filter(|(a, b)| a != b).count();
    moved as f64 / before.len() as f64
}

#[test]
fn a_key_keeps_its_endpoint_when_others_come_and_go() {
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        let policy = policy(balancer);
        let all = endpoints(&[1; 10]);
        let before = owners(&Spread::flat(&policy, &all), &all, &Pool::default(), 5000);
        let fewer = &all[..9];
        let after = owners(&Spread::flat(&policy, fewer), fewer, &Pool::default(), 5000);
        let fraction = moved(&before, &after);
        // One in ten must move; Maglev moves a few more.
        assert!((0.05..0.17).contains(&fraction), "{balancer:?} moved {fraction}");
        // The order of endpoints is of no account.
        let mut turned = all.clone();
        turned.reverse();
        let after = owners(&Spread::flat(&policy, &turned), &turned, &Pool::default(), 5000);
        assert!(moved(&before, &after) < 0.001, "{balancer:?}");
        // Nor does an ejection move the keys of others.
        let ejected = Pool { ejected: vec![3], ..Pool::default() };
        let after = owners(&Spread::flat(&policy, &all), &all, &ejected, 5000);
        let lost = before.iter().filter(|address| **address == all[3].address).count() as f64 / 5000.0;
        assert_eq!(moved(&before, &after), lost, "{balancer:?}");
    }
}

#[test]
fn hash_tables_heed_weights() {
    for (balancer, near) in [(Balancer::RingHash, 0.06), (Balancer::Maglev, 0.02)] {
        let all = endpoints(&[1, 2, 5]);
        let picked = owners(&Spread::flat(&policy(balancer), &all), &all, &Pool::default(), 20_000);
        for (endpoint, want) in all.iter().zip([0.125, 0.25, 0.625]) {
            let share = picked.iter().filter(|it| **it == endpoint.address).count() as f64 / 20_000.0;
            assert!((share - want).abs() < near, "{balancer:?} gave {share} for {want}");
        }
    }
}

#[test]
fn maglev_is_even_and_the_ring_nearly() {
    for (balancer, near) in [(Balancer::RingHash, 0.04), (Balancer::Maglev, 0.01)] {
        let all = endpoints(&[1; 10]);
        let picked = owners(&Spread::flat(&policy(balancer), &all), &all, &Pool::default(), 20_000);
        for endpoint in &all {
            let share = picked.iter().filter(|it| **it == endpoint.address).count() as f64 / 20_000.0;
            assert!((share - 0.1).abs() < near, "{balancer:?} gave {share}");
        }
    }
}

#[test]
fn without_a_key_hashing_is_random() {
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        for count in counts(balancer, &[1, 1, 1, 1], &Pool::default(), 8000) {
            assert!((1500..2500).contains(&count), "{balancer:?} gave {count} of 8000");
        }
    }
}

#[test]
fn a_table_is_made_once_for_the_same_endpoints() {
    let (tables, all) = (Tables::default(), endpoints(&[1, 1]));
    let maglev = policy(Balancer::Maglev);
    let a = Spread::new(&maglev, &all, None, &tables);
    let b = Spread::new(&maglev, &endpoints(&[1, 1]), None, &tables);
    owners(&a, &all, &Pool::default(), 1);
    assert!(a.tables[0].is_made() && b.tables[0].is_made());
    let other = Spread::new(&maglev, &endpoints(&[1, 2]), None, &tables);
    assert!(!other.tables[0].is_made());
}

#[test]
fn the_next_snapshot_takes_over_what_was_made_and_nothing_else() {
    let (first, second) = (Tables::default(), Tables::default());
    let (all, others) = (endpoints(&[1, 1]), endpoints(&[1, 2]));
    let maglev = policy(Balancer::Maglev);
    owners(&Spread::new(&maglev, &all, None, &first), &all, &Pool::default(), 1);
    Spread::new(&maglev, &others, None, &first);
    second.inherit(&first);
    assert!(Spread::new(&maglev, &all, None, &second).tables[0].is_made());
    assert!(!Spread::new(&maglev, &others, None, &second).tables[0].is_made());
    // Used by nobody since, it is forgotten.
    let (third, fourth) = (Tables::default(), Tables::default());
    fourth.inherit(&third);
    assert!(!Spread::new(&maglev, &all, None, &fourth).tables[0].is_made());
}

#[test]
fn large_tables_are_offered_before_a_pick_has_to_make_them() {
    let all = endpoints(&[1, 1]);
    let of = |table| {
        let hash = ConsistentHash { key: None, table };
        Spread::flat(&Policy { consistent_hash: Some(Arc::new(hash)), ..policy(Balancer::RingHash) }, &all)
    };
    for usual in [HashTable::Ring { minimum_size: 1024 }, HashTable::Maglev { size: 65_537 }] {
        assert!(of(usual).unmade().is_none(), "{usual:?}");
    }
    for large in [HashTable::Ring { minimum_size: 200_000 }, HashTable::Maglev { size: 200_003 }] {
        let spread = of(large);
        spread.unmade().expect("a large table").make();
        assert!(spread.unmade().is_none() && spread.tables[0].is_made(), "{large:?}");
    }
    assert!(Spread::flat(&policy(Balancer::LeastRequest), &all).unmade().is_none());
}

#[test]
fn a_ring_is_bounded_whatever_is_asked_for() {
    let even: Vec<_> = endpoints(&[1; 3]).iter().map(|it| (it.address, 1.0 / 3.0)).collect();
    let (tiny, huge) = (even[0].0, even[1].0);
    let uneven = [(tiny, 1e-9), (huge, 1.0 - 1e-9)];
    for (hosts, minimum, want) in [
        (&even[..], 1024, 1026.0),
        (&even, u64::MAX, MAX_RING as f64),
        (&even, 0, 3.0),
        (&uneven, 1024, MAX_RING as f64),
        (&[], 1024, 1024.0),
    ] {
        let places = ring_hash::places(hosts, minimum);
        assert!((places - want).abs() < 1e-6, "{minimum} for {hosts:?}: {places}");
    }
}

/// Levels of so many endpoints each, without groups.
fn levels(sizes: &[usize], panic_percent: u32) -> Levels {
    let mut start = 0;
    let mut level = |size: &usize| {
        let range = start..start + size;
        start = range.end;
        Level { range, groups: Box::from([]), is_even: true }
    };
    Levels { levels: sizes.iter().map(&mut level).collect(), panic_percent, zones: None }
}

fn leveled(balancer: Balancer, levels: Levels, ask: &Ask<'_>, ejected: &[usize]) -> Vec<u32> {
    let count = levels.levels.last().map_or(0, |level| level.range.end);
    let live = Pool { ejected: ejected.to_vec(), ..Pool::default() };
    asked(&policy(balancer), &vec![1; count], Some(levels), ask, &live, 4000)
}

fn near(counts: &[u32], want: &[u32]) -> bool {
    counts.len() == want.len() && counts.iter().zip(want).all(|(got, want)| got.abs_diff(*want) < 200)
}

#[test]
fn the_next_priority_takes_what_the_first_cannot() {
    for balancer in [Balancer::RoundRobin, Balancer::Random, Balancer::LeastRequest] {
        let picks = |ejected: &[usize]| leveled(balancer, levels(&[2, 2], 0), &Ask::default(), ejected);
        assert!(near(&picks(&[]), &[2000, 2000, 0, 0]), "{balancer:?}");
        // Half of the first are well: 70 %.
        let half = picks(&[0]);
        assert!(near(&half, &[0, 2800, 600, 600]), "{balancer:?} {half:?}");
        let none = picks(&[0, 1]);
        assert!(near(&none, &[0, 0, 2000, 2000]), "{balancer:?} {none:?}");
    }
    // By key, each key has its place in one of the levels.
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        let all = leveled(balancer, levels(&[2, 2], 0), &Ask::default(), &[0]);
        assert!(all[0] == 0 && all[1].abs_diff(2800) < 200, "{balancer:?} {all:?}");
    }
}

#[test]
fn in_panic_the_ejected_are_used_too() {
    let picks = |panic_percent| {
        let (levels, live) =
            (levels(&[4], panic_percent), Pool { ejected: vec![0, 1, 2], ..Pool::default() });
        asked(&policy(Balancer::Random), &[1; 4], Some(levels), &Ask::default(), &live, 4000)
    };
    assert_eq!(picks(0), [0, 0, 0, 4000]);
    assert_eq!(picks(20), [0, 0, 0, 4000]);
    assert!(near(&picks(50), &[1000; 4]), "{:?}", picks(50));
}

#[test]
fn a_retry_leaves_its_locality_after_two_tries() {
    let picks = |tried: &[usize], leaves_tried| {
        let ask = Ask { tried, leaves_tried, ..Ask::default() };
        leveled(Balancer::RoundRobin, levels(&[2, 2, 1], 0), &ask, &[])
    };
    assert_eq!(picks(&[0], true), [2000, 2000, 0, 0, 0]);
    assert_eq!(picks(&[0, 1], true), [0, 0, 2000, 2000, 0]);
    assert_eq!(picks(&[0, 1, 2, 3], true), [0, 0, 0, 0, 4000]);
    assert_eq!(picks(&[0, 1], false), [2000, 2000, 0, 0, 0]);
}

#[test]
fn localities_share_by_their_weights() {
    let group = |range, weight| Group { range, weight, is_even: true };
    let grouped = || {
        let mut levels = levels(&[4], 0);
        levels.levels[0].groups = [group(0..1, 80), group(1..4, 20)].into();
        levels
    };
    for balancer in [Balancer::RoundRobin, Balancer::Random, Balancer::LeastRequest] {
        let picks = leveled(balancer, grouped(), &Ask::default(), &[]);
        assert!(picks[0].abs_diff(3200) < 10, "{balancer:?} {picks:?}");
        assert!(near(&picks, &[3200, 267, 267, 267]), "{balancer:?} {picks:?}");
        // A third of the second is left: it keeps 1.4 / 3 of its weight.
        let picks = leveled(balancer, grouped(), &Ask::default(), &[1, 2]);
        assert!(near(&picks, &[3582, 0, 0, 418]), "{balancer:?} {picks:?}");
    }
    // Hash tables have the shares in them.
    let picks = leveled(Balancer::Maglev, grouped(), &Ask::default(), &[]);
    assert!(near(&picks, &[3200, 267, 267, 267]), "{picks:?}");
}

#[test]
fn a_new_endpoint_gets_little_at_first() {
    let warmup = Warmup { duration: Duration::from_secs(100), minimum_percent: 10.0, aggression: 1.0 };
    for balancer in [Balancer::RoundRobin, Balancer::LeastRequest] {
        let policy = Policy { warmup: Some(warmup), ..policy(balancer) };
        let picks = |ages: &[u64]| {
            let live = Pool { ages: ages.to_vec(), ..Pool::default() };
            asked(&policy, &[1, 1], None, &Ask::default(), &live, 4400)
        };
        let fresh = picks(&[1000, 0]);
        assert!(near(&fresh, &[4000, 400]), "{balancer:?} {fresh:?}");
        assert!(near(&picks(&[1000, 100]), &[2200, 2200]), "{balancer:?}");
        // All are new, as when the proxy starts: nobody is behind.
        assert!(near(&picks(&[5, 5]), &[2200, 2200]), "{balancer:?}");
    }
}
