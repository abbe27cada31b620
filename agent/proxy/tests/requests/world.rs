//! A proxy, services with scripted upstreams, and clients that speak plain bytes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use undermesh_core::api::meta::ObjectMeta;
use undermesh_core::api::{self, Parsed};
use undermesh_core::client::Client;
use undermesh_core::cluster::Workload;
use undermesh_core::compile::compile;
use undermesh_core::inputs::Inputs;
use undermesh_core::snapshot::Snapshot;
use undermesh_proxy::access_log::{Format, Sink};
use undermesh_proxy::inlet::{Caller, Entrance, Inlet, Origin, Origins, OwnNamespace};
use undermesh_proxy::names::{Answer, Lookup, LookupError, Resolver};
use undermesh_proxy::{InletHandle, Proxy, Settings};

pub const PATIENCE: Duration = Duration::from_secs(10);

/// What an upstream does with a request.
pub enum Reply {
    Status(u16),
    Body(u16, Vec<(&'static str, String)>, String),
    /// Waits, then 200.
    After(Duration),
    /// Closes without an answer.
    Hangup,
}

/// A scripted HTTP/1.1 server with a thread per connection.
pub struct Upstream {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<String>>>,
    pub connections: Arc<AtomicUsize>,
}

impl Upstream {
    /// `script` is given the number of the request (from 1) and its head.
    pub fn start(script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, connections) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default());
        let (script, count) = (Arc::new(script), Arc::new(AtomicUsize::new(0)));
        let (seen, opened) = (requests.clone(), connections.clone());
        std::thread::spawn(move || {
            for io in listener.incoming() {
                let Ok(io) = io else { return };
                opened.fetch_add(1, Ordering::SeqCst);
                let (script, seen, count) = (script.clone(), seen.clone(), count.clone());
                std::thread::spawn(move || drop(serve(io, &*script, &seen, &count)));
            }
        });
        Self { address, requests, connections }
    }

    /// Answers 200 with `name` as its body.
    pub fn named(name: &'static str) -> Self {
        Self::start(move |_, _| Reply::Body(200, Vec::new(), name.to_owned()))
    }

    pub fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    pub fn opened(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn last(&self) -> String {
        self.requests.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

fn serve(
    io: TcpStream,
    script: &(impl Fn(usize, &str) -> Reply + ?Sized),
    seen: &Mutex<Vec<String>>,
    count: &AtomicUsize,
) -> std::io::Result<()> {
    io.set_nodelay(true)?;
    let mut reader = BufReader::new(io.try_clone()?);
    let mut io = io;
    loop {
        let Some(head) = read_head(&mut reader)? else { return Ok(()) };
        let length = header(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        seen.lock().unwrap().push(head.clone());
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let (status, headers, body) = match script(number, &head) {
            Reply::Status(status) => (status, Vec::new(), String::new()),
            Reply::Body(status, headers, body) => (status, headers, body),
            Reply::After(wait) => {
                std::thread::sleep(wait);
                (200, Vec::new(), String::new())
            }
            Reply::Hangup => return Ok(()),
        };
        let mut answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            answer.push_str(&format!("{name}: {value}\r\n"));
        }
        answer.push_str("\r\n");
        answer.push_str(&body);
        io.write_all(answer.as_bytes())?;
    }
}

pub fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        if head.get(before..) == Some("\r\n") {
            return Ok(Some(head));
        }
    }
}

/// The value of a header in a raw head; several lines are joined with `,`.
pub fn header(head: &str, name: &str) -> Option<String> {
    let values: Vec<_> = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(line_name, _)| line_name.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }
}

/// A client's connection.
pub struct Connection {
    io: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let io = TcpStream::connect(address).unwrap();
        io.set_read_timeout(Some(PATIENCE)).unwrap();
        io.set_nodelay(true).unwrap();
        let reader = BufReader::new(io.try_clone().unwrap());
        Self { io, reader }
    }

    pub fn send(&mut self, text: &str) {
        self.io.write_all(text.as_bytes()).unwrap();
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).unwrap();
    }

    /// Sends a request without body and reads the response.
    pub fn get(&mut self, host: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut text = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        self.send(&text);
        self.response().unwrap()
    }

    /// `None` at the end of the stream.
    pub fn response(&mut self) -> Option<Response> {
        let head = read_head(&mut self.reader).ok()??;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = header(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).ok()?;
        Some(Response { status, head, body: String::from_utf8(body).ok()? })
    }

    /// Bytes until the end of the stream, or the error that ended it.
    pub fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader.read_to_end(&mut bytes).map(|_| bytes)
    }

    /// The socket, for another codec.
    pub fn into_inner(self) -> TcpStream {
        self.io
    }

    /// The next byte, if there is one before the end or a reset.
    pub fn try_read(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.reader.read_exact(&mut byte).ok().map(|()| byte[0])
    }

    pub fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The socket, for another protocol.
    pub fn into_io(self) -> TcpStream {
        self.io.set_nonblocking(true).unwrap();
        self.io
    }

    pub fn shutdown_write(&self) {
        self.io.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

/// The one double: the kernel's word about where a connection was going.
struct Dialled {
    destination: Mutex<Option<SocketAddr>>,
    taken: AtomicUsize,
    caller: Arc<Caller>,
}

impl Origins for Dialled {
    fn take(&self, _peer: SocketAddr) -> Option<Origin> {
        let destination = (*self.destination.lock().unwrap())?;
        self.taken.fetch_add(1, Ordering::SeqCst);
        Some(Origin { destination, caller: self.caller.clone() })
    }
}

#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the name server says: addresses by name; no entry is no such name, an empty one is no answer at all.
#[derive(Clone, Default)]
pub struct Zone(Arc<Mutex<HashMap<String, Vec<IpAddr>>>>);

impl Zone {
    pub fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), addresses);
    }
}

