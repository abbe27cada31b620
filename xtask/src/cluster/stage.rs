//! The stage: a cluster, and what is done to it with kubectl and helm, as a user does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use serde_json::Value;
use undermesh_cluster::run::{line, output};
use undermesh_cluster::{Provider, Tools};

use crate::cargo::root;

/// helm's release and its namespace.
pub(crate) const RELEASE: &str = "undermesh";
pub(crate) const SYSTEM: &str = "undermesh-system";
/// The namespaces that come into the mesh.
pub(crate) const MESHED: [&str; 3] = ["default", "ns1", "ns2"];
/// Seconds. Images are there, so what takes longer hangs.
pub(crate) const READY: u32 = 120;

/// Everything that the checks work with.
pub(crate) struct Stage {
    pub(crate) cluster: Box<dyn Provider>,
    pub(crate) tools: Tools,
    /// The folder of `kubectl-undermesh`.
    pub(crate) plugin: PathBuf,
    /// Files of the project that were applied.
    applied: RefCell<Vec<PathBuf>>,
    /// helm's values that the user asked for.
    pub(crate) set: Vec<String>,
    /// Numbers of the kernel's programs that the agents loaded, to look for after the uninstall.
    pub(crate) programs: Vec<u32>,
    /// `namespace/pod` and its uid, as it was before the mesh came.
    pub(crate) pods_before: BTreeMap<String, String>,
    /// From `helm install` to agents and gateways that are ready.
    pub(crate) installed: Option<Duration>,
}

impl Stage {
    pub(crate) fn new(cluster: Box<dyn Provider>, tools: Tools, plugin: PathBuf, set: Vec<String>) -> Self {
        let (applied, programs) = (RefCell::default(), Vec::new());
        Self { cluster, tools, plugin, applied, set, programs, pods_before: BTreeMap::new(), installed: None }
    }

    /// As long as `seconds` are on a machine of one's own.
    pub(crate) fn limit(&self, seconds: u32) -> Duration {
        Duration::from_secs(u64::from(seconds * self.cluster.patience()))
    }

    /// For kubectl and helm.
    pub(crate) fn timeout(&self, seconds: u32) -> String {
        format!("--timeout={}s", self.limit(seconds).as_secs())
    }

