//! `backend ADDRESS`: answers every request with the same 200.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use clap::Parser;

/// An HTTP/1.1 server with one thread and one answer.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen
    address: SocketAddr,
    /// Length of the answer's body in bytes
    #[arg(long, default_value_t = 1024)]
    body: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    undermesh_bench::prepare_process();
    let listener = TcpListener::bind(arguments.address)
        .with_context(|| format!("cannot listen on {}", arguments.address))?;
    println!("ready");
    undermesh_bench::serve::run(&listener, arguments.body)
}
