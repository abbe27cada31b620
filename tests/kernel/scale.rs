//! A cluster of two hundred services, read and followed as a large one is (docs/scale.md): what cannot be told from times.

use std::time::Duration;

use undermesh_tests::{Binaries, can_run_here};
use undermesh_worlds::cluster::Size;

use cluster::{Cluster, quantile};

#[path = "../scale/cluster.rs"]
mod cluster;

/// Kinds that are read.
const KINDS: usize = 15;

#[test]
fn a_changed_rule_is_obeyed_while_endpoints_come_and_go_and_little_is_asked_at_rest() -> anyhow::Result<()> {
    if !can_run_here("a_changed_rule_is_obeyed_while_endpoints_come_and_go_and_little_is_asked_at_rest") {
        return Ok(());
    }
    let binaries = Binaries::for_tests()?;
    let (mut cluster, start) = Cluster::set(Size::SHORT, &binaries.undermesh, &binaries.bookinfo)?;
    let read = cluster.asked();
    // A list, which is a watch, for each kind; discovery of the groups; not one question for each object or page.
    assert!(read.requests < 3 * KINDS, "{} requests to read it all", read.requests);
    let rest = Duration::from_secs(12);
    std::thread::sleep(rest);
    let at_rest = cluster.asked();
    // Looking for missing kinds, twice at most in this time; nothing is read again.
    assert!(at_rest.requests - read.requests <= 8, "{} requests at rest", at_rest.requests - read.requests);
    assert!(at_rest.bytes - read.bytes < 64 << 10, "{} bytes at rest", at_rest.bytes - read.bytes);

    let changes =
        |cluster: &mut Cluster| (0..10).map(|_| cluster.change()).collect::<anyhow::Result<Vec<_>>>();
    let (times, took) = cluster.churning(100, changes);
    let times = times?;
    println!("ready after {:?}, {:?} of a processor; effects {times:?}", start.time, start.cpu);
    assert!(quantile(&times, 0.99) < Duration::from_secs(10), "{times:?}");
    let churn = cluster.asked();
    assert!(churn.requests - at_rest.requests <= 8, "{} requests", churn.requests - at_rest.requests);
    // Each change is sent once: a slice of ten endpoints is some kilobytes.
    let most = 150.0 * took.as_secs_f64() * 16.0 * 1024.0 + 64.0 * 1024.0;
    assert!(
        ((churn.bytes - at_rest.bytes) as f64) < most,
        "{} bytes in {took:?}",
        churn.bytes - at_rest.bytes
    );
    let memory = cluster.taken()?;
    assert!(memory.resident < 300 << 10 && memory.peak < 300 << 10, "{memory:?}");
    Ok(())
}
