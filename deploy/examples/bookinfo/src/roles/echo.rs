//! `echo`: TCP and UDP without any protocol, for what a mesh must carry or leave alone.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

/// Serves both at `listen` until SIGTERM.
pub(crate) async fn serve(listen: SocketAddr, greeting: Option<String>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let tcp = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let udp = UdpSocket::bind(listen).await.with_context(|| format!("cannot bind UDP {listen}"))?;
    println!("listening on {}", tcp.local_addr()?);
    let mut datagram = vec![0; 65_536];
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            accepted = tcp.accept() => {
                let (stream, peer) = accepted?;
                let greeting = greeting.clone();
                tokio::spawn(async move {
                    if let Err(e) = echo(stream, greeting).await {
                        eprintln!("connection of {peer}: {e}");
                    }
                });
            }
            received = udp.recv_from(&mut datagram) => {
                let (length, peer) = received?;
                if let Some(bytes) = datagram.get(..length)
                    && let Err(e) = udp.send_to(bytes, peer).await
                {
                    eprintln!("datagram to {peer}: {e}");
                }
            }
        }
    }
}

async fn echo(mut stream: TcpStream, greeting: Option<String>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(greeting) = greeting {
        stream.write_all(greeting.as_bytes()).await?;
    }
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}
