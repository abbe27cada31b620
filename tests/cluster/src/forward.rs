//! A port of this machine that leads into a namespace. The nodes and the API server have no wire to the machine's own network;
//! with this, kubectl and a browser reach them all the same.
//!
//! A socket stays in the namespace it was made in: the listener is made here, then one thread enters the namespace and makes
//! its connections there.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpStream;
use undermesh_tests::NetNs;

const CONNECT: Duration = Duration::from_secs(5);

/// Forwards connections for as long as it lives.
#[derive(Debug)]
pub(crate) struct Forward {
    local: SocketAddr,
    // Dropped, it ends the thread.
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Forward {
    /// From `port` of 127.0.0.1, or any that is free if it is taken, to `to` in `netns`.
    pub(crate) fn start(netns: &NetNs, port: u16, to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .context("no port of this machine is free")?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let netns = netns.clone();
        std::thread::Builder::new().name("forward".into()).spawn(move || {
            let outcome = netns.run(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    tokio::select! {
                        // An error means that the sender is gone: what it stands for.
                        _ = stopped => Ok(()),
                        outcome = accept(listener, to) => outcome,
                    }
                })
            });
            if let Err(e) = outcome {
                eprintln!("forwarding {local} to {to} ended: {e:#}");
            }
        })?;
        Ok(Self { local, _stop: stop })
    }

    /// Where to connect.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }
}

async fn accept(listener: tokio::net::TcpListener, to: SocketAddr) -> anyhow::Result<()> {
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A client that cannot be served sees its connection closed; there is nobody else to tell.
            if let Ok(Ok(mut server)) = tokio::time::timeout(CONNECT, TcpStream::connect(to)).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}
