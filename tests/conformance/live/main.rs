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
//! Where it means something a case is run again with HTTP/2 clients, and again over IPv6 (`variant.rs`).
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
mod variant;
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

use crate::world::text;

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
    let known: BTreeMap<&str, &str> = known::FAILING.iter().copied().collect();
    let no_case = known.keys().filter(|it| !all.iter().any(|case| case["name"] == ***it));
    let problems = no_case.map(|it| format!("{it} is on the list but no case")).collect();
    // A case that fails as it is needs no other form.
    let variants = all
        .iter()
        .filter(|it| !known.contains_key(text(&it["name"])))
        .flat_map(|it| [variant::over_http2(it), variant::over_ipv6(it)])
        .flatten();
    let mut chosen: Vec<Value> = all.iter().cloned().chain(variants).collect();
    chosen.retain(|it| filters.is_empty() || filters.iter().any(|part| text(&it["name"]).contains(part)));
    // Those that wait go first.
    chosen.sort_by_key(|it| it["level"] != "timing");
    println!("\nrunning {} cases", chosen.len());
    let began = Instant::now();
    let (queue, results) =
        (Mutex::new(VecDeque::from(chosen)), Mutex::new(Results { problems, ..Results::default() }));
    let again = Mutex::new(Vec::new());
    let jobs = std::env::var("CONFORMANCE_JOBS").ok().and_then(|it| it.parse().ok()).unwrap_or(JOBS);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().pop_front() else { return };
                    let name = text(&case["name"]);
                    let started = Instant::now();
                    let result = with_every_address(|| run::run(&case).map_err(|why| anyhow!(why)));
                    let took = started.elapsed();
                    if let Err(why) = &result
                        && !known.contains_key(name)
                        && is_by_chance(&why.to_string())
                    {
                        println!("test {name} ... once more, alone: {why:#}");
                        again.lock().unwrap().push(case);
                        continue;
                    }
                    let verdict = results.lock().unwrap().take(name, result, known.get(name));
                    println!("test {name} ... {verdict} ({took:.1?})");
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    for case in again.into_inner().unwrap() {
        let result = with_every_address(|| run::run(&case).map_err(|why| anyhow!(why)));
        let name = text(&case["name"]);
        println!("test {name} ... {} the second time", results.take(name, result, known.get(name)));
    }
    results.report(began)
}

/// Whether a machine that is busy, or the dice, can be the reason: then a case is run once more, when all others have ended.
/// Whatever is wrong with the proxy fails again.
fn is_by_chance(why: &str) -> bool {
    why.contains(": it took ") || why.contains(": share of ")
}

/// What came of all cases.
#[derive(Default)]
struct Results {
    passed: usize,
    /// Known to fail.
    ignored: usize,
    problems: Vec<String>,
}

impl Results {
    /// Takes a case's result in; answers the verdict.
    fn take(&mut self, name: &str, result: anyhow::Result<()>, known: Option<&&str>) -> String {
        match (result, known) {
            (Ok(()), None) => {
                self.passed += 1;
                return "ok".to_owned();
            }
            (Err(_), Some(reason)) => {
                self.ignored += 1;
                return format!("ignored, fails: {reason}");
            }
            (Ok(()), Some(_)) => {
                self.problems.push(format!("{name}: passes now: take it off the list of known.rs"));
            }
            (Err(why), None) => self.problems.push(format!("{name}: {why:#}")),
        }
        "FAILED".to_owned()
    }

    /// As libtest says it, so that `cargo xtask test` can add it up.
    fn report(self, began: Instant) -> ExitCode {
        let is_well = self.problems.is_empty();
        if !is_well {
            println!("\nfailures:\n\n{}", self.problems.join("\n\n"));
        }
        println!(
            "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in {:.2?}\n",
            if is_well { "ok" } else { "FAILED" },
            self.passed,
            self.problems.len(),
            self.ignored,
            began.elapsed()
        );
        if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
