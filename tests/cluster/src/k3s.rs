//! k3s itself: its server on the first node and its agents on the others, on the same kind of machines as our own nodes.
//!
//! The binary is the user's, or a pinned release that is fetched and checked. Written from k3s's documentation and source; it has
//! not been run where it was written, because k3s could not be had there. What is tested is all that is not k3s: command
//! lines, drop-ins, where the binary comes from, what is said when it fails.
//! <https://docs.k3s.io/cli/server> <https://docs.k3s.io/advanced>

mod binary;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use undermesh_tests::{FABRIC_BRIDGE, Step, World, configure, settle, wait_until};

use crate::control_plane::ADDRESS;
use crate::dns;
use crate::forward::Forward;
use crate::image::{Image, PAUSE};
use crate::machine::{CGROUP, Machine};
use crate::packages;
use crate::programs::Programs;
use crate::provider::{NodeProgram, Provider};
use crate::run::{apply, output};
use crate::upstream::each;

pub(crate) use self::binary::VERSION;

/// Its default, of which the tenth address is DNS'.
const DNS: &str = "10.43.0.10";
const PORT: u16 = 6443;
/// Between server and agents; the cluster is on no network but its own.
const TOKEN: &str = "undermesh";
/// k3s unpacks itself first.
const START: Duration = Duration::from_secs(180);
/// What would need images from outside, or ports that the gateway wants.
const DISABLED: &str = "--disable=coredns,traefik,servicelb,metrics-server,local-storage";

/// A running cluster of k3s.
#[derive(Debug)]
pub struct K3s {
    forwards: Vec<Forward>,
    machines: Vec<Machine>,
    binary: PathBuf,
    version: String,
    kubeconfig: PathBuf,
    world: World,
}

impl K3s {
    /// The binary: `given`, else `K3S_BIN`, else the one on the PATH, else the pinned release if it may be fetched.
    ///
    /// # Errors
    /// There is none; the message says how to name one. Or the fetched one is not what was published.
    pub fn find(given: Option<&Path>, download: bool, told: impl Fn(&str)) -> anyhow::Result<PathBuf> {
        binary::find(given, download, told)
    }

    /// Starts it with `nodes` nodes and DNS, and waits until all of it is ready.
    ///
    /// # Errors
    /// What [`World::new`] finds missing, or k3s's last words.
    pub fn start(binary: &Path, nodes: u8, told: impl Fn(&str)) -> anyhow::Result<Self> {
        let programs = Programs::cached()?;
        packages::install(&told)?;
        let binary = Machine::must_see(binary)?;
        let version = output(Command::new(&binary).arg("--version")).context("the binary is not k3s")?;
        let version = version.lines().next().unwrap_or_default().to_owned();
        let world = World::new()?;
        configure(world.fabric(), &[Step::Address(FABRIC_BRIDGE, (ADDRESS.into(), 24))])?;
        settle(world.fabric(), true)?;
        told(&format!("{version}: a server and {} agents", nodes.saturating_sub(1)));
        let (pause, resolver) = (Image::pause().archive()?, dns::image(&programs.coredns())?.archive()?);
        let machines = each(1..=nodes, |number| {
            Machine::start(&world, number, |disk| prepare(disk, &[("pause", &pause), ("coredns", &resolver)]))
        })?;
        let kubeconfig = world.folder().join("k3s.kubeconfig");
        let mut cluster = Self { forwards: Vec::new(), machines, binary, version, kubeconfig, world };
        cluster.start_server()?;
        for number in 1..cluster.machines.len() {
            cluster.start_agent(number)?;
        }
        told("CoreDNS");
        apply(cluster.kubectl(&programs), &dns::manifest(DNS))?;
        cluster.wait_ready(&programs)?;
        Ok(cluster)
    }

    fn start_server(&mut self) -> anyhow::Result<()> {
        let server = self.machines.first_mut().context("there is at least one node")?;
        let (name, address, cgroup) = (server.name().to_owned(), server.address(), server.cgroup());
        let mut command = Command::new(&self.binary);
        command.args(server_arguments(&name, address, &cgroup));
        server.spawn(&self.world, "k3s", "", &command)?;
        let written = server.inside("/etc/rancher/k3s/k3s.yaml");
        let said = wait_until(START, "k3s to write its kubeconfig", || {
            server.must_run().with_context(|| explain_end(&name))?;
            Ok(std::fs::read_to_string(&written).ok().filter(|text| text.contains("client-key-data")))
        })?;
        let forward = Forward::start(server.netns(), PORT, (address, PORT).into())?;
        std::fs::write(&self.kubeconfig, elsewhere(&said, forward.local()))?;
        self.forwards.push(forward);
        Ok(())
    }

