//! Where a proxy is measured: a node of its own with two pods, the same for each.
//!
//! ```text
//!   node, a network namespace      +--------------------- pod "client" ---------------------+       +-- pod "web" --+
//!                                  |  load ──▶ 127.0.0.1:port of the proxy ──▶ eth0 ────────|─veth──|──▶ backend    |
//!                                  +--------------------------------------------------------+       +---------------+
//! ```
//!
//! The others listen in the client's pod, as a sidecar does, and are dialled. The agent runs on the node; the load dials the
//! *service's* address, which leads nowhere without it, and the kernel programs send it to the agent's listener in the pod.
//! So the bytes take the same way, and only our connections are captured ones.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use undermesh_tests::{Node, Pod, PodSpec, Process, World, wait_until};

use super::programs::{Programs, filled_in, template};
use super::usage;

const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 80);
const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);
const BACKEND_PORT: u16 = 9000;
/// Envoy takes a second or two.
const START: Duration = Duration::from_secs(20);

/// What is between the load and the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Direct,
    Relay,
    Haproxy,
    Nginx,
    Envoy,
    Undermesh,
    /// The same program with the same configuration once more: what differs between the two is noise.
    UndermeshAgain,
    /// With an access log line for each request, to a file.
    UndermeshLogged,
}

impl Target {
    pub(crate) const ALL: [Self; 8] = [
        Self::Direct,
        Self::Relay,
        Self::Haproxy,
        Self::Nginx,
        Self::Envoy,
        Self::Undermesh,
        Self::UndermeshAgain,
        Self::UndermeshLogged,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Undermesh => "undermesh",
            Self::UndermeshAgain => "undermesh-again",
            Self::UndermeshLogged => "undermesh-logged",
        }
    }

    fn access_log(self) -> Option<&'static str> {
        match self {
            Self::Undermesh | Self::UndermeshAgain => Some("off"),
            Self::UndermeshLogged => Some("text"),
            _ => None,
        }
    }
}

/// Where the backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Placement {
    /// In a pod of its own on the same node: over veth pairs and a bridge, as mostly in a cluster. The kernel forwards packets
    /// in the time of whoever sends them, so this adds the same to each proxy and brings the ratios nearer to 1.
    Pod,
    /// In the client's pod: over its loopback device, so that little but the proxies differs.
    Local,
}

/// Which CPU does what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpus {
    pub(crate) client: usize,
    pub(crate) backend: usize,
    pub(crate) proxy: usize,
}

impl Cpus {
    /// The client shares a CPU with the backend where there are fewer than four; the proxy has one to itself.
    pub(crate) fn of_machine() -> anyhow::Result<Self> {
        match std::thread::available_parallelism()?.get() {
            0 | 1 => anyhow::bail!("the proxy needs a CPU to itself, and there is only one"),
            2 | 3 => Ok(Self { client: 0, backend: 0, proxy: 1 }),
            _ => Ok(Self { client: 0, backend: 1, proxy: 2 }),
        }
    }
}

/// `program` on one CPU.
pub(crate) fn pinned(cpu: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &cpu.to_string()]).arg(program);
    command
}

/// A running proxy with everything around it.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) target: Target,
    pub(crate) node: Node,
    pub(crate) client: Pod,
    pub(crate) backend: Process,
    pub(crate) proxy: Option<Process>,
    /// What the load dials.
    pub(crate) dialled: SocketAddr,
}

impl Site {
    pub(crate) fn build(
        world: &mut World,
        target: Target,
        programs: &Programs,
        cpus: Cpus,
        backend: (Placement, usize),
    ) -> anyhow::Result<Self> {
        Self::try_build(world, target, programs, cpus, backend)
            .with_context(|| format!("cannot set up {}", target.name()))
    }

    fn try_build(
        world: &mut World,
        target: Target,
        programs: &Programs,
        cpus: Cpus,
        (placement, body): (Placement, usize),
    ) -> anyhow::Result<Self> {
        let node = world.node(target.name())?;
        let pod = |role: &str| node.pod("default", &format!("{role}-{}", target.name()));
        let client = pod("client")?;
        let web = if placement == Placement::Pod { pod("web")? } else { client.clone() };
        for pod in [&client, &web] {
            more_ports(pod)?;
        }
        let upstream = web.at(BACKEND_PORT);
        let folder = world.folder().join(format!("bench-{}", target.name()));
        fs::create_dir_all(&folder)?;

        // New namespaces have nobody in them; should that ever not hold, an earlier run would silently share the traffic.
        ensure!(!is_served(&client, PROXY)? && !is_served(&client, upstream)?, "a port is already served");
        let mut backend = pinned(cpus.backend, &programs.backend);
        backend.arg(upstream.to_string()).args(["--body", &body.to_string()]);
        let mut backend = web.spawn("backend", &backend)?;
        backend.wait_for_text("ready", START)?;

        let (proxy, dialled) = match proxy_command(target, programs, cpus, upstream, &folder)? {
            Some(command) => (Some(client.spawn("proxy", &command)?), PROXY),
            None if target == Target::Direct => (None, upstream),
            None => (Some(agent(target, &node, [&client, &web], programs, cpus, &folder)?), SERVICE),
        };
        let mut site = Self { target, node, client, backend, proxy, dialled };
        site.wait_ready(programs)?;
        Ok(site)
    }

