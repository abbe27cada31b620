//! The gateway role: the same proxy on the ports of the Gateways whose selector finds its labels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};
use undermesh_core::client::Client;
use undermesh_core::cluster::Workload;
use undermesh_proxy::inlet::{Caller, Entrance, Inlet, OwnNamespace, Sockets};
use undermesh_proxy::{InletHandle, Proxy};

use super::publish::Published;
use super::{Common, finish};
use crate::admin::{self, Admin, Role};
use crate::shutdown;

const BACKLOG: i32 = 4096;
/// A port that is taken is tried again this often.
const RETRY: Duration = Duration::from_secs(2);

/// What a gateway is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// As for a node.
    pub common: Common,
    /// What the selector of a Gateway looks for.
    pub labels: BTreeMap<String, String>,
    /// The namespace of the gateway's workload.
    pub namespace: String,
    /// The name of the gateway's workload.
    pub name: String,
    /// Where to listen; every address of both families if not given.
    pub bind: Option<IpAddr>,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start; the message says what is missing.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let Settings { common, labels, namespace, name, bind } = settings;
    let (mut source, socket) = common.take()?;
    let published = Arc::new(Published::new());
    let (proxy, sink, writer) = common.proxy(&published)?;
    let proxy = Arc::new(proxy);
    let client = Client { workload: name.as_str().into(), ..Client::gateway(&namespace, labels.clone()) };
    let sockets = Arc::new(GatewaySockets::default());
    let caller = Arc::new(Caller {
        id: format!("{namespace}/{name}").into(),
        workload: Arc::new(Workload::new(&name, &namespace, &labels, "default", "")),
        client: client.clone(),
        sockets: sockets.clone(),
    });
    let mut ports = Ports { bind, caller, sockets, open: BTreeMap::new() };
    let admin = Admin::start(
        socket,
        common.metrics_address,
        admin::State {
            role: Role::Gateway { client: client.clone() },
            published: published.clone(),
            proxy: proxy.clone(),
            redirect: None,
            workloads: arc_swap::ArcSwap::from_pointee(ports.rows()),
            log_sink: sink.clone(),
            source: source.link(),
            report: None,
            is_ready: Default::default(),
        },
    )?;
    let end = shutdown::requested();
    let mut end = std::pin::pin!(end);
    tokio::select! {
        loaded = source.load() => published.publish(loaded),
        signal = &mut end => {
            tracing::info!(signal = signal?, "ending before there was a configuration");
            return Ok(());
        }
    };
    let mut failed = ports.follow(&wanted(&published, &client), &proxy);
    admin.state().workloads.store(Arc::new(ports.rows()));
    admin.state().is_ready.set();
    tracing::info!(ports = ?ports.open.keys().collect::<Vec<_>>(), "ready");
    let mut retry = tokio::time::interval(RETRY);
    loop {
        tokio::select! {
            signal = &mut end => {
                tracing::info!(signal = signal?, "ending");
                break;
            }
            () = source.changed() => {
                published.publish(source.load().await);
            }
            _ = retry.tick(), if failed => {}
        }
        failed = ports.follow(&wanted(&published, &client), &proxy);
        admin.state().workloads.store(Arc::new(ports.rows()));
    }
    admin.end();
    drop(ports);
    finish(proxy, sink, writer, common.drain);
    Ok(())
}

/// The machine's own sockets; they know the ports that are served.
#[derive(Default)]
struct GatewaySockets {
    ports: Mutex<BTreeSet<u16>>,
}

impl Sockets for GatewaySockets {
    fn stream(&self, domain: Domain) -> std::io::Result<Socket> {
        OwnNamespace.stream(domain)
    }

    fn is_own_listener(&self, address: SocketAddr) -> bool {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).contains(&address.port())
            && is_own_address(address.ip())
    }
}

