//! What was seen, as tables for people (and docs/performance.md), against what it should be.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::measure::{Row, Test};
use super::site::Target;
use super::statistics::{Spread, quartiles};

/// CPU per request: at most as much as HAProxy's.
const HAPROXY_SHARE: f64 = 1.0;
/// And this share of Envoy's.
const ENVOY_SHARE: f64 = 0.35;
/// Memory per idle connection, KiB.
const IDLE_KIB: f64 = 4.0;
/// What a connect() that is none of ours may cost more with the programs, microseconds.
const CONNECT_US: f64 = 1.0;
/// Per request. Timers and the control thread allocate now and then; one in a hundred requests would be the path itself.
const ALLOCATIONS: f64 = 0.01;

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) rows: Vec<Row>,
    /// KiB per idle connection.
    pub(crate) idle_kib: BTreeMap<Target, f64>,
    /// Nanoseconds of connect(): with and without the programs.
    pub(crate) connect_ns: Vec<[f64; 2]>,
    /// Likewise where there are none, twice without: what such a difference is worth.
    pub(crate) connect_control_ns: Vec<[f64; 2]>,
    /// Per request, in the whole agent.
    pub(crate) allocations: Option<f64>,
    /// undermesh-again is an earlier build, so there is no control.
    pub(crate) has_before: bool,
}

/// A target of the project and what was seen.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) what: &'static str,
    pub(crate) at_most: f64,
    /// `None`: it could not be measured, which does not count as met.
    pub(crate) seen: Option<f64>,
    pub(crate) detail: String,
}

impl Verdict {
    pub(crate) fn is_met(&self) -> bool {
        self.seen.is_some_and(|seen| seen <= self.at_most)
    }

    fn mark(&self) -> &'static str {
        match self.seen {
            Some(seen) if seen <= self.at_most => "met",
            Some(_) => "MISSED",
            None => "NOT MEASURED",
        }
    }
}

impl Results {
    fn values(&self, target: Target, test: Test, name: &str) -> Option<Spread> {
        let rows = self.rows.iter().filter(|r| r.target == target && r.test == test);
        Spread::of(rows.filter_map(|r| r.number(name)))
    }

    /// `name` of one target over that of another, round by round.
    pub(crate) fn ratio(&self, [target, over]: [Target; 2], test: Test, name: &str) -> Option<Spread> {
        let one = |target, round| {
            let mut rows = self.rows.iter();
            rows.find(|r| (r.target, r.test, r.round) == (target, test, round))?.number(name)
        };
        let rounds = self.rows.iter().filter(|r| r.target == target && r.test == test).map(|r| r.round);
        Spread::of(rounds.filter_map(|round| Some(one(target, round)? / one(over, round)?)))
    }

    /// Latency of one target less that of `direct`, round by round, in microseconds.
    fn added_us(&self, target: Target, name: &str) -> Option<Spread> {
        let one = |target, round| {
            let mut rows = self.rows.iter();
            rows.find(|r| (r.target, r.test, r.round) == (target, Test::Open, round))?.number(name)
        };
        let rounds = self.rows.iter().filter(|r| r.target == target && r.test == Test::Open).map(|r| r.round);
        Spread::of(rounds.filter_map(|round| Some(one(target, round)? - one(Target::Direct, round)?)))
    }

