//! What stands for a machine of the cluster: namespaces for network, mounts and processes, and cgroups.
//!
//! What runs on it sees a machine: its own network, its own /run, /var/lib and /etc, its own processes (the first of which
//! is in its network namespace, which is how an agent with hostPID knows it), and at [`CGROUP`] its own cgroup2.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use undermesh_tests::{
    FABRIC_BRIDGE, NetNs, Process, Step, World, configure, settle, v1_hierarchies, wait_until,
};

use crate::control_plane::{ADDRESS, ADDRESS_V6};

/// Where a machine has the part of cgroup2 that is its own: a host path for whatever wants its cgroups. (On a machine
/// of its own it would be /sys/fs/cgroup.)
pub const CGROUP: &str = "/run/node-cgroup2";
const START: Duration = Duration::from_secs(60);
const SCRIPT: &str = include_str!("machine.sh");

/// A machine without anything running on it.
#[derive(Debug)]
pub(crate) struct Machine {
    name: String,
    number: u8,
    world: String,
    netns: NetNs,
    disk: PathBuf,
    /// The process that holds its namespaces.
    holder: u32,
    // Kept for their Drop; the world ends them in any case.
    processes: Vec<(Command, Process)>,
}

impl Machine {
    /// Number `number` (from 1), called `n<number>`. `prepare` may put files into its folder on disk, where `var-lib` and
    /// `etc` are what it will see at those places.
    pub(crate) fn start(
        world: &World,
        number: u8,
        prepare: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let name = format!("n{number}");
        let disk = world.disk()?.join(&name);
        std::fs::create_dir_all(&disk)?;
        prepare(&disk)?;
        let netns = world.namespace(&format!("node-{name}"))?;
        let mut machine = Self {
            name,
            number,
            world: world.name().to_owned(),
            netns,
            disk,
            holder: 0,
            processes: Vec::new(),
        };
        machine.connect(world)?;
        let cgroup = machine.cgroups(world)?;
        machine.hold(world, &cgroup)?;
        Ok(machine)
    }

