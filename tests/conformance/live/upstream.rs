//! Scripted upstreams: one listener for each address and port of a case. The first bytes decide what is spoken, within what
//! the port declares; the endpoint's `behaviour` decides what comes back. Whatever was seen is recorded.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::case::{Accept, Behaviour, ConnectBehaviour, SequenceKey};
use crate::certificates;
use crate::topology::Listening;
use crate::wire::{Rewind, Stream};
use crate::{upstream_http1, upstream_http2};

/// The header by which an answer names the record of its request.
pub(crate) const RECORD: &str = "x-record";

/// What a port understands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Modes {
    pub(crate) http1: bool,
    pub(crate) http2: bool,
    /// Bytes that are neither HTTP nor TLS.
    pub(crate) opaque: bool,
}

impl Modes {
    /// By a declared protocol. TLS is understood everywhere, and looked into.
    pub(crate) fn of(protocol: &str) -> Self {
        let (http1, http2, opaque) = match protocol.to_ascii_uppercase().as_str() {
            "HTTP" => (true, false, false),
            "HTTP2" | "GRPC" | "GRPC-WEB" => (false, true, false),
            "TCP" => (false, false, true),
            // Sniffed, or inside TLS.
            _ => (true, true, true),
        };
        Self { http1, http2, opaque }
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            http1: self.http1 || other.http1,
            http2: self.http2 || other.http2,
            opaque: self.opaque || other.opaque,
        }
    }
}

/// An endpoint with all its ports.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) id: String,
    pub(crate) address: IpAddr,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) behaviour: Behaviour,
    /// Requests so far, by the key that the behaviour counts by.
    counts: Mutex<HashMap<String, usize>>,
}

/// What an endpoint does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Status(u16),
    Grpc(u16),
    /// Ends without a head.
    Reset,
}

impl Upstream {
    pub(crate) fn new(
        id: &str,
        address: IpAddr,
        labels: BTreeMap<String, String>,
        behaviour: Behaviour,
    ) -> Self {
        Self { id: id.to_owned(), address, labels, behaviour, counts: Mutex::default() }
    }

    /// What is answered to the next request for `path`.
    pub(crate) fn answer(&self, path: &str, is_grpc: bool) -> Answer {
        let behaviour = &self.behaviour;
        let key = match behaviour.sequence_key {
            Some(SequenceKey::Path) => path.split('?').next().unwrap_or_default().to_owned(),
            None => String::new(),
        };
        let number = {
            let mut counts = self.counts.lock().unwrap();
            let count = counts.entry(key).or_insert(0);
            *count += 1;
            *count - 1
        };
        let nth = |length: usize| if behaviour.repeat { number % length } else { number.min(length - 1) };
        if is_grpc && !behaviour.grpc_sequence.is_empty() {
            return Answer::Grpc(behaviour.grpc_sequence[nth(behaviour.grpc_sequence.len())]);
        }
        if !behaviour.sequence.is_empty() {
            return match &behaviour.sequence[nth(behaviour.sequence.len())] {
                Value::String(reset) if reset == "reset" => Answer::Reset,
                status => Answer::Status(status.as_u64().and_then(|it| it.try_into().ok()).unwrap_or(599)),
            };
        }
        match behaviour.status {
            Some(status) => Answer::Status(status),
            None if is_grpc => Answer::Grpc(0),
            None => Answer::Status(200),
        }
    }
}

/// A request, or an opaque connection with its first bytes, as an upstream saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Position in the record.
    pub(crate) number: usize,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) local: SocketAddr,
    /// `HTTP/1.1`, `HTTP/2`, `TCP`.
    pub(crate) protocol: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authority: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) facts: Facts,
}

/// What is known of a connection before its first request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    pub(crate) tls: Option<TlsFacts>,
    pub(crate) proxy_protocol: Option<u8>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct TlsFacts {
    pub(crate) sni: Option<String>,
    pub(crate) alpn: Option<String>,
    pub(crate) has_client_cert: bool,
}

/// All that the upstreams of a case saw.
#[derive(Debug, Default)]
pub(crate) struct Record {
    seen: Mutex<Vec<Seen>>,
    opened: Mutex<usize>,
}

impl Record {
    /// Connections accepted so far.
    pub(crate) fn opened(&self) -> usize {
        *self.opened.lock().unwrap()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) fn since(&self, start: usize) -> Vec<Seen> {
        self.seen.lock().unwrap().get(start..).unwrap_or_default().to_vec()
    }

    fn push(&self, mut seen: Seen) -> usize {
        let mut all = self.seen.lock().unwrap();
        seen.number = all.len();
        all.push(seen);
        all.len() - 1
    }
}

/// One accepted connection.
#[derive(Clone)]
pub(crate) struct Accepted {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) local: SocketAddr,
    pub(crate) modes: Modes,
    pub(crate) facts: Facts,
    record: Arc<Record>,
    /// What certificates are named after.
    service: String,
}

/// Starts listening; connections are served by tasks of the runtime.
pub(crate) fn start(at: SocketAddr, listening: Listening, record: &Arc<Record>) -> io::Result<()> {
    match listening.upstream.behaviour.connect {
        // Nobody there.
        Some(ConnectBehaviour::Refuse) => return Ok(()),
        Some(ConnectBehaviour::Blackhole) => return blackhole(at),
        None => {}
    }
    let std = std::net::TcpListener::bind(at)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {at}: {error}")))?;
    std.set_nonblocking(true)?;
    let listener = TcpListener::from_std(std)?;
    let service = listening.serves.first().map_or_else(|| listening.upstream.id.clone(), |it| it.0.clone());
    let record = record.clone();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            *record.opened.lock().unwrap() += 1;
            let accepted = Accepted {
                upstream: listening.upstream.clone(),
                local: at,
                modes: listening.modes,
                facts: Facts::default(),
                record: record.clone(),
                service: service.clone(),
            };
            // An upstream's trouble with a connection is for its client to notice.
            tokio::spawn(async move { drop(accepted.serve(io).await) });
        }
    });
    Ok(())
}

