//! The PROXY protocol: what an upstream connection begins with, so that the server knows whose it is.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. It says the client's address *and port*, so a connection
//! that begins with it carries what one client connection sends and nothing else, and ends with it (Envoy keeps pools apart
//! likewise). What is sent for nobody, a copy for a mirror, says so.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use undermesh_core::policy::ProxyProtocol;

use crate::live::EndpointPool;
use crate::record::Peer;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The pools of one client connection, at endpoints that are told whose their connections are.
#[derive(Default)]
pub(crate) struct PrivatePools(RefCell<Vec<PrivatePool>>);

struct PrivatePool {
    /// What all others use; holding it keeps it the same one.
    shared: Rc<EndpointPool>,
    version: ProxyProtocol,
    own: Rc<EndpointPool>,
}

impl Drop for PrivatePool {
    fn drop(&mut self) {
        self.own.close();
    }
}

/// Endpoints that one client connection has connections of its own to. More are rare; then the oldest gives way.
const MOST_PRIVATE: usize = 64;

impl PrivatePools {
    /// What this client connection, which comes from `source`, uses in place of `shared`.
    pub(crate) fn pool(
        &self,
        shared: &Rc<EndpointPool>,
        version: ProxyProtocol,
        source: IpAddr,
        peer: Peer,
    ) -> Rc<EndpointPool> {
        let mut all = self.0.borrow_mut();
        if let Some(found) = all.iter().find(|it| it.version == version && Rc::ptr_eq(&it.shared, shared)) {
            return found.own.clone();
        }
        if all.len() >= MOST_PRIVATE {
            all.remove(0);
        }
        let source = SocketAddr::new(source, peer.remote.port());
        let own = shared.private(Preamble { version, client: Some((source, peer.dialled)) });
        all.push(PrivatePool { shared: shared.clone(), version, own: own.clone() });
        own
    }
}

/// A pool for one request that no client waits for.
pub(crate) struct OfOurs(Rc<EndpointPool>);

impl OfOurs {
    pub(crate) fn new(shared: &EndpointPool, version: ProxyProtocol) -> Self {
        Self(shared.private(Preamble { version, client: None }))
    }

    pub(crate) fn pool(&self) -> &Rc<EndpointPool> {
        &self.0
    }
}

impl Drop for OfOurs {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The first bytes of a connection.
pub(crate) struct Preamble {
    version: ProxyProtocol,
    /// Where the client dialled from and where to; `None`: the connection is our own.
    client: Option<(SocketAddr, SocketAddr)>,
}

impl Preamble {
    /// For a connection from `local`, if that is known, to `endpoint`.
    pub(crate) fn bytes(&self, local: Option<SocketAddr>, endpoint: SocketAddr) -> Vec<u8> {
        match (self.version, self.client) {
            (ProxyProtocol::V1, Some((source, destination))) => text(source, destination),
            // The text form has no word for "our own" that tells the addresses; Envoy says them.
            (ProxyProtocol::V1, None) => {
                local.map_or_else(|| b"PROXY UNKNOWN\r\n".to_vec(), |local| text(local, endpoint))
            }
            (ProxyProtocol::V2, Some((source, destination))) => binary(source, destination),
            // Command LOCAL.
            (ProxyProtocol::V2, None) => [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat(),
        }
    }
}

/// The two of one family: mapped to IPv6 if they differ, since there is no line for two.
fn ends(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    (mapped(source), mapped(destination))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}

fn text(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (source, destination) = ends(source, destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

fn binary(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (source, destination) = ends(source, destination);
    let mut bytes = SIGNATURE.to_vec();
    // Version 2, command PROXY; TCP over IPv4 or IPv6; the length of what follows.
    bytes.extend(if source.is_ipv4() { [0x21, 0x11, 0, 12] } else { [0x21, 0x21, 0, 36] });
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => bytes.extend(ip.octets()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn of(version: ProxyProtocol, source: &str, dialled: &str) -> Vec<u8> {
        let preamble = Preamble { version, client: Some((address(source), address(dialled))) };
        preamble.bytes(Some(address("192.0.2.77:7")), address("192.0.2.88:8"))
    }

    #[test]
    fn a_line_names_the_client_and_what_it_dialled() {
        for (source, dialled, want) in [
            ("203.0.113.7:4711", "192.0.2.1:80", "PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n"),
            ("[fd00::1]:4711", "[fd00::9]:80", "PROXY TCP6 fd00::1 fd00::9 4711 80\r\n"),
            ("[::ffff:203.0.113.7]:1", "192.0.2.1:80", "PROXY TCP4 203.0.113.7 192.0.2.1 1 80\r\n"),
            ("[2001:db8::1]:1", "192.0.2.1:80", "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 80\r\n"),
            ("192.0.2.1:1", "[2001:db8::1]:80", "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 80\r\n"),
        ] {
            assert_eq!(String::from_utf8_lossy(&of(ProxyProtocol::V1, source, dialled)), want);
        }
    }

    #[test]
    fn the_binary_form_says_the_same() {
        let bytes = of(ProxyProtocol::V2, "203.0.113.7:258", "192.0.2.1:80");
        let want = [0x21, 0x11, 0, 12, 203, 0, 113, 7, 192, 0, 2, 1, 1, 2, 0, 80];
        assert_eq!(bytes, [&SIGNATURE[..], &want].concat());
        let bytes = of(ProxyProtocol::V2, "[2001:db8::1]:258", "[2001:db8::2]:80");
        let one = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let two = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        let want = [&SIGNATURE[..], &[0x21, 0x21, 0, 36], &one, &two, &[1, 2, 0, 80]].concat();
        assert_eq!(bytes, want);
    }

    #[test]
    fn a_connection_of_our_own_names_no_client() {
        for (version, local, want) in [
            (ProxyProtocol::V1, Some("192.0.2.77:7"), &b"PROXY TCP4 192.0.2.77 192.0.2.88 7 8\r\n"[..]),
            (ProxyProtocol::V1, None, b"PROXY UNKNOWN\r\n"),
            (ProxyProtocol::V2, Some("192.0.2.77:7"), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
        ] {
            let preamble = Preamble { version, client: None };
            assert_eq!(preamble.bytes(local.map(address), address("192.0.2.88:8")), want);
        }
    }
}
