//! One agent in a large cluster and in a small one: memory, processor, what the API server is asked for, and how soon a changed
//! rule is obeyed. Prints a part of docs/scale.md. Needs root.
//!
//! The agent is a process of its own, in the role it has on a node, with pods whose sockets it captures; the API server, in
//! memory, is a thread of this process. Times of the machine's clock have all that the machine does beside in them.

mod cluster;

use std::time::Duration;

use undermesh_tests::{Binaries, Profile};
use undermesh_worlds::cluster::Size;

use cluster::{Asked, Cluster, Taken, quantile};

/// Changes of a rule, one after another.
const CHANGES: usize = 100;
/// Between two.
const PAUSE: Duration = Duration::from_millis(150);
/// Changes of endpoints each second.
const CHURN: u32 = 100;
/// What is asked for at rest is counted for so long.
const REST: Duration = Duration::from_secs(60);

/// What it should be.
struct Targets {
    name: &'static str,
    resident_mib: u64,
    effect: Duration,
}

fn main() -> anyhow::Result<()> {
    // Cargo's own arguments, such as --bench.
    let binaries = match Binaries::given() {
        Some(given) => given,
        None => Binaries::build(Profile::Release)?,
    };
    let large = Targets { name: "large", resident_mib: 150, effect: Duration::from_secs(1) };
    let small = Targets { name: "small", resident_mib: 30, effect: Duration::from_millis(250) };
    let mut rows = Vec::new();
    for (size, targets) in [(Size::LARGE, large), (Size::SMALL, small)] {
        eprintln!("scale: the {} cluster", targets.name);
        rows.push(column(size, &targets, &binaries)?);
    }
    println!("\n## One agent\n");
    println!(
        "The role of a node's agent, with two pods of its own, and the API server in memory as another process. Large: {}. Small: {}.\n",
        size(Size::LARGE),
        size(Size::SMALL)
    );
    println!("| what | large | target | small | target |\n|---|---:|---:|---:|---:|");
    let [large, small] = &*rows else { anyhow::bail!("two columns") };
    for ((what, seen, target), (_, small_seen, small_target)) in large.iter().zip(small) {
        println!("| {what} | {seen} | {target} | {small_seen} | {small_target} |");
    }
    Ok(())
}

fn size(size: Size) -> String {
    format!(
        "{} Services, {} endpoints, {} pods, {} nodes, {} VirtualServices and as many DestinationRules",
        size.services,
        size.endpoints(),
        size.pods(),
        size.nodes,
        size.rules
    )
}

type Row = (&'static str, String, String);

fn column(size: Size, targets: &Targets, binaries: &Binaries) -> anyhow::Result<Vec<Row>> {
    let (mut cluster, start) = Cluster::set(size, &binaries.undermesh, &binaries.bookinfo)?;
    let read = cluster.asked();
    // The first minute has the second listing of kinds that came late, and the allocator's last word.
    std::thread::sleep(Duration::from_secs(10));
    let (asked, before) = (cluster.asked(), cluster.taken()?);
    std::thread::sleep(REST);
    let (at_rest, rest) = (since(cluster.asked(), asked), cluster.taken()?);
    let quiet = effects(&mut cluster)?;
    let (asked, before_churn) = (cluster.asked(), cluster.taken()?);
    let (churned, time) = cluster.churning(CHURN, effects);
    let churned = churned?;
    let (churn, after) = (since(cluster.asked(), asked), cluster.taken()?);
    let target = || format!("< {} MiB", targets.resident_mib);
    let effect = || format!("< {} ms", targets.effect.as_millis());
    Ok(vec![
        ("from its start to ready", seconds(start.time), String::new()),
        ("processor until then", seconds(start.cpu), String::new()),
        (
            "asked of the API server until then: requests, MiB",
            format!("{}, {:.1}", read.requests, mebibytes(read.bytes)),
            String::new(),
        ),
        ("resident at rest", resident(rest), target()),
        ("resident at most, until then", format!("{} MiB", rest.peak >> 10), String::new()),
        ("processor, with the pod's 500 requests a second alone", share(rest, before, REST), String::new()),
        ("asked at rest, a minute: requests, KiB", per_minute(at_rest, REST), String::new()),
        (
            "a rule's change to the first request that obeys it, p50",
            milliseconds(quantile(&quiet, 0.5)),
            String::new(),
        ),
        ("the same, p99", milliseconds(quantile(&quiet, 0.99)), effect()),
        (
            "the same while 100 endpoints a second come and go, p50",
            milliseconds(quantile(&churned, 0.5)),
            String::new(),
        ),
        ("the same, p99", milliseconds(quantile(&churned, 0.99)), effect()),
        ("the same, at most", milliseconds(quantile(&churned, 1.0)), String::new()),
        ("processor meanwhile", share(after, before_churn, time), String::new()),
        ("asked meanwhile, a minute: requests, KiB", per_minute(churn, time), String::new()),
        ("resident after it", resident(after), target()),
        ("resident at most", format!("{} MiB", after.peak >> 10), String::new()),
    ])
}

fn effects(cluster: &mut Cluster) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..CHANGES {
        times.push(cluster.change()?);
        std::thread::sleep(PAUSE);
    }
    Ok(times)
}

fn since(now: Asked, before: Asked) -> Asked {
    Asked { requests: now.requests - before.requests, bytes: now.bytes - before.bytes }
}

fn per_minute(asked: Asked, time: Duration) -> String {
    let minutes = time.as_secs_f64() / 60.0;
    format!("{:.0}, {:.0}", asked.requests as f64 / minutes, asked.bytes as f64 / 1024.0 / minutes)
}

fn share(now: Taken, before: Taken, time: Duration) -> String {
    format!("{:.1} %", (now.cpu - before.cpu).as_secs_f64() / time.as_secs_f64() * 100.0)
}

fn resident(taken: Taken) -> String {
    format!("{} MiB", taken.resident >> 10)
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn milliseconds(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
