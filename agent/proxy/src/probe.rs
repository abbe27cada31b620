//! A destination that nobody has, captured in every pod: who connects to it is answered by the proxy itself. So one can find
//! out, from inside a pod, whether its connections come here, and as whose they are taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Of addresses that are for documentation alone (RFC 5737, RFC 3849), one of each family.
pub const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 153)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x153)),
];
/// The port of both.
pub const PORT: u16 = 15999;

/// How long the other side may take to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether this was dialled to find out.
pub(crate) fn is_probe(dialled: SocketAddr) -> bool {
    dialled.port() == PORT && ADDRESSES.contains(&dialled.ip().to_canonical())
}

/// The generation of the configuration, and the pod that the connection was taken for, from what [`answer`] writes.
pub fn read(answer: &str) -> Option<(u64, &str)> {
    let (generation, pod) = answer.strip_prefix("undermesh ")?.strip_suffix('\n')?.split_once(' ')?;
    Some((generation.parse().ok()?, pod))
}

/// Says as whose the connection was taken, and by which generation of the configuration.
pub(crate) async fn answer(mut io: TcpStream, pod: Arc<str>, generation: u64) {
    let line = format!("undermesh {generation} {pod}\n");
    // Who does not read it does not want it.
    let _ = tokio::time::timeout(PATIENCE, async {
        io.write_all(line.as_bytes()).await?;
        io.shutdown().await
    })
    .await;
}
