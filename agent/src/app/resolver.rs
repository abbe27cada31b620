//! Looks up names of upstreams: the system's name servers and hosts file, asked on a thread of its own.
//!
//! Names are taken as complete: none is tried with the machine's search domains, in which a name of a ServiceEntry could by
//! chance mean something else. What an answer is worth, and for how long, is the proxy's business, so nothing is kept here.

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use anyhow::Context;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::{mpsc, oneshot};
use undermesh_proxy::names::{Answer, Lookup, LookupError, Resolver};

const RESOLV_CONF: &str = "/etc/resolv.conf";

type Question = (String, oneshot::Sender<Result<Answer, LookupError>>);

/// The asking side. The thread ends when the last one is gone.
pub(super) struct NameServers {
    questions: mpsc::UnboundedSender<Question>,
}

impl NameServers {
    /// Starts the thread. Without `servers`, those of the system are asked, as its settings are at that time.
    pub(super) fn start(servers: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let (questions, queue) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, serve(servers, queue));
            })
            .context("the resolver could not be started")?;
        Ok(Self { questions })
    }
}

impl Resolver for NameServers {
    fn resolve(&self, name: &str) -> Lookup {
        let (answer, wait) = oneshot::channel();
        // A thread that has ended drops the question, which answers it.
        let _ = self.questions.send((name.to_owned(), answer));
        Box::pin(async move {
            wait.await.unwrap_or_else(|_| Err(LookupError("the resolver has ended".to_owned())))
        })
    }
}

async fn serve(servers: Vec<SocketAddr>, mut queue: mpsc::UnboundedReceiver<Question>) {
    let mut current: Option<(Option<SystemTime>, Rc<TokioResolver>)> = None;
    while let Some((name, answer)) = queue.recv().await {
        let changed = modified(Path::new(RESOLV_CONF));
        let resolver = match &current {
            Some((as_of, resolver)) if *as_of == changed || !servers.is_empty() => Ok(resolver.clone()),
            _ => resolver(&servers).map(Rc::new),
        };
        match resolver {
            Ok(resolver) => {
                current = Some((changed, resolver.clone()));
                drop(tokio::task::spawn_local(async move {
                    // Whoever asked may have given up.
                    let _ = answer.send(look_up(&resolver, &name).await);
                }));
            }
            Err(error) => drop(answer.send(Err(LookupError(format!("{error:#}"))))),
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|about| about.modified()).ok()
}

fn resolver(servers: &[SocketAddr]) -> anyhow::Result<TokioResolver> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio().context(RESOLV_CONF)?
    } else {
        let server = |server: &SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        };
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    builder.build().context("name servers")
}

async fn look_up(resolver: &TokioResolver, name: &str) -> Result<Answer, LookupError> {
    // Complete, unless it has no dot: those are of the hosts file, or of a search domain.
    let name = if name.contains('.') { format!("{name}.") } else { name.to_owned() };
    let found = resolver.lookup_ip(name).await.map_err(|error| LookupError(error.to_string()))?;
    Ok(Answer {
        addresses: found.iter().collect(),
        time_to_live: found.valid_until().saturating_duration_since(Instant::now()),
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    /// A name server that knows the IPv4 address of one name.
    fn name_server(name: &'static str, address: [u8; 4], time_to_live: u32) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let own = socket.local_addr().expect("an address");
        std::thread::spawn(move || {
            let mut packet = [0u8; 512];
            while let Ok((count, peer)) = socket.recv_from(&mut packet) {
                let Some(end) = packet[12..count].iter().position(|&byte| byte == 0) else { continue };
                let question = &packet[12..12 + end + 5];
                let wanted: Vec<u8> =
                    name.split('.').flat_map(|it| [&[it.len() as u8], it.as_bytes()].concat()).collect();
                let is_known = question[..end] == wanted[..];
                let is_v4 = question[end + 1..end + 3] == [0, 1];
                let found = is_known && is_v4;
                let mut answer = packet[..2].to_vec();
                answer.extend([
                    0x81,
                    if is_known { 0x80 } else { 0x83 },
                    0,
                    1,
                    0,
                    u8::from(found),
                    0,
                    0,
                    0,
                    0,
                ]);
                answer.extend(question);
                if found {
                    answer.extend([0xc0, 12, 0, 1, 0, 1]);
                    answer.extend(time_to_live.to_be_bytes());
                    answer.extend([0, 4]);
                    answer.extend(address);
                }
                let _ = socket.send_to(&answer, peer);
            }
        });
        own
    }

    #[tokio::test]
    async fn a_name_server_is_asked_for_the_whole_name() {
        let server = name_server("db.example.com", [192, 0, 2, 7], 30);
        let names = NameServers::start(vec![server]).expect("a resolver");
        let answer = names.resolve("db.example.com").await.expect("an answer");
        assert_eq!(answer.addresses, ["192.0.2.7".parse::<std::net::IpAddr>().expect("an address")]);
        let rest = answer.time_to_live;
        assert!(rest > Duration::from_secs(20) && rest <= Duration::from_secs(30), "{rest:?}");
        assert!(names.resolve("unknown.example.com").await.is_err());
    }
}
