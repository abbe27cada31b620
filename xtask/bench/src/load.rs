//! Load for a fixed time: closed loop, open loop, a connection per request.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};

use crate::fleet::{Fleet, Outcome};
use crate::histogram::Histogram;
use crate::request::{Afterwards, Request};

/// Of the time asked for, so much comes before it as warm-up: its latencies are dropped, its requests counted.
const WARM_UP: f64 = 0.1;
/// More lost connections than this are no measurement.
const MOST_FAILURES: u64 = 1000;
/// An open loop is late with a request when all connections are taken for longer than this.
const LATE: Duration = Duration::from_millis(1);
/// The loop looks at the clock at least this often.
const TICK: Duration = Duration::from_millis(20);

/// What to send, where and for how long.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The proxy, or the backend itself.
    pub target: SocketAddr,
    /// How many connections at a time.
    pub connections: usize,
    /// How long, warm-up apart.
    pub time: Duration,
    /// `Host` of the requests.
    pub host: String,
    /// Their path.
    pub path: String,
}

/// When the next request is sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// When the answer to the one before is there.
    Closed,
    /// At this rate per second, come what may. Latency counts from the planned time, so a stall of the server shows in
    /// the requests that had to wait, not only in those under way.
    Open(f64),
    /// As closed, each request on a new connection; latency includes the connect.
    Churn,
}

/// What was seen.
#[derive(Debug)]
pub struct Tally {
    /// All answers, those of the warm-up included: what the proxy's CPU went into.
    pub total: u64,
    /// Latencies after the warm-up.
    pub latencies: Histogram,
    /// Connections lost with an answer due.
    pub failures: u64,
    /// Requests of an open loop that could not be sent within 1 ms of their time.
    pub late: u64,
    /// Time after the warm-up.
    pub elapsed: Duration,
}

impl Tally {
    /// For a line of JSON: counts, rate per second, latencies in microseconds.
    pub fn to_json(&self) -> Value {
        let us = |d: Duration| (d.as_secs_f64() * 1e7).round() / 10.0;
        let seconds = self.elapsed.as_secs_f64();
        json!({
            "total": self.total,
            "measured": self.latencies.len(),
            "seconds": (seconds * 1e3).round() / 1e3,
            "rps": (self.latencies.len() as f64 / seconds).round(),
            "failures": self.failures,
            "late": self.late,
            "mean_us": us(self.latencies.mean()),
            "p50_us": us(self.latencies.quantile(0.5)),
            "p90_us": us(self.latencies.quantile(0.9)),
            "p99_us": us(self.latencies.quantile(0.99)),
            "p999_us": us(self.latencies.quantile(0.999)),
            "max_us": us(self.latencies.max()),
        })
    }
}

/// Sends load as planned.
pub fn run(plan: &Plan, mode: Mode) -> anyhow::Result<Tally> {
    ensure!(plan.connections > 0, "at least one connection");
    ensure!(!matches!(mode, Mode::Open(rate) if rate <= 0.0), "the rate must be above 0");
    let afterwards = if mode == Mode::Churn { Afterwards::Close } else { Afterwards::KeepAlive };
    let request = Request::get(&plan.host, &plan.path, afterwards);
    let mut fleet = Fleet::open(plan.target, plan.connections)?;
    let mut tally =
        Tally { total: 0, latencies: Histogram::default(), failures: 0, late: 0, elapsed: Duration::ZERO };

    let start = Instant::now();
    let measured_from = start + plan.time.mul_f64(WARM_UP);
    let end = measured_from + plan.time;
    let mut schedule = Schedule::new(mode, start);
    let mut free: VecDeque<usize> = (0..fleet.size()).collect();
    let mut outcomes = Vec::new();
    let mut warm = false;
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        if !warm && now >= measured_from {
            warm = true;
            tally.latencies.clear();
            (tally.failures, tally.late) = (0, 0);
        }
        while let Some(slot) = free.pop_front() {
            let Some(due) = schedule.next(Instant::now()) else {
                free.push_front(slot);
                break;
            };
            if due.elapsed() > LATE {
                tally.late += 1;
            }
            fleet.send(slot, &request, due)?;
        }
        fleet.wait(schedule.pause(Instant::now()), &mut outcomes)?;
        for outcome in &outcomes {
            match *outcome {
                Outcome::Answered(slot, latency) => {
                    tally.total += 1;
                    tally.latencies.record(latency);
                    if mode == Mode::Churn {
                        let begun = Instant::now();
                        fleet.renew(slot)?;
                        fleet.send(slot, &request, begun)?;
                    } else {
                        free.push_back(slot);
                    }
                }
                Outcome::Ended(slot, answer_due) => {
                    tally.failures += u64::from(answer_due);
                    ensure!(tally.failures <= MOST_FAILURES, "{} connections were lost", tally.failures);
                    fleet.renew(slot)?;
                    // One that ended while it was free is in `free` already.
                    if answer_due {
                        free.push_back(slot);
                    }
                }
            }
        }
    }
    tally.elapsed = measured_from.elapsed();
    ensure!(!tally.latencies.is_empty(), "no answer in {:?}", plan.time);
    Ok(tally)
}

/// The times at which requests are due.
struct Schedule {
    mode: Mode,
    start: Instant,
    sent: u64,
}

impl Schedule {
    fn new(mode: Mode, start: Instant) -> Self {
        Self { mode, start, sent: 0 }
    }

    /// The time of the next request if it has come.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        let due = match self.mode {
            Mode::Closed | Mode::Churn => now,
            // From the count, not from the one before: rounding must not add up.
            Mode::Open(rate) => self.start + Duration::from_secs_f64(self.sent as f64 / rate),
        };
        (due <= now).then(|| {
            self.sent += 1;
            due
        })
    }

    /// How long to wait for answers at most.
    fn pause(&self, now: Instant) -> Duration {
        match self.mode {
            Mode::Closed | Mode::Churn => TICK,
            Mode::Open(rate) => {
                let due = self.start + Duration::from_secs_f64(self.sent as f64 / rate);
                // Due already means that no connection is free: an answer is what we wait for.
                if due <= now { TICK } else { (due - now).min(TICK) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_catches_up_and_counts_from_the_planned_time() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Mode::Open(1000.0), start);
        assert_eq!(schedule.next(start), Some(start));
        assert_eq!(schedule.next(start), None, "the second is due 1 ms later");
        assert_eq!(schedule.pause(start), Duration::from_millis(1));
        // Nothing was sent for 5 ms: five are due, each at its own time.
        let later = start + Duration::from_millis(5);
        let due: Vec<_> = std::iter::from_fn(|| schedule.next(later)).map(|d| d - start).collect();
        assert_eq!(due, (1..=5).map(Duration::from_millis).collect::<Vec<_>>());
        assert_eq!(schedule.pause(later), Duration::from_millis(1));
    }

    #[test]
    fn a_closed_loop_is_always_due_now() {
        let start = Instant::now();
        let mut schedule = Schedule::new(Mode::Closed, start);
        let later = start + Duration::from_secs(1);
        assert_eq!(schedule.next(later), Some(later));
        assert_eq!(schedule.pause(later), TICK);
    }
}
