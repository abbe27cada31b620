//! `cargo xtask bench`: what a request, a connection and an idle connection cost, beside HAProxy, nginx and Envoy.
//!
//! Only ratios within one round are worth anything on a shared machine, so all run side by side in one network of pods, in an
//! order shuffled anew each round, and our own program runs twice: what it differs from itself by is the noise. Docs:
//! docs/performance.md.

mod measure;
mod programs;
mod report;
mod site;
mod statistics;
mod usage;

use std::fs::{self, File};
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use undermesh_tests::World;

use measure::{Bench, Test, settle};
use programs::Programs;
use report::Results;
use site::{Cpus, Placement, Site, Target};
use statistics::Shuffle;

use crate::cargo::root;

/// Measure the agent beside HAProxy, nginx and Envoy; as root
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Rows go to perf/results/, one JSON object per line. Runs at real-time priority for a second at a time."
)]
pub(crate) struct Args {
    /// Rounds; call a difference real only from 11 on
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Kept-alive connections of the client
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Where the backend is: in another pod on the node, or in the client's own
    #[arg(long, value_enum, default_value = "pod")]
    backend: Placement,
    /// Length of the answers' bodies in bytes
    #[arg(long, default_value_t = 1024)]
    body: usize,
    /// Requests per second where latency is measured
    #[arg(long, default_value_t = 5000.0)]
    rate: f64,
    /// Idle connections for the memory of each; 0 leaves it out
    #[arg(long, default_value_t = 5000)]
    idle: usize,
    /// Rounds of connect() with and without the kernel programs; 0 leaves it out
    #[arg(long, default_value_t = 200)]
    connects: usize,
    /// Only these, by name; ratios need haproxy and envoy
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Only the load at full speed: no new connections, no latency, no counts
    #[arg(long)]
    burst_only: bool,
    /// A binary of an earlier build, measured in undermesh-again's place: before and after, side by side
    #[arg(long, value_name = "PATH")]
    before: Option<std::path::PathBuf>,
    /// Order of the runs; printed, so that it can be repeated. Default: the time
    #[arg(long)]
    seed: Option<u64>,
    /// Exit with 1 if a target is missed
    #[arg(long)]
    enforce: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let programs = Programs::prepare(args.before.clone())?;
    let targets = targets(args, &programs)?;
    let cpus = Cpus::of_machine()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let seed = args.seed.unwrap_or(now);
    let mut log = Log::create(now)?;
    log.write(&about(args, &programs, seed))?;

    let mut world = World::new()?;
    progress(&format!(
        "setting up {} (seed {seed})",
        targets.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ")
    ));
    let mut sites = Vec::new();
    for target in targets {
        sites.push(Site::build(&mut world, target, &programs, cpus, (args.backend, args.body))?);
    }
    let bench = Bench {
        programs: &programs,
        cpus,
        connections: args.connections,
        rate: args.rate,
        folder: world.folder(),
        softirq: usage::softirq_thread(cpus.proxy),
    };

    let mut results = Results { has_before: args.before.is_some(), ..Results::default() };
    // Before anything else: memory that was used once is not given back, and would hide what a connection takes.
    measure_idle(args, &bench, &sites, &mut log, &mut results)?;
    rounds(args, &bench, &mut sites, seed, &mut log, &mut results)?;
    measure_connect(args, &bench, &sites, &mut log, &mut results)?;
    if !args.burst_only
        && let Some(site) = sites.iter().find(|s| s.target == Target::Undermesh)
    {
        progress("allocations per request");
        results.allocations = bench.allocations(site)?;
        log.write(&json!({ "test": "allocations", "per_request": results.allocations }))?;
    }

    drop(sites);
    let left = world.remove()?;
    if !left.is_empty() {
        bail!("not removed: {left:?}");
    }
    println!("{}", results.tables());
    println!("Rows: {}", log.path.display());
    let missed: Vec<&str> = results.verdicts().iter().filter(|v| !v.is_met()).map(|v| v.what).collect();
    if args.enforce && !missed.is_empty() {
        bail!("missed: {}", missed.join("; "));
    }
    Ok(())
}

