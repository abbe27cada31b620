//! `cargo xtask test`: every rung of the test ladder that a machine can climb, from pure functions to the real agent in the
//! real kernel.
//!
//! The rungs follow from the names of the test targets: `kernel`, `kubernetes` and half of `conformance` need root, `proxy` a loopback, all
//! others nothing. So a new test is in the right rung without being listed here.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use undermesh_tests::{Binaries, Profile};

use crate::cargo::{cargo, in_ci, items, line, metadata, succeed, text};
use crate::{deps, lint};

/// Lint, then all tests: units, conformance, the proxy in process, and (as root) the agent in the kernel
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask test
  cargo xtask test --only unit
  cargo xtask test --only kernel -- capture      only tests whose name contains `capture`

With CI=true a test that cannot run here fails, and the committed BPF object is rebuilt and compared.")]
pub(crate) struct Args {
    /// One rung instead of all, and no lint
    #[arg(long, value_enum)]
    only: Option<Rung>,
    /// For the test programs: a filter, --nocapture, ...
    #[arg(last = true)]
    filter: Vec<String>,
}

/// What a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rung {
    /// Nothing: rules, parsers, tables.
    Unit,
    /// Nothing to decide the conformance cases offline, root (network namespaces) for their live half.
    Conformance,
    /// Loopback sockets: the proxy in process.
    Proxy,
    /// Root, cgroup2 and BTF: namespaces, BPF, the agent's binary.
    Kernel,
    /// What Kernel needs, and Kubernetes' programs (`cargo xtask cluster --prepare`): the real API server, real kubelets.
    Kubernetes,
}

/// What came of a rung.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut failures = Vec::new();
    if args.only.is_none() {
        // All of them are run, and all that fail are named: a formatting slip should not hide a broken test.
        for (name, outcome) in checks() {
            if let Err(e) = outcome {
                println!("FAILED {name}: {e:#}");
                failures.push(name.to_owned());
            }
        }
    }
    let rungs = args.only.map_or_else(|| Rung::value_variants().to_vec(), |one| vec![one]);
    let mut summary = Vec::new();
    for rung in rungs {
        println!("\n== {} ==", rung.name());
        let (tally, outcome) = rung.run(&args.filter)?;
        summary.push(format!(
            "{:<11} {:>5} passed {:>3} failed {:>3} ignored",
            rung.name(),
            tally.passed,
            tally.failed,
            tally.ignored
        ));
        if let Err(e) = outcome {
            failures.push(format!("{} ({e:#})", rung.name()));
        }
    }
    println!("\n{}", summary.join("\n"));
    if !failures.is_empty() {
        bail!("failed: {}", failures.join(", "));
    }
    println!("all passed in {:.0?}", began.elapsed());
    Ok(())
}

fn checks() -> Vec<(&'static str, anyhow::Result<()>)> {
    println!("== lint, deps{} ==", if in_ci() { ", bpf --check" } else { "" });
    let mut all =
        vec![("lint", lint::run(&lint::Args { install: false })), ("deps", deps::run(&deps::Args {}))];
    if in_ci() {
        let own = std::env::current_exe().context("cannot find this program");
        all.push(("bpf --check", own.and_then(|own| succeed(Command::new(own).args(["bpf", "--check"])))));
    }
    all
}

impl Rung {
    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Conformance => "conformance",
            Self::Proxy => "proxy",
            Self::Kernel => "kernel",
            Self::Kubernetes => "kubernetes",
        }
    }

    fn of(target: &str) -> Self {
        match target {
            "kernel" => Self::Kernel,
            "conformance" => Self::Conformance,
            "proxy" => Self::Proxy,
            "kubernetes" => Self::Kubernetes,
            _ => Self::Unit,
        }
    }

    /// The numbers, and whether all went well.
    fn run(self, filter: &[String]) -> anyhow::Result<(Tally, anyhow::Result<()>)> {
        let targets = targets(self)?;
        let mut command = cargo(["test", "--workspace", "--no-fail-fast", "--locked"]);
        if self == Self::Unit {
            command.args(["--lib", "--bins"]);
        }
        for target in &targets {
            command.args(["--test", target]);
        }
        if targets.is_empty() && self != Self::Unit {
            return Ok((Tally::default(), Err(anyhow::anyhow!("there is no such test target"))));
        }
        if self == Self::Kubernetes && in_ci() {
            // Elsewhere the tests say that it is missing and how to get it: nobody expects ten minutes of building here.
            undermesh_cluster::prepare(|what| println!("{what}"))?;
        }
        if matches!(self, Self::Kernel | Self::Kubernetes) {
            let built = Binaries::build(Profile::Dev)?;
            command.env("UNDERMESH_BIN", built.undermesh).env("BOOKINFO_BIN", built.bookinfo);
        }
        command.arg("--").args(filter);
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| line(&command))?;
        let mut tally = Tally::default();
        for said in BufReader::new(child.stdout.take().context("it is piped")?).lines() {
            let said = said?;
            tally.add(&said);
            println!("{said}");
        }
        let status = child.wait()?;
        let outcome = if status.success() { Ok(()) } else { Err(anyhow::anyhow!("{status}")) };
        Ok((tally, outcome))
    }
}

/// The names of the test targets of a rung.
fn targets(rung: Rung) -> anyhow::Result<BTreeSet<String>> {
    let metadata = metadata(false)?;
    let targets = items(&metadata, "packages").flat_map(|p| items(p, "targets"));
    let tests = targets.filter(|t| items(t, "kind").any(|k| k.as_str() == Some("test")));
    let names = tests.map(|t| text(t, "name").to_owned());
    Ok(names.filter(|n| Rung::of(n) == rung).collect())
}

impl Tally {
    /// Adds what a line such as `test result: ok. 8 passed; 0 failed; 1 ignored; ...` says; other lines say nothing.
    fn add(&mut self, line: &str) {
        let Some(numbers) = line.strip_prefix("test result: ").and_then(|l| l.split_once(". ")) else {
            return;
        };
        for part in numbers.1.split(';') {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up_and_other_lines_do_not_count() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 8 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 3.80s",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "9 passed",
        ] {
            tally.add(line);
        }
        assert_eq!(tally, Tally { passed: 10, failed: 3, ignored: 1 });
    }

    #[test]
    fn rungs_follow_from_names() {
        assert_eq!(Rung::of("kernel"), Rung::Kernel);
        assert_eq!(Rung::of("proxy"), Rung::Proxy);
        assert_eq!(Rung::of("kubernetes"), Rung::Kubernetes);
        assert_eq!(Rung::of("conformance"), Rung::Conformance);
        assert_eq!(Rung::of("explain"), Rung::Unit);
    }
}