impl Zone {
    pub fn remove(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }
}

impl Resolver for Zone {
    fn resolve(&self, name: &str) -> Lookup {
        let (zone, name) = (self.clone(), name.to_owned());
        Box::pin(async move {
            // As a name server that is not next door.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let addresses = zone.0.lock().unwrap().get(&name).cloned();
            match addresses {
                None => Err(LookupError("no such name".to_owned())),
                Some(addresses) if addresses.is_empty() => std::future::pending().await,
                Some(addresses) => Ok(Answer { addresses, time_to_live: Duration::ZERO }),
            }
        })
    }
}

/// A proxy with one pod and one gateway in front of it.
pub struct World {
    pub proxy: Option<Proxy>,
    pub objects: Vec<Value>,
    pub log: Log,
    pub zone: Zone,
    snapshot: Arc<ArcSwap<Snapshot>>,
    mesh: SocketAddr,
    gateway: SocketAddr,
    dialled: Arc<Dialled>,
    edge: Arc<Caller>,
    inlets: Vec<InletHandle>,
}

/// The VIP of every service of a [`World`] but for its last part, which is the position of the service.
const VIPS: [u8; 3] = [10, 96, 0];

impl World {
    /// Services of the namespace `default` by name, each with a port 80 named `port_name` and its endpoints.
    pub fn new(objects: Vec<Value>) -> Self {
        Self::with_workers(objects, 1)
    }

    pub fn with_workers(objects: Vec<Value>, workers: usize) -> Self {
        Self::with_limits(objects, workers, usize::MAX)
    }

    pub fn with_limits(objects: Vec<Value>, workers: usize, connections_per_client: usize) -> Self {
        let log = Log::default();
        let (log_sink, _) = Sink::start(log.clone()).unwrap();
        let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
        let zone = Zone::default();
        let settings = Settings {
            workers,
            access_log: Format::Text,
            log_sink,
            hostname: "test".to_owned(),
            connections_per_client,
            resolver: Arc::new(zone.clone()),
        };
        let proxy = Proxy::start(settings, snapshot.clone()).unwrap();
        let caller = |client: Client, name: &str| {
            let labels = client.labels.clone();
            Arc::new(Caller {
                id: format!("{}/{name}", client.namespace).into(),
                workload: Arc::new(Workload::new(name, &client.namespace, &labels, "default", "n1")),
                client,
                sockets: Arc::new(OwnNamespace),
            })
        };
        let labels = |key: &str, value: &str| [(key.to_owned(), value.to_owned())];
        let pod = caller(Client::mesh("default", labels("app", "web")), "web-1");
        let edge = caller(Client::gateway("istio-system", labels("istio", "ingressgateway")), "gateway-1");
        let dialled =
            Arc::new(Dialled { destination: Mutex::default(), taken: AtomicUsize::new(0), caller: pod });
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (for_mesh, for_gateway) = (listen(), listen());
        let (mesh, gateway) = (for_mesh.local_addr().unwrap(), for_gateway.local_addr().unwrap());
        let inlets = vec![
            proxy.open(Inlet {
                name: "web-1".into(),
                listeners: vec![for_mesh],
                entrance: Entrance::Mesh(dialled.clone()),
            }),
            proxy.open(Inlet {
                name: "gateway".into(),
                listeners: vec![for_gateway],
                entrance: Entrance::Gateway { caller: edge.clone(), port: 80 },
            }),
        ];
        let mut world =
            Self { proxy: Some(proxy), objects, log, zone, snapshot, mesh, gateway, dialled, edge, inlets };
        world.apply();
        world
    }

