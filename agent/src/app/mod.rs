//! The composition root: creates the parts of each role in order, and connects them.
//!
//! ```text
//!   source ─ publish (one writer) ─▶ Snapshot ─┬▶ proxy workers   (a thread and runtime each)
//!                                              └▶ capture / ports (control thread)
//!   admin (thread and runtime of its own) reads all of them
//! ```

pub mod agent;
pub mod capture;
pub mod enrolment;
pub mod gateway;
pub mod publish;
mod resolver;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use undermesh_proxy::access_log::{Format, Sink};
use undermesh_proxy::{Proxy, Settings};

use crate::source::{Place, Source};
use publish::Published;

use crate::admin::Socket;

/// What both roles are told.
#[derive(Debug, Clone)]
pub struct Common {
    /// Where the configuration is.
    pub source: Place,
    /// Where to answer the CLI.
    pub admin_socket: PathBuf,
    /// Where to answer scrapes and health checks.
    pub metrics_address: Option<std::net::SocketAddr>,
    /// Threads of the proxy.
    pub workers: usize,
    /// Format of the access log.
    pub access_log: Format,
    /// Its file; `None` is standard output.
    pub access_log_file: Option<PathBuf>,
    /// The name servers to ask for upstreams' names; empty: the system's.
    pub dns_servers: Vec<std::net::SocketAddr>,
    /// How long current requests may take after the end was asked for.
    pub drain: Duration,
}

impl Common {
    /// What must be there, and must be ours alone, before anything of the machine is touched.
    fn take(&self) -> anyhow::Result<(Source, Socket)> {
        let source = Source::start(&self.source)?;
        Ok((source, Socket::take(&self.admin_socket)?))
    }

    fn proxy(
        &self,
        published: &Published,
    ) -> anyhow::Result<(Proxy, Sink, Option<std::thread::JoinHandle<()>>)> {
        let (sink, writer) = match (self.access_log, &self.access_log_file) {
            (Format::Off, _) => (Sink::none(), None),
            (_, None) => {
                let (sink, writer) = Sink::start(std::io::stdout())?;
                (sink, Some(writer))
            }
            (_, Some(path)) => {
                let file = std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("the access log {}", path.display()))?;
                let (sink, writer) = Sink::start(file)?;
                (sink, Some(writer))
            }
        };
        let settings = Settings {
            workers: self.workers,
            access_log: self.access_log,
            log_sink: sink.clone(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            connections_per_client: file_descriptors() / CLIENTS_SHARE,
            resolver: Arc::new(resolver::NameServers::start(self.dns_servers.clone())?),
        };
        let proxy =
            Proxy::start(settings, published.snapshot.clone()).context("the proxy could not be started")?;
        Ok((proxy, sink, writer))
    }
}

/// A client may have one of so many parts of the file descriptors as open connections: each takes two with its upstream, so
/// that two clients that take all they can still leave some.
const CLIENTS_SHARE: usize = 4;

/// How many this process may have, after raising that to all it is allowed: the usual soft limit of 1024 is for programs that
/// use select(2).
fn file_descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = &raised {
        tracing::warn!(%error, soft = limit.current, hard = limit.maximum, "cannot raise the limit of file descriptors");
    }
    let current = if raised.is_ok() { limit.maximum } else { limit.current };
    current.and_then(|current| usize::try_from(current).ok()).unwrap_or(usize::MAX)
}

/// Ends the proxy: drains, then waits for the last log line.
fn finish(proxy: Arc<Proxy>, sink: Sink, writer: Option<std::thread::JoinHandle<()>>, drain: Duration) {
    match Arc::try_unwrap(proxy) {
        Ok(proxy) => proxy.drain(drain),
        Err(_) => tracing::warn!("the proxy is still in use and is not drained"),
    }
    drop(sink);
    if let Some(writer) = writer
        && writer.join().is_err()
    {
        tracing::error!("the access log's writer panicked");
    }
}
