//! What the proxy needs from its surroundings, as small traits, so that it never meets the kernel half: where a captured
//! connection was going, and sockets in a client's network namespace (DESIGN section 3).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use socket2::{Domain, Socket};
use undermesh_core::client::Client;
use undermesh_core::cluster::Workload;

/// A client of the mesh as the proxy keeps it: a pod on this node, or the gateway's own workload.
///
/// Pools, limits and outlier state belong to one `Caller`: per client pod, as Istio's numbers assume (DESIGN D2).
pub struct Caller {
    /// `namespace/name`, for logs and as the key of live state.
    pub id: Arc<str>,
    /// What routing knows of it.
    pub client: Client,
    /// Who it is in metrics.
    pub workload: Arc<Workload>,
    /// Opens sockets in its network namespace.
    pub sockets: Arc<dyn Sockets>,
}

/// Opens unconnected, non-blocking TCP sockets.
pub trait Sockets: Send + Sync {
    /// A stream socket of `domain`.
    ///
    /// # Errors
    /// The namespace is gone, or file descriptors ran out.
    fn stream(&self, domain: Domain) -> io::Result<Socket>;

    /// Whether a socket of these that connects to `address` would meet a listener of this very proxy: a loop. Asked only for
    /// addresses that a name server gave.
    fn is_own_listener(&self, _address: SocketAddr) -> bool {
        false
    }
}

/// Sockets in the network namespace of the calling thread: gateways, tests.
pub struct OwnNamespace;

impl Sockets for OwnNamespace {
    fn stream(&self, domain: Domain) -> io::Result<Socket> {
        let socket =
            Socket::new(domain, socket2::Type::STREAM.nonblocking().cloexec(), Some(socket2::Protocol::TCP))?;
        Ok(socket)
    }
}

/// Where an accepted connection was going.
#[derive(Clone)]
pub struct Origin {
    /// The address the application dialled.
    pub destination: SocketAddr,
    /// Who dialled it, by the kernel's word.
    pub caller: Arc<Caller>,
}

/// Knows where captured connections were going.
pub trait Origins: Send + Sync {
    /// Takes the record of the connection from `peer`; `None` when the kernel made none, that is, when somebody dialled the
    /// listener itself. Each record can be taken once.
    fn take(&self, peer: SocketAddr) -> Option<Origin>;
}

/// What connections accepted by an [`Inlet`] mean.
pub enum Entrance {
    /// Captured in a pod: the kernel knows where to.
    Mesh(Arc<dyn Origins>),
    /// A gateway's server port.
    Gateway {
        /// The gateway's workload.
        caller: Arc<Caller>,
        /// The port of the Gateway's servers, before any translation to a target port.
        port: u16,
    },
}

/// Listeners whose connections have one meaning.
pub struct Inlet {
    /// For logs, and to remove it again.
    pub name: Arc<str>,
    /// Listening, non-blocking sockets, whatever namespace they were made in.
    pub listeners: Vec<TcpListener>,
    /// What its connections mean.
    pub entrance: Entrance,
}
