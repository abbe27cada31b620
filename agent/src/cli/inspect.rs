//! The verbs that ask a running agent or gateway over its admin socket, and print what it says.

use std::path::PathBuf;

use std::io::Write;

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
    Status(Args),
    /// The pods of this node: enrolled or not, and why; listeners; namespaces.
    Workloads(Args),
    /// The services of the mesh with their addresses and ports.
    Services(Args),
    /// The routes as one client has them, in the order they are tried.
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
    Endpoints(Args),
    /// The connections that the proxy serves now.
    Connections(Args),
    /// What is wrong with the configuration in force.
    Diagnostics(Args),
    /// Programs, links, maps and counters of the kernel half.
    Bpf(Args),
    /// The metrics, in Prometheus' text format.
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
            Self::Status(args) => args.print("/status", None),
            Self::Workloads(args) => args.print("/workloads", Some(WORKLOADS)),
            Self::Services(args) => args.print("/services", Some(SERVICES)),
            Self::Routes { args, pod, host } => {
                let query = [("pod", pod), ("host", host)]
                    .into_iter()
                    .filter_map(|(key, value)| Some(format!("{key}={}", client::query_value(&value?))))
                    .collect::<Vec<_>>()
                    .join("&");
                args.print(&format!("/routes?{query}"), Some(ROUTES))
            }
            Self::Endpoints(args) => args.print("/endpoints", Some(ENDPOINTS)),
            Self::Connections(args) => args.print("/connections", Some(CONNECTIONS)),
            Self::Diagnostics(args) => args.print("/diagnostics", Some(DIAGNOSTICS)),
            Self::Bpf(args) => args.print("/bpf", None),
            Self::Metrics { admin_socket } => {
                let text = client::get(&admin_socket, "/metrics")?;
                print(|out| out.write_all(&text))
            }
        }
    }
}

impl Args {
    fn print(&self, path: &str, columns: Option<&[Column]>) -> anyhow::Result<Answer> {
        let value: Value = serde_json::from_slice(&client::get(&self.admin_socket, path)?)?;
        print(|out| match columns {
            Some(columns) => output::rows(out, self.output, &value, columns),
            None => output::document(out, self.output, &value),
        })
    }
}

fn print(
    write: impl FnOnce(&mut std::io::BufWriter<std::io::StdoutLock<'static>>) -> std::io::Result<()>,
) -> anyhow::Result<Answer> {
    use std::io::Write;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    write(&mut out)?;
    out.flush()?;
    Ok(Answer::Yes)
}