/// Only a machine's own addresses can be bound to.
fn is_own_address(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// A port, and the only address to listen on; `None`: all.
type Place = (u16, Option<IpAddr>);

/// Where to listen. An address needs no listener of its own where one of all addresses has its port: the proxy looks at the
/// address that was dialled.
fn wanted(published: &Published, client: &Client) -> BTreeSet<Place> {
    let ports = published.snapshot.load().gateway(client);
    let served: BTreeSet<Place> =
        ports.iter().filter(|port| port.is_served()).map(|port| (port.port, port.bind)).collect();
    let is_covered = |&(port, bind): &Place| {
        bind.is_some_and(|address| {
            let all = if address.is_ipv4() {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            served.contains(&(port, None)) || address != all && served.contains(&(port, Some(all)))
        })
    };
    served.iter().filter(|place| !is_covered(place)).copied().collect()
}

/// The ports that are served.
struct Ports {
    bind: Option<IpAddr>,
    caller: Arc<Caller>,
    sockets: Arc<GatewaySockets>,
    open: BTreeMap<Place, Result<InletHandle, String>>,
}

impl Ports {
    /// Opens and closes ports until they are `wanted`; answers whether one could not be opened.
    fn follow(&mut self, wanted: &BTreeSet<Place>, proxy: &Proxy) -> bool {
        self.open.retain(|place, _| wanted.contains(place));
        for &(port, address) in wanted {
            let before = match self.open.get(&(port, address)) {
                Some(Ok(inlet)) if !inlet.has_failed() => continue,
                Some(Err(error)) => Some(error.clone()),
                Some(Ok(_)) | None => None,
            };
            let opened = self.listen(port, address).map(|listeners| {
                proxy.open(Inlet {
                    name: format!("gateway port {port}").into(),
                    listeners,
                    entrance: Entrance::Gateway { caller: self.caller.clone(), port },
                })
            });
            let opened = opened.map_err(|error| match address {
                Some(address) => format!("cannot listen on {}: {error}", SocketAddr::new(address, port)),
                None => format!("cannot listen on port {port}: {error}"),
            });
            match &opened {
                Ok(_) => tracing::info!(port, ?address, "serving"),
                Err(error) if before.as_ref() != Some(error) => tracing::error!("{error}"),
                Err(_) => {}
            }
            self.open.insert((port, address), opened);
        }
        let ports = wanted.iter().map(|(port, _)| *port).collect();
        *self.sockets.ports.lock().unwrap_or_else(PoisonError::into_inner) = ports;
        self.open.values().any(Result::is_err)
    }

    /// A server's own address goes before the one that all servers were given.
    fn listen(&self, port: u16, address: Option<IpAddr>) -> std::io::Result<Vec<TcpListener>> {
        if let Some(address) = address.or(self.bind) {
            return Ok(vec![listener(SocketAddr::new(address, port))?]);
        }
        let v4 = listener(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?;
        // A machine without IPv6 is served on IPv4 alone.
        let v6 = listener(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).ok();
        Ok([v4].into_iter().chain(v6).collect())
    }

    fn rows(&self) -> Value {
        let row = |((port, address), state): (&Place, &Result<InletHandle, String>)| {
            json!({
                "pod": &*self.caller.id,
                "state": "gateway",
                "port": port,
                "address": address,
                "capture": if state.is_ok() { "listening" } else { "failed" },
                "reason": state.as_ref().err(),
                "labels": self.caller.client.labels,
            })
        };
        self.open.iter().map(row).collect()
    }
}

fn listener(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_knows_its_own_listeners_and_nobody_elses() {
        let sockets = GatewaySockets::default();
        sockets.ports.lock().expect("not poisoned").insert(8080);
        for (address, want) in [
            ("127.0.0.1:8080", true),
            ("0.0.0.0:8080", true),
            ("127.0.0.1:8081", false),
            ("192.0.2.1:8080", false),
        ] {
            assert_eq!(sockets.is_own_listener(address.parse().expect("an address")), want, "{address}");
        }
    }
}
