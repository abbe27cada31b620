//! Callers for tests and demos, started inside a pod. Each event is one JSON line on standard output, so that the reader
//! needs no parser of its own; an error is an event like any other, and the exit code is 0 unless nothing could be tried.

mod http1;
mod raw;

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

/// What to call.
#[derive(Debug, Subcommand)]
pub(crate) enum Client {
    /// HTTP/1.1 requests.
    Http(http1::Http),
    /// Bytes to a TCP server and what comes back; without --send just the connection.
    Tcp(raw::Tcp),
    /// Datagrams and their answers.
    Udp(raw::Udp),
}

/// How often.
#[derive(Debug, Args)]
struct Pace {
    /// How many; 0 goes on until the process is stopped.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Pause between two, in milliseconds.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    interval_ms: u64,
    /// Longest wait for each, in milliseconds.
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    timeout_ms: u64,
    /// End when standard input does. Who started this by way of others (`kubectl exec -i`) cannot stop it otherwise.
    #[arg(long)]
    while_input: bool,
}

/// Standard input has ended.
static INPUT_ENDED: AtomicBool = AtomicBool::new(false);

impl Client {
    /// Does it.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Http(http) => http.run().await,
            Self::Tcp(tcp) => tcp.run().await,
            Self::Udp(udp) => udp.run().await,
        }
    }
}

impl Pace {
    fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Whether number `n`, from 0, is to be done; waits the pause before all but the first.
    async fn go_on(&self, n: u64) -> bool {
        if self.while_input && n == 0 {
            // A read cannot be given up, so nobody waits for the thread.
            std::thread::spawn(|| {
                let mut input = std::io::stdin();
                while input.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
                INPUT_ENDED.store(true, Ordering::SeqCst);
            });
        }
        if INPUT_ENDED.load(Ordering::SeqCst) || self.count != 0 && n >= self.count {
            return false;
        }
        if n > 0 && self.interval_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.interval_ms)).await;
        }
        true
    }
}

/// Adds when it was, in seconds since 1970, so that events can be set against what happened elsewhere.
fn print(mut event: Value) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Some(fields) = event.as_object_mut() {
        fields.insert("at".into(), json!(now.as_secs_f64()));
    }
    println!("{event}");
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// The event of a failure, with the kernel's error name where there is one: `ConnectionRefused`, `HostUnreachable`, ...
fn failure(began: Instant, error: &anyhow::Error) -> Value {
    let kind =
        error.chain().find_map(|e| e.downcast_ref::<std::io::Error>()).map(|e| format!("{:?}", e.kind()));
    json!({"error": format!("{error:#}"), "kind": kind, "ms": milliseconds(began)})
}

/// Both ends of a socket, as the application sees them.
fn ends(
    local: std::io::Result<SocketAddr>,
    peer: std::io::Result<SocketAddr>,
) -> (Option<String>, Option<String>) {
    (local.ok().map(|a| a.to_string()), peer.ok().map(|a| a.to_string()))
}
