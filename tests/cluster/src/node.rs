//! A node with a real kubelet, containerd, runc, CNI plugins and kube-proxy.

mod config;
mod layout;

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use undermesh_tests::{NetNs, Step, configure, wait_until};

pub use self::layout::Layout;
use crate::control_plane::ControlPlane;
use crate::image::Image;
use crate::machine::Machine;
use crate::provider::NodeProgram;
use crate::run::output;

const START: Duration = Duration::from_secs(60);

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    machine: Machine,
    layout: Layout,
}

impl Node {
    /// Starts node number `number`, from 1. It has no pod network yet and is not ready: see [`join`](Self::join).
    pub(crate) fn start(plane: &ControlPlane, number: u8, layout: Layout) -> anyhow::Result<Self> {
        let machine = Machine::start(plane.world(), number, |disk| layout.prepare(disk))?;
        let mut node = Self { machine, layout };
        node.run(plane)?;
        Ok(node)
    }

    /// Its network namespace.
    pub(crate) fn netns(&self) -> &NetNs {
        self.machine.netns()
    }

    /// For a command on it, as root.
    pub(crate) fn enter(&self) -> Command {
        self.machine.enter_all()
    }

    /// An error with its last words if one of its programs has ended.
    pub(crate) fn must_run(&mut self) -> anyhow::Result<()> {
        self.machine.must_run()
    }

    /// Writes the files of its programs and starts containerd, kubelet and kube-proxy.
    fn run(&mut self, plane: &ControlPlane) -> anyhow::Result<()> {
        let (name, authority) = (self.machine.name().to_owned(), plane.authority());
        let folder = plane.world().folder().join("kubernetes");
        let (user, group) = (format!("system:node:{name}"), Some("system:nodes"));
        let client = authority.client(&format!("{name}-client"), &user, group)?;
        let address = [IpAddr::V4(self.machine.address()), IpAddr::V6(self.machine.address_v6())];
        let server = authority.server(&format!("{name}-server"), &user, group, &[&name], &address)?;
        let kubeconfig = plane.config_for(&name, &client)?;
        let proxy = authority.client(&format!("{name}-proxy"), "system:kube-proxy", None)?;
        let proxy_kubeconfig = plane.config_for(&format!("{name}-proxy"), &proxy)?;
        let cgroup = self.machine.cgroup();
        let kubelet = config::Kubelet {
            layout: self.layout,
            cgroup: &cgroup,
            authority: authority.certificate(),
            certificate: &server.certificate,
            key: &server.key,
        };
        let write = |file: String, text: &str| {
            let path = folder.join(file);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            anyhow::Ok(path)
        };
        let kubelet = write(format!("{name}-kubelet.yaml"), &kubelet.text())?;
        let containerd = write(format!("{name}-containerd.toml"), &config::containerd(self.layout))?;
        let kube_proxy =
            write(format!("{name}-kube-proxy.yaml"), &config::kube_proxy(&name, &proxy_kubeconfig))?;
        if let Some(path) = self.layout.kubeconfig() {
            self.machine.write(path, &std::fs::read_to_string(plane.kubeconfig_inside())?)?;
        }

        let mut command = Command::new(self.layout.program("containerd"));
        command.arg("--config").arg(containerd);
        self.spawn(plane, "containerd", &command)?;
        self.wait_containerd()?;
        let pause = self.machine.disk().join("pause.tar");
        std::fs::write(&pause, Image::pause().archive()?)?;
        self.import(&pause)?;
        let mut command = Command::new(plane.programs().kubernetes("kubelet"));
        command.arg("--config").arg(kubelet).arg("--kubeconfig").arg(kubeconfig);
        let addresses = address.map(|address| address.to_string()).join(",");
        command.args(["--hostname-override", &name, "--node-ip", &addresses]);
        self.spawn(plane, "kubelet", &command)?;
        let mut command = Command::new(plane.programs().kubernetes("kube-proxy"));
        command.arg("--config").arg(kube_proxy);
        self.spawn(plane, "kube-proxy", &command)
    }

    fn wait_containerd(&mut self) -> anyhow::Result<()> {
        let socket = self.machine.inside(&self.layout.containerd_socket());
        wait_until(START, "containerd", || {
            self.machine.must_run()?;
            // The socket is there before it is listened at, hence the question as well.
            Ok((socket.exists() && output(&mut self.ctr(&["version"])).is_ok()).then_some(()))
        })
    }

    /// Kills one of its programs and starts it anew.
    pub(crate) fn restart(&mut self, plane: &ControlPlane, program: NodeProgram) -> anyhow::Result<()> {
        self.machine.restart(plane.world(), program.name())?;
        match program {
            NodeProgram::Containerd => self.wait_containerd(),
            NodeProgram::Kubelet => Ok(()),
        }
    }

    fn spawn(&mut self, plane: &ControlPlane, name: &str, command: &Command) -> anyhow::Result<()> {
        self.machine.spawn(plane.world(), name, self.layout.programs().unwrap_or_default(), command)
    }

    /// Waits for the node's share of the pods' addresses and sets up its pod network and the route to it: then the kubelet says
    /// that the node is ready.
    pub(crate) fn join(&mut self, plane: &ControlPlane) -> anyhow::Result<()> {
        let pods = wait_until(START, &format!("addresses for the pods of {}", self.machine.name()), || {
            self.machine.must_run()?;
            let mut command = plane.kubectl();
            command.args(["get", "node", self.machine.name(), "-o", "jsonpath={.spec.podCIDRs[*]}"]);
            let said = output(&mut command).unwrap_or_default();
            if said.is_empty() {
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok((!said.is_empty()).then_some(said))
        })?;
        let pods: Vec<&str> = pods.split_whitespace().collect();
        self.machine.write(&format!("{}/10-net.conflist", self.layout.cni_config()), &config::cni(&pods))?;
        for share in pods {
            let (to, bits) = config::prefix(share).with_context(|| format!("podCIDR {share:?}"))?;
            let node = match to {
                IpAddr::V4(_) => IpAddr::V4(self.machine.address()),
                IpAddr::V6(_) => IpAddr::V6(self.machine.address_v6()),
            };
            // By way of the wire between the nodes, as a cloud's table of routes does it.
            configure(plane.world().fabric(), &[Step::Route((to, bits), node)])?;
        }
        Ok(())
    }

    /// Gives containerd the images of an archive.
    pub(crate) fn import(&self, archive: &Path) -> anyhow::Result<()> {
        let mut command = self.ctr(&["images", "import"]);
        output(command.arg(Machine::must_see(archive)?)).map(drop)
    }

    fn ctr(&self, verb: &[&str]) -> Command {
        let mut command = self.machine.enter();
        let socket = self.layout.containerd_socket();
        command.args([&self.layout.program("ctr"), "--address", &socket, "--namespace", "k8s.io"]).args(verb);
        command
    }
}
