use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::cluster::Workload;

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
    tried: Vec<usize>,
}

impl Live for Pool {
    fn active(&self, endpoint: usize) -> u32 {
        self.active.get(endpoint).copied().unwrap_or(0)
    }

    fn is_available(&self, endpoint: usize) -> bool {
        !self.ejected.contains(&endpoint)
    }

    fn was_tried(&self, endpoint: usize) -> bool {
        self.tried.contains(&endpoint)
    }
}

fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
    let endpoint = |weight: &u32| Endpoint {
        address: ([10, 0, 0, 1], 80).into(),
        id: "e".into(),
        workload: Arc::new(Workload::default()),
        labels: Arc::new(BTreeMap::new()),
        locality: "".into(),
        weight: *weight,
    };
    weights.iter().map(endpoint).collect()
}

fn counts(balancer: Balancer, weights: &[u32], live: &Pool, picks: u32) -> Vec<u32> {
    let (endpoints, mut cursor, mut rng) = (endpoints(weights), 0, Random(7));
    let mut counts = vec![0; weights.len()];
    for _ in 0..picks {
        counts[pick_from(balancer, &endpoints, live, &mut cursor, &mut rng).expect("an endpoint")] += 1;
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
    let (endpoints, mut cursor, mut rng) = (endpoints(&[5, 5]), 0, Random(1));
    let mut run = 0;
    let mut last = usize::MAX;
    for _ in 0..100 {
        let choice = pick_from(Balancer::RoundRobin, &endpoints, &Pool::default(), &mut cursor, &mut rng)
            .expect("one");
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
    let (mut cursor, mut rng) = (0, Random(1));
    for balancer in [Balancer::RoundRobin, Balancer::Random, Balancer::LeastRequest] {
        for weights in [&[1, 1][..], &[1, 2]] {
            let picked = pick_from(balancer, &endpoints(weights), &all, &mut cursor, &mut rng);
            assert_eq!(picked, Err(NoEndpoint::AllUnavailable));
        }
        assert_eq!(pick_from(balancer, &[], &all, &mut cursor, &mut rng), Err(NoEndpoint::Empty));
    }
}

#[test]
fn a_retry_goes_elsewhere_if_there_is_an_elsewhere() {
    let live = Pool { tried: vec![0], ..Pool::default() };
    assert_eq!(counts(Balancer::RoundRobin, &[1, 1], &live, 100)[0], 0);
    assert!(counts(Balancer::Random, &[1, 1], &live, 1000)[0] < 60);
    assert_eq!(counts(Balancer::RoundRobin, &[1], &live, 10), [10]);
}
