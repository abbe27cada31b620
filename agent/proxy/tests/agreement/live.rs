//! The proxy of one node with a listener for pods and one for a gateway, upstreams at every address, and a client of bytes.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use undermesh_core::cluster::Workload;
use undermesh_core::explain::Request;
use undermesh_core::snapshot::Snapshot;
use undermesh_proxy::access_log::{Format, Sink};
use undermesh_proxy::inlet::{Caller, Entrance, Inlet, Origin, Origins, OwnNamespace};
use undermesh_proxy::names::{Answer, Lookup, Resolver};
use undermesh_proxy::{InletHandle, Proxy, Settings};
use undermesh_worlds::agreement;

use crate::compare::{Lines, Saw, Upstream};

const PATIENCE: Duration = Duration::from_secs(10);
/// What upstreams send beside what they saw: names that the generator's rules change, and one that they do not.
pub(crate) const ANSWERED: [(&str, &str); 4] =
    [("x-user", "theirs"), ("x-flag", "theirs"), ("cookie", "theirs"), ("x-kept", "theirs")];

/// Upstreams at every address, on every port that the generator writes.
pub(crate) fn start_upstreams() -> std::io::Result<()> {
    for port in [80, 8080, 9000, 443] {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
        std::thread::spawn(move || {
            for io in listener.incoming().flatten() {
                std::thread::spawn(move || drop(serve(&io)));
            }
        });
    }
    Ok(())
}

pub(crate) struct Node {
    proxy: Proxy,
    inlets: Vec<InletHandle>,
    mesh: SocketAddr,
    dialled: Arc<Dialled>,
    log: Log,
    sent: u8,
}

impl Node {
    pub(crate) fn start(snapshot: Snapshot) -> std::io::Result<Self> {
        let log = Log::default();
        let (log_sink, _) = Sink::start(log.clone())?;
        let settings = Settings {
            workers: 1,
            access_log: Format::Json,
            log_sink,
            hostname: "agreement".to_owned(),
            connections_per_client: usize::MAX,
            resolver: Arc::new(Everywhere),
        };
        let proxy = Proxy::start(settings, Arc::new(ArcSwap::from_pointee(snapshot)))?;
        let dialled = Arc::new(Dialled::default());
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mesh = listener.local_addr()?;
        let entrance = Entrance::Mesh(dialled.clone());
        let inlets = vec![proxy.open(Inlet { name: "pods".into(), listeners: vec![listener], entrance })];
        Ok(Self { proxy, inlets, mesh, dialled, log, sent: 0 })
    }

    /// Sends a request on a connection of its own, as the client that it names.
    pub(crate) fn send(&mut self, request: &Request, snapshot: &Snapshot) -> std::io::Result<Saw> {
        let client = agreement::client(request, snapshot);
        let workload = Workload::new(
            &client.workload,
            &client.namespace,
            &client.labels,
            &client.service_account,
            &client.node,
        );
        let id = format!("{}/{}", client.namespace, client.workload).into();
        let caller =
            Arc::new(Caller { id, client, workload: Arc::new(workload), sockets: Arc::new(OwnNamespace) });
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // An address for each, since a port may come again, and the log is read by it.
        self.sent += 1;
        socket.bind(&SocketAddr::from(([127, 1, 0, self.sent], 0)).into())?;
        let own = socket.local_addr()?.as_socket().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let to = if let Some(gateway) = &request.gateway {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let to = listener.local_addr()?;
            let entrance = Entrance::Gateway { caller, port: gateway.port };
            let inlet = Inlet { name: "gateway".into(), listeners: vec![listener], entrance };
            self.inlets.push(self.proxy.open(inlet));
            to
        } else {
            let address = request.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let origin = Origin { destination: SocketAddr::new(address, request.port), caller };
            self.dialled.0.lock().unwrap().insert(own, origin);
            self.mesh
        };
        socket.connect(&to.into())?;
        exchange(socket.into(), own, request)
    }

    /// The log's lines about connections from these addresses, once all are there or none has come for long.
    pub(crate) fn log_lines(&self, peers: &[SocketAddr]) -> BTreeMap<SocketAddr, Value> {
        let started = Instant::now();
        loop {
            let text = self.log.0.lock().unwrap().clone();
            let lines =
                text.split(|&it| it == b'\n').filter_map(|it| serde_json::from_slice::<Value>(it).ok());
            let by_peer =
                |line: Value| Some((line["downstream_remote_address"].as_str()?.parse().ok()?, line));
            let lines: BTreeMap<SocketAddr, Value> = lines.filter_map(by_peer).collect();
            if peers.iter().all(|it| lines.contains_key(it)) || started.elapsed() > PATIENCE {
                return lines;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn end(self) {
        drop(self.inlets);
        self.proxy.drain(Duration::ZERO);
    }
}

/// Sends the request and reads all that comes.
fn exchange(mut io: TcpStream, client: SocketAddr, request: &Request) -> std::io::Result<Saw> {
    io.set_read_timeout(Some(PATIENCE))?;
    let mut sent: Lines = vec![("x-kept".to_owned(), "ours".to_owned())];
    sent.extend(
        request
            .headers
            .iter()
            .flat_map(|(name, lines)| lines.iter().map(|line| (name.clone(), line.clone()))),
    );
    let method = request.method.as_deref().unwrap_or("GET");
    let path = request.path.as_deref().unwrap_or("/");
    let host = request.authority.as_deref().unwrap_or_default();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    if method == "POST" {
        head.push_str("content-length: 0\r\n");
    }
    for (name, value) in &sent {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut bytes = Vec::new();
    // A connection that is refused may end either way.
    let ended = io.write_all(head.as_bytes()).and_then(|()| io.read_to_end(&mut bytes));
    if let Err(error) = ended
        && matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
    {
        return Err(error);
    }
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let headers = parse(head.lines().skip(1));
    Ok(Saw {
        client,
        sent,
        status: head.split(' ').nth(1).and_then(|it| it.parse().ok()),
        headers,
        body: body.to_owned(),
        upstream: Upstream::read(body),
        log: Value::Null,
    })
}

fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Lines {
    let pairs = lines.filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect()
}

/// An upstream: answers 200 and what it saw.
fn serve(mut io: &TcpStream) -> std::io::Result<()> {
    io.set_nodelay(true)?;
    let local = io.local_addr()?;
    let mut reader = BufReader::new(io);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let headers = parse(head.lines().skip(1));
        let is_last = headers.iter().any(|(name, value)| name == "connection" && value == "close");
        let body = Upstream { local, path, headers }.report();
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in ANSWERED {
            answer.push_str(&format!("{name}: {value}\r\n"));
        }
        answer.push_str("\r\n");
        answer.push_str(&body);
        io.write_all(answer.as_bytes())?;
        if is_last {
            return Ok(());
        }
    }
}

/// The one double: the kernel's word about where a connection was going.
#[derive(Default)]
struct Dialled(Mutex<HashMap<SocketAddr, Origin>>);

impl Origins for Dialled {
    fn take(&self, peer: SocketAddr) -> Option<Origin> {
        self.0.lock().unwrap().remove(&peer)
    }
}

/// Every name has an address.
struct Everywhere;

impl Resolver for Everywhere {
    fn resolve(&self, _: &str) -> Lookup {
        let address = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 53));
        let answer = Answer { addresses: vec![address], time_to_live: Duration::from_secs(60) };
        Box::pin(std::future::ready(Ok(answer)))
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
