//! `undermesh agent`

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use undermesh_proxy::access_log::Format;

use super::{Answer, Logging};
use crate::app::{self, Common, capture};
use crate::report;

/// The node daemon.
///
/// Reads its configuration from the Kubernetes API, or from a folder of the YAML that kubectl takes (Service, Pod, Namespace,
/// the Istio kinds, ...), and follows changes. Pods of this node are captured if they or their namespace carry the label
/// istio.io/dataplane-mode: undermesh; of pods in a folder, the annotations undermesh.io/netns or undermesh.io/cgroup say
/// where they are.
///
/// Needs CAP_SYS_ADMIN (network namespaces; it includes what BPF asks for), for pods that are found by their processes
/// CAP_SYS_PTRACE, cgroup2 and a kernel with BTF.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  undermesh agent --config /etc/undermesh --node n1
  undermesh agent --kubernetes --node n1
  undermesh agent --config ./deploy/examples --cgroup /sys/fs/cgroup/kubepods.slice --access-log off")]
pub(super) struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// This node's name: pods with this spec.nodeName are captured. Default: the host name.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    node: Option<String>,
    /// Where the node's cgroup2 is mounted, or a part of it. The kernel programs are attached to the pods' part of it
    /// (kubepods, kubepods.slice, ...) if there is one, else to all of it. Default: the mount that shows most.
    #[arg(long, env = "UNDERMESH_CGROUP", value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// The node's /proc, in which the pods' processes are found: in a container, with hostPID.
    #[arg(long, default_value = "/proc", env = "UNDERMESH_PROC", value_name = "PATH")]
    proc: PathBuf,
    /// The node's own network namespace, such as /proc/1/ns/net. Default: that in which the agent runs.
    #[arg(long, env = "UNDERMESH_NODE_NETNS", value_name = "PATH")]
    node_netns: Option<PathBuf>,
    /// The label istio-injection: enabled on a namespace enrols its pods, too (sidecar.istio.io/inject: "false" on a pod
    /// leaves it out).
    #[arg(long, env = "UNDERMESH_ENROL_ISTIO_INJECTION")]
    enrol_istio_injection: bool,
    /// The pod this runs in. With its namespace and --kubernetes, this agent may be the one that writes what became of objects
    /// into their status.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: Option<String>,
    /// The namespace of that pod, where the Lease is by which one agent is chosen.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pod_namespace: Option<String>,
    /// The port of the proxy's listeners inside the pods.
    #[arg(long, default_value_t = capture::DEFAULT_LISTENER_PORT, value_name = "PORT")]
    listener_port: NonZeroU16,
    /// One of so many decisions of the kernel programs becomes an event in the debug log; 0: none.
    #[arg(long, default_value_t = 0, value_name = "N")]
    sample_events: u32,
}

/// What both roles take.
#[derive(Debug, clap::Args)]
pub(super) struct CommonArgs {
    #[command(flatten)]
    pub(super) logging: Logging,
    #[command(flatten)]
    source: super::source::SourceArgs,
    /// Where to answer the other verbs.
    #[arg(long, default_value = crate::admin::DEFAULT_SOCKET, env = "UNDERMESH_ADMIN_SOCKET", value_name = "PATH")]
    admin_socket: PathBuf,
    /// Where to answer scrapes (/metrics) and probes (/healthz/ready); `[::]` is both families. Default: nowhere but the admin
    /// socket.
    #[arg(long, env = "UNDERMESH_METRICS_ADDRESS", value_name = "IP:PORT")]
    metrics_address: Option<SocketAddr>,
    /// Threads that serve connections. Default: one for each CPU.
    #[arg(long, env = "UNDERMESH_WORKERS", value_name = "N")]
    workers: Option<usize>,
    /// Format of the access log.
    #[arg(long, value_enum, default_value = "text", env = "UNDERMESH_ACCESS_LOG", value_name = "FORMAT")]
    access_log: AccessLog,
    /// File of the access log. Default: standard output.
    #[arg(long, env = "UNDERMESH_ACCESS_LOG_FILE", value_name = "PATH")]
    access_log_file: Option<PathBuf>,
    /// Name servers to ask for upstreams that have only a name. Default: those of /etc/resolv.conf.
    #[arg(long, env = "UNDERMESH_DNS_SERVERS", value_delimiter = ',', value_name = "IP:PORT,...")]
    dns_servers: Vec<SocketAddr>,
    /// How long current requests may take after SIGTERM, in seconds.
    #[arg(long, default_value_t = 45, value_name = "SECONDS")]
    drain_seconds: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AccessLog {
    Off,
    Text,
    Json,
}

impl CommonArgs {
    pub(super) fn settings(self) -> Common {
        Common {
            source: self.source.place(),
            admin_socket: self.admin_socket,
            metrics_address: self.metrics_address,
            workers: self
                .workers
                .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
                .unwrap_or(1)
                .max(1),
            access_log: match self.access_log {
                AccessLog::Off => Format::Off,
                AccessLog::Text => Format::Text,
                AccessLog::Json => Format::Json,
            },
            access_log_file: self.access_log_file.filter(|path| path.as_os_str() != "-"),
            dns_servers: self.dns_servers,
            drain: Duration::from_secs(self.drain_seconds),
        }
    }
}

impl Args {
    pub(super) fn logging(&self) -> &Logging {
        &self.common.logging
    }

    pub(super) fn run(self) -> anyhow::Result<Answer> {
        let node =
            self.node.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
        let report = self.pod_namespace.zip(self.pod_name);
        let report = report.map(|(namespace, identity)| report::Settings { namespace, identity });
        app::agent::run(app::agent::Settings {
            common: self.common.settings(),
            node,
            cgroup: self.cgroup,
            proc: self.proc,
            node_netns: self.node_netns,
            enrol_istio_injection: self.enrol_istio_injection,
            report,
            listener_port: self.listener_port,
            event_sample: self.sample_events,
        })?;
        Ok(Answer::Yes)
    }
}
