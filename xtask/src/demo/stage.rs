//! The stage: nodes, pods, the applications in them, the configuration, an agent on each node and the gateway.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use undermesh_tests::{Agent, Binaries, Config, Node, Pod, PodSpec, Process, World};

use crate::cargo::root;
use crate::demo::report::progress;

/// Applications start in milliseconds; this is for a machine busy with something else.
const START: Duration = Duration::from_secs(20);

/// One application: where it runs, what it runs, how its pod is labelled.
struct Part {
    namespace: &'static str,
    name: &'static str,
    node: usize,
    app: &'static str,
    version: &'static str,
    port: u16,
    /// Arguments of the `bookinfo` binary; none for a pod from which clients are started.
    role: &'static [&'static str],
}

/// The addresses are those of the Services in deploy/examples: without DNS, names are for Host headers.
const PARTS: [Part; 8] = [
    Part {
        namespace: "default",
        name: "productpage-v1",
        node: 0,
        app: "productpage",
        version: "v1",
        port: 9080,
        role: &[
            "productpage",
            "--details",
            "10.96.0.11:9080",
            "--reviews",
            "10.96.0.12:9080",
            "--ratings",
            "10.96.0.13:9080",
        ],
    },
    Part {
        namespace: "default",
        name: "details-v1",
        node: 1,
        app: "details",
        version: "v1",
        port: 9080,
        role: &["details"],
    },
    Part {
        namespace: "default",
        name: "ratings-v1",
        node: 0,
        app: "ratings",
        version: "v1",
        port: 9080,
        role: &["ratings"],
    },
    Part {
        namespace: "default",
        name: "reviews-v1",
        node: 0,
        app: "reviews",
        version: "v1",
        port: 9080,
        role: &["reviews", "--version", "v1"],
    },
    Part {
        namespace: "default",
        name: "reviews-v2",
        node: 1,
        app: "reviews",
        version: "v2",
        port: 9080,
        role: &["reviews", "--version", "v2", "--ratings", "10.96.0.13:9080"],
    },
    Part {
        namespace: "default",
        name: "reviews-v3",
        node: 1,
        app: "reviews",
        version: "v3",
        port: 9080,
        role: &["reviews", "--version", "v3", "--ratings", "10.96.0.13:9080"],
    },
    Part {
        namespace: "ns1",
        name: "service1",
        node: 0,
        app: "service1",
        version: "v1",
        port: 8080,
        role: &[],
    },
    Part {
        namespace: "ns2",
        name: "service2",
        node: 1,
        app: "service2",
        version: "v1",
        port: 8080,
        role: &["service2"],
    },
];

/// Pods of the mesh on each node, of those above.
const CAPTURED: [u64; 2] = [4, 4];

/// Everything that runs. Dropping it removes all of it.
pub(crate) struct Stage {
    /// One on each node.
    pub(crate) agents: Vec<Agent>,
    /// The ingress gateway; not in the mesh itself.
    pub(crate) gateway: Pod,
    gateway_agent: Agent,
    /// A pod outside the mesh: no label on its namespace.
    pub(crate) visitor: Pod,
    /// What the agents read.
    pub(crate) config: Config,
    /// The programs.
    pub(crate) binaries: Binaries,
    pods: BTreeMap<String, Pod>,
    // Kept for their Drop: they end before the world does.
    _applications: Vec<Process>,
    world: World,
}

impl Stage {
    /// Sets it up, which takes some seconds.
    pub(crate) fn set(binaries: Binaries) -> anyhow::Result<Self> {
        progress("two nodes and their pods: network namespaces and cgroups");
        let mut world = World::new()?;
        let nodes = [world.node("n1")?, world.node("n2")?];
        let config = Config::create(world.folder().join("config"))?;
        for folder in ["article", "bookinfo", "two-namespaces"] {
            config.copy_from(&root().join("deploy/examples").join(folder))?;
        }
        let (pods, gateway, visitor) = place(&nodes, &config)?;

        progress("Bookinfo, service1 and service2");
        let applications = start(&pods, &binaries)?;

        progress("an agent on each node, and the ingress gateway");
        let run = world.folder();
        let start = |node: &Node| Agent::start(node, &binaries.undermesh, config.folder(), &run);
        let mut agents = nodes.iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
        for (agent, pods) in agents.iter_mut().zip(CAPTURED) {
            agent.wait_captured(pods)?;
        }
        let labels = "istio=ingressgateway";
        let gateway_agent = Agent::gateway(&gateway, labels, &binaries.undermesh, config.folder(), &run)?;
        Ok(Self {
            agents,
            gateway,
            gateway_agent,
            visitor,
            config,
            binaries,
            pods,
            _applications: applications,
            world,
        })
    }

