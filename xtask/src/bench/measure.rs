//! One measurement: load for a second, and what the proxy used for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Map, Value, json};
use undermesh_tests::{Process, wait_until};

use super::programs::Programs;
use super::site::{Cpus, Site};
use super::usage::{self, Machine};

const LIMIT: Duration = Duration::from_secs(30);

/// What the kernel counts of a proxy, and the name in a row.
const COUNTED: [(&str, &str); 3] = [
    ("raw_syscalls:sys_enter", "syscalls_per_request"),
    ("context-switches", "switches_per_request"),
    // Others that the proxy's sends woke up: about a microsecond each, and a matter of how busy the client and the backend
    // are rather than of the proxy's work.
    ("sched:sched_waking", "wakeups_per_request"),
];

/// What is measured about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Test {
    /// As fast as it goes on kept-alive connections.
    Burst,
    /// A connection per request.
    Churn,
    /// A fixed rate, for latency.
    Open,
    /// As `Burst`, counting system calls.
    Calls,
}

impl Test {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Burst => "burst",
            Self::Churn => "churn",
            Self::Open => "open",
            Self::Calls => "calls",
        }
    }
}

/// A measurement.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) round: usize,
    pub(crate) target: super::site::Target,
    pub(crate) test: Test,
    /// All that is known about it, by name; also a line of the results file.
    pub(crate) fields: Map<String, Value>,
}

impl Row {
    /// A number by its name.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.fields.get(name)?.as_f64()
    }

    pub(crate) fn json(&self) -> Value {
        let mut row = Map::new();
        row.insert("round".into(), self.round.into());
        row.insert("target".into(), self.target.name().into());
        row.insert("test".into(), self.test.name().into());
        row.extend(self.fields.clone());
        row.into()
    }
}

/// Everything needed to measure.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) cpus: Cpus,
    pub(crate) connections: usize,
    pub(crate) rate: f64,
    /// For files that live as long as the run.
    pub(crate) folder: PathBuf,
    /// The kernel's network thread on the proxy's CPU.
    pub(crate) softirq: Option<u32>,
}

