//! The verbs that ask a running agent or gateway over its admin socket, and print what it says.

mod bpf;
mod status;

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::Value;

use super::Answer;
use super::output::{self, Column, Output};
use crate::admin::client;

/// Where to ask, and how to print.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The admin socket of the agent or gateway.
    #[arg(long, default_value = crate::admin::DEFAULT_SOCKET, env = "UNDERMESH_ADMIN_SOCKET", value_name = "PATH")]
    admin_socket: PathBuf,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// Verbs that print what an agent knows and does.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Role, generation, configuration and its diagnostics, capture, traffic: the first look.
    ///
    /// Numbers of the kernel programs are those since the agent started; what is zero is left out. --output json has all.
    #[command(after_help = "Examples:
  undermesh status
  undermesh status --output json | jq .configuration.generation")]
    Status(Args),
    /// The pods of this node: enrolled or not, and why; listeners; namespaces.
    ///
    /// STATE: enrolled or not, by label. CAPTURE: yes; waiting (for its sandbox); failed (tried again every two seconds); no.
    /// REASON: which label, or what is missing. A gateway lists its ports.
    #[command(after_help = "Example:
  undermesh workloads --output json | jq '.[] | select(.capture == \"failed\")'")]
    Workloads(Args),
    /// The services of the mesh with their addresses and ports.
    ///
    /// KIND: ClusterIP, headless, ExternalName or ServiceEntry. PORTS: number/protocol; Auto is found out by the first bytes.
    #[command(after_help = "Example:
  undermesh services | grep reviews")]
    Services(Args),
    /// The routes as one client has them, in the order they are tried.
    ///
    /// RULE: the VirtualService and the place in it; none: the service's own default. MATCH: all must hold; none: everything.
    /// ACTION: shares of destinations, or what is answered. TIMEOUT and RETRIES as they are in force, defaults included.
    #[command(after_help = "Example:
  undermesh routes --pod default/productpage-v1 --host reviews")]
    Routes {
        #[command(flatten)]
        args: Args,
        /// The client: a pod of this node, as namespace/name. Default: any pod of the namespace `default`.
        #[arg(long, value_name = "NAMESPACE/NAME")]
        pod: Option<String>,
        /// Only routes of services and hosts that contain this text.
        #[arg(long, value_name = "TEXT")]
        host: Option<String>,
    },
    /// The endpoints of each service port.
    ///
    /// ENDPOINT: the pod or WorkloadEntry. STATE: ready, or why it gets no traffic. HEALTH: who leaves it out at present for its
    /// failures (outlierDetection), and for how long.
    #[command(after_help = "Example:
  undermesh endpoints --output json | jq '.[] | select(.health != \"healthy\")'")]
    Endpoints(Args),
    /// The connections that the proxy serves now.
    ///
    /// SOURCE: the pod. REMOTE: its address and port. DIALLED: what it called. PROTOCOL: as found out. WORKER: the thread.
    #[command(after_help = "Example:
  undermesh connections | grep default/productpage")]
    Connections(Args),
    /// What is wrong with the configuration in force.
    ///
    /// CODE is explained in docs/diagnostics.md; FIELD, FILE and LINE say where, MESSAGE what, WHAT TO DO how to mend it. The
    /// same as `undermesh check` says of the files.
    #[command(after_help = "Example:
  undermesh diagnostics --output json | jq '.[] | select(.severity == \"error\")'")]
    Diagnostics(Args),
    /// Programs, links, maps and counters of the kernel half.
    ///
    /// RUNS and NANOSECONDS are measured only while the sysctl kernel.bpf_stats_enabled is on. WORKLOAD: what the programs know
    /// of each pod, by the cookie of its network namespace or the id of its cgroup. --output json has the counters as well.
    #[command(after_help = "Example:
  undermesh bpf --output json | jq .counters")]
    Bpf(Args),
    /// The metrics, in Prometheus' text format.
    ///
    /// Each family has its HELP and TYPE line; names and labels are Istio's where Istio has them, else undermesh_*.
    #[command(after_help = "Example:
  undermesh metrics | grep istio_requests_total")]
    Metrics {
        /// The admin socket of the agent or gateway.
        #[arg(long, default_value = crate::admin::DEFAULT_SOCKET, env = "UNDERMESH_ADMIN_SOCKET", value_name = "PATH")]
        admin_socket: PathBuf,
    },
}