    /// What kubectl says.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(self.tools.kubectl(&*self.cluster).args(arguments))
    }

    /// What kubectl says in JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let said = self.kubectl(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&said).with_context(|| format!("kubectl {} gave no JSON", arguments.join(" ")))
    }

    /// Applies a file or folder of the project.
    pub(crate) fn apply(&self, path: &str) -> anyhow::Result<()> {
        let path = root().join(path);
        self.kubectl(&["apply", "-f", &path.display().to_string()])?;
        self.applied.borrow_mut().push(path);
        Ok(())
    }

    /// Deletes what was applied, for a cluster that stays. The kinds stay, as after any `helm uninstall`.
    pub(crate) fn take_back(&self) -> anyhow::Result<()> {
        for path in self.applied.take().iter().rev() {
            let path = path.display().to_string();
            self.kubectl(&["delete", "--ignore-not-found", "-f", &path])?;
        }
        for namespace in ["default", SYSTEM] {
            self.kubectl(&["label", "namespace", namespace, "istio.io/dataplane-mode-"])?;
        }
        Ok(())
    }

    /// Applies a file with Deployments of the project. Where everything is slow their probes are seldom and patient: a pod that
    /// is called unready for being late makes work for everyone, and they all are later.
    pub(crate) fn apply_workloads(&self, path: &str) -> anyhow::Result<()> {
        let path = root().join(path);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let text = patient(&text, self.cluster.patience());
        undermesh_cluster::run::apply(self.tools.kubectl(&*self.cluster), &text)?;
        self.applied.borrow_mut().push(path);
        Ok(())
    }

    /// What helm says.
    pub(crate) fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(self.tools.helm(&*self.cluster).args(arguments))
    }

    /// `kubectl undermesh`, as a user has it: the program by its other name in the PATH.
    pub(crate) fn plugin(&self, verb: &[&str]) -> anyhow::Result<Answer> {
        let mut command = self.tools.kubectl(&*self.cluster);
        command.env("PATH", self.path()?).arg("undermesh").args(verb);
        let output = command.output().with_context(|| line(&command))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer { code: output.status.code(), said: text(output.stdout), error: text(output.stderr) })
    }

    /// The PATH with kubectl, helm and the plugin before everything else.
    pub(crate) fn path(&self) -> anyhow::Result<OsString> {
        let tools = [&self.tools.kubectl, &self.tools.helm].into_iter().filter_map(|p| p.parent());
        let ordinary = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(&*self.plugin).chain(tools).map(PathBuf::from);
        Ok(std::env::join_paths(folders.chain(std::env::split_paths(&ordinary)))?)
    }

    /// A program in a pod.
    pub(crate) fn exec(&self, namespace: &str, pod: &str, program: &[&str]) -> Command {
        let mut command = self.tools.kubectl(&*self.cluster);
        command.args(["exec", "-n", namespace, pod, "--"]).args(program);
        command
    }

    /// HTTP from inside a pod; one event for each request.
    pub(crate) fn http(&self, from: (&str, &str), url: &str, more: &[&str]) -> anyhow::Result<Vec<Value>> {
        let program = [&["/bookinfo", "client", "http", url], more].concat();
        events(&output(&mut self.exec(from.0, from.1, &program))?)
    }

    /// Likewise, without an end, until [`Load::end`].
    pub(crate) fn load(
        &self,
        from: (&str, &str),
        url: &str,
        interval_ms: u32,
        more: &[&str],
    ) -> anyhow::Result<Load> {
        let interval = (interval_ms * self.cluster.patience()).to_string();
        let mut command = self.tools.kubectl(&*self.cluster);
        command.args(["exec", "-i", "-n", from.0, from.1, "--", "/bookinfo", "client", "http", url]);
        command.args(["--count", "0", "--while-input", "--interval-ms", &interval]).args(more);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.with_context(|| line(&command))?;
        let mut said = child.stdout.take().context("it is piped")?;
        // Read as it comes: a full pipe would stop the requests.
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            // What was read before an error counts.
            let _ = said.read_to_end(&mut all);
            all
        });
        Ok(Load { child, reader, patience: self.limit(20) })
    }

    /// Waits until all of a namespace's Deployments and DaemonSets are rolled out.
    pub(crate) fn wait_rolled_out(&self, namespace: &str) -> anyhow::Result<()> {
        for kind in ["deployment", "daemonset"] {
            let names = self.kubectl(&["get", kind, "-n", namespace, "-o", "name"])?;
            for name in names.lines() {
                let timeout = self.timeout(READY);
                self.kubectl(&["rollout", "status", name, "-n", namespace, &timeout])
                    .map_err(|e| e.context(self.troubles(namespace)))?;
            }
        }
        Ok(())
    }

    /// Pods of a namespace that are not ready, and their last words.
    pub(crate) fn troubles(&self, namespace: &str) -> String {
        let pods = self.kubectl(&["get", "pods", "-n", namespace, "-o", "wide"]).unwrap_or_default();
        let events = self
            .kubectl(&["get", "events", "-n", namespace, "--field-selector=type=Warning"])
            .unwrap_or_default();
        let names = self.kubectl(&["get", "pods", "-n", namespace, "-o", "name"]).unwrap_or_default();
        let logs = names.lines().map(|name| {
            let logs = self.kubectl(&["logs", "-n", namespace, name, "--tail=8", "--all-containers"]);
            format!("{name}: {}", logs.unwrap_or_else(|e| format!("{e:#}")).trim())
        });
        let last: Vec<&str> = events.lines().rev().take(8).collect();
        format!("{pods}\n{}\n{}", last.join("\n"), logs.collect::<Vec<_>>().join("\n"))
    }

    /// The agent's pod on the node of the pods with label `app=<app>`.
    pub(crate) fn agent_beside(&self, namespace: &str, app: &str) -> anyhow::Result<String> {
        let node = self.kubectl(&[
            "get",
            "pod",
            "-n",
            namespace,
            "-l",
            &format!("app={app}"),
            "-o",
            "jsonpath={.items[0].spec.nodeName}",
        ])?;
        let agents = self.agents()?;
        let found = agents.into_iter().find(|(_, on)| *on == node);
        found.map(|(name, _)| name).with_context(|| format!("there is no agent on node {node}"))
    }

    /// The agents' pods, and the nodes they are on.
    pub(crate) fn agents(&self) -> anyhow::Result<Vec<(String, String)>> {
        let pods = self.json(&["get", "pods", "-n", SYSTEM])?;
        let text = |v: &Value, p: &str| v.pointer(p).and_then(Value::as_str).unwrap_or_default().to_owned();
        let pods = pods.get("items").and_then(Value::as_array).into_iter().flatten();
        let agents = pods.filter(|p| text(p, "/metadata/ownerReferences/0/kind") == "DaemonSet");
        // One that is going does not answer for long.
        let agents = agents.filter(|p| p.pointer("/metadata/deletionTimestamp").is_none());
        Ok(agents.map(|p| (text(p, "/metadata/name"), text(p, "/spec/nodeName"))).collect())
    }

    /// A verb of the command line inside an agent's pod.
    pub(crate) fn undermesh(&self, agent: &str, verb: &[&str]) -> anyhow::Result<String> {
        let program = [&["/undermesh"], verb].concat();
        output(&mut self.exec(SYSTEM, agent, &program))
    }

    /// Likewise, its JSON.
    pub(crate) fn ask(&self, agent: &str, verb: &[&str]) -> anyhow::Result<Value> {
        let said = self.undermesh(agent, &[verb, &["--output", "json"]].concat())?;
        serde_json::from_str(&said).with_context(|| format!("{} gave no JSON", verb.join(" ")))
    }

    /// `namespace/pod` and uid of every pod in the namespaces that come into the mesh.
    pub(crate) fn pods(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for namespace in MESHED {
            let pods = self.json(&["get", "pods", "-n", namespace])?;
            for pod in pods.get("items").and_then(Value::as_array).into_iter().flatten() {
                let text = |p: &str| pod.pointer(p).and_then(Value::as_str).unwrap_or_default();
                let restarts = pod.pointer("/status/containerStatuses/0/restartCount");
                let restarts = restarts.and_then(Value::as_u64).unwrap_or_default();
                let (name, uid) = (text("/metadata/name"), text("/metadata/uid"));
                all.insert(format!("{namespace}/{name}"), format!("{uid}, {restarts} restarts"));
            }
        }
        Ok(all)
    }

    /// helm's values for this cluster.
    pub(crate) fn values(&self) -> Vec<String> {
        let mut own = Vec::new();
        if let Some(cgroup) = self.cluster.cgroup() {
            own.push(format!("agent.cgroupHostPath={cgroup}"));
        }
        if !self.cluster.has_load_balancers() {
            // Nobody would give the Service its address, and helm would wait for it.
            own.push("ingressGateway.service.type=ClusterIP".to_owned());
        }
        let values = own.into_iter().chain(self.set.iter().cloned());
        values.map(|value| format!("--set={value}")).collect()
    }
}

