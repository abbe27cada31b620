//! `undermesh doctor` and the process behind it, `undermesh probe`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::Answer;
use super::output::{self, Column, Output};
use crate::admin::client;
use crate::probe;

/// Many pods that do not answer take their time.
const PATIENCE: Duration = Duration::from_secs(120);

const CHECKS: &[Column] = &[("CHECK", "what"), ("OK", "ok"), ("DETAIL", "detail"), ("WHAT TO DO", "advice")];
const PODS: &[Column] =
    &[("POD", "pod"), ("VERDICT", "verdict"), ("DETAIL", "detail"), ("WHAT TO DO", "advice")];

/// Kernel, proxy and pods of this node in one verdict, with a real connection made from inside each captured pod.
///
/// A pod is `captured` (the proxy answered a connection made in the pod's network namespace, and knew whose it was),
/// `not enrolled` (nobody asked for it), `starting` or `ending` (it has no network namespace yet, or no more), `not captured` (the
/// reason says what is missing) or `not reached` (the agent believes that it captures the pod, and a real connection did not arrive).
///
/// Exit code 0: all is well; 1: something is not; 3: no agent answers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  undermesh doctor
  undermesh doctor --output json | jq '.pods[] | select(.ok | not)'")]
pub(super) struct Args {
    /// The admin socket of the agent.
    #[arg(long, default_value = crate::admin::DEFAULT_SOCKET, env = "UNDERMESH_ADMIN_SOCKET", value_name = "PATH")]
    admin_socket: PathBuf,
    /// How to print.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<Answer> {
        let report: Value =
            serde_json::from_slice(&client::get_within(&self.admin_socket, "/doctor", PATIENCE)?)?;
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        match self.output {
            Output::Table => {
                output::rows(&mut out, Output::Table, &report["checks"], CHECKS)?;
                writeln!(out)?;
                output::rows(&mut out, Output::Table, &report["pods"], PODS)?;
            }
            Output::Json | Output::Yaml => output::document(&mut out, self.output, &report)?,
        }
        out.flush()?;
        Ok(if report["healthy"] == true { Answer::Yes } else { Answer::No })
    }
}

/// Run by the agent inside a pod.
#[derive(Debug, clap::Args)]
pub(super) struct ProbeArgs {
    /// The path of the network namespace.
    #[arg(long, value_name = "PATH")]
    netns: PathBuf,
    /// The cgroup to move into.
    #[arg(long, value_name = "PATH")]
    cgroup: PathBuf,
    /// 4 or 6.
    #[arg(long, value_name = "FAMILY")]
    family: u8,
}

impl ProbeArgs {
    pub(super) fn run(&self) -> anyhow::Result<Answer> {
        let seen = probe::from_inside(&self.netns, &self.cgroup, self.family)?;
        println!("{}", serde_json::to_string(&seen)?);
        Ok(Answer::Yes)
    }
}