/// A listener whose queue is full drops SYNs.
fn blackhole(at: SocketAddr) -> io::Result<()> {
    let domain = socket2::Domain::for_address(at);
    let listener = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    listener.bind(&at.into())?;
    listener.listen(0)?;
    let full = std::net::TcpStream::connect(at)?;
    // Both stay for as long as the namespace.
    std::mem::forget((listener, full));
    Ok(())
}

impl Accepted {
    async fn serve(mut self, io: TcpStream) -> io::Result<()> {
        io.set_nodelay(true)?;
        let mut io = Rewind::new(io);
        let behaviour = &self.upstream.behaviour;
        if let Some(banner) = &behaviour.server_first {
            io.io.write_all(banner.as_bytes()).await?;
            return self.echo(io).await;
        }
        if behaviour.accept.contains(&Accept::ProxyProtocol) {
            self.facts.proxy_protocol = Some(proxy_protocol(&mut io).await?);
        }
        if io.look().await?.first() != Some(&0x16) {
            return self.speak(io).await;
        }
        let tls = certificates::acceptor(&self.service).accept(io).await?;
        let session = tls.get_ref().1;
        self.facts.tls = Some(TlsFacts {
            sni: session.server_name().map(str::to_owned),
            alpn: session.alpn_protocol().map(|it| String::from_utf8_lossy(it).into_owned()),
            has_client_cert: session.peer_certificates().is_some(),
        });
        self.modes = Modes::of("AUTO");
        self.speak(Rewind::new(tls)).await
    }

    async fn speak<S: Stream + 'static>(self, mut io: Rewind<S>) -> io::Result<()> {
        let start = io.look().await?;
        if start.is_empty() {
            return Ok(());
        }
        // No method is shorter, and the only one of HTTP/2's preface is its own.
        let is_http1 = start.first().is_some_and(u8::is_ascii_uppercase) && looks_like_http1(start);
        if start.starts_with(b"PRI ") && self.modes.http2 {
            upstream_http2::serve(self, io).await
        } else if is_http1 && self.modes.http1 {
            upstream_http1::serve(self, io).await
        } else if self.modes.opaque {
            self.echo(io).await
        } else {
            // Not spoken here.
            Ok(())
        }
    }

    /// Tells its id once the first bytes are there, then echoes.
    async fn echo<S: Stream>(&self, mut io: Rewind<S>) -> io::Result<()> {
        let mut bytes = io.some().await?;
        self.saw("TCP", ["", "", ""], Vec::new(), &String::from_utf8_lossy(&bytes));
        io.io.write_all(format!("{}\n", self.upstream.id).as_bytes()).await?;
        while !bytes.is_empty() {
            io.io.write_all(&bytes).await?;
            io.io.flush().await?;
            bytes = io.some().await?;
        }
        io.io.shutdown().await
    }

    /// Records a request; `start` is its method, path and authority.
    pub(crate) fn saw(
        &self,
        protocol: &str,
        start: [&str; 3],
        headers: Vec<(String, String)>,
        body: &str,
    ) -> usize {
        let [method, path, authority] = start.map(str::to_owned);
        self.record.push(Seen {
            number: 0,
            upstream: self.upstream.clone(),
            local: self.local,
            protocol: protocol.to_owned(),
            method,
            path,
            authority,
            headers,
            body: body.to_owned(),
            facts: self.facts.clone(),
        })
    }

    /// The body that tells what was seen.
    pub(crate) fn report(&self, number: usize) -> String {
        let Some(seen) = self.record.since(number).into_iter().next() else { return String::new() };
        let tls = seen
            .facts
            .tls
            .as_ref()
            .map(|it| json!({"sni": it.sni, "alpn": it.alpn, "clientCert": it.has_client_cert}));
        json!({
            "record": number,
            "endpoint": self.upstream.id,
            "localPort": self.local.port(),
            "protocol": seen.protocol,
            "method": seen.method,
            "path": seen.path,
            "authority": seen.authority,
            "headers": seen.headers,
            "body": seen.body,
            "tls": tls,
        })
        .to_string()
    }

    pub(crate) async fn pause(&self) {
        if let Some(delay) = self.upstream.behaviour.delay {
            tokio::time::sleep(delay).await;
        }
    }
}

fn looks_like_http1(start: &[u8]) -> bool {
    const METHODS: [&[u8]; 9] =
        [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"CONN", b"OPTI", b"TRAC", b"PATC"];
    METHODS.iter().any(|method| start.starts_with(method))
}

/// Takes a PROXY header and answers its version.
async fn proxy_protocol<S: Stream>(io: &mut Rewind<S>) -> io::Result<u8> {
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let start = tokio::time::timeout(Duration::from_secs(5), io.look()).await.map_err(|_| late())??;
    if start.starts_with(b"PROX") {
        io.until(b"\r\n").await?;
        return Ok(1);
    }
    let head = io.exactly(16).await?;
    if !head.starts_with(V2) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    io.exactly(usize::from(u16::from_be_bytes([head[14], head[15]]))).await?;
    Ok(2)
}