    /// The project's targets.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        const CPU: &str = "cpu_us_per_request";
        let share = |over, what, at_most| {
            let ratio = self.ratio([Target::Undermesh, over], Test::Burst, CPU);
            Verdict { what, at_most, seen: ratio.map(|r| r.median), detail: shown(ratio, 2) }
        };
        let connect = connect_us(&self.connect_ns);
        let control = connect_us(&self.connect_control_ns);
        let idle = self.idle_kib.get(&Target::Undermesh).copied();
        vec![
            share(Target::Haproxy, "CPU per request, of HAProxy's", HAPROXY_SHARE),
            share(Target::Envoy, "CPU per request, of Envoy's", ENVOY_SHARE),
            Verdict {
                what: "allocations per request",
                at_most: ALLOCATIONS,
                seen: self.allocations,
                detail: self.allocations.map_or_else(|| "-".into(), |a| format!("{a:.4}")),
            },
            Verdict {
                what: "memory per idle connection, KiB",
                at_most: IDLE_KIB,
                seen: idle,
                detail: idle.map_or_else(|| "-".into(), |kib| format!("{kib:.2}")),
            },
            Verdict {
                what: "connect() past the mesh, µs more",
                at_most: CONNECT_US,
                seen: connect.map(|c| c.0),
                detail: match (connect, control) {
                    (Some((median, low, high)), control) => {
                        let control = control.map_or_else(String::new, |(m, l, h)| {
                            format!("; where no programs are {m:.2} (half of the rounds {l:.2}..{h:.2})")
                        });
                        format!("{median:.2} (half of the rounds {low:.2}..{high:.2}){control}")
                    }
                    (None, _) => "-".into(),
                },
            },
        ]
    }

    /// The tables, in Markdown.
    pub(crate) fn tables(&self) -> String {
        let mut out = String::new();
        self.main_table(&mut out);
        let _ = writeln!(out);
        self.control_line(&mut out);
        self.verdict_table(&mut out);
        self.failures(&mut out);
        out
    }

    fn main_table(&self, out: &mut String) {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "| | CPU µs/request | of it in user space | of HAProxy's | of Envoy's | requests/s | system calls | wake-ups of others | new connection, CPU µs | of HAProxy's | p50 added, µs | p99 added, µs | KiB per idle connection |"
        );
        let _ = writeln!(out, "|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        const CPU: &str = "cpu_us_per_request";
        for target in Target::ALL {
            if !self.rows.iter().any(|r| r.target == target) {
                continue;
            }
            let middle = |test, name, digits: usize| {
                self.values(target, test, name).map_or("-".into(), |s| format!("{:.digits$}", s.median))
            };
            let cells = [
                shown(self.values(target, Test::Burst, CPU), 2),
                middle(Test::Burst, "user_us_per_request", 1),
                shown(self.ratio([target, Target::Haproxy], Test::Burst, CPU), 2),
                shown(self.ratio([target, Target::Envoy], Test::Burst, CPU), 2),
                middle(Test::Burst, "rps", 0),
                middle(Test::Calls, "syscalls_per_request", 1),
                middle(Test::Calls, "wakeups_per_request", 2),
                shown(self.values(target, Test::Churn, CPU), 1),
                shown(self.ratio([target, Target::Haproxy], Test::Churn, CPU), 2),
                if target == Target::Direct { "-".into() } else { shown(self.added_us(target, "p50_us"), 0) },
                if target == Target::Direct { "-".into() } else { shown(self.added_us(target, "p99_us"), 0) },
                self.idle_kib.get(&target).map_or("-".into(), |kib| format!("{kib:.1}")),
            ];
            let _ = writeln!(out, "| {} | {} |", target.name(), cells.join(" | "));
        }
    }

    /// What the same program measured twice differs by: no smaller difference is real.
    fn control_line(&self, out: &mut String) {
        const CPU: &str = "cpu_us_per_request";
        if let Some(control) = self.ratio([Target::UndermeshAgain, Target::Undermesh], Test::Burst, CPU) {
            let what = if self.has_before {
                "The earlier build over this one"
            } else {
                "Control, undermesh over itself"
            };
            let _ = writeln!(out, "{what}: {control:.3} of its CPU per request.");
        }
        if let Some(logged) = self.ratio([Target::UndermeshLogged, Target::Undermesh], Test::Burst, CPU) {
            let _ = writeln!(out, "With the access log: {logged:.3} of the CPU per request without.");
        }
        let others = Spread::of(self.rows.iter().filter_map(|r| r.number("other_cpu")));
        let stolen = Spread::of(self.rows.iter().filter_map(|r| r.number("stolen")));
        if let (Some(others), Some(stolen)) = (others, stolen) {
            let _ = writeln!(
                out,
                "CPUs used by others meanwhile: {others:.2}; stolen by the host: {stolen:.2}.\n"
            );
        }
    }

    fn verdict_table(&self, out: &mut String) {
        let _ = writeln!(out, "| target | at most | seen | |\n|---|---|---|---|");
        for verdict in self.verdicts() {
            let mark = verdict.mark();
            let _ = writeln!(out, "| {} | {} | {} | {mark} |", verdict.what, verdict.at_most, verdict.detail);
        }
    }

    fn failures(&self, out: &mut String) {
        for row in &self.rows {
            if let Some(failure) = row.fields.get("failure") {
                let _ = writeln!(
                    out,
                    "\nNot measured: {} {} in round {}: {failure}",
                    row.target.name(),
                    row.test.name(),
                    row.round
                );
            }
        }
    }
}