    fn start_agent(&mut self, number: usize) -> anyhow::Result<()> {
        let server = self.machines.first().context("there is at least one node")?.address();
        let agent = self.machines.get_mut(number).context("there is such a node")?;
        let mut command = Command::new(&self.binary);
        command.args(agent_arguments(server, agent.name(), agent.address(), &agent.cgroup()));
        agent.spawn(&self.world, "k3s", "", &command)
    }

    fn kubectl(&self, programs: &Programs) -> Command {
        let mut command = Command::new(programs.kubectl());
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    fn wait_ready(&mut self, programs: &Programs) -> anyhow::Result<()> {
        let nodes = self.machines.len();
        let mut last = String::new();
        let all = wait_until(START, "k3s' nodes to be ready", || {
            self.must_run()?;
            last = output(self.kubectl(programs).args(["get", "nodes", "--no-headers"])).unwrap_or_default();
            let ready =
                last.lines().filter(|l| l.split_whitespace().nth(1) == Some("Ready")).count() == nodes;
            if !ready {
                std::thread::sleep(Duration::from_millis(300));
            }
            Ok(ready.then_some(()))
        });
        all.with_context(|| format!("nodes: {last}"))?;
        let mut command = self.kubectl(programs);
        command.args(["-n", "kube-system", "wait", "--for=condition=Available", "deploy/coredns"]);
        output(command.arg(format!("--timeout={}s", START.as_secs()))).map(drop)
    }
}

impl Provider for K3s {
    fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn description(&self) -> String {
        format!("{} on {} nodes", self.version, self.machines.len())
    }

    fn on_a_node(&self) -> Option<Command> {
        self.machines.first().map(Machine::enter_all)
    }

