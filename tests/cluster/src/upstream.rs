//! Kubernetes as its project builds it, on nodes of our own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use undermesh_tests::{World, settle, wait_until};

use crate::control_plane::ControlPlane;
use crate::forward::Forward;
use crate::machine::CGROUP;
use crate::node::{Layout, Node};
use crate::programs::Programs;
use crate::provider::{NodeProgram, Provider};
use crate::run::output;
use crate::{dns, packages};

/// Two seconds for a node on a machine that has nothing else to do.
const READY: Duration = Duration::from_secs(120);

/// A control plane and nodes.
#[derive(Debug)]
pub struct Upstream {
    forwards: Vec<Forward>,
    nodes: Vec<Node>,
    layout: Layout,
    plane: ControlPlane,
}

impl Upstream {
    /// Starts it with `nodes` nodes and DNS, and waits until all of it is ready. `told` gets a line for each step.
    ///
    /// # Errors
    /// What [`World::new`] finds missing, what cannot be installed, or what one of the programs says.
    pub fn start(
        programs: &Programs,
        nodes: u8,
        layout: Layout,
        told: impl Fn(&str),
    ) -> anyhow::Result<Self> {
        packages::install(&told)?;
        told("etcd, API server, controller manager, scheduler");
        let plane = ControlPlane::start_in(World::new()?, programs)?;
        // Between the nodes' pods.
        settle(plane.world().fabric(), true)?;
        told(&format!("{nodes} nodes: containerd, kubelet, kube-proxy"));
        let mut cluster = Self { forwards: Vec::new(), nodes: Vec::new(), layout, plane };
        cluster.nodes = each(1..=nodes, |number| Node::start(&cluster.plane, number, layout))?;
        for node in &mut cluster.nodes {
            node.join(&cluster.plane)?;
        }
        told("CoreDNS");
        let archive = cluster.plane.world().disk()?.join("coredns.tar");
        std::fs::write(&archive, dns::image(&programs.coredns())?.archive()?)?;
        cluster.import(&archive)?;
        cluster.plane.apply(&dns::manifest(dns::ADDRESS))?;
        cluster.wait_ready(nodes)?;
        Ok(cluster)
    }

    fn wait_ready(&mut self, nodes: u8) -> anyhow::Result<()> {
        let mut last = String::new();
        let all = wait_until(READY, "nodes and DNS to be ready", || {
            self.must_run()?;
            let mut command = self.plane.kubectl();
            command.args(["get", "nodes", "-o"]);
            command.arg(r#"jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}"#);
            last = output(&mut command).unwrap_or_else(|e| format!("{e:#}"));
            let ready = last.split_whitespace().filter(|s| *s == "True").count() == usize::from(nodes);
            if !ready {
                std::thread::sleep(Duration::from_millis(200));
            }
            Ok(ready.then_some(()))
        });
        all.with_context(|| format!("nodes say {last:?}"))?;
        let mut command = self.plane.kubectl();
        command.args(["-n", "kube-system", "wait", "--for=condition=Available", "deploy/coredns"]);
        output(command.arg(format!("--timeout={}s", READY.as_secs()))).map(drop)
    }

    /// A folder for what should go when the cluster goes, where its nodes see it.
    pub fn folder(&self) -> anyhow::Result<PathBuf> {
        self.plane.world().disk()
    }

    /// Its control plane.
    pub fn plane(&mut self) -> &mut ControlPlane {
        &mut self.plane
    }
}

impl Provider for Upstream {
    fn kubeconfig(&self) -> &Path {
        self.plane.kubeconfig()
    }

    fn description(&self) -> String {
        let layout = match self.layout {
            Layout::Upstream => "",
            Layout::K3s => ", with k3s's paths",
        };
        format!("Kubernetes {} on {} nodes{layout}", crate::KUBERNETES, self.nodes.len())
    }

    fn on_a_node(&self) -> Option<Command> {
        self.nodes.first().map(Node::enter)
    }

    fn import(&self, archive: &Path) -> anyhow::Result<()> {
        each(&self.nodes, |node| node.import(archive)).map(drop)
    }

    fn cgroup(&self) -> Option<&str> {
        Some(CGROUP)
    }

    fn has_load_balancers(&self) -> bool {
        false
    }

    fn still_loaded(&self, programs: &[u32]) -> anyhow::Result<Vec<u32>> {
        undermesh_tests::still_loaded(programs)
    }

    fn restart(&mut self, program: NodeProgram) -> anyhow::Result<bool> {
        let plane = &self.plane;
        each(&mut self.nodes, |node| node.restart(plane, program))?;
        Ok(true)
    }

    fn forward(&mut self, preferred: u16, to: SocketAddr) -> anyhow::Result<Option<SocketAddr>> {
        // From a node, whose kube-proxy knows the services' addresses.
        let node = self.nodes.first().context("there are no nodes")?;
        let forward = Forward::start(node.netns(), preferred, to)?;
        let local = forward.local();
        self.forwards.push(forward);
        Ok(Some(local))
    }

    fn must_run(&mut self) -> anyhow::Result<()> {
        self.plane.must_run()?;
        self.nodes.iter_mut().try_for_each(Node::must_run)
    }

    fn end(self: Box<Self>) -> anyhow::Result<Vec<PathBuf>> {
        let Self { forwards, nodes, plane, .. } = *self;
        drop((forwards, nodes));
        plane.end()
    }
}

/// Does something for each, all at once, and gives the results in order.
pub(crate) fn each<I: Send, T: Send>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(move || work(item))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))).collect()
    })
}