/// With probes `patience` times as patient.
fn patient(manifest: &str, patience: u32) -> String {
    manifest.lines().fold(String::new(), |all, line| {
        let indent = line.strip_suffix("periodSeconds: 1").filter(|_| patience > 1);
        match indent {
            Some(indent) => {
                format!("{all}{indent}periodSeconds: {patience}\n{indent}timeoutSeconds: {}\n", 2 * patience)
            }
            None => format!("{all}{line}\n"),
        }
    })
}

/// What a program came to whose exit code says something.
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
    pub(crate) error: String,
}

/// Requests that go on.
pub(crate) struct Load {
    child: Child,
    reader: JoinHandle<Vec<u8>>,
    patience: Duration,
}

impl Load {
    /// Ends them and gives the events so far.
    pub(crate) fn end(mut self) -> anyhow::Result<Vec<Value>> {
        // Killing kubectl alone would not do: what it started in the pod would go on.
        drop(self.child.stdin.take());
        let end = Instant::now() + self.patience;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > end {
                self.child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let all = self.reader.join().map_err(|_| anyhow!("reading the events panicked"))?;
        let text = String::from_utf8_lossy(&all).into_owned();
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let events = events(whole)?;
        ensure!(!events.is_empty(), "no request was made");
        Ok(events)
    }
}

pub(crate) fn events(text: &str) -> anyhow::Result<Vec<Value>> {
    text.lines().map(|l| serde_json::from_str(l).with_context(|| format!("not JSON: {l}"))).collect()
}

/// Calls `poll` until it gives a value; each question is a process, hence the pause.
pub(crate) fn wait<T>(
    limit: Duration,
    what: &str,
    mut poll: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + limit;
    loop {
        let last = match poll() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(e) => Some(e),
        };
        if Instant::now() >= end {
            let why = last.map(|e| format!(": {e:#}")).unwrap_or_default();
            anyhow::bail!("waited {limit:?} in vain for {what}{why}");
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_patient_where_asked_and_else_as_written() {
        let probe = "  readinessProbe:\n    periodSeconds: 1\n    failureThreshold: 3\n";
        assert_eq!(patient(probe, 1), probe);
        let slow =
            "  readinessProbe:\n    periodSeconds: 5\n    timeoutSeconds: 10\n    failureThreshold: 3\n";
        assert_eq!(patient(probe, 5), slow);
        let bookinfo =
            std::fs::read_to_string(root().join("deploy/kubernetes/bookinfo.yaml")).expect("a file");
        assert!(
            patient(&bookinfo, 5).contains("timeoutSeconds: 10")
                && !patient(&bookinfo, 5).contains("periodSeconds: 1\n")
        );
    }
}
