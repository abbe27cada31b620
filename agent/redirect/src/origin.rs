//! Where an accepted connection was meant to go (DESIGN D3).
//!
//! The kernel wrote the entry before it sent the SYN, so at accept it is there, or the connection did not come by
//! redirection and must be refused: somebody dialled the listener directly. Entries are taken, not read: one that stayed
//! would answer for a later connection from the same port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use undermesh_common as common;
use undermesh_common::{NetAddr, NetPort, OriginKey};

use crate::cgroup::CgroupId;
use crate::error::Error;
use crate::map::TypedMap;
use crate::netns::NetnsCookie;

/// What the kernel knows of an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// What the application dialled; IPv4 also when it did so on an IPv6 socket (v4-mapped).
    pub destination: SocketAddr,
    /// The generation of the maps that captured it.
    pub generation: u64,
    /// The cgroup of the task that called connect. In the node's network namespace, this tells whose it is.
    pub cgroup_id: CgroupId,
    /// The `id` of the [`LocalWorkload`](crate::plan::LocalWorkload) that called.
    pub workload: u32,
}

/// Connections on their way from the kernel programs to the proxy. Cheap to clone; a call is one system call and takes no
/// lock.
#[derive(Debug, Clone)]
pub struct Origins {
    map: Arc<TypedMap<OriginKey, common::Origin>>,
}

impl Origins {
    pub(crate) fn open(object: &aya::Ebpf) -> Result<Self, Error> {
        Ok(Self { map: Arc::new(TypedMap::open(object, common::names::ORIGINS)?) })
    }

    /// Takes the origin of a connection that a listener in the namespace `netns` accepted from `peer`. `None`: it was not
    /// redirected, or this was asked before; refuse it.
    pub fn take(&self, netns: NetnsCookie, peer: SocketAddr) -> Option<Origin> {
        match self.map.take(&key(netns, peer)) {
            Ok(entry) => entry.map(Origin::from),
            Err(error) => {
                // Never seen; as there is nothing to serve the connection by, it is refused like any unknown one.
                tracing::error!(%error, %peer, "cannot take the origin of a connection");
                None
            }
        }
    }

    /// Removes entries of connections that were made longer than `age` ago and never accepted, and says how many. Call it
    /// now and then with an age well above the time a connection waits in a backlog: the kernel removes what closes, so
    /// this finds only what a listener left behind when it was closed. Do call it after closing one in the node's network
    /// namespace: there a later process could meet such an entry by dialling the next listener from the very same port.
    pub fn sweep(&self, age: Duration) -> Result<usize, Error> {
        let now = crate::events::monotonic_ns();
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let stale: Vec<_> = self
            .map
            .entries()
            .filter_map(|entry| match entry {
                Ok((key, origin)) if now.saturating_sub(origin.connected_ns) > age => Some(Ok(key)),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            })
            .collect::<Result<_, _>>()?;
        let mut removed = 0;
        for key in stale {
            removed += usize::from(self.map.remove(&key)?);
        }
        Ok(removed)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = Result<(OriginKey, common::Origin), Error>> {
        self.map.entries()
    }
}

fn key(netns: NetnsCookie, peer: SocketAddr) -> OriginKey {
    OriginKey {
        netns_cookie: netns.0,
        source: NetAddr::from(peer.ip()),
        port: NetPort::from_host(peer.port()),
        padding: [0; 3],
    }
}

impl From<common::Origin> for Origin {
    fn from(entry: common::Origin) -> Self {
        Self {
            destination: SocketAddr::new(IpAddr::from(entry.destination), entry.port.to_host()),
            generation: entry.generation,
            cgroup_id: CgroupId(entry.cgroup_id),
            workload: entry.workload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v4_mapped_peer_has_the_key_of_its_ipv4_address() {
        let netns = NetnsCookie(7);
        let v4 = key(netns, "127.0.0.1:40000".parse().unwrap());
        assert_eq!(key(netns, "[::ffff:127.0.0.1]:40000".parse().unwrap()), v4);
        assert_ne!(key(netns, "[::1]:40000".parse().unwrap()), v4);
        assert_ne!(key(NetnsCookie(8), "127.0.0.1:40000".parse().unwrap()), v4);
        assert_ne!(key(netns, "127.0.0.1:40001".parse().unwrap()), v4);
    }

    #[test]
    fn a_v4_mapped_destination_is_ipv4() {
        let entry = common::Origin {
            destination: "::ffff:10.96.0.10".parse::<IpAddr>().unwrap().into(),
            port: NetPort::from_host(80),
            ..Default::default()
        };
        assert_eq!(Origin::from(entry).destination, "10.96.0.10:80".parse().unwrap());
    }
}