impl Bench<'_> {
    /// Runs one test at one site. A failure of the load is a row too: nothing is dropped silently.
    pub(crate) fn measure(&self, site: &mut Site, test: Test, round: usize) -> anyhow::Result<Row> {
        let mut load = Command::new(&self.programs.load);
        let dialled = site.dialled.to_string();
        match test {
            Test::Burst => load.args(["closed", &dialled, "--seconds", "0.9"]),
            Test::Calls => load.args(["closed", &dialled, "--seconds", "0.6"]),
            Test::Churn => load.args(["churn", &dialled, "--seconds", "0.7"]),
            Test::Open => load.args(["open", &dialled, "--seconds", "2", "--rate", &self.rate.to_string()]),
        };
        let connections = if test == Test::Churn { self.connections.div_ceil(4) } else { self.connections };
        load.args(["--connections", &connections.to_string()]);
        let fields = match self.run(site, &load, test == Test::Calls) {
            Ok(fields) => fields,
            Err(e) => {
                // A dead proxy ends the bench; a failed load is a fact about the living one.
                if let Some(proxy) = &mut site.proxy {
                    proxy.must_run()?;
                }
                Map::from_iter([("failure".to_owned(), format!("{e:#}").into())])
            }
        };
        Ok(Row { round, target: site.target, test, fields })
    }

    fn run(&self, site: &Site, load: &Command, count_calls: bool) -> anyhow::Result<Map<String, Value>> {
        let (proxy, backend) = (site.proxy_pids(), usage::tree(site.backend.pid()));
        let both = [proxy.clone(), backend.clone()].concat();
        let softirq: Vec<u32> = self.softirq.into_iter().collect();
        let counts = self.folder.join("counts");
        let command = match &self.programs.perf {
            Some(perf) if count_calls && !proxy.is_empty() => {
                counted(perf, &COUNTED.map(|(event, _)| event), Whom::Processes(&proxy), &counts, load)
            }
            _ => copied(load),
        };
        let command = self.real_time(&command);

        let priority = RealTime::give(&both)?;
        let used = || (usage::cpu_ns(&proxy), usage::cpu_ns(&backend), usage::cpu_ns(&softirq));
        let ticks = usage::ticks(&proxy);
        let (began, machine, before) = (Instant::now(), usage::machine(), used());
        let finished = site.client.run("load", &command, LIMIT)?;
        let (after, machine_after, wall) = (used(), usage::machine(), began.elapsed());
        drop(priority);
        let ticks_after = usage::ticks(&proxy);

        let finished = finished.success("the load generator")?;
        let mut fields = last_json(&finished.stdout)?;
        let [proxy_ns, backend_ns, softirq_ns] =
            [after.0 - before.0, after.1 - before.1, after.2.saturating_sub(before.2)];
        let total = fields
            .get("total")
            .and_then(Value::as_f64)
            .filter(|t| *t > 0.0)
            .context("no request was answered")?;
        let client_ns = fields.get("client_cpu_ns").and_then(Value::as_f64).unwrap_or(0.0);
        let ours = (proxy_ns + backend_ns + softirq_ns) as f64 + client_ns;
        fields.extend(environment(machine, machine_after, ours / 1e9, wall));
        fields.insert("backend_cpu_ns".into(), backend_ns.into());
        fields.insert("softirq_cpu_ns".into(), softirq_ns.into());
        if !proxy.is_empty() {
            fields.insert("proxy_cpu_ns".into(), proxy_ns.into());
            // The warm-up's requests cost too, so they count.
            fields.insert("cpu_us_per_request".into(), json!(proxy_ns as f64 / 1e3 / total));
            let [user, system] = [0, 1].map(|i: usize| ticks_after[i].saturating_sub(ticks[i]) as f64);
            if user + system > 0.0 {
                let user_ns = proxy_ns as f64 * user / (user + system);
                fields.insert("user_us_per_request".into(), json!(user_ns / 1e3 / total));
            }
        }
        if count_calls && !proxy.is_empty() && self.programs.perf.is_some() {
            let counts = fs::read_to_string(&counts).unwrap_or_default();
            for (event, name) in COUNTED {
                if let Some(count) = perf_count(&counts, event) {
                    fields.insert(name.to_owned(), json!(count / total));
                }
            }
        }
        Ok(fields)
    }

    /// `command` on the client's CPU at real-time priority, so that other load on the machine does not set the result.
    fn real_time(&self, command: &Command) -> Command {
        let mut whole = Command::new("chrt");
        whole.args(["--rr", "1", "taskset", "-c", &self.cpus.client.to_string()]);
        whole.arg(command.get_program()).args(command.get_args());
        whole
    }

    /// Memory of the proxy for each of `count` connections that have had one request and are idle, in KiB.
    pub(crate) fn idle_kib(&self, site: &Site, count: usize) -> anyhow::Result<Map<String, Value>> {
        let pids = site.proxy_pids();
        // The upstream connections and whatever the first requests build are not what an idle connection costs.
        let mut warm = Command::new(&self.programs.load);
        warm.args(["closed", &site.dialled.to_string(), "--seconds", "0.3"]);
        warm.args(["--connections", &self.connections.to_string()]);
        site.client.run("warm", &self.on_client(&warm), LIMIT)?.success("the load generator")?;

        let before = usage::resident_kib(&pids);
        let mut idle = Command::new(&self.programs.load);
        idle.args([
            "idle",
            &site.dialled.to_string(),
            "--seconds",
            "1.5",
            "--connections",
            &count.to_string(),
        ]);
        let mut holder: Process = site.client.spawn("idle", &self.on_client(&idle))?;
        holder.wait_for_text("ready\n", LIMIT)?;
        // What is given back a moment after the last answer is not held by an idle connection.
        std::thread::sleep(Duration::from_millis(700));
        let during = usage::resident_kib(&pids);
        holder.finish(LIMIT)?.success("the load generator")?;
        let per_connection = during.saturating_sub(before) as f64 / count as f64;
        Ok(Map::from_iter([
            ("connections".to_owned(), count.into()),
            ("before_kib".to_owned(), before.into()),
            ("during_kib".to_owned(), during.into()),
            ("kib_per_connection".to_owned(), json!(per_connection)),
        ]))
    }

    fn on_client(&self, command: &Command) -> Command {
        let mut whole = Command::new("taskset");
        whole.args(["-c", &self.cpus.client.to_string()]).arg(command.get_program()).args(command.get_args());
        whole
    }

    /// Medians of connect() in nanoseconds to an address that no mesh serves, from the pod's cgroup and from one beside the
    /// pods', by turns: with and without the programs where an agent runs, twice without where none does.
    pub(crate) fn connect_ns(&self, site: &Site, rounds: usize) -> anyhow::Result<Vec<[f64; 2]>> {
        let pods = site.node.pods_cgroup();
        let beside = pods.parent().context("the pods' cgroup has a parent")?.join("beside");
        fs::create_dir_all(&beside).with_context(|| format!("cannot make {}", beside.display()))?;
        let mut connect = Command::new(&self.programs.load);
        connect.args(["connect", &site.client.at(7777).to_string(), "--rounds", &rounds.to_string()]);
        connect.arg("--cgroup").arg(site.client.cgroup().join("main")).arg("--cgroup").arg(&beside);
        let limit = Duration::from_secs(30) + Duration::from_millis(200) * u32::try_from(rounds)?;
        let finished =
            site.client.run("connect", &self.real_time(&connect), limit)?.success("the load generator")?;
        let fields = last_json(&finished.stdout)?;
        let pairs = fields.get("connect_ns").cloned().context("no connect was measured")?;
        Ok(serde_json::from_value(pairs)?)
    }

    /// Allocations of the workers per request on kept-alive connections: calls of the C library's allocator, counted by the
    /// kernel in the threads that serve. What the others do about files and pods is by the second, not by the request. `None`
    /// where they cannot be counted.
    ///
    /// A short and a long run: what opening 64 connections takes is in both and falls out of the difference.
    pub(crate) fn allocations(&self, site: &Site) -> anyhow::Result<Option<f64>> {
        let (Some(perf), Some(pid)) = (&self.programs.perf, site.proxy.as_ref().map(Process::pid)) else {
            return Ok(None);
        };
        let Some(probes) = Probes::add(perf, pid)? else { return Ok(None) };
        let workers = threads(pid, "worker-")?;
        ensure!(!workers.is_empty(), "the agent has no thread called worker-");
        let mut seen = Vec::new();
        for seconds in ["0.2", "1.0"] {
            let mut load = Command::new(&self.programs.load);
            load.args(["closed", &site.dialled.to_string(), "--seconds", seconds]);
            load.args(["--connections", &self.connections.to_string()]);
            let counts = self.folder.join("counts");
            let events: Vec<&str> = probes.events.iter().map(String::as_str).collect();
            let counted = counted(perf, &events, Whom::Threads(&workers), &counts, &load);
            let command = self.on_client(&counted);
            let finished = site.client.run("allocations", &command, LIMIT)?.success("the load generator")?;
            let total =
                last_json(&finished.stdout)?.get("total").and_then(Value::as_f64).context("no total")?;
            let counts = fs::read_to_string(&counts)?;
            let calls: Option<f64> = events.iter().map(|event| perf_count(&counts, event)).sum();
            seen.push((calls.context("perf counted nothing")?, total));
        }
        let [(calls, requests), (more_calls, more_requests)] = seen.as_slice() else { bail!("two runs") };
        ensure!(
            more_requests > requests,
            "the longer run had fewer requests: the machine is too busy to tell"
        );
        Ok(Some((more_calls - calls) / (more_requests - requests)))
    }
}

