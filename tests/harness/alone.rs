//! A namespace of one's own in which every address is this machine's: what listens on 10.244.5.32 is reached there, and
//! nothing outside exists. It has no name and no file, so it ends with the threads in it, however they end.
#![expect(
    unsafe_code,
    reason = "unshare(2) is unsafe in rustix because of CLONE_FILES, which is not used here"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::link::{Step, perform, set};
use crate::netns::on_own_thread;

/// Runs `work` on a thread in a new namespace and waits for it. Threads that `work` starts are born inside.
///
/// # Errors
/// The kernel refuses the namespace (needs `CAP_SYS_ADMIN`), or what `work` says.
pub fn with_every_address<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    on_own_thread(|| {
        // SAFETY: only CLONE_NEWNET; file descriptors stay shared, and the thread ends right after.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("cannot make a network namespace")?;
        let everything = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let own = everything.map(|address| Step::Own { to: (address, 0), link: "lo" });
        // For IPv6 a route is not enough: bind(2) looks at the addresses of links.
        set("net/ipv6/ip_nonlocal_bind", "1")?;
        perform(&[&[Step::Up("lo")], &own[..]].concat())?;
        work()
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn any_address_can_be_served_and_reached_and_namespaces_do_not_meet() {
        if !crate::can_make_namespaces_here("any_address_can_be_served") {
            return;
        }
        let address = "198.51.100.7:8080";
        with_every_address(|| {
            let _listener = TcpListener::bind(address)?;
            TcpStream::connect(address)?;
            let _listener = TcpListener::bind("[fd00::7]:8080")?;
            TcpStream::connect("[fd00::7]:8080")?;
            with_every_address(|| {
                assert!(TcpStream::connect(address).is_err(), "nobody listens in a new namespace");
                Ok(())
            })
        })
        .expect("a namespace");
    }
}