    fn import(&self, archive: &Path) -> anyhow::Result<()> {
        let archive = Machine::must_see(archive)?;
        each(&self.machines, |machine| {
            let mut command = machine.enter();
            command
                .arg(&self.binary)
                .args(["ctr", "--namespace", "k8s.io", "images", "import"])
                .arg(&archive);
            output(&mut command).map(drop)
        })
        .map(drop)
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

    fn restart(&mut self, _: NodeProgram) -> anyhow::Result<bool> {
        // It is kubelet and containerd in one; the first node's is the API server, too.
        let world = &self.world;
        each(&mut self.machines, |machine| machine.restart(world, "k3s"))?;
        Ok(true)
    }

    fn forward(&mut self, preferred: u16, to: SocketAddr) -> anyhow::Result<Option<SocketAddr>> {
        let node = self.machines.first().context("there are no nodes")?;
        let forward = Forward::start(node.netns(), preferred, to)?;
        let local = forward.local();
        self.forwards.push(forward);
        Ok(Some(local))
    }

    fn must_run(&mut self) -> anyhow::Result<()> {
        for machine in &mut self.machines {
            machine.must_run().with_context(|| explain_end(machine.name()))?;
        }
        Ok(())
    }

    fn end(self: Box<Self>) -> anyhow::Result<Vec<PathBuf>> {
        let Self { forwards, machines, world, .. } = *self;
        drop((forwards, machines));
        world.remove()
    }
}

/// What every node has, server or not.
fn node_arguments(name: &str, address: Ipv4Addr, cgroup: &str) -> Vec<String> {
    vec![
        format!("--node-name={name}"),
        format!("--node-ip={address}"),
        "--flannel-iface=eth0".into(),
        format!("--token={TOKEN}"),
        // Its own would be pulled.
        format!("--pause-image={PAUSE}"),
        format!("--kubelet-arg=cgroup-root={cgroup}"),
    ]
}

fn server_arguments(name: &str, address: Ipv4Addr, cgroup: &str) -> Vec<String> {
    let mut all = vec![
        "server".to_owned(),
        format!("--advertise-address={address}"),
        // The kubeconfig is used by way of a port of this machine.
        "--tls-san=127.0.0.1".into(),
        "--flannel-backend=host-gw".into(),
        "--egress-selector-mode=disabled".into(),
        DISABLED.into(),
        format!("--cluster-dns={DNS}"),
    ];
    all.extend(node_arguments(name, address, cgroup));
    all
}

fn agent_arguments(server: Ipv4Addr, name: &str, address: Ipv4Addr, cgroup: &str) -> Vec<String> {
    let mut all = vec!["agent".to_owned(), format!("--server=https://{server}:{PORT}")];
    all.extend(node_arguments(name, address, cgroup));
    all
}

/// What k3s reads beside its command line, below what will be the machine's /var/lib: settings that it has no flags for, and
/// the images that it takes in at its start.
fn prepare(disk: &Path, images: &[(&str, &[u8])]) -> anyhow::Result<()> {
    let data = disk.join("var-lib/rancher/k3s");
    for (file, text) in drop_ins() {
        let path = data.join(file);
        let folder = path.parent().context("a drop-in is in a folder")?;
        std::fs::create_dir_all(folder)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let folder = data.join("agent/images");
    std::fs::create_dir_all(&folder)?;
    for (name, archive) in images {
        std::fs::write(folder.join(format!("{name}.tar")), archive)?;
    }
    Ok(())
}

/// File below k3s's data folder, and content.
fn drop_ins() -> [(&'static str, String); 3] {
    let containerd = |plugin: &str| format!("[plugins.{plugin}]\n  restrict_oom_score_adj = true\n");
    [
        // Since 1.35 the kubelet otherwise refuses hosts with cgroup v1 or both.
        (
            "agent/etc/kubelet.conf.d/99-undermesh.conf",
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nfailCgroupV1: false\n"
                .into(),
        ),
        // Without CAP_SYS_RESOURCE, a negative oom_score_adj ends runc. The file for containerd 2, and that for 1.7.
        (
            "agent/etc/containerd/config-v3.toml.d/99-undermesh.toml",
            containerd("'io.containerd.cri.v1.runtime'"),
        ),
        ("agent/etc/containerd/config.toml.d/99-undermesh.toml", containerd("'io.containerd.grpc.v1.cri'")),
    ]
}

/// The kubeconfig that k3s wrote for its own machine, for use from elsewhere.
fn elsewhere(kubeconfig: &str, server: SocketAddr) -> String {
    kubeconfig.replace(&format!("https://127.0.0.1:{PORT}"), &format!("https://{server}"))
}

/// For people, before k3s's last words.
fn explain_end(node: &str) -> String {
    format!(
        "k3s on {node} has ended. `failed to find memory cgroup` and the like: the host's cgroups; `text file busy`: another k3s \
         unpacks itself; `cgroup v1 support`: it is older or newer than {VERSION}, for which the settings were written"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Layout;

    #[test]
    fn the_server_leaves_port_80_to_the_gateway_and_pulls_nothing() {
        let line = server_arguments("n1", Ipv4Addr::new(172, 30, 0, 1), "/um-1-0/n1").join(" ");
        for want in [
            "server ",
            "--disable=coredns,traefik,servicelb",
            "--node-name=n1",
            "--node-ip=172.30.0.1",
            "--advertise-address=172.30.0.1",
            "--tls-san=127.0.0.1",
            "--flannel-backend=host-gw",
            "--egress-selector-mode=disabled",
            "--pause-image=docker.io/undermesh/pause:1",
            "--kubelet-arg=cgroup-root=/um-1-0/n1",
        ] {
            assert!(line.contains(want), "{want} in {line}");
        }
        assert!(!line.contains("--server"), "{line}");
    }

    #[test]
    fn an_agent_knows_its_server_and_has_nothing_of_one() {
        let line =
            agent_arguments(Ipv4Addr::new(172, 30, 0, 1), "n2", Ipv4Addr::new(172, 30, 0, 2), "/um-1-0/n2")
                .join(" ");
        assert!(line.starts_with("agent --server=https://172.30.0.1:6443"), "{line}");
        assert!(line.contains("--node-name=n2") && line.contains("--token=undermesh"), "{line}");
        for servers in ["--disable", "--tls-san", "--flannel-backend", "--egress-selector-mode"] {
            assert!(!line.contains(servers), "{servers} in {line}");
        }
    }

    #[test]
    fn drop_ins_lie_where_k3s_looks_for_them() -> anyhow::Result<()> {
        let disk = std::env::temp_dir().join(format!("um-k3s-{}", std::process::id()));
        prepare(&disk, &[("pause", b"x")])?;
        let data = disk.join("var-lib/rancher/k3s/agent");
        let kubelet = std::fs::read_to_string(data.join("etc/kubelet.conf.d/99-undermesh.conf"))?;
        assert!(kubelet.contains("failCgroupV1: false"), "{kubelet}");
        let containerd =
            std::fs::read_to_string(data.join("etc/containerd/config-v3.toml.d/99-undermesh.toml"))?;
        assert!(containerd.contains("restrict_oom_score_adj = true"), "{containerd}");
        assert!(data.join("images/pause.tar").is_file());
        std::fs::remove_dir_all(disk)?;
        Ok(())
    }

    #[test]
    fn the_kubeconfig_leads_to_the_port_and_nothing_else_changes() {
        let own = "server: https://127.0.0.1:6443\nclient-key-data: abc\n";
        let local = SocketAddr::from(([127, 0, 0, 1], 40000));
        assert_eq!(elsewhere(own, local), "server: https://127.0.0.1:40000\nclient-key-data: abc\n");
    }

    #[test]
    fn the_paths_are_those_of_the_layout() {
        let data = "/var/lib/rancher/k3s/agent";
        assert!(Layout::K3s.containerd_root().starts_with(data));
        assert!(Layout::K3s.cni_config().starts_with(data));
    }
}