    /// By requests from the pod: only a process in its cgroup is captured, so this proves the whole way.
    fn wait_ready(&mut self, programs: &Programs) -> anyhow::Result<()> {
        let mut probe = Command::new(&programs.load);
        probe.args(["closed", &self.dialled.to_string(), "--connections", "1", "--seconds", "0.02"]);
        let mut last = String::new();
        wait_until(START, "an answer from the backend", || {
            if let Some(proxy) = &mut self.proxy {
                proxy.must_run()?;
            }
            let probed = self.client.run("probe", &probe, START)?;
            last = probed.stderr;
            Ok(probed.status.success().then_some(()))
        })
        .with_context(|| format!("the load generator said: {}", last.trim()))
    }

    /// Pids of the proxy.
    pub(crate) fn proxy_pids(&self) -> Vec<u32> {
        self.proxy.as_ref().map(|p| usage::tree(p.pid())).unwrap_or_default()
    }
}

/// What to run in the client's pod; `None` for what is not a program there.
fn proxy_command(
    target: Target,
    programs: &Programs,
    cpus: Cpus,
    upstream: SocketAddr,
    folder: &Path,
) -> anyhow::Result<Option<Command>> {
    let config = |name: &str| {
        let values = [
            ("LISTEN", PROXY.to_string()),
            ("LISTEN_IP", PROXY.ip().to_string()),
            ("LISTEN_PORT", PROXY.port().to_string()),
            ("UPSTREAM", upstream.to_string()),
            ("UPSTREAM_IP", upstream.ip().to_string()),
            ("UPSTREAM_PORT", upstream.port().to_string()),
        ];
        let path = folder.join(name);
        fs::write(&path, filled_in(&template(name)?, &values)?)?;
        anyhow::Ok(path)
    };
    let mut command = match target {
        Target::Direct | Target::Undermesh | Target::UndermeshAgain | Target::UndermeshLogged => {
            return Ok(None);
        }
        Target::Relay => {
            let mut command = pinned(cpus.proxy, &programs.relay);
            command.arg(PROXY.to_string()).arg(upstream.to_string());
            command
        }
        Target::Haproxy => {
            let mut command = pinned(cpus.proxy, &programs.haproxy);
            command.args(["-db", "-f"]).arg(config("haproxy.cfg")?);
            command
        }
        Target::Nginx => {
            let nginx = programs.nginx.as_ref().context("nginx is not installed")?;
            let mut command = pinned(cpus.proxy, nginx);
            command.arg("-p").arg(folder).arg("-c").arg(config("nginx.conf")?);
            command
        }
        Target::Envoy => {
            let mut command = pinned(cpus.proxy, &programs.envoy);
            // No hot restart: its shared memory is named by a number that another Envoy may have.
            command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"]);
            command.arg(config("envoy.yaml")?);
            command
        }
    };
    command.current_dir(folder);
    Ok(Some(command))
}

fn agent(
    target: Target,
    node: &Node,
    [client, web]: [&Pod; 2],
    programs: &Programs,
    cpus: Cpus,
    folder: &Path,
) -> anyhow::Result<Process> {
    let config = folder.join("config");
    fs::create_dir_all(&config)?;
    let values = [
        ("SERVICE_IP", SERVICE.ip().to_string()),
        ("SERVICE_PORT", SERVICE.port().to_string()),
        ("BACKEND_PORT", BACKEND_PORT.to_string()),
    ];
    fs::write(config.join("mesh.yaml"), filled_in(&template("mesh.yaml")?, &values)?)?;
    let enrolled = ("istio.io/dataplane-mode", "undermesh");
    let server = [("app", "web"), ("version", "v1")];
    if client.name() == web.name() {
        let both = PodSpec::labelled([enrolled, server[0], server[1]]).port("http", BACKEND_PORT);
        fs::write(config.join("pod.yaml"), client.manifest(&both))?;
    } else {
        fs::write(config.join("client.yaml"), client.manifest(&PodSpec::labelled([enrolled])))?;
        let server = PodSpec::labelled(server).port("http", BACKEND_PORT);
        fs::write(config.join("web.yaml"), web.manifest(&server))?;
    }

    let again = programs.before.as_ref().filter(|_| target == Target::UndermeshAgain);
    let mut command = pinned(cpus.proxy, again.unwrap_or(&programs.undermesh));
    command.args(["agent", "--workers", "1", "--node", node.name()]);
    command.arg("--config").arg(&config).arg("--cgroup").arg(node.pods_cgroup());
    command.arg("--admin-socket").arg(folder.join("admin.sock"));
    command.args(["--access-log", target.access_log().unwrap_or("off")]);
    command.arg("--access-log-file").arg(folder.join("access.log"));
    node.spawn("agent", &command)
}

/// Whether somebody listens there inside the pod's namespace.
fn is_served(pod: &Pod, at: SocketAddr) -> anyhow::Result<bool> {
    pod.netns().run(|| Ok(TcpStream::connect_timeout(&at, Duration::from_millis(500)).is_ok()))
}

/// New connections by the ten thousand use up the ports of a pod's one address before the minute of TIME_WAIT is over.
/// /proc/sys/net is that of the namespace of the thread that opens it: the machine's own settings stay.
fn more_ports(pod: &Pod) -> anyhow::Result<()> {
    pod.netns().run(|| {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535")?;
        fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")?;
        Ok(())
    })
}
