//! A node: a network namespace with a bridge for its pods and an uplink to the other nodes, and a cgroup subtree.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use anyhow::{Context as _, ensure};

use crate::link::{Prefix, Step, configure, settle};
use crate::netns::NetNs;
use crate::pod::{Layout, Pod};
use crate::process::{Place, Process};
use crate::world::World;
use crate::{cgroup, leftovers};

/// IPv4 service addresses (ClusterIPs); unreachable from everywhere.
pub const SERVICE_CIDR_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);
/// IPv6 service addresses; unreachable from everywhere. The largest range that Kubernetes takes.
pub const SERVICE_CIDR_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0), 108);

/// The bridge between the nodes, see [`World::fabric`].
pub const FABRIC_BRIDGE: &str = "br0";
const UPLINK: &str = "eth0";
const POD_BRIDGE: &str = "cni0";
/// Nodes and pods are numbered within one byte of an address.
const MOST: usize = 250;

/// A node of a [`World`]. Cheap to clone; the world owns what it stands for.
#[derive(Debug, Clone)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    number: u8,
    world: String,
    netns: NetNs,
    cgroup: PathBuf,
    pods: AtomicU8,
    started: AtomicU32,
}

impl Node {
    pub(crate) fn create(world: &World, name: &str) -> anyhow::Result<Self> {
        ensure!(world.nodes().len() < MOST, "at most {MOST} nodes");
        let number = u8::try_from(world.nodes().len() + 1)?;
        let netns = NetNs::create(&leftovers::folder(world.name()).join(leftovers::NETNS).join(name))?;
        let node = Self(Arc::new(Inner {
            name: name.to_owned(),
            number,
            world: world.name().to_owned(),
            netns,
            cgroup: world.cgroup().join(name),
            // The bridge itself has .1.
            pods: AtomicU8::new(2),
            started: AtomicU32::new(0),
        }));
        cgroup::create(&node.pods_cgroup())?;
        cgroup::create(&node.system_cgroup())?;
        node.connect(world)?;
        Ok(node)
    }

    fn connect(&self, world: &World) -> anyhow::Result<()> {
        settle(self.netns(), true)?;
        let port = format!("n{}", self.0.number);
        let (bridge_v4, bridge_v6) = self.bridge_addresses();
        configure(
            self.netns(),
            &[
                Step::Up("lo"),
                Step::Veth { near: UPLINK, far: &port, into: world.fabric() },
                Step::Address(UPLINK, (self.address().into(), 24)),
                Step::Address(UPLINK, (self.address_v6().into(), 64)),
                Step::Up(UPLINK),
                Step::Bridge(POD_BRIDGE),
                Step::Address(POD_BRIDGE, (bridge_v4, 24)),
                Step::Address(POD_BRIDGE, (bridge_v6, 64)),
                Step::Unreachable((SERVICE_CIDR_V4.0.into(), SERVICE_CIDR_V4.1)),
                Step::Unreachable((SERVICE_CIDR_V6.0.into(), SERVICE_CIDR_V6.1)),
            ],
        )?;
        configure(
            world.fabric(),
            &[
                Step::Port { link: &port, bridge: FABRIC_BRIDGE },
                Step::Up(&port),
                Step::Ready(&port),
                Step::Ready(FABRIC_BRIDGE),
            ],
        )?;
        configure(self.netns(), &[Step::Ready(UPLINK)])?;
        for other in world.nodes() {
            self.route_to(other)?;
            other.route_to(self)?;
        }
        Ok(())
    }

    fn route_to(&self, other: &Self) -> anyhow::Result<()> {
        let [v4, v6] = other.pod_cidrs();
        configure(
            self.netns(),
            &[Step::Route(v4, other.address().into()), Step::Route(v6, other.address_v6().into())],
        )
    }

    /// A pod with addresses, a namespace and a cgroup of its own, and nothing running in it.
    pub fn pod(&self, namespace: &str, name: &str) -> anyhow::Result<Pod> {
        self.pod_laid_out(namespace, name, Layout::default())
    }

