//! Connections that say nothing: what a proxy keeps for each of them.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

use crate::fleet::{Fleet, Outcome};
use crate::request::Request;

/// Requests under way at a time, so that the proxy needs no more upstream connections than in the loaded runs.
const AT_ONCE: usize = 64;
/// By then all must have been answered.
const LIMIT: Duration = Duration::from_secs(30);

/// Opens `size` connections, has one request answered on each, prints `ready` and stays silent for `hold`.
pub fn run(target: SocketAddr, size: usize, request: &Request, hold: Duration) -> anyhow::Result<()> {
    let mut fleet = Fleet::open(target, size)?;
    let (begun, mut answered, mut next) = (Instant::now(), 0, 0);
    let mut outcomes = Vec::new();
    while answered < size {
        ensure!(begun.elapsed() < LIMIT, "only {answered} of {size} connections were answered in {LIMIT:?}");
        while next < size.min(answered + AT_ONCE) {
            fleet.send(next, request, Instant::now())?;
            next += 1;
        }
        fleet.wait(Duration::from_millis(100), &mut outcomes)?;
        for outcome in &outcomes {
            match outcome {
                Outcome::Answered(..) => answered += 1,
                Outcome::Ended(slot, _) => bail!("connection {slot} was ended by the peer"),
            }
        }
    }
    println!("ready");
    std::io::stdout().flush()?;
    fleet.wait(Duration::ZERO, &mut outcomes)?;
    std::thread::sleep(hold);
    // Whoever measured must have measured all of them.
    fleet.wait(Duration::ZERO, &mut outcomes)?;
    ensure!(outcomes.is_empty(), "{} connections ended while they were idle", outcomes.len());
    Ok(())
}
