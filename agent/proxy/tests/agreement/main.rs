//! `explain` says what the live proxy does: random meshes and requests, real sockets through the real proxy, and for each
//! request what came of it (response, access log, what the upstream saw) against `explain`'s JSON.
//!
//! The other half, without sockets but with many draws, is `tests/worlds/tests/agreement.rs`. This one
//! runs again in a network namespace in which every address is local (needs root), so that what is dialled and what is
//! forwarded to are the world's own addresses.
//!
//! ```text
//!   cargo test -p undermesh-proxy --test agreement
//!   SEED=17 ...    one world again
//!   SEEDS=500 ...  more worlds than usual
//! ```
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

mod compare;
mod falsify;
mod live;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use undermesh_core::compile::compile;
use undermesh_core::explain::{Request, explain};
use undermesh_worlds::chance::Chance;
use undermesh_worlds::random::{World, request};

use crate::compare::{Saw, agrees};
use crate::live::Node;

const REQUESTS: usize = 40;

/// Set in the namespace.
const INSIDE: &str = "UNDERMESH_EVERY_ADDRESS";

/// Runs the test in a process of its own whose network namespace has every address. Without root it says so and passes, with
/// `CI=true` it fails.
fn again_with_every_address(test: &str) {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.arg("--net");
        command
    };
    let can = unshare().arg("true").output();
    if !can.as_ref().is_ok_and(|it| it.status.success()) {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "no network namespace can be made: {can:?}");
        println!("{test}: skipped, no network namespace can be made here: {can:?}");
        return;
    }
    let script = "ip link set lo up && ip route add local 0.0.0.0/0 dev lo && exec \"$@\"";
    let own = std::env::current_exe().unwrap();
    let inside = unshare()
        .args(["sh", "-c", script, "sh"])
        .arg(own)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&inside.stdout));
    assert!(inside.status.success(), "{}", String::from_utf8_lossy(&inside.stderr));
}

/// What has been seen, so that a run that shows nothing is noticed.
#[derive(Default)]
struct Tally {
    /// By outcome.
    outcomes: BTreeMap<String, usize>,
    /// Falsified explanations that were noticed, by what was false.
    noticed: BTreeMap<&'static str, usize>,
    problems: Vec<String>,
}

#[test]
fn explain_agrees_with_what_the_proxy_did() {
    if std::env::var_os(INSIDE).is_none() {
        return again_with_every_address("explain_agrees_with_what_the_proxy_did");
    }
    live::start_upstreams().unwrap();
    let number = |name: &str| std::env::var(name).ok().and_then(|it| it.parse::<u64>().ok());
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(30),
    };
    let is_one = seeds.end - seeds.start < 10;
    let began = Instant::now();
    let mut tally = Tally::default();
    for seed in seeds.clone() {
        world(seed, &mut tally).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    println!("seeds {seeds:?} in {:.1?}: {:?}, noticed {:?}", began.elapsed(), tally.outcomes, tally.noticed);
    assert!(tally.problems.is_empty(), "{}: {}", tally.problems.len(), tally.problems.join("\n\n"));
    if !is_one {
        let outcomes: BTreeSet<_> = tally.outcomes.keys().map(String::as_str).collect();
        for outcome in ["forward", "redirect", "direct_response", "abort", "reject", "passthrough"] {
            assert!(outcomes.contains(outcome), "no request had the outcome {outcome}: {outcomes:?}");
        }
        let noticed: BTreeSet<_> = tally.noticed.keys().copied().collect();
        assert_eq!(noticed, falsify::KINDS.into(), "each kind of falsehood was there to be noticed");
    }
}

/// One world: all its requests are sent, then each is compared.
fn world(seed: u64, tally: &mut Tally) -> std::io::Result<()> {
    let mut chance = Chance::new(seed);
    let world = World::new(60 + chance.below(80), &mut chance);
    let snapshot = compile(&world.inputs).snapshot.with_generation(seed + 1);
    let mut node = Node::start(snapshot.clone())?;
    let mut sent: Vec<(usize, Request, Value, Saw)> = Vec::new();
    for round in 0..REQUESTS {
        let request = request(&mut chance);
        let explained = serde_json::to_value(explain(&snapshot, &request))?;
        if explained["path"] == "none" {
            // Never meets a proxy.
            *tally.outcomes.entry("untouched".to_owned()).or_default() += 1;
            continue;
        }
        let saw = node.send(&request, &snapshot)?;
        sent.push((round, request, explained, saw));
    }
    let peers: Vec<_> = sent.iter().map(|(.., saw)| saw.client).collect();
    let mut lines = node.log_lines(&peers);
    for (round, request, explained, mut saw) in sent {
        saw.log = lines.remove(&saw.client).unwrap_or_default();
        let what =
            |why: &str| format!("seed {seed} round {round}: {why}\n  {request:?}\n  {saw:?}\n  {explained}");
        if let Err(why) = agrees(&explained, &request, &saw) {
            tally.problems.push(what(&why));
            continue;
        }
        *tally.outcomes.entry(explained["outcome"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        for (kind, falsehood) in falsify::all(&explained, &saw) {
            match agrees(&falsehood, &request, &saw) {
                Err(_) => *tally.noticed.entry(kind).or_default() += 1,
                Ok(()) => tally.problems.push(what(&format!("a false {kind} is not noticed"))),
            }
        }
    }
    node.end();
    Ok(())
}