/// How the machine was while it was measured.
fn environment(before: Machine, after: Machine, ours: f64, wall: Duration) -> Map<String, Value> {
    let wall = wall.as_secs_f64();
    let other = (after.busy - before.busy - ours) / wall;
    let loadavg = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let loadavg: f64 = loadavg.split(' ').next().and_then(|l| l.parse().ok()).unwrap_or(0.0);
    Map::from_iter([
        ("other_cpu".to_owned(), json!((other * 100.0).round() / 100.0)),
        ("stolen".to_owned(), json!(((after.stolen - before.stolen) / wall * 100.0).round() / 100.0)),
        ("loadavg".to_owned(), json!(loadavg)),
        ("wall_s".to_owned(), json!((wall * 1e3).round() / 1e3)),
    ])
}

/// The last line of what a tool prints, which is an object.
fn last_json(stdout: &str) -> anyhow::Result<Map<String, Value>> {
    let line = stdout.lines().next_back().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("the load generator did not print JSON but {line:?}"))
}

fn copied(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    copy
}

/// Whose events are counted.
#[derive(Debug, Clone, Copy)]
enum Whom<'a> {
    Processes(&'a [u32]),
    Threads(&'a [u32]),
}

/// `load` with `events` of `whom` counted while it runs.
fn counted(perf: &Path, events: &[&str], whom: Whom<'_>, counts: &Path, load: &Command) -> Command {
    let (option, numbers) = match whom {
        Whom::Processes(pids) => ("-p", pids),
        Whom::Threads(threads) => ("-t", threads),
    };
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    let mut command = Command::new(perf);
    command.args(["stat", "-x", ",", "-e", &events.join(","), option, &numbers.join(","), "-o"]).arg(counts);
    command.arg("--").arg(load.get_program()).args(load.get_args());
    command
}

/// The threads of a process whose names begin so.
fn threads(pid: u32, name: &str) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path();
        // One that ends meanwhile is none of those.
        if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.starts_with(name)) {
            found.extend(path.file_name().and_then(|it| it.to_str()?.parse::<u32>().ok()));
        }
    }
    Ok(found)
}

/// The count of an event in the output of `perf stat -x,`; `None` if it was not counted.
fn perf_count(output: &str, event: &str) -> Option<f64> {
    output.lines().find_map(|line| {
        let mut fields = line.split(',');
        let count = fields.next()?.parse().ok()?;
        fields.any(|f| f == event).then_some(count)
    })
}