    /// Its name in the cluster.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, self.number)
    }

    /// Likewise by IPv6.
    pub(crate) fn address_v6(&self) -> Ipv6Addr {
        let [net @ .., _] = ADDRESS_V6.segments();
        let [a, b, c, d, e, f, g] = net;
        Ipv6Addr::new(a, b, c, d, e, f, g, self.number.into())
    }

    /// Its network namespace.
    pub(crate) fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its folder on disk.
    pub(crate) fn disk(&self) -> &Path {
        &self.disk
    }

    /// Its cgroup in every hierarchy, below where that is mounted.
    pub(crate) fn cgroup(&self) -> String {
        format!("/{}/{}", self.world, self.name)
    }

    fn connect(&self, world: &World) -> anyhow::Result<()> {
        settle(&self.netns, true)?;
        let port = format!("k{}", self.number);
        let fabric = world.fabric();
        let lo_and_uplink = [
            Step::Up("lo"),
            Step::Veth { near: "eth0", far: &port, into: fabric },
            Step::Address("eth0", (self.address().into(), 24)),
            Step::Address("eth0", (self.address_v6().into(), 64)),
            Step::Up("eth0"),
        ];
        configure(&self.netns, &lo_and_uplink)?;
        let plugged =
            [Step::Port { link: &port, bridge: FABRIC_BRIDGE }, Step::Up(&port), Step::Ready(&port)];
        configure(fabric, &plugged)?;
        let defaults = [
            Step::Ready("eth0"),
            Step::Route((Ipv4Addr::UNSPECIFIED.into(), 0), ADDRESS.into()),
            Step::Route((Ipv6Addr::UNSPECIFIED.into(), 0), ADDRESS_V6.into()),
        ];
        configure(&self.netns, &defaults)
    }

    /// Makes its folders in every hierarchy and gives that in cgroup2.
    fn cgroups(&self, world: &World) -> anyhow::Result<PathBuf> {
        for hierarchy in v1_hierarchies()? {
            let mut parent = hierarchy.clone();
            for part in [world.name(), &self.name] {
                let folder = parent.join(part);
                std::fs::create_dir_all(&folder)
                    .with_context(|| format!("cannot make {}", folder.display()))?;
                // A new cpuset is empty, and nothing can run in it.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if let Ok(value) = std::fs::read_to_string(parent.join(file)) {
                        std::fs::write(folder.join(file), value)?;
                    }
                }
                parent = folder;
            }
        }
        let cgroup = world.cgroup().join(&self.name);
        std::fs::create_dir_all(&cgroup)?;
        // Where cgroup2 has the controllers, the kubelet wants them; on a hybrid host it has none.
        for folder in cgroup.ancestors().take(3).collect::<Vec<_>>().into_iter().rev() {
            for controller in std::fs::read_to_string(folder.join("cgroup.controllers"))?.split_whitespace() {
                // One that cannot be had is missed by the kubelet, which says so.
                let _ = std::fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        Ok(cgroup)
    }

    /// Starts the process that holds its namespaces.
    fn hold(&mut self, world: &World, cgroup: &Path) -> anyhow::Result<()> {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--",
            "/bin/sh",
            "-c",
            SCRIPT,
            "machine",
        ]);
        command.arg(&self.disk).arg(world.folder()).arg(cgroup);
        let mut holder = self.spawn_outside(world, "holder", &command)?;
        let ready = self.disk.join("ready");
        wait_until(START, &format!("the mounts of {}", self.name), || {
            holder.must_run()?;
            Ok(ready.exists().then_some(()))
        })?;
        self.holder = holder.pid();
        self.processes.push((command, holder));
        Ok(())
    }

    /// For a command inside its namespaces, but for the network: what follows is program and arguments.
    pub(crate) fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder));
        command.arg(format!("--pid=/proc/{}/ns/pid_for_children", self.holder)).arg("--");
        command
    }

    /// Likewise in its network, too.
    pub(crate) fn enter_all(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder)).arg("--");
        let inner = self.enter();
        command.arg(inner.get_program()).args(inner.get_args());
        command
    }

    /// Starts a program on it, in its network too, with `path` before the ordinary PATH.
    pub(crate) fn spawn(
        &mut self,
        world: &World,
        name: &str,
        path: &str,
        program: &Command,
    ) -> anyhow::Result<()> {
        let mut command = self.enter();
        command.arg(program.get_program()).args(program.get_args());
        let ordinary = std::env::var("PATH").unwrap_or_default();
        // Debian keeps runc and iptables where an ordinary PATH does not look.
        command.env("PATH", format!("{path}:{ordinary}:/usr/sbin:/sbin"));
        let process = self.spawn_outside(world, name, &command)?;
        self.processes.push((command, process));
        Ok(())
    }

    /// Kills a program that was [spawned](Self::spawn), as the out-of-memory killer does it, and starts it anew. What it started
    /// goes on.
    pub(crate) fn restart(&mut self, world: &World, name: &str) -> anyhow::Result<()> {
        let whole = format!("{}.{name}", self.name);
        let at = self.processes.iter().position(|(_, process)| process.name() == whole);
        let (command, mut process) =
            self.processes.remove(at.with_context(|| format!("{whole} does not run"))?);
        // The process of ours is nsenter, which waits for the program in the other namespace and ends with it.
        let children = format!("/proc/{0}/task/{0}/children", process.pid());
        for child in std::fs::read_to_string(children)?.split_whitespace() {
            kill_process(child.parse().ok().and_then(Pid::from_raw).context("a pid")?, Signal::KILL)?;
        }
        wait_until(START, &format!("the end of {whole}"), || process.ended())?;
        let process = self.spawn_outside(world, name, &command)?;
        self.processes.push((command, process));
        Ok(())
    }

    fn spawn_outside(&self, world: &World, name: &str, command: &Command) -> anyhow::Result<Process> {
        let cgroup = format!("{}/system/{name}", self.name);
        world.spawn(&self.netns, &cgroup, &format!("{}.{name}", self.name), command)
    }

    /// An error with its last words if one of its programs has ended.
    pub(crate) fn must_run(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(|(_, process)| process.must_run())
    }

    /// The path by which we see a file of the node.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder))
    }

    /// Writes a file of it, with the folders above it.
    pub(crate) fn write(&self, path: &str, text: &str) -> anyhow::Result<()> {
        let path = self.inside(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// An error if it would not see a file of ours, because it has folders of its own there.
    pub(crate) fn must_see(path: &Path) -> anyhow::Result<PathBuf> {
        let path = path.canonicalize().with_context(|| format!("there is no file {}", path.display()))?;
        for own in ["/run", "/etc", "/var/lib", "/var/log"] {
            ensure!(
                !path.starts_with(own),
                "{}: a node has its own {own}; put the file elsewhere",
                path.display()
            );
        }
        Ok(path)
    }
}
