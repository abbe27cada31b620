//! A pod: what an application sees of its node.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::cgroup;
use crate::link::{Step, configure};
use crate::netns::NetNs;
use crate::node::Node;
use crate::process::{Finished, Process};

/// How a kubelet and its cgroup driver name the cgroups of a best-effort pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layout {
    /// `kubepods/besteffort/pod<uid>/<container>`
    #[default]
    Cgroupfs,
    /// `kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod<uid>.slice/cri-containerd-<id>.scope`
    Systemd,
    /// As `Systemd`, below `kubelet.slice`, as kind has it.
    Kind,
}

impl Layout {
    fn pod(self, uid: &str) -> PathBuf {
        let slice = |root: &str| {
            let uid = uid.replace('-', "_");
            format!("{root}.slice/{root}-besteffort.slice/{root}-besteffort-pod{uid}.slice")
        };
        match self {
            Self::Cgroupfs => format!("kubepods/besteffort/pod{uid}").into(),
            Self::Systemd => slice("kubepods").into(),
            Self::Kind => format!("kubelet.slice/{}", slice("kubelet-kubepods")).into(),
        }
    }

    fn container(self) -> &'static str {
        match self {
            Self::Cgroupfs => "main",
            Self::Systemd | Self::Kind => "cri-containerd-8c1f2a.scope",
        }
    }
}

/// A pod of a [`Node`]. Cheap to clone; the world owns what it stands for.
#[derive(Debug, Clone)]
pub struct Pod {
    node: Node,
    namespace: String,
    name: String,
    uid: String,
    netns: NetNs,
    addresses: [IpAddr; 2],
    host_network: bool,
    layout: Layout,
}

impl Pod {
    pub(crate) fn create(
        node: &Node,
        (namespace, name): (&str, &str),
        netns: NetNs,
        addresses: [IpAddr; 2],
        host_network: bool,
        layout: Layout,
    ) -> anyhow::Result<Self> {
        let pod = Self {
            node: node.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid(&format!("{}/{namespace}/{name}", node.name())),
            netns,
            addresses,
            host_network,
            layout,
        };
        cgroup::create(&pod.container_cgroup())?;
        Ok(pod)
    }

    /// Starts a process in the pod, as its container runtime would.
    pub fn spawn(&self, name: &str, command: &Command) -> anyhow::Result<Process> {
        cgroup::create(&self.container_cgroup())?;
        self.node.start(
            &self.netns,
            &self.container_cgroup(),
            &format!("{}.{}.{name}", self.namespace, self.name),
            command,
        )
    }

    /// Runs a process in the pod to its end; one that takes longer than `limit` is killed and an error.
    pub fn run(&self, name: &str, command: &Command, limit: Duration) -> anyhow::Result<Finished> {
        self.spawn(name, command)?.finish(limit)
    }

    /// Starts its first process the way that runc does: in the node's network namespace, moved into the pod's cgroup, and
    /// only then, after `pause`, in the pod's namespace. It says the time, in seconds of the epoch, when it goes there.
    pub fn spawn_as_runc(&self, name: &str, command: &Command, pause: Duration) -> anyhow::Result<Process> {
        const JOIN: &str = r#"sleep "$1"; netns=$2; shift 2; date +%s.%N; exec nsenter --net="$netns" "$@""#;
        cgroup::create(&self.container_cgroup())?;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", JOIN, "sh", &pause.as_secs_f64().to_string()]).arg(self.netns.path());
        shell.arg(command.get_program()).args(command.get_args());
        let name = format!("{}.{}.{name}", self.namespace, self.name);
        self.node.start(self.node.netns(), &self.container_cgroup(), &name, &shell)
    }

    /// Ends all in it and removes its cgroup, as the kubelet does when it goes; the file that holds its namespace stays.
    pub fn end(&self) -> anyhow::Result<()> {
        cgroup::remove(&self.cgroup())
    }

    /// Gives it one more address, as a load balancer's direct server return or a keepalived pair does with a service
    /// address: what is sent to the address by another way than the mesh then arrives here.
    pub fn add_address(&self, address: IpAddr) -> anyhow::Result<()> {
        configure(&self.netns, &[Step::Address("eth0", (address, host_bits(address)))])
    }

    /// Sends what it has for `address` to `via`, a neighbour on its node.
    pub fn add_route(&self, address: IpAddr, via: IpAddr) -> anyhow::Result<()> {
        configure(&self.netns, &[Step::Route((address, host_bits(address)), via)])
    }

    /// The node it runs on.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its uid, in the form of a UUID; the same for the same node, namespace and name.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its network namespace.
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Whether it shares the node's network namespace.
    pub fn host_network(&self) -> bool {
        self.host_network
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.addresses
    }

    /// A port on its IPv4 address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[0], port)
    }

    /// A port on its IPv6 address.
    pub fn at_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[1], port)
    }

    /// Its cgroup, above those of its containers; laid out as the kubelet does for a best-effort pod.
    pub fn cgroup(&self) -> PathBuf {
        self.node.pods_cgroup().join(self.layout.pod(&self.uid))
    }

    fn container_cgroup(&self) -> PathBuf {
        self.cgroup().join(self.layout.container())
    }
}

/// Length of the prefix that is one address, bits.
fn host_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A stable UUID-shaped id of a name (FNV-1a, twice): manifests do not change from run to run.
fn uid(name: &str) -> String {
    let hash =
        |seed: u64| name.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    let (a, b) = (hash(0xcbf2_9ce4_8422_2325), hash(0x6c62_272e_07bb_0142));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xffff,
        b >> 48,
        b & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::uid;

    #[test]
    fn uids_have_the_shape_of_a_uuid_and_differ_by_name() {
        let one = uid("n1/default/a");
        assert_eq!(one.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!(one, uid("n1/default/a"));
        assert_ne!(one, uid("n1/default/b"));
    }
}