const WORKLOADS: &[Column] = &[
    ("POD", "pod"),
    ("STATE", "state"),
    ("CAPTURE", "capture"),
    ("ADDRESSES", "addresses"),
    ("SERVICE ACCOUNT", "service_account"),
    ("REASON", "reason"),
];
const SERVICES: &[Column] = &[
    ("HOST", "host"),
    ("NAMESPACE", "namespace"),
    ("KIND", "kind"),
    ("ADDRESSES", "addresses"),
    ("PORTS", "ports"),
];
const ROUTES: &[Column] = &[
    ("HOST", "host"),
    ("PORT", "port"),
    ("RULE", "rule"),
    ("MATCH", "match"),
    ("ACTION", "action"),
    ("TIMEOUT", "timeout"),
    ("RETRIES", "retries"),
];
const ENDPOINTS: &[Column] = &[
    ("HOST", "host"),
    ("PORT", "port"),
    ("ENDPOINT", "id"),
    ("ADDRESS", "address"),
    ("STATE", "state"),
    ("HEALTH", "health"),
    ("LABELS", "labels"),
];
const CONNECTIONS: &[Column] = &[
    ("SOURCE", "source"),
    ("REMOTE", "remote"),
    ("DIALLED", "dialled"),
    ("PROTOCOL", "protocol"),
    ("AGE", "age"),
    ("WORKER", "worker"),
];
const DIAGNOSTICS: &[Column] = &[
    ("SEVERITY", "severity"),
    ("CODE", "code"),
    ("KIND", "kind"),
    ("NAMESPACE", "namespace"),
    ("NAME", "name"),
    ("FIELD", "field"),
    ("FILE", "file"),
    ("LINE", "line"),
    ("MESSAGE", "message"),
    ("WHAT TO DO", "hint"),
];

impl Verb {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        match self {
            Self::Status(args) => args.status(),
            Self::Workloads(args) => args.print("/workloads", WORKLOADS),
            Self::Services(args) => args.print("/services", SERVICES),
            Self::Routes { args, pod, host } => {
                let query = [("pod", pod), ("host", host)]
                    .into_iter()
                    .filter_map(|(key, value)| Some(format!("{key}={}", client::query_value(&value?))))
                    .collect::<Vec<_>>()
                    .join("&");
                args.print(&format!("/routes?{query}"), ROUTES)
            }
            Self::Endpoints(args) => args.print("/endpoints", ENDPOINTS),
            Self::Connections(args) => args.print("/connections", CONNECTIONS),
            Self::Diagnostics(args) => args.print("/diagnostics", DIAGNOSTICS),
            Self::Bpf(args) => {
                let value = args.ask("/bpf")?;
                print(|out| match args.output {
                    Output::Table => bpf::print(out, &value),
                    Output::Json | Output::Yaml => output::document(out, args.output, &value),
                })
            }
            Self::Metrics { admin_socket } => {
                let text = client::get(&admin_socket, "/metrics")?;
                print(|out| out.write_all(&text))
            }
        }
    }
}

impl Args {
    fn ask(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_slice(&client::get(&self.admin_socket, path)?)?)
    }

    fn print(&self, path: &str, columns: &[Column]) -> anyhow::Result<Answer> {
        let value = self.ask(path)?;
        print(|out| output::rows(out, self.output, &value, columns))
    }

    fn status(&self) -> anyhow::Result<Answer> {
        let value = self.ask("/status")?;
        if self.output != Output::Table {
            return print(|out| output::document(out, self.output, &value));
        }
        let workloads = self.ask("/workloads")?;
        print(|out| status::print(out, &value, &workloads))
    }
}

fn print(
    write: impl FnOnce(&mut std::io::BufWriter<std::io::StdoutLock<'static>>) -> std::io::Result<()>,
) -> anyhow::Result<Answer> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    write(&mut out)?;
    out.flush()?;
    Ok(Answer::Yes)
}