    /// Compiles and swaps what `objects` says now.
    pub fn apply(&mut self) {
        let mut inputs = Inputs::default();
        for value in &self.objects {
            let parsed = match value["kind"].as_str() {
                Some("MeshConfig") => mesh_config(value.clone()),
                _ => api::parse(value.clone(), Default::default()),
            };
            let parsed = parsed.validated();
            assert!(parsed.object.is_some(), "{:?}", parsed.diagnostics);
            inputs.insert(parsed.object.unwrap());
        }
        let generation = self.snapshot.load().generation() + 1;
        self.snapshot.store(Arc::new(compile(&inputs).snapshot.with_generation(generation)));
    }

    /// The pod leaves the mesh.
    pub fn let_go(&self) {
        self.proxy.as_ref().unwrap().let_go(&self.dialled.caller);
    }

    /// A connection that the pod makes to the service at `position`, port 80.
    pub fn connect(&self, position: u8) -> Connection {
        self.connect_to(SocketAddr::from(([VIPS[0], VIPS[1], VIPS[2], position], 80)))
    }

    pub fn connect_to(&self, destination: SocketAddr) -> Connection {
        *self.dialled.destination.lock().unwrap() = Some(destination);
        let before = self.dialled.taken.load(Ordering::SeqCst);
        let connection = Connection::open(self.mesh);
        // The next connection may dial something else: wait until this one has been asked about.
        let started = Instant::now();
        while self.dialled.taken.load(Ordering::SeqCst) == before {
            assert!(started.elapsed() < PATIENCE, "the connection was not accepted");
            std::thread::sleep(Duration::from_millis(1));
        }
        connection
    }

    /// A connection to the listener itself, that the kernel knows nothing of.
    pub fn connect_to_listener(&self) -> Connection {
        *self.dialled.destination.lock().unwrap() = None;
        Connection::open(self.mesh)
    }

    /// Makes the gateway listen for another port of its servers; answers where.
    pub fn open_gateway_port(&mut self, port: u16) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let entrance = Entrance::Gateway { caller: self.edge.clone(), port };
        let inlet = Inlet { name: "gateway".into(), listeners: vec![listener], entrance };
        self.inlets.push(self.proxy.as_ref().unwrap().open(inlet));
        address
    }

    pub fn connect_to_gateway(&self) -> Connection {
        Connection::open(self.gateway)
    }

    /// The metrics page.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        block_on(self.proxy.as_ref().unwrap().metrics()).render(&mut text);
        text
    }

    /// Waits until the metrics page has the line.
    pub fn wait_for_metric(&self, line: &str) {
        wait_until(line, || self.metrics().lines().any(|one| one == line));
    }

    /// Waits for a line of the access log that contains `needle`.
    pub fn log_line(&self, needle: &str) -> String {
        let before = Instant::now();
        loop {
            let text = String::from_utf8(self.log.0.lock().unwrap().clone()).unwrap();
            if let Some(line) = text.lines().find(|line| line.contains(needle)) {
                return line.to_owned();
            }
            assert!(before.elapsed() < PATIENCE, "no line with {needle} in\n{text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Waits for something that must come, but nobody can say when.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A Service at position `position` with its EndpointSlices, one for each endpoint, so that each may have a port of its own.
pub fn service(position: u8, name: &str, port_name: &str, endpoints: &[(&str, SocketAddr)]) -> Vec<Value> {
    let vip = format!("{}.{}.{}.{position}", VIPS[0], VIPS[1], VIPS[2]);
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": vip, "ports": [{"name": port_name, "port": 80}]},
    })];
    for (index, (version, address)) in endpoints.iter().enumerate() {
        let pod = format!("{name}-{version}-{index}");
        objects.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "namespace": "default", "labels": {"app": name, "version": version}},
            "spec": {"nodeName": "n2"}, "status": {"podIPs": [{"ip": address.ip().to_string()}]},
        }));
        objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": pod, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": pod, "namespace": "default"}}],
            "ports": [{"name": port_name, "port": address.port()}],
        }));
    }
    objects
}

/// A VirtualService of the namespace `default` for one host.
/// Settings of the mesh, marked as such by a `kind`.
fn mesh_config(mut settings: Value) -> Parsed {
    settings.as_object_mut().unwrap().remove("kind");
    api::parse_mesh_config(settings, &ObjectMeta::default(), Default::default())
}

pub fn virtual_service(host: &str, http: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": host, "namespace": "default"}, "spec": {"hosts": [host], "http": http},
    })
}

/// A DestinationRule of the namespace `default` for one host.
pub fn destination_rule(host: &str, spec: Value) -> Value {
    let mut rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": host, "namespace": "default"}, "spec": spec,
    });
    rule["spec"]["host"] = host.into();
    rule
}

/// An address that refuses connections.
pub fn refused() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A listener whose queue is full: the kernel drops further SYNs, so connecting hangs.
pub fn silent() -> (SocketAddr, (Socket, Vec<TcpStream>)) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        queue.push(stream);
        assert!(queue.len() < 10, "the queue does not fill");
    }
    (address, (listener, queue))
}
