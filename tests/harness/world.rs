//! The world of one test: its nodes, the wire between them, and the certainty that all of it goes away.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

use crate::link::{Step, configure, settle};
use crate::netns::NetNs;
use crate::node::{FABRIC_BRIDGE, Node};
use crate::process::{Place, Process, last_lines};
use crate::{cgroup, interrupt, leftovers, requirement};

/// Nodes and what connects them. Dropping it ends every process in it and removes every namespace, cgroup and file.
#[derive(Debug)]
pub struct World {
    name: String,
    cgroup: PathBuf,
    fabric: NetNs,
    nodes: Vec<Node>,
    /// Locked while this lives; a sweep by another process tells by it that the world is in use.
    _alive: File,
}

impl World {
    /// An empty world with a name of its own. Worlds that killed runs left behind are removed first.
    ///
    /// # Errors
    /// What [`require`](crate::require) finds missing, or what the kernel refuses.
    pub fn new() -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let cgroup_root = requirement::require()?;
        Self::sweep_stale()?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{}-{count}", leftovers::PREFIX, std::process::id());
        interrupt::guard(&name)?;
        let alive = leftovers::claim(&name)?;
        match Self::build(name.clone(), cgroup_root.join(&name), alive) {
            Ok(world) => Ok(world),
            Err(e) => {
                interrupt::unguard(&name);
                leftovers::remove(&name).context("and then could not clean up")?;
                Err(e)
            }
        }
    }

    fn build(name: String, cgroup: PathBuf, alive: File) -> anyhow::Result<Self> {
        let folder = leftovers::folder(&name);
        fs::create_dir(folder.join("logs"))?;
        cgroup::create(&cgroup)?;
        let fabric = NetNs::create(&folder.join(leftovers::NETNS).join("fabric"))?;
        settle(&fabric, false)?;
        configure(&fabric, &[Step::Up("lo"), Step::Bridge(FABRIC_BRIDGE)])?;
        Ok(Self { name, cgroup, fabric, nodes: Vec::new(), _alive: alive })
    }

    /// Adds a node, connected with all nodes so far. Names are as Kubernetes allows them.
    pub fn node(&mut self, name: &str) -> anyhow::Result<Node> {
        let node = Node::create(self, name).with_context(|| format!("cannot make node {name}"))?;
        self.nodes.push(node.clone());
        Ok(node)
    }

    /// The world's own name, `um-<pid>-<count>`; part of the path of everything in it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A folder for configuration, sockets and whatever else should go when the world goes.
    pub fn folder(&self) -> PathBuf {
        leftovers::folder(&self.name)
    }

    /// A folder likewise, on disk, for what is large.
    pub fn disk(&self) -> anyhow::Result<PathBuf> {
        let folder = leftovers::disk(&self.name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// Makes another network namespace. Names of nodes and `fabric` are taken.
    pub fn namespace(&self, name: &str) -> anyhow::Result<NetNs> {
        NetNs::create(&self.folder().join(leftovers::NETNS).join(name))
    }

    /// Starts a process that is neither a node's nor a pod's, in a cgroup below the world's. Its output goes to `<name>.out`
    /// and `<name>.err` in [`logs`](Self::logs), over that of a predecessor of the same name.
    pub fn spawn(
        &self,
        netns: &NetNs,
        cgroup: &str,
        name: &str,
        command: &Command,
    ) -> anyhow::Result<Process> {
        let cgroup = self.cgroup.join(cgroup);
        cgroup::create(&cgroup)?;
        Process::start(Place { netns, cgroup: &cgroup, logs: &self.logs() }, name, command)
    }

    /// Where the output of its processes is kept.
    pub fn logs(&self) -> PathBuf {
        self.folder().join("logs")
    }

    /// Removes worlds whose makers no longer live, and gives their names.
    pub fn sweep_stale() -> anyhow::Result<Vec<String>> {
        leftovers::sweep()
    }

    /// Ends and removes everything, and gives what is still there after that: nothing, if all is well.
    pub fn remove(self) -> anyhow::Result<Vec<PathBuf>> {
        self.clean_up()?;
        leftovers::of(&self.name)
    }

    /// Its part of cgroup2, with everything it runs below it. The path below the mount is the world's name, in the v1
    /// hierarchies too, for those who need folders there.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The namespace that is the wire between the nodes; its bridge is [`FABRIC_BRIDGE`](crate::FABRIC_BRIDGE).
    pub fn fabric(&self) -> &NetNs {
        &self.fabric
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    fn clean_up(&self) -> anyhow::Result<()> {
        interrupt::unguard(&self.name);
        leftovers::remove(&self.name)
    }

    /// The end of each log, for whoever has to find out why a test failed.
    fn print_logs(&self) {
        let Ok(list) = fs::read_dir(self.logs()) else { return };
        let mut files: Vec<PathBuf> = list.flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files {
            let text = fs::read(&file).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
            if !text.trim().is_empty() {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                eprintln!("--- {name}: {}", last_lines(&text, 40));
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        if let Err(e) = self.clean_up() {
            // Not a panic: that would hide the one we may be in. The next run sweeps.
            eprintln!("{}: {e:#}", self.name);
        }
    }
}
