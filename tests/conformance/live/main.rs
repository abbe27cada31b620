//! Conformance, the live half: every case of `cases/` (but those of admission) with real sockets through the real proxy.
//!
//! ```text
//!   client ──▶ [ proxy of the node ] ──▶ (gateway's proxy) ──▶ upstream     each case in a network namespace of its own, where
//!              snapshot = compile(case)                                     every address of the case is a local one
//! ```
//!
//! The kernel's half is played by a table that knows what each client dialled (`mesh.rs`); all else is what runs in
//! production: compiled snapshot, proxy, access log, clock. Upstreams are scripted by `behaviour` and record what they see.
//!
//! Needs root, for the namespaces. Without it the run says so and passes, with `CI=true` it fails.
//!
//! ```text
//!   cargo test -p undermesh-tests --test conformance                      all cases
//!   cargo test -p undermesh-tests --test conformance -- retry- mirror-50  those whose name contains one of these
//!   CONFORMANCE_TRACE=1 ...                                               says what was seen of every group of requests
//!   CONFORMANCE_JOBS=1 ...                                                one case at a time (default 8)
//! ```
//!
//! `known.rs` lists the cases that fail. The list is exact.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

mod case;
mod certificates;
mod check;
mod client;
mod explained;
mod group;
mod known;
mod mesh;
mod message;
mod run;
mod token;
mod topology;
mod twin;
mod upstream;
mod upstream_http1;
mod upstream_http2;
mod wire;
// Shared with the offline half, which also explains.
#[path = "../world.rs"]
#[allow(dead_code, reason = "the offline half uses the rest")]
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::anyhow;
use serde_json::Value;
use undermesh_tests::{can_make_namespaces_here, with_every_address};

/// Cases at once. They wait more than they work.
const JOBS: usize = 8;

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|it| !it.starts_with("--")).collect();
    if std::env::args().any(|it| it == "--list") {
        println!("0 tests, 0 benchmarks");
        return ExitCode::SUCCESS;
    }
    if !can_make_namespaces_here("conformance") {
        println!("test result: ok. 0 passed; 0 failed; 1 ignored");
        return ExitCode::SUCCESS;
    }
    let all = world::cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/cases"));
    let mut problems: Vec<String> = Vec::new();
    let names: Vec<&str> = all.iter().map(|it| world::text(&it["name"])).collect();
    let known: BTreeMap<&str, &str> = known::FAILING.iter().copied().collect();
    problems.extend(
        known.keys().filter(|it| !names.contains(it)).map(|it| format!("{it} is on the list but no case")),
    );
    let is_chosen =
        |it: &&Value| filters.is_empty() || filters.iter().any(|f| world::text(&it["name"]).contains(f));
    let mut chosen: Vec<&Value> = all.iter().filter(is_chosen).collect();
    // Those that wait go first.
    chosen.sort_by_key(|it| it["level"] != "timing");
    println!("\nrunning {} cases", chosen.len());
    let began = Instant::now();
    let queue = Mutex::new(VecDeque::from(chosen));
    let (tally, failed) = (Mutex::new([0_usize; 3]), Mutex::new(Vec::<String>::new()));
    let jobs = std::env::var("CONFORMANCE_JOBS").ok().and_then(|it| it.parse().ok()).unwrap_or(JOBS);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().pop_front() else { return };
                    let name = world::text(&case["name"]);
                    let started = Instant::now();
                    let result = with_every_address(|| run::run(case).map_err(|why| anyhow!(why)));
                    let took = started.elapsed();
                    let (index, verdict) = match (result, known.get(name)) {
                        (Ok(()), None) => (0, "ok".to_owned()),
                        (Err(_), Some(reason)) => (2, format!("ignored, fails: {reason}")),
                        (Ok(()), Some(_)) => {
                            failed
                                .lock()
                                .unwrap()
                                .push(format!("{name}: passes now: take it off the list of known.rs"));
                            (1, "FAILED".to_owned())
                        }
                        (Err(why), None) => {
                            failed.lock().unwrap().push(format!("{name}: {why:#}"));
                            (1, "FAILED".to_owned())
                        }
                    };
                    tally.lock().unwrap()[index] += 1;
                    println!("test {name} ... {verdict} ({took:.1?})");
                }
            });
        }
    });
    problems.extend(failed.into_inner().unwrap());
    let [passed, _, ignored] = tally.into_inner().unwrap();
    let result = if problems.is_empty() { "ok" } else { "FAILED" };
    if !problems.is_empty() {
        println!("\nfailures:\n");
        for problem in &problems {
            println!("{problem}\n");
        }
    }
    println!(
        "\ntest result: {result}. {passed} passed; {} failed; {ignored} ignored; 0 measured; 0 filtered out; finished in {:.2?}\n",
        problems.len(),
        began.elapsed()
    );
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
