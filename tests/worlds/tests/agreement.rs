//! What `explain` says of a request is what routing does with it: random worlds, random requests, many draws.

use undermesh_core::compile::compile;
use undermesh_core::explain::OutcomeName;
use undermesh_worlds::agreement::check;
use undermesh_worlds::chance::Chance;
use undermesh_worlds::random::{World, request};

#[test]
fn explain_agrees_with_what_is_decided() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(25);
    let (mut forwarded, mut ruled, mut answered) = (0, 0, 0);
    for seed in 0..seeds {
        let mut chance = Chance::new(seed);
        let world = World::new(60 + chance.below(80), &mut chance);
        let snapshot = compile(&world.inputs).snapshot;
        for round in 0..40 {
            let request = request(&mut chance);
            let answer = check(&snapshot, &request, 40, &mut chance)
                .unwrap_or_else(|what| panic!("seed {seed} round {round}: {request:?}\n{what}"));
            forwarded += usize::from(answer.outcome == OutcomeName::Forward);
            ruled += usize::from(answer.rule.is_some());
            answered += usize::from(answer.status.is_some());
        }
    }
    // The generator makes requests that mean something.
    let all = seeds as usize * 40;
    assert!(
        forwarded > all / 6 && ruled > all / 12 && answered > all / 20,
        "{forwarded} {ruled} {answered} of {all}"
    );
}

#[test]
fn shares_are_explained_as_they_are_drawn() {
    let mut chance = Chance::new(5);
    for _ in 0..5 {
        let world = World::new(120, &mut chance);
        let snapshot = compile(&world.inputs).snapshot;
        for _ in 0..10 {
            check(&snapshot, &request(&mut chance), 2_000, &mut chance)
                .unwrap_or_else(|what| panic!("{what}"));
        }
    }
}