fn targets(args: &Args, programs: &Programs) -> anyhow::Result<Vec<Target>> {
    if let Some(name) = args.only.iter().find(|name| Target::ALL.iter().all(|t| t.name() != **name)) {
        let known: Vec<&str> = Target::ALL.iter().map(|t| t.name()).collect();
        bail!("there is no target {name}; there are {}", known.join(", "));
    }
    let mut targets: Vec<Target> = Target::ALL
        .into_iter()
        .filter(|t| args.only.is_empty() || args.only.iter().any(|name| name == t.name()))
        .collect();
    if programs.nginx.is_none() && targets.contains(&Target::Nginx) {
        progress("nginx is not installed and left out");
        targets.retain(|t| *t != Target::Nginx);
    }
    Ok(targets)
}

fn rounds(
    args: &Args,
    bench: &Bench<'_>,
    sites: &mut [Site],
    seed: u64,
    log: &mut Log,
    results: &mut Results,
) -> anyhow::Result<()> {
    let tests: &[Test] =
        if args.burst_only { &[Test::Burst] } else { &[Test::Burst, Test::Churn, Test::Open, Test::Calls] };
    let mut shuffle = Shuffle::new(seed);
    let mut order: Vec<usize> = (0..sites.len()).collect();
    for round in 0..args.rounds {
        progress(&format!("round {} of {}", round + 1, args.rounds));
        shuffle.shuffle(&mut order);
        for index in &order {
            let Some(site) = sites.get_mut(*index) else { continue };
            for test in tests {
                let row = bench.measure(site, *test, round)?;
                log.write(&row.json())?;
                results.rows.push(row);
                settle(site)?;
            }
        }
    }
    Ok(())
}

fn measure_idle(
    args: &Args,
    bench: &Bench<'_>,
    sites: &[Site],
    log: &mut Log,
    results: &mut Results,
) -> anyhow::Result<()> {
    if args.idle == 0 {
        return Ok(());
    }
    progress(&format!("memory of {} idle connections", args.idle));
    for site in sites.iter().filter(|s| s.proxy.is_some()) {
        let mut fields = bench
            .idle_kib(site, args.idle)
            .with_context(|| format!("idle connections of {}", site.target.name()))?;
        results
            .idle_kib
            .extend(fields.get("kib_per_connection").and_then(Value::as_f64).map(|kib| (site.target, kib)));
        fields.insert("test".into(), "idle".into());
        fields.insert("target".into(), site.target.name().into());
        log.write(&fields.into())?;
        settle(site)?;
    }
    Ok(())
}

fn measure_connect(
    args: &Args,
    bench: &Bench<'_>,
    sites: &[Site],
    log: &mut Log,
    results: &mut Results,
) -> anyhow::Result<()> {
    if args.connects == 0 {
        return Ok(());
    }
    progress("connect() with and without the kernel programs");
    for (target, into) in
        [(Target::Undermesh, &mut results.connect_ns), (Target::Direct, &mut results.connect_control_ns)]
    {
        let Some(site) = sites.iter().find(|s| s.target == target) else { continue };
        *into = bench.connect_ns(site, args.connects)?;
        log.write(&json!({ "test": "connect", "target": target.name(), "ns": into }))?;
        // Real-time seconds: let the machine breathe.
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// What the run was, for whoever reads its rows later.
fn about(args: &Args, programs: &Programs, seed: u64) -> Value {
    let output = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).current_dir(root()).output();
        output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        cpu.lines().find_map(|l| l.strip_prefix("model name")).map(|l| l.trim_matches([':', ' ', '\t']));
    let versions: serde_json::Map<String, Value> =
        programs.versions().into_iter().map(|(name, version)| (name.to_owned(), version.into())).collect();
    json!({
        "about": "cargo xtask bench",
        "commit": output("git", &["rev-parse", "--short", "HEAD"]),
        "seed": seed,
        "rounds": args.rounds,
        "connections": args.connections,
        "body": args.body,
        "backend": format!("{:?}", args.backend).to_lowercase(),
        "rate": args.rate,
        "kernel": output("uname", &["-r"]),
        "cpu": cpu,
        "cpus": std::thread::available_parallelism().map(std::num::NonZero::get).unwrap_or(0),
        "versions": versions,
    })
}

/// The results file.
struct Log {
    path: std::path::PathBuf,
    file: File,
}

impl Log {
    fn create(now: u64) -> anyhow::Result<Self> {
        let folder = root().join("perf/results");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{now}.jsonl"));
        let file = File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, file })
    }

    fn write(&mut self, row: &Value) -> anyhow::Result<()> {
        writeln!(self.file, "{row}").with_context(|| format!("cannot write {}", self.path.display()))
    }
}

fn progress(what: &str) {
    eprintln!("bench: {what}");
}
