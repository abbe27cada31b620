//! One node with a small mesh, as most tests here need it.
//!
//! `web` answers with what it was asked, and the mesh marks its answers with `x-mesh`, so that an answer without the mark
//! did not come through the proxy. `web-direct` is the same pod as a headless service: its address works with and without
//! a mesh. `echo` is bare TCP and UDP.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use undermesh_tests::{Agent, Binaries, Config, Node, Pod, PodSpec, Process, World, can_run_here};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Service `web`.
pub(crate) const WEB: &str = "10.96.9.1:8080";
pub(crate) const WEB_V6: &str = "[fd00:10:96::9:1]:8080";
pub(crate) const WEB_MAPPED: &str = "[::ffff:10.96.9.1]:8080";
/// Service `echo`.
pub(crate) const ECHO: &str = "10.96.9.2:7000";
/// What `echo` says first; a mesh that waits for the client to speak would stall here.
pub(crate) const GREETING: &str = "220 echo ready";

const YAML: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: mesh, labels: {istio.io/dataplane-mode: undermesh}}
---
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: mesh}
spec:
  clusterIP: 10.96.9.1
  clusterIPs: [10.96.9.1, "fd00:10:96::9:1"]
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web-direct, namespace: mesh}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: mesh}
spec:
  clusterIP: 10.96.9.2
  selector: {app: echo}
  ports: [{name: tcp, port: 7000}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mark, namespace: mesh}
spec:
  hosts: [web, web-direct]
  http:
    - match: [{sourceLabels: {app: a}}]
      headers: {response: {set: {x-mesh: "for a"}}}
      route: [{destination: {host: web}}]
    - headers: {response: {set: {x-mesh: "for others"}}}
      route: [{destination: {host: web}}]
"#;

/// The node and all on it. Fields are dropped in this order: the world last.
pub(crate) struct Mesh {
    /// `None` while a test has ended it.
    pub(crate) agent: Option<Agent>,
    /// In the mesh, labelled `app: a`.
    pub(crate) a: Pod,
    /// In the mesh, labelled `app: b`.
    pub(crate) b: Pod,
    pub(crate) web: Pod,
    /// Not in the mesh; runs an echo server, too.
    pub(crate) outsider: Pod,
    /// In the mesh, with the node's network namespace.
    pub(crate) host: Pod,
    pub(crate) node: Node,
    pub(crate) config: Config,
    _servers: Vec<Process>,
    pub(crate) world: World,
}

/// Pods of the mesh: a, b, web, echo, host.
const CAPTURED: u64 = 5;

impl Mesh {
    /// The mesh with a running agent, or `None` if `test` cannot run here (which is said).
    pub(crate) fn set(test: &str) -> anyhow::Result<Option<Self>> {
        if !can_run_here(test) {
            return Ok(None);
        }
        let binaries = Binaries::for_tests()?;
        let mut world = World::new()?;
        let node = world.node("n1")?;
        let config = Config::create(world.folder().join("config"))?;
        config.write("mesh.yaml", YAML)?;
        let mut manifests = Vec::new();
        let mut pod = |namespace: &str, name: &str| -> anyhow::Result<Pod> {
            let pod = match name {
                "host" => node.host_network_pod(namespace, name)?,
                _ => node.pod(namespace, name)?,
            };
            manifests.push(pod.manifest(&PodSpec::labelled([("app", name)])));
            Ok(pod)
        };
        let (a, b, web) = (pod("mesh", "a")?, pod("mesh", "b")?, pod("mesh", "web")?);
        let (echo, host, outsider) = (pod("mesh", "echo")?, pod("mesh", "host")?, pod("plain", "outsider")?);
        config.write("pods.yaml", &manifests.join("---\n"))?;
        let bookinfo = |arguments: &[&str]| {
            let mut command = Command::new(&binaries.bookinfo);
            command.args(arguments);
            command
        };
        let greet = ["echo", "--greeting", GREETING];
        let mut servers = vec![
            web.spawn("web", &bookinfo(&["service2"]))?,
            echo.spawn("echo", &bookinfo(&greet))?,
            outsider.spawn("echo", &bookinfo(&["echo"]))?,
            a.spawn("loopback", &bookinfo(&["echo", "--listen", "[::]:7001"]))?,
        ];
        for server in &mut servers {
            server.wait_for_text("listening on", LIMIT)?;
        }
        let mut mesh =
            Self { agent: None, a, b, web, outsider, host, node, config, _servers: servers, world };
        mesh.start()?;
        Ok(Some(mesh))
    }

    /// Starts the agent, for the first time or again.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let program = &Binaries::for_tests()?.undermesh;
        let mut agent = Agent::start(&self.node, program, self.config.folder(), &self.world.folder())?;
        agent.wait_captured(CAPTURED)?;
        self.agent = Some(agent);
        Ok(())
    }

    pub(crate) fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("the test has not ended it")
    }

    /// The `client` role, not started yet.
    pub(crate) fn client(arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(&Binaries::for_tests()?.bookinfo);
        command.arg("client").args(arguments);
        Ok(command)
    }

    /// What a client in `pod` saw.
    pub(crate) fn events(&self, pod: &Pod, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        pod.run("client", &Self::client(arguments)?, LIMIT)?.success("client")?.events()
    }

    /// GET of `/` at an address, once.
    pub(crate) fn get(&self, pod: &Pod, address: &str) -> anyhow::Result<Value> {
        let url = format!("http://{address}/");
        let events = self.events(pod, &["http", &url, "--host", "web.mesh.svc.cluster.local:8080"])?;
        Ok(events.into_iter().next().expect("a client says what came of a request"))
    }

    pub(crate) fn counters(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        self.agent().counters()
    }

    /// How much each kernel counter grew during `work`, those that did not left out.
    pub(crate) fn counted<T>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<(T, BTreeMap<String, u64>)> {
        let before = self.counters()?;
        let done = work()?;
        let mut grown = self.counters()?;
        for (name, n) in &mut grown {
            *n -= before.get(name).copied().unwrap_or_default();
        }
        grown.retain(|_, n| *n > 0);
        Ok((done, grown))
    }

    /// A number of `status`, such as `/traffic/accepted`.
    pub(crate) fn status(&self, pointer: &str) -> anyhow::Result<u64> {
        let status = self.agent().ask(&["status"])?;
        Ok(status
            .pointer(pointer)
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("no {pointer} in {status}")))
    }
}

/// The mesh's mark on an answer.
pub(crate) fn mark(event: &Value) -> Option<&str> {
    event.pointer("/headers/x-mesh").and_then(Value::as_str)
}

/// The text of a field.
pub(crate) fn field<'a>(event: &'a Value, name: &str) -> &'a str {
    event.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// What `web` said it was asked.
pub(crate) fn said(event: &Value) -> Value {
    serde_json::from_str(field(event, "body")).unwrap_or_default()
}