/// Processes at real-time priority (SCHED_RR 1) until this is dropped. For a second at a time: longer would starve others.
#[derive(Debug)]
struct RealTime(Vec<u32>);

impl RealTime {
    fn give(pids: &[u32]) -> anyhow::Result<Self> {
        let given = Self(pids.to_vec());
        for pid in pids {
            ensure!(
                chrt(&["--rr"], "1", *pid)?,
                "cannot give process {pid} real-time priority (CAP_SYS_NICE)"
            );
        }
        Ok(given)
    }
}

impl Drop for RealTime {
    fn drop(&mut self) {
        for pid in &self.0 {
            // Fails only for a process that has ended.
            let _ = chrt(&["--other"], "0", *pid);
        }
    }
}

fn chrt(policy: &[&str], priority: &str, pid: u32) -> anyhow::Result<bool> {
    let mut command = Command::new("chrt");
    command.arg("--all-tasks").args(policy).args(["--pid", priority, &pid.to_string()]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().context("cannot run chrt")?;
    Ok(status.success())
}

/// The group of our probes, so that they are known by name and removed by it.
const PROBES: &str = "undermesh_bench";
/// What Rust's system allocator calls. <https://doc.rust-lang.org/std/alloc/struct.System.html>
const ALLOCATORS: [&str; 4] = ["malloc", "calloc", "realloc", "posix_memalign"];

/// Counters on the C library's allocator, removed when this is dropped.
#[derive(Debug)]
struct Probes {
    perf: PathBuf,
    events: Vec<String>,
}

impl Probes {
    /// On the library that process `pid` uses; `None` where the kernel or perf cannot.
    fn add(perf: &Path, pid: u32) -> anyhow::Result<Option<Self>> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let library =
            maps.lines().filter_map(|l| l.split_whitespace().nth(5)).find(|p| p.contains("/libc.so"));
        let Some(library) = library else { return Ok(None) };
        let probes = Self {
            perf: perf.to_owned(),
            events: ALLOCATORS.iter().map(|name| format!("{PROBES}:{name}")).collect(),
        };
        // Those of a run that was killed.
        probes.remove();
        for name in ALLOCATORS {
            let mut command = Command::new(perf);
            command.args([
                "probe",
                "--quiet",
                "--exec",
                library,
                "--add",
                &format!("{PROBES}:{name}={name}"),
            ]);
            if !command.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
                return Ok(None);
            }
        }
        Ok(Some(probes))
    }

    fn remove(&self) {
        let mut command = Command::new(&self.perf);
        command.args(["probe", "--quiet", "--del", &format!("{PROBES}:*")]);
        // Fails when there are none.
        let _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Waits until nothing of a test is under way any more, at most two seconds: closing thousands of connections takes time, and
/// it must not be counted for the next test.
pub(crate) fn settle(site: &Site) -> anyhow::Result<()> {
    let pids = site.proxy_pids();
    let mut before = usage::cpu_ns(&pids);
    let settled = wait_until(Duration::from_secs(2), "an idle proxy", || {
        std::thread::sleep(Duration::from_millis(50));
        let now = usage::cpu_ns(&pids);
        // Less than 2 % of the CPU.
        let quiet = now - before < 1_000_000;
        before = now;
        Ok(quiet.then_some(()))
    });
    // A proxy that is never quiet is measured as it is.
    settled.or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perf_counts_are_found_by_event_and_missing_ones_are_not_zero() {
        let output = "# started\n\n12345,,raw_syscalls:sys_enter,100,100.00,,\n<not counted>,,context-switches,0,0.00,,\n";
        assert_eq!(perf_count(output, "raw_syscalls:sys_enter"), Some(12345.0));
        assert_eq!(perf_count(output, "context-switches"), None);
        assert_eq!(perf_count(output, "malloc"), None);
    }

    #[test]
    fn the_last_line_is_the_result_and_words_are_none() {
        assert_eq!(last_json("ready\n{\"total\":3}\n").expect("an object").get("total"), Some(&json!(3)));
        assert!(last_json("ready\n").is_err());
        assert!(last_json("").is_err());
    }

    #[test]
    fn other_load_is_what_neither_we_nor_idle_time_explain() {
        let (before, after) = (Machine { busy: 10.0, stolen: 1.0 }, Machine { busy: 14.0, stolen: 1.5 });
        let fields = environment(before, after, 3.0, Duration::from_secs(2));
        assert_eq!((fields.get("other_cpu"), fields.get("stolen")), (Some(&json!(0.5)), Some(&json!(0.25))));
    }
}