    /// Likewise, with cgroups named in another way.
    pub fn pod_laid_out(&self, namespace: &str, name: &str, layout: Layout) -> anyhow::Result<Pod> {
        let last = self.0.pods.fetch_add(1, Ordering::Relaxed);
        ensure!(usize::from(last) <= MOST, "at most {MOST} pods on a node");
        let file = format!("{namespace}.{name}");
        let netns = NetNs::create(&leftovers::folder(&self.0.world).join(leftovers::NETNS).join(&file))?;
        let n = self.0.number;
        let addresses = [
            IpAddr::from([10, 244, n, last]),
            Ipv6Addr::new(0xfd00, 0x10, 0x244, n.into(), 0, 0, 0, last.into()).into(),
        ];
        let port = format!("p{last}");
        let (bridge_v4, bridge_v6) = self.bridge_addresses();
        settle(&netns, false)?;
        configure(
            &netns,
            &[
                Step::Up("lo"),
                Step::Veth { near: "eth0", far: &port, into: self.netns() },
                Step::Address("eth0", (addresses[0], 24)),
                Step::Address("eth0", (addresses[1], 64)),
                Step::Up("eth0"),
            ],
        )?;
        configure(
            self.netns(),
            &[
                Step::Port { link: &port, bridge: POD_BRIDGE },
                Step::Up(&port),
                Step::Ready(&port),
                Step::Ready(POD_BRIDGE),
            ],
        )?;
        configure(
            &netns,
            &[
                Step::Ready("eth0"),
                Step::Route((Ipv4Addr::UNSPECIFIED.into(), 0), bridge_v4),
                Step::Route((Ipv6Addr::UNSPECIFIED.into(), 0), bridge_v6),
                // In the pod too, not only on the node: a refused route fails connect() itself, while an ICMP answer
                // from the node reaches a socket that is still locked by connect() and is taken for a passing fault.
                Step::Unreachable((SERVICE_CIDR_V4.0.into(), SERVICE_CIDR_V4.1)),
                Step::Unreachable((SERVICE_CIDR_V6.0.into(), SERVICE_CIDR_V6.1)),
            ],
        )
        .with_context(|| format!("pod {namespace}/{name}"))?;
        Pod::create(self, (namespace, name), netns, addresses, false, layout)
    }

    /// A pod with `hostNetwork: true`: the node's namespace and addresses, but a cgroup of its own.
    pub fn host_network_pod(&self, namespace: &str, name: &str) -> anyhow::Result<Pod> {
        let addresses = [self.address().into(), self.address_v6().into()];
        Pod::create(self, (namespace, name), self.netns().clone(), addresses, true, Layout::default())
    }

    /// Starts a process of the node itself, such as the agent: in its namespace, outside the pods' cgroup.
    pub fn spawn(&self, name: &str, command: &Command) -> anyhow::Result<Process> {
        let cgroup = self.system_cgroup().join(name);
        cgroup::create(&cgroup)?;
        self.start(self.netns(), &cgroup, name, command)
    }

    pub(crate) fn start(
        &self,
        netns: &NetNs,
        cgroup: &Path,
        name: &str,
        command: &Command,
    ) -> anyhow::Result<Process> {
        // A number, so that a restarted process does not write over the log of its predecessor.
        let count = self.0.started.fetch_add(1, Ordering::Relaxed);
        let logs = leftovers::folder(&self.0.world).join("logs");
        Process::start(
            Place { netns, cgroup, logs: &logs },
            &format!("{}.{name}.{count}", self.0.name),
            command,
        )
    }

    /// As in `spec.nodeName`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The node's own namespace.
    pub fn netns(&self) -> &NetNs {
        &self.0.netns
    }

    /// The cgroup above all pods of the node and nothing else: where an agent attaches.
    pub fn pods_cgroup(&self) -> PathBuf {
        self.0.cgroup.join("pods")
    }

    fn system_cgroup(&self) -> PathBuf {
        self.0.cgroup.join("system")
    }

    /// The node's address on the wire between nodes.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, self.0.number)
    }

    /// Likewise for IPv6.
    pub fn address_v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, self.0.number.into())
    }

    fn pod_cidrs(&self) -> [Prefix; 2] {
        let n = self.0.number;
        [
            (IpAddr::from([10, 244, n, 0]), 24),
            (Ipv6Addr::new(0xfd00, 0x10, 0x244, n.into(), 0, 0, 0, 0).into(), 64),
        ]
    }

    fn bridge_addresses(&self) -> (IpAddr, IpAddr) {
        let n = self.0.number;
        (IpAddr::from([10, 244, n, 1]), Ipv6Addr::new(0xfd00, 0x10, 0x244, n.into(), 0, 0, 0, 1).into())
    }
}
