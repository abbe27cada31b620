//! What the kernel must bring to the proxy: the destinations a snapshot knows.

use std::net::IpAddr;

/// A destination that belongs to the mesh, as the application dials it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capture {
    /// A TCP port of a service address: cluster IP, address of a headless service's endpoint, address of a ServiceEntry.
    Address {
        /// The dialled address.
        address: IpAddr,
        /// The dialled port, host byte order.
        port: u16,
    },
    /// The port on any address that is no other service's: a ServiceEntry without addresses claims it, or REGISTRY_ONLY
    /// does; then Host or SNI decides (DESIGN D1).
    Port(u16),
}
