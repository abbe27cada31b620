//! The command line: one binary, a file per verb.

use clap::{Parser, Subcommand};

mod agent;
mod check;
mod doctor;
mod explain;
mod gateway;
mod inspect;
mod output;
pub mod plugin;
mod source;

use crate::telemetry::{self, LogFormat};

/// A service mesh without sidecars: Istio's routing at the node, by eBPF and one proxy.
///
/// Exit codes: 0 all well; 1 the answer is no (errors in the configuration, a check that failed); 2 wrong usage;
/// 3 it could not be done (no agent at the socket, a missing permission).
#[derive(Debug, Parser)]
#[command(name = "undermesh", version, max_term_width = 110, propagate_version = true)]
pub struct Cli {
    /// As after `agent` and `gateway`, the verbs that log.
    #[arg(long, hide = true, value_name = "FILTER")]
    log: Option<String>,
    /// Likewise.
    #[arg(long, hide = true, value_enum)]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    verb: Verb,
}

/// Of the verbs that run on and log.
#[derive(Debug, clap::Args)]
struct Logging {
    /// What to log: a level, or a filter such as `undermesh_proxy=debug,info`.
    #[arg(long, default_value = "info", env = "UNDERMESH_LOG", value_name = "FILTER")]
    log: String,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text", env = "UNDERMESH_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The node daemon: captures the sockets of enrolled pods and routes them.
    Agent(agent::Args),
    /// The same proxy as an ingress or egress gateway.
    Gateway(gateway::Args),
    /// Compile a folder of YAML and say what is wrong with it, with file, line and field.
    Check(check::Args),
    /// Say why a request goes where it goes.
    Explain(explain::Args),
    /// Is everything on this node as it should be? With a real connection from inside each pod.
    Doctor(doctor::Args),
    /// Run by the agent inside a pod, for `doctor`.
    #[command(hide = true)]
    Probe(doctor::ProbeArgs),
    #[command(flatten)]
    Inspect(inspect::Verb),
}

/// How a verb ended, short of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Exit code 0.
    Yes,
    /// Exit code 1.
    No,
}

impl Cli {
    /// Runs the verb.
    ///
    /// # Errors
    /// It could not be done; the message says what to do about it.
    pub fn run(self) -> anyhow::Result<Answer> {
        match self.verb {
            Verb::Agent(args) => {
                start_logging(args.logging(), self.log, self.log_format)?;
                args.run()
            }
            Verb::Gateway(args) => {
                start_logging(args.logging(), self.log, self.log_format)?;
                args.run()
            }
            Verb::Check(args) => args.run(),
            Verb::Explain(args) => args.run(),
            Verb::Doctor(args) => args.run(),
            Verb::Probe(args) => args.run(),
            Verb::Inspect(verb) => verb.run(),
        }
    }
}

/// What stands before the verb goes before its own.
fn start_logging(
    own: &Logging,
    before: Option<String>,
    format_before: Option<LogFormat>,
) -> anyhow::Result<()> {
    telemetry::start(&before.unwrap_or_else(|| own.log.clone()), format_before.unwrap_or(own.log_format))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_log_is_filtered_before_or_after_the_verbs_that_log_and_nothing_is_said_of_it_elsewhere() {
        for line in [["--log", "debug", "agent"], ["agent", "--log", "debug"]] {
            let words = ["undermesh"].into_iter().chain(line).chain(["--config", "."]);
            Cli::try_parse_from(words).unwrap();
        }
        let mut command = Cli::command();
        command.build();
        for verb in command.get_subcommands_mut().filter(|it| !it.is_hide_set() && it.get_name() != "help") {
            let name = verb.get_name().to_owned();
            let help = verb.render_long_help().to_string();
            assert_eq!(help.contains("--log "), ["agent", "gateway"].contains(&&*name), "{name}");
            assert!(help.contains("Example"), "{name} has no example");
        }
    }
}
