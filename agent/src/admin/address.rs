//! The address of metrics and health.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use rustix::io::Errno;

/// Listens; on `[::]` for both families, or for IPv4's where the machine has no IPv6.
pub(super) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let bind = |address: SocketAddr| {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() && address.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        socket.listen(128)?;
        Ok(TcpListener::from(socket))
    };
    let has_none = |error: &std::io::Error| {
        matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
    };
    match bind(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && has_none(&error) => {
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, TcpStream};

    use super::*;

    #[test]
    fn the_address_of_all_is_reached_by_both_families_and_one_address_by_its_own() -> std::io::Result<()> {
        let connect = |ip: IpAddr, to: &TcpListener| TcpStream::connect((ip, to.local_addr()?.port()));
        let all = listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0))?;
        connect(Ipv4Addr::LOCALHOST.into(), &all)?;
        if all.local_addr()?.is_ipv6() {
            connect(Ipv6Addr::LOCALHOST.into(), &all)?;
        }
        let one = listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))?;
        connect(Ipv4Addr::LOCALHOST.into(), &one)?;
        assert!(connect(Ipv6Addr::LOCALHOST.into(), &one).is_err());
        Ok(())
    }
}
