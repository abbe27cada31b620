//! `load MODE TARGET`: sends load and prints one line of JSON.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use undermesh_bench::load::{Mode, Plan, run};
use undermesh_bench::request::{Afterwards, Request};
use undermesh_bench::{connect, idle, own_cpu_ns, prepare_process};

/// HTTP/1.1 load on one thread.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    /// `Host` of the requests
    #[arg(long, global = true, default_value = "web.default.svc.cluster.local")]
    host: String,
    /// Path of the requests
    #[arg(long, global = true, default_value = "/bench")]
    path: String,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The next request of a connection when its answer is there
    Closed(Common),
    /// Requests at a fixed rate; latency from the planned time
    Open {
        #[command(flatten)]
        common: Common,
        /// Requests per second, all connections together
        #[arg(long)]
        rate: f64,
    },
    /// A new connection for each request
    Churn(Common),
    /// Connections that stay silent after one request each; prints `ready` first
    Idle(Common),
    /// Nanoseconds of connect() in two cgroups by turns; TARGET is a local address to listen on
    Connect {
        /// Where to listen and connect
        target: SocketAddr,
        /// The two cgroup folders
        #[arg(long, required = true)]
        cgroup: Vec<PathBuf>,
        /// Pairs of measurements
        #[arg(long, default_value_t = 100)]
        rounds: usize,
        /// Connects in each
        #[arg(long, default_value_t = 200)]
        count: usize,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Where to connect
    target: SocketAddr,
    /// How many connections at a time
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long, a warm-up of a tenth apart
    #[arg(long, default_value_t = 0.9)]
    seconds: f64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    prepare_process();
    let mut result = match &arguments.verb {
        Verb::Closed(common) => run(&common.plan(&arguments)?, Mode::Closed)?.to_json(),
        Verb::Open { common, rate } => run(&common.plan(&arguments)?, Mode::Open(*rate))?.to_json(),
        Verb::Churn(common) => run(&common.plan(&arguments)?, Mode::Churn)?.to_json(),
        Verb::Idle(common) => {
            let request = Request::get(&arguments.host, &arguments.path, Afterwards::KeepAlive);
            let hold = Duration::try_from_secs_f64(common.seconds)?;
            idle::run(common.target, common.connections, &request, hold)?;
            json!({ "idle": common.connections })
        }
        Verb::Connect { target, cgroup, rounds, count } => {
            let [first, second] = cgroup.as_slice() else { anyhow::bail!("--cgroup takes two folders") };
            let rounds = connect::run(*target, [first, second], *rounds, *count)?;
            let pairs: Vec<Value> = rounds.iter().map(|r| json!([r.first_ns, r.second_ns])).collect();
            json!({ "connect_ns": pairs })
        }
    };
    if let Some(fields) = result.as_object_mut() {
        fields.insert("client_cpu_ns".into(), own_cpu_ns().into());
    }
    println!("{result}");
    Ok(())
}

impl Common {
    fn plan(&self, arguments: &Arguments) -> anyhow::Result<Plan> {
        Ok(Plan {
            target: self.target,
            connections: self.connections,
            time: Duration::try_from_secs_f64(self.seconds)?,
            host: arguments.host.clone(),
            path: arguments.path.clone(),
        })
    }
}