    /// The pod `namespace/name`.
    pub(crate) fn pod(&self, name: &str) -> anyhow::Result<&Pod> {
        self.pods.get(name).with_context(|| format!("there is no pod {name}"))
    }

    /// Where the gateway listens, as the Gateway resource says.
    pub(crate) fn ingress(&self) -> SocketAddr {
        self.gateway.at(80)
    }

    /// Where its admin socket is.
    pub(crate) fn gateway_socket(&self) -> PathBuf {
        self.gateway_agent.socket().to_owned()
    }

    /// The `client` role of the example application.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binaries.bookinfo);
        command.arg("client").args(arguments);
        command
    }

    /// Where things are that go when the world goes.
    pub(crate) fn folder(&self) -> PathBuf {
        self.world.folder()
    }

    /// The kernel's numbers of all agents' programs.
    pub(crate) fn program_ids(&self) -> anyhow::Result<Vec<u32>> {
        Ok(self.agents.iter().map(Agent::program_ids).collect::<anyhow::Result<Vec<_>>>()?.concat())
    }

    /// Nodes, pods, processes.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        // The gateway's and the visitor's pod are not among the parts; the gateway is a process.
        (self.agents.len(), self.pods.len() + 2, self._applications.len() + self.agents.len() + 1)
    }

    /// Ends everything in order and gives what is left.
    pub(crate) fn end(self) -> anyhow::Result<Vec<PathBuf>> {
        let grace = Duration::from_secs(10);
        // The gateway first: then nothing comes in any more that the agents would have to finish.
        self.gateway_agent.terminate(grace)?.success("gateway")?;
        for agent in self.agents {
            agent.terminate(grace)?.success("agent")?;
        }
        self.world.remove()
    }
}

/// Makes the pods and writes their manifests. The gateway's namespace and the visitor's are not labelled.
fn place(nodes: &[Node; 2], config: &Config) -> anyhow::Result<(BTreeMap<String, Pod>, Pod, Pod)> {
    let mut pods = BTreeMap::new();
    let mut manifests = Vec::new();
    for part in &PARTS {
        let node = nodes.get(part.node).context("the table names a third node")?;
        let pod = node.pod(part.namespace, part.name)?;
        let spec = PodSpec::labelled([("app", part.app), ("version", part.version)]).port("http", part.port);
        manifests.push(pod.manifest(&spec));
        pods.insert(format!("{}/{}", part.namespace, part.name), pod);
    }
    let gateway = nodes[0].pod("istio-system", "istio-ingressgateway")?;
    let spec =
        PodSpec::labelled([("app", "istio-ingressgateway"), ("istio", "ingressgateway")]).port("http", 80);
    manifests.push(gateway.manifest(&spec));
    let visitor = nodes[0].pod("outside", "visitor")?;
    manifests.push(visitor.manifest(&PodSpec::labelled([("app", "visitor")])));
    config.write("pods.yaml", &manifests.join("---\n"))?;
    Ok((pods, gateway, visitor))
}

fn start(pods: &BTreeMap<String, Pod>, binaries: &Binaries) -> anyhow::Result<Vec<Process>> {
    let mut processes = Vec::new();
    for part in PARTS.iter().filter(|p| !p.role.is_empty()) {
        let pod = pods.get(&format!("{}/{}", part.namespace, part.name)).context("all parts have pods")?;
        let mut command = Command::new(&binaries.bookinfo);
        command.args(part.role).args(["--pod", part.name]);
        processes.push(pod.spawn(part.app, &command)?);
    }
    for process in &mut processes {
        process.wait_for_text("listening on", START)?;
    }
    Ok(processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_to_be_captured_are_those_of_the_table() {
        for (node, captured) in CAPTURED.into_iter().enumerate() {
            assert_eq!(PARTS.iter().filter(|p| p.node == node).count() as u64, captured, "node {node}");
        }
    }
}
