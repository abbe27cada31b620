//! One agent, one API server, one pod: the agent on a node made for it, as root and as in a DaemonSet, reads a cluster of a given
//! size from an API server in memory, and a pod of that node asks for what a VirtualService says.
//!
//! The API server is a thread of the measuring process, so that what is said of the agent's process is said of the agent alone.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use undermesh_fake_api::{Definition, FakeApi};
use undermesh_tests::{Node, Pod, Process, World, wait_until};
use undermesh_worlds::cluster::{self, Size};

const LIMIT: Duration = Duration::from_secs(120);
/// Where the agent answers scrapes and probes.
const METRICS: &str = "127.0.0.1:15020";
/// The service that the pod calls.
const PROBE: &str = "http://10.96.200.1/";
/// Which says by this header of its answers which version of its rule was in force.
const MARK: &str = "x-version";
/// Clock ticks per second in /proc, on every Linux.
const TICKS: f64 = 100.0;

/// See the module's text. Fields are dropped in this order: the world last.
pub(crate) struct Cluster {
    pub(crate) size: Size,
    api: Arc<FakeApi>,
    agent: Process,
    client: Process,
    /// So much of what the client wrote has been looked at, bytes.
    read: u64,
    _backend: Process,
    version: u32,
    _world: World,
}

/// What the agent's process has taken so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    /// Wall time since its start.
    pub(crate) time: Duration,
    /// Of a processor.
    pub(crate) cpu: Duration,
    /// Resident, KiB.
    pub(crate) resident: u64,
    /// At most so far, KiB.
    pub(crate) peak: u64,
}

/// What the API server was asked for so far, and bytes of its answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) requests: usize,
    pub(crate) bytes: u64,
}

impl Cluster {
    /// Fills the API server, starts the agent, and waits until it is ready and the pod's first request is answered. Also what
    /// reading all of it took.
    pub(crate) fn set(size: Size, undermesh: &Path, bookinfo: &Path) -> anyhow::Result<(Self, Taken)> {
        let mut world = World::new()?;
        let node = world.node("n1")?;
        let api = Arc::new(node.netns().run(|| FakeApi::start().context("the API server"))?);
        api.define(Definition::istio(&["v1", "v1beta1", "v1alpha3"]));
        cluster::objects(size).for_each(|object| api.apply(object));
        let (pod, backend) = (node.pod("probe", "client")?, node.pod("probe", "backend")?);
        for object in probe(&pod, &backend) {
            api.apply(object);
        }
        api.apply(rule(0));
        // What has happened before nobody asks for.
        api.compact();
        let run = |arguments: &[&str]| {
            let mut command = Command::new(bookinfo);
            command.args(arguments);
            command
        };
        let mut server = backend.spawn("backend", &run(&["service2"]))?;
        server.wait_for_text("listening on", LIMIT)?;
        let kubeconfig = world.folder().join("kubeconfig");
        std::fs::write(&kubeconfig, api.kubeconfig())?;
        let mut command = Command::new(undermesh);
        command.args(["agent", "--node", node.name(), "--workers", "2", "--access-log", "off"]);
        command.arg("--kubeconfig").arg(&kubeconfig).arg("--cgroup").arg(node.pods_cgroup());
        command
            .arg("--admin-socket")
            .arg(world.folder().join("agent.sock"))
            .args(["--metrics-address", METRICS]);
        let began = Instant::now();
        let mut agent = node.spawn("agent", &command)?;
        wait_until(LIMIT, "the agent to be ready", || {
            agent.must_run()?;
            std::thread::sleep(Duration::from_millis(20));
            Ok(is_ready(&node).then_some(()))
        })?;
        let taken = taken(agent.pid(), began.elapsed())?;
        // 2 ms: a client that does nothing else, and a small part of a processor.
        let client =
            pod.spawn("client", &run(&["client", "http", PROBE, "--count", "0", "--interval-ms", "2"]))?;
        let mut cluster =
            Self { size, api, agent, client, read: 0, _backend: server, version: 0, _world: world };
        cluster.wait_for(0)?;
        Ok((cluster, taken))
    }

    /// What its process has taken; `time` is nothing.
    pub(crate) fn taken(&self) -> anyhow::Result<Taken> {
        taken(self.agent.pid(), Duration::ZERO)
    }

    /// What the API server was asked for.
    pub(crate) fn asked(&self) -> Asked {
        Asked { requests: self.api.asked().len(), bytes: self.api.bytes() }
    }

