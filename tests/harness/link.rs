//! Links, addresses and routes of one namespace, over netlink.
//!
//! Each call makes its own socket inside the namespace: a netlink socket belongs to the namespace of the thread that
//! opened it. At a few hundred microseconds a call this is far below the cost of the namespace itself.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, State};
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::netns::NetNs;

/// The kernel's work queue takes a millisecond, or at most a second where it groups events.
const READY: Duration = Duration::from_secs(5);

/// `RT_TABLE_LOCAL` of linux/rtnetlink.h.
const LOCAL_TABLE: u32 = 255;

/// An address with the length of its prefix, in bits.
pub type Prefix = (IpAddr, u8);

/// One step of setting up a namespace; they are done in the order given.
#[derive(Clone)]
pub enum Step<'a> {
    /// Makes a bridge.
    Bridge(&'a str),
    /// Makes a veth pair, of which the end `far` is moved into `into`.
    Veth {
        /// The end that stays.
        near: &'a str,
        /// The end that goes.
        far: &'a str,
        /// Where it goes.
        into: &'a NetNs,
    },
    /// Puts a link on a bridge.
    Port {
        /// The link.
        link: &'a str,
        /// The bridge.
        bridge: &'a str,
    },
    /// Sets a link up.
    Up(&'a str),
    /// Waits until a link carries packets. The kernel gets there a moment after `Up`, on a work queue; a packet sent
    /// before is lost, and TCP repeats it a second later.
    Ready(&'a str),
    /// Gives a link an address.
    Address(&'a str, Prefix),
    /// Sends a destination by way of a gateway; a prefix of length 0 is the default route.
    Route(Prefix, IpAddr),
    /// Takes a destination as an address of this machine.
    Own {
        /// The destination.
        to: Prefix,
        /// Any link of the machine.
        link: &'a str,
    },
    /// Refuses a destination with an error that the caller sees at once.
    Unreachable(Prefix),
}

/// Does `steps` inside `ns`.
pub fn configure(ns: &NetNs, steps: &[Step<'_>]) -> anyhow::Result<()> {
    ns.run(|| perform(steps).with_context(|| format!("in {}", ns.path().display())))
}

/// Does `steps` in the namespace of the calling thread.
pub(crate) fn perform(steps: &[Step<'_>]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
        tokio::spawn(connection);
        for step in steps {
            step.perform(&handle).await?;
        }
        Ok(())
    })
}

/// Before any link is made: forward packets, and use IPv6 addresses at once instead of after a second of duplicate
/// detection. /proc/sys/net is that of the namespace of the thread that opens it, so the host's settings stay.
pub fn settle(ns: &NetNs, forward: bool) -> anyhow::Result<()> {
    ns.run(|| {
        set("net/ipv6/conf/all/accept_dad", "0")?;
        set("net/ipv6/conf/default/accept_dad", "0")?;
        if forward {
            set("net/ipv4/ip_forward", "1")?;
            set("net/ipv6/conf/all/forwarding", "1")?;
        }
        Ok(())
    })
}

/// Writes a setting of /proc/sys; what is per namespace belongs to that of the calling thread.
pub(crate) fn set(name: &str, value: &str) -> anyhow::Result<()> {
    let path = format!("/proc/sys/{name}");
    std::fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))
}

impl Step<'_> {
    async fn perform(&self, netlink: &Handle) -> anyhow::Result<()> {
        match *self {
            Self::Bridge(name) => netlink
                .link()
                .add(LinkBridge::new(name).up().build())
                .execute()
                .await
                .with_context(|| format!("cannot make bridge {name}")),
            Self::Veth { near, far, into } => {
                let netns = File::open(into.path())?;
                netlink
                    .link()
                    .add(LinkVeth::new(near, far).build())
                    .execute()
                    .await
                    .with_context(|| format!("cannot make veth {near} - {far}"))?;
                netlink
                    .link()
                    .change(LinkUnspec::new_with_name(far).setns_by_fd(netns.as_raw_fd()).build())
                    .execute()
                    .await
                    .with_context(|| format!("cannot move {far} to {}", into.path().display()))
            }
            Self::Port { link, bridge } => netlink
                .link()
                .change(LinkUnspec::new_with_name(link).controller(index(bridge)?).build())
                .execute()
                .await
                .with_context(|| format!("cannot put {link} on {bridge}")),
            Self::Up(link) => netlink
                .link()
                .change(LinkUnspec::new_with_name(link).up().build())
                .execute()
                .await
                .with_context(|| format!("cannot set {link} up")),
            Self::Ready(link) => {
                let wait = async {
                    while !is_ready(netlink, link).await? {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Ok(())
                };
                tokio::time::timeout(READY, wait)
                    .await
                    .with_context(|| format!("{link} is not up after {READY:?}"))?
            }
            Self::Address(link, (address, bits)) => netlink
                .address()
                .add(index(link)?, address, bits)
                .execute()
                .await
                .with_context(|| format!("cannot give {link} the address {address}/{bits}")),
            Self::Route((to, bits), via) => {
                let route =
                    RouteMessageBuilder::<IpAddr>::new().destination_prefix(to, bits)?.gateway(via)?;
                netlink
                    .route()
                    .add(route.build())
                    .execute()
                    .await
                    .with_context(|| format!("cannot route {to}/{bits} via {via}"))
            }
            Self::Own { to: (to, bits), link } => {
                let route = RouteMessageBuilder::<IpAddr>::new()
                    .destination_prefix(to, bits)?
                    .output_interface(index(link)?)
                    .kind(RouteType::Local)
                    .scope(RouteScope::Host)
                    // Beside the routes of addresses that links have.
                    .table_id(LOCAL_TABLE);
                netlink
                    .route()
                    .add(route.build())
                    .execute()
                    .await
                    .with_context(|| format!("cannot take {to}/{bits} as an own address"))
            }
            Self::Unreachable((to, bits)) => {
                let route = RouteMessageBuilder::<IpAddr>::new()
                    .destination_prefix(to, bits)?
                    .kind(RouteType::Unreachable);
                netlink
                    .route()
                    .add(route.build())
                    .execute()
                    .await
                    .with_context(|| format!("cannot make {to}/{bits} unreachable"))
            }
        }
    }
}

async fn is_ready(netlink: &Handle, link: &str) -> anyhow::Result<bool> {
    let mut found = netlink.link().get().match_name(link.to_owned()).execute();
    let message = found.try_next().await?.with_context(|| format!("no link {link}"))?;
    Ok(message.attributes.contains(&LinkAttribute::OperState(State::Up)))
}

fn index(link: &str) -> anyhow::Result<u32> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    rustix::net::netdevice::name_to_index(socket, link).with_context(|| format!("no link {link}"))
}
