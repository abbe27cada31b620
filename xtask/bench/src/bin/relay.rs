//! `relay LISTEN UPSTREAM`: bytes from one connection to another by tokio, and nothing else. The floor of a proxy: one hop
//! without looking at what passes.

use std::net::SocketAddr;

use clap::Parser;
use tokio::net::{TcpListener, TcpStream};

/// Per direction; what a request and its answer of 1 KiB need, with room.
const BUFFER: usize = 16 * 1024;

/// A TCP relay on one thread.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen
    listen: SocketAddr,
    /// Where to connect for each connection
    upstream: SocketAddr,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    undermesh_bench::prepare_process();
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = TcpListener::bind(arguments.listen).await?;
        println!("ready");
        loop {
            let (client, _) = listener.accept().await?;
            tokio::spawn(relay(client, arguments.upstream));
        }
    })
}

/// Errors end the one connection, as its client sees.
async fn relay(mut client: TcpStream, upstream: SocketAddr) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await?;
    Ok(())
}