    /// The next version of the rule of the probe: how long it was until the first request that obeys it.
    pub(crate) fn change(&mut self) -> anyhow::Result<Duration> {
        self.version += 1;
        let began = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        self.api.apply(rule(self.version));
        let ended = self.wait_for(self.version)?;
        Ok(Duration::from_secs_f64((ended - began).max(0.0)))
    }

    /// When the first request was answered by a version of the rule, in seconds since 1970. No request fails.
    fn wait_for(&mut self, version: u32) -> anyhow::Result<f64> {
        let mark = version.to_string();
        let Self { agent, client, read, .. } = self;
        wait_until(LIMIT, &format!("version {version} of the rule"), || {
            agent.must_run()?;
            client.must_run()?;
            for line in client.stdout_from(*read).split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                *read += line.len() as u64;
                let event: Value = serde_json::from_str(line)?;
                ensure!(event["status"] == 200, "a request failed: {event}");
                if event["headers"][MARK] == *mark {
                    return Ok(event["at"].as_f64());
                }
            }
            Ok(None)
        })
    }

    /// So many endpoints a second come and go, each of another service, while `work` is done. Also how long that took.
    pub(crate) fn churning<T>(&mut self, a_second: u32, work: impl FnOnce(&mut Self) -> T) -> (T, Duration) {
        let (began, end) = (Instant::now(), AtomicBool::new(false));
        let (api, size) = (self.api.clone(), self.size);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut number = 0u32;
                while !end.load(Ordering::Relaxed) {
                    // The first endpoint of one service after another becomes not ready, and ready again.
                    let service = number as usize % size.services;
                    let is_ready = (number as usize / size.services) % 2 == 1;
                    api.apply(cluster::slice(size, service, is_ready));
                    number += 1;
                    let due = Duration::from_secs(1) * number / a_second;
                    std::thread::sleep(due.saturating_sub(began.elapsed()));
                }
            });
            let result = work(self);
            end.store(true, Ordering::Relaxed);
            result
        });
        (result, began.elapsed())
    }
}

fn is_ready(node: &Node) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(METRICS)?;
        stream.write_all(b"GET /healthz/ready HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text.starts_with("HTTP/1.1 200"))
    };
    node.netns().run(ask).unwrap_or(false)
}

fn taken(pid: u32, time: Duration) -> anyhow::Result<Taken> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line =
            status.lines().find(|line| line.starts_with(name)).context("a field of /proc/PID/status")?;
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).context("a number of KiB")
    };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name in parentheses; user and system time are the 14th and 15th field.
    let rest = stat.rsplit_once(')').context("/proc/PID/stat")?.1;
    let ticks = rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
    let cpu = Duration::from_secs_f64(ticks.sum::<u64>() as f64 / TICKS);
    Ok(Taken { time, cpu, resident: field("VmRSS:")?, peak: field("VmHWM:")? })
}

/// What the pod needs to have something to call.
fn probe(client: &Pod, backend: &Pod) -> Vec<Value> {
    let pod = |pod: &Pod| {
        let labels = json!({"app": pod.name()});
        let ips: Vec<Value> = pod.addresses().iter().map(|ip| json!({"ip": ip.to_string()})).collect();
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid(), "labels": labels},
            "spec": {"nodeName": pod.node().name(), "containers": [{"name": "main"}]},
            "status": {"phase": "Running", "podIPs": ips, "conditions": [{"type": "Ready", "status": "True"}]}})
    };
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "probe", "labels": {"istio.io/dataplane-mode": "undermesh"}}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": client.node().name()}}),
        pod(client),
        pod(backend),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "probe", "namespace": "probe"},
            "spec": {"clusterIP": "10.96.200.1", "selector": {"app": "backend"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "probe-1", "namespace": "probe", "labels": {"kubernetes.io/service-name": "probe"}},
            "endpoints": [{"addresses": [backend.addresses()[0].to_string()], "targetRef": {"kind": "Pod", "name": "backend"}}],
            "ports": [{"name": "http", "port": 8080}]}),
    ]
}

fn rule(version: u32) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "probe", "namespace": "probe"},
        "spec": {"hosts": ["probe"], "http": [{"headers": {"response": {"set": {MARK: version.to_string()}}},
            "route": [{"destination": {"host": "probe"}}]}]}})
}

/// The `share` of the times that are not longer: 0.5 is the median.
pub(crate) fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (share * times.len() as f64).ceil() as usize;
    times.get(at.saturating_sub(1)).copied().unwrap_or_default()
}