/// Median and middle half of what the first of each pair takes longer than the second, in microseconds.
fn connect_us(pairs: &[[f64; 2]]) -> Option<(f64, f64, f64)> {
    let differences: Vec<f64> = pairs.iter().map(|[with, without]| (with - without) / 1e3).collect();
    let (low, high) = quartiles(&differences)?;
    Some((Spread::of(differences)?.median, low, high))
}

fn shown(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(|| "-".into(), |s| format!("{s:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    fn row(target: Target, round: usize, cpu: f64) -> Row {
        let fields = Map::from_iter([("cpu_us_per_request".to_owned(), json!(cpu))]);
        Row { round, target, test: Test::Burst, fields }
    }

    /// The machine is twice as slow in the second round; only ratios within a round tell.
    fn results() -> Results {
        let rows = vec![
            row(Target::Haproxy, 0, 10.0),
            row(Target::Envoy, 0, 30.0),
            row(Target::Undermesh, 0, 9.0),
            row(Target::Undermesh, 1, 18.0),
            row(Target::Haproxy, 1, 20.0),
            row(Target::Envoy, 1, 40.0),
        ];
        Results { rows, ..Results::default() }
    }

    fn verdict(results: &Results, what: &str) -> (bool, Option<f64>) {
        let verdicts = results.verdicts();
        let one = verdicts.iter().find(|v| v.what.contains(what)).expect("there is such a target");
        (one.is_met(), one.seen)
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let ratio = results().ratio([Target::Undermesh, Target::Haproxy], Test::Burst, "cpu_us_per_request");
        assert_eq!(ratio.map(|r| (r.median, r.min, r.max)), Some((0.9, 0.9, 0.9)));
    }

    #[test]
    fn a_target_is_met_at_its_limit_and_missed_above() {
        assert_eq!(verdict(&results(), "HAProxy"), (true, Some(0.9)));
        // (0.30 + 0.45) / 2
        assert_eq!(verdict(&results(), "Envoy"), (false, Some(0.375)));
        for (pairs, met) in [(vec![[2000.0, 1000.0]], true), (vec![[2001.0, 1000.0]], false)] {
            let results = Results { connect_ns: pairs, ..Results::default() };
            assert_eq!(verdict(&results, "connect()").0, met);
        }
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let nothing = Results::default();
        assert!(nothing.verdicts().iter().all(|v| !v.is_met()));
        assert!(nothing.tables().contains("NOT MEASURED") && !nothing.tables().contains("| met |"));
    }

    #[test]
    fn a_failed_run_is_told_and_not_a_value() {
        let mut results = results();
        results.rows.push(Row {
            fields: Map::from_iter([("failure".to_owned(), json!("it fell"))]),
            ..row(Target::Undermesh, 2, 0.0)
        });
        assert!(results.tables().contains("it fell"));
        assert_eq!(verdict(&results, "HAProxy"), (true, Some(0.9)));
    }
}
