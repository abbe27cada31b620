//! The agent and the gateway as processes, asked by the same command line that people use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::node::Node;
use crate::pod::Pod;
use crate::process::{Finished, Process};
use crate::wait::wait_until;

/// Longest start of an agent: loading BPF takes some 50 ms, on a machine busy with a build some seconds.
const START: Duration = Duration::from_secs(30);

/// A running `undermesh agent` or `undermesh gateway`.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    program: PathBuf,
    socket: PathBuf,
}

impl Agent {
    /// Starts the agent of `node` with the configuration in the folder `config`, attached at the node's pods, and waits
    /// until it answers. Its admin socket is `<node>.sock` in `run`.
    pub fn start(node: &Node, program: &Path, config: &Path, run: &Path) -> anyhow::Result<Self> {
        Self::start_attached(&node.pods_cgroup(), node, program, config, run)
    }

    /// Likewise, attached at `cgroup`. At the parent of the node's pods it is above the agent itself, as it is for a
    /// DaemonSet.
    pub fn start_attached(
        cgroup: &Path,
        node: &Node,
        program: &Path,
        config: &Path,
        run: &Path,
    ) -> anyhow::Result<Self> {
        let socket = run.join(format!("{}.sock", node.name()));
        let mut command = Command::new(program);
        command.args(["agent", "--node", node.name(), "--workers", "1"]);
        command.arg("--config").arg(config).arg("--admin-socket").arg(&socket);
        command.arg("--cgroup").arg(cgroup);
        Self::start_with(node, &command, program, socket)
    }

    /// Starts the agent in `pod`, as a DaemonSet does: in the pod's network namespace, in a cgroup below the pods' root, with
    /// a cgroup namespace of its own.
    pub fn start_in(pod: &Pod, program: &Path, config: &Path, run: &Path) -> anyhow::Result<Self> {
        Self::start_in_by(pod, &[], program, config, run)
    }

    /// Likewise, with `wrapper` before its command line: a program that changes what it may do and then becomes it.
    pub fn start_in_by(
        pod: &Pod,
        wrapper: &[&str],
        program: &Path,
        config: &Path,
        run: &Path,
    ) -> anyhow::Result<Self> {
        let socket = run.join(format!("{}.sock", pod.node().name()));
        let mut command = Command::new("unshare");
        command.arg("--cgroup").args(wrapper).arg(program);
        command.args(["agent", "--node", pod.node().name(), "--workers", "1"]);
        command.arg("--config").arg(config).arg("--admin-socket").arg(&socket);
        command.arg("--cgroup").arg(pod.node().pods_cgroup());
        command.arg("--node-netns").arg(pod.node().netns().path());
        let _ = std::fs::remove_file(&socket);
        let process = pod.spawn("agent", &command)?;
        Self { process, program: program.to_owned(), socket }.answering()
    }

    /// Starts the agent of `node`, which reads the API server that `kubeconfig` names, and waits until it has read it.
    pub fn start_on_kubernetes(
        node: &Node,
        program: &Path,
        kubeconfig: &Path,
        run: &Path,
    ) -> anyhow::Result<Self> {
        let socket = run.join(format!("{}.sock", node.name()));
        let mut command = Command::new(program);
        command.args(["agent", "--node", node.name(), "--workers", "1"]);
        command.arg("--kubeconfig").arg(kubeconfig).arg("--admin-socket").arg(&socket);
        command.arg("--cgroup").arg(node.pods_cgroup());
        Self::start_with(node, &command, program, socket)
    }

    /// Starts `command` as the agent of `node`, with its admin socket at `socket`, and waits until it answers.
    fn start_with(node: &Node, command: &Command, program: &Path, socket: PathBuf) -> anyhow::Result<Self> {
        // A previous agent that was killed leaves its socket, at which this one would seem to answer.
        let _ = std::fs::remove_file(&socket);
        let process = node.spawn("agent", command)?;
        Self { process, program: program.to_owned(), socket }.answering()
    }

    /// Starts a gateway in `pod` for Gateways that select `labels`, and waits until it answers. Its admin socket is
    /// `<pod>.sock` in `run`.
    pub fn gateway(
        pod: &Pod,
        labels: &str,
        program: &Path,
        config: &Path,
        run: &Path,
    ) -> anyhow::Result<Self> {
        let socket = run.join(format!("{}.sock", pod.name()));
        let mut command = Command::new(program);
        command.args(["gateway", "--labels", labels, "--namespace", pod.namespace(), "--name", pod.name()]);
        command.args(["--workers", "1"]);
        command.arg("--config").arg(config).arg("--admin-socket").arg(&socket);
        let _ = std::fs::remove_file(&socket);
        let process = pod.spawn("gateway", &command)?;
        Self { process, program: program.to_owned(), socket }.answering()
    }

    fn answering(mut self) -> anyhow::Result<Self> {
        wait_until(START, &format!("{} to answer", self.process.name()), || {
            self.process.must_run()?;
            Ok(self.cli(&["status"])?.status.success().then_some(()))
        })?;
        Ok(self)
    }

    /// Waits until so many pods are captured, which is what `status` says.
    pub fn wait_captured(&mut self, pods: u64) -> anyhow::Result<()> {
        let mut seen = Value::Null;
        let waited = wait_until(START, &format!("{pods} captured pods"), || {
            self.process.must_run()?;
            seen = self.ask(&["status"])?;
            Ok((seen.pointer("/workloads/captured").and_then(Value::as_u64) == Some(pods)).then_some(()))
        });
        waited.with_context(|| {
            format!("{} says {}", self.process.name(), seen.pointer("/workloads").unwrap_or(&seen))
        })
    }

    /// Runs a verb against it.
    pub fn cli(&self, verb: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(verb).arg("--admin-socket").arg(&self.socket);
        command.output().with_context(|| format!("cannot run {}", self.program.display()))
    }

    /// Runs a verb with `--output json`; an answer that is no JSON or an exit code above 1 is an error.
    pub fn ask(&self, verb: &[&str]) -> anyhow::Result<Value> {
        let output = self.cli(&[verb, &["--output", "json"]].concat())?;
        if !matches!(output.status.code(), Some(0 | 1)) {
            bail!(
                "{} ({}): {}",
                verb.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{} did not answer with JSON", verb.join(" ")))
    }

    /// The kernel programs' counters.
    pub fn counters(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let status = self.ask(&["status"])?;
        let counters = status
            .pointer("/capture/counters")
            .and_then(Value::as_object)
            .context("status has no counters")?;
        Ok(counters.iter().filter_map(|(name, n)| Some((name.clone(), n.as_u64()?))).collect())
    }

    /// The kernel's numbers of its programs.
    pub fn program_ids(&self) -> anyhow::Result<Vec<u32>> {
        let bpf = self.ask(&["bpf"])?;
        let programs = bpf.get("programs").and_then(Value::as_array).context("bpf lists no programs")?;
        Ok(programs.iter().filter_map(|p| u32::try_from(p.get("id")?.as_u64()?).ok()).collect())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it answers.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(self, grace: Duration) -> anyhow::Result<Finished> {
        self.process.terminate(grace)
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(self) -> anyhow::Result<Finished> {
        self.process.kill()
    }
}

impl Finished {
    /// Standard output as one JSON value per line, as the example application's clients write it.
    pub fn events(&self) -> anyhow::Result<Vec<Value>> {
        self.stdout
            .lines()
            .map(|l| serde_json::from_str(l).with_context(|| format!("not JSON: {l}")))
            .collect()
    }
}
