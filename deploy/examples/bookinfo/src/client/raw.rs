//! TCP and UDP without a protocol above.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::{Pace, ends, failure, milliseconds, print};

/// `client tcp`: connects once, prints `{"connected": true, ...}`, then sends and receives `count` times.
#[derive(Debug, Args)]
pub(crate) struct Tcp {
    /// Where to connect.
    address: SocketAddr,
    /// Sent each time; an echo of the same length is awaited.
    #[arg(long)]
    send: Option<String>,
    /// Before sending, waits for so many bytes of greeting.
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    greeting: usize,
    #[command(flatten)]
    pace: Pace,
}

/// `client udp`: sends and awaits an answer `count` times.
#[derive(Debug, Args)]
pub(crate) struct Udp {
    /// Where to send.
    address: SocketAddr,
    /// The datagram.
    #[arg(long, default_value = "ping")]
    send: String,
    /// connect() the socket first, as resolvers do.
    #[arg(long)]
    connected: bool,
    #[command(flatten)]
    pace: Pace,
}

impl Tcp {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let began = Instant::now();
        let connecting = async { TcpStream::connect(self.address).await.context("cannot connect") };
        let mut stream = match self.within(connecting).await {
            Ok(stream) => stream,
            Err(e) => {
                print(failure(began, &e));
                return Ok(());
            }
        };
        stream.set_nodelay(true)?;
        let (local, peer) = ends(stream.local_addr(), stream.peer_addr());
        print(json!({"connected": true, "local": local, "peer": peer, "ms": milliseconds(began)}));
        if self.greeting > 0 && !self.received(&mut stream, None, self.greeting).await {
            return Ok(());
        }
        let Some(text) = &self.send else { return Ok(()) };
        let mut n = 0;
        while self.pace.go_on(n).await && self.received(&mut stream, Some(text), text.len()).await {
            n += 1;
        }
        Ok(())
    }

    /// Sends, receives, prints; false once the connection is of no more use.
    async fn received(&self, stream: &mut TcpStream, send: Option<&str>, expect: usize) -> bool {
        let began = Instant::now();
        let exchange = async {
            if let Some(text) = send {
                stream.write_all(text.as_bytes()).await.context("cannot send")?;
            }
            let mut back = vec![0; expect];
            stream.read_exact(&mut back).await.context("cannot receive")?;
            Ok(back)
        };
        match self.within(exchange).await {
            Ok(back) => {
                print(json!({"received": String::from_utf8_lossy(&back), "ms": milliseconds(began)}));
                true
            }
            Err(e) => {
                print(failure(began, &e));
                false
            }
        }
    }

    async fn within<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::time::timeout(self.pace.timeout(), work).await.unwrap_or_else(|_| Err(timed_out()))
    }
}

impl Udp {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut n = 0;
        while self.pace.go_on(n).await {
            let began = Instant::now();
            match tokio::time::timeout(self.pace.timeout(), self.once()).await {
                Ok(Ok((back, from))) => {
                    print(json!({"received": back, "from": from.to_string(), "ms": milliseconds(began)}));
                }
                Ok(Err(e)) => print(failure(began, &e)),
                Err(_) => print(failure(began, &timed_out())),
            }
            n += 1;
        }
        Ok(())
    }

    async fn once(&self) -> anyhow::Result<(String, SocketAddr)> {
        let any = match self.address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any).await?;
        if self.connected {
            socket.connect(self.address).await.context("cannot connect")?;
            socket.send(self.send.as_bytes()).await.context("cannot send")?;
        } else {
            socket.send_to(self.send.as_bytes(), self.address).await.context("cannot send")?;
        }
        let mut back = vec![0; 65_536];
        let (length, from) = socket.recv_from(&mut back).await.context("cannot receive")?;
        back.truncate(length);
        Ok((String::from_utf8_lossy(&back).into_owned(), from))
    }
}

fn timed_out() -> anyhow::Error {
    anyhow!(std::io::Error::from(std::io::ErrorKind::TimedOut))
}
