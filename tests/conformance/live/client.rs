//! Clients: one request over a connection of its own, or a kept one, and what came of it.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request as HttpRequest;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use undermesh_proxy::inlet::{Caller, Origin};

use crate::case::{Connection, Protocol, Request};
use crate::certificates;
use crate::mesh::Mesh;
use crate::upstream::RECORD;
use crate::upstream_http2::pairs;
use crate::wire::{Head, Rewind, Stream};

/// Nothing that a case expects takes as long.
const PATIENCE: Duration = Duration::from_secs(40);

/// How a client's connection leaves it.
#[derive(Clone)]
pub(crate) enum Way {
    /// Captured: the kernel would know the caller and what it dialled.
    Captured(Arc<Caller>, SocketAddr),
    /// As dialled.
    Direct(SocketAddr),
}

/// A request, ready to be sent.
pub(crate) struct Sending<'a> {
    pub(crate) request: &'a Request,
    pub(crate) mesh: &'a Mesh,
    pub(crate) way: Way,
    pub(crate) from: IpAddr,
    pub(crate) authority: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    /// Bytes for an opaque connection.
    pub(crate) payload: String,
}

/// What a client got.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) connection: Connection,
    pub(crate) status: Option<u16>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) grpc_status: Option<u16>,
    pub(crate) duration: Duration,
    /// How long it stayed open of the time it was to be held.
    pub(crate) stayed_open: Option<Duration>,
    pub(crate) banner: Option<String>,
    pub(crate) echo: Option<String>,
    pub(crate) server_cert: Option<String>,
    /// The id that an opaque upstream sent.
    pub(crate) endpoint: Option<String>,
    pub(crate) payload: String,
    /// Why there is no answer.
    pub(crate) error: Option<String>,
    /// The value of `vary_header`.
    pub(crate) key: Option<String>,
}

impl Outcome {
    fn new(sending: &Sending<'_>) -> Self {
        Self {
            connection: Connection::Ok,
            status: None,
            headers: Vec::new(),
            body: String::new(),
            grpc_status: None,
            duration: Duration::ZERO,
            stayed_open: None,
            banner: None,
            echo: None,
            server_cert: None,
            endpoint: None,
            payload: sending.payload.clone(),
            error: None,
            key: None,
        }
    }

    /// The lines of a header, joined.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        joined(&self.headers, name)
    }

    /// The number of the upstream's record.
    pub(crate) fn record(&self) -> Option<usize> {
        self.header(RECORD)?.parse().ok()
    }
}

/// The lines of a header, joined with commas.
pub(crate) fn joined(headers: &[(String, String)], name: &str) -> Option<String> {
    let lines: Vec<_> = headers
        .iter()
        .filter(|(it, _)| it.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
        .collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

/// A connection that carries the next request too.
#[derive(Default)]
pub(crate) enum Kept {
    #[default]
    None,
    Http1(Rewind<Box<dyn Stream>>),
    Http2(SendRequest<Bytes>),
}

/// Sends one request.
pub(crate) async fn send(sending: &Sending<'_>, kept: &mut Kept) -> Outcome {
    let started = Instant::now();
    let mut outcome = Outcome::new(sending);
    let done = tokio::time::timeout(PATIENCE, exchange(sending, kept, &mut outcome, started)).await;
    let failed = match done {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some((ending(&error, sending.request.protocol), error.to_string())),
        Err(_) => Some((Connection::Silent, format!("nothing within {PATIENCE:?}"))),
    };
    if let Some((connection, error)) = failed {
        (outcome.connection, outcome.error) = (connection, Some(error));
        outcome.duration = started.elapsed();
        *kept = Kept::None;
    }
    outcome
}

fn ending(error: &io::Error, protocol: Protocol) -> Connection {
    match error.kind() {
        ErrorKind::ConnectionRefused => Connection::Refused,
        ErrorKind::InvalidData if protocol.is_tls() => Connection::TlsError,
        _ => Connection::Reset,
    }
}

async fn exchange(
    sending: &Sending<'_>,
    kept: &mut Kept,
    outcome: &mut Outcome,
    started: Instant,
) -> io::Result<()> {
    let request = sending.request;
    let connection = match std::mem::take(kept) {
        Kept::None => open(sending, outcome).await?,
        kept => kept,
    };
    let held = match connection {
        Kept::Http1(mut io) if request.protocol.is_opaque() => {
            opaque(sending, &mut io, outcome).await?;
            outcome.duration = started.elapsed();
            Kept::Http1(io)
        }
        Kept::Http1(mut io) => {
            let goes_on = http1(sending, &mut io, outcome).await?;
            outcome.duration = started.elapsed();
            if goes_on { Kept::Http1(io) } else { Kept::None }
        }
        Kept::Http2(requests) => {
            http2(sending, requests.clone(), outcome).await?;
            outcome.duration = started.elapsed();
            Kept::Http2(requests)
        }
        Kept::None => Kept::None,
    };
    let held = hold(sending, held, outcome).await;
    if request.reuse_connection {
        *kept = held;
    }
    Ok(())
}

/// Keeps the connection open as the case asks, and notes whether the other side did.
async fn hold(sending: &Sending<'_>, mut held: Kept, outcome: &mut Outcome) -> Kept {
    let Some(time) = sending.request.hold else { return held };
    let since = Instant::now();
    match &mut held {
        Kept::Http1(io) => drop(tokio::time::timeout(time, io.fill()).await),
        _ => tokio::time::sleep(time).await,
    }
    outcome.stayed_open = Some(since.elapsed());
    held
}

async fn open(sending: &Sending<'_>, outcome: &mut Outcome) -> io::Result<Kept> {
    let request = sending.request;
    let tcp = connect(sending).await?;
    let io: Box<dyn Stream> = if request.protocol.is_tls() {
        let alpn: &[&str] = if request.protocol == Protocol::Https { &["http/1.1"] } else { &[] };
        let connector = certificates::connector(request.client_cert, request.tls_max, alpn);
        let name = match &request.sni {
            Some(sni) => ServerName::try_from(sni.clone()).map_err(io::Error::other)?,
            // An address is not sent as SNI.
            None => ServerName::IpAddress(sending.from.into()),
        };
        let tls = connector.connect(name, tcp).await?;
        let presented = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
        outcome.server_cert = presented.and_then(certificates::name_of);
        Box::new(tls)
    } else {
        Box::new(tcp)
    };
    if matches!(request.protocol, Protocol::Http2 | Protocol::Grpc) {
        let (requests, connection) = h2::client::handshake(io).await.map_err(io::Error::other)?;
        tokio::spawn(async move { drop(connection.await) });
        return Ok(Kept::Http2(requests));
    }
    Ok(Kept::Http1(Rewind::new(io)))
}

async fn connect(sending: &Sending<'_>) -> io::Result<TcpStream> {
    let socket = if sending.from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(sending.from, 0))?;
    let to = match &sending.way {
        Way::Direct(to) => *to,
        Way::Captured(caller, dialled) => {
            let origin = Origin { destination: *dialled, caller: caller.clone() };
            sending.mesh.capture(socket.local_addr()?, origin)
        }
    };
    let io = socket.connect(to).await?;
    io.set_nodelay(true)?;
    Ok(io)
}

async fn opaque(
    sending: &Sending<'_>,
    io: &mut Rewind<Box<dyn Stream>>,
    outcome: &mut Outcome,
) -> io::Result<()> {
    if sending.request.server_first {
        outcome.banner = Some(String::from_utf8_lossy(&io.some().await?).into_owned());
    }
    io.io.write_all(sending.payload.as_bytes()).await?;
    io.io.flush().await?;
    let line = io.until(b"\n").await?.ok_or(ErrorKind::UnexpectedEof)?;
    outcome.endpoint = Some(String::from_utf8_lossy(&line).trim().to_owned());
    let echo = io.exactly(sending.payload.len()).await?;
    outcome.echo = Some(String::from_utf8_lossy(&echo).into_owned());
    Ok(())
}

/// Answers whether the connection can carry another request.
async fn http1(
    sending: &Sending<'_>,
    io: &mut Rewind<Box<dyn Stream>>,
    outcome: &mut Outcome,
) -> io::Result<bool> {
    let request = sending.request;
    let version = if request.protocol == Protocol::Http10 { "HTTP/1.0" } else { "HTTP/1.1" };
    let method = request.method.as_deref().unwrap_or("GET");
    let path = request.path.as_deref().unwrap_or("/");
    let mut text = format!("{method} {path} {version}\r\n");
    let body = request.body.as_deref().unwrap_or_default();
    let length = body.len().to_string();
    let host = sending.authority.as_deref().map(|it| ("host", it));
    let length = (!body.is_empty() || method == "POST").then_some(("content-length", length.as_str()));
    let given = sending.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in host.into_iter().chain(given).chain(length) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    io.io.write_all(text.as_bytes()).await?;
    io.io.flush().await?;
    let head = loop {
        let head = io
            .head()
            .await?
            .ok_or_else(|| io::Error::new(ErrorKind::UnexpectedEof, "closed without an answer"))?;
        if head.start[1] != "100" {
            break head;
        }
    };
    let status = head.start[1].parse().map_err(|_| ErrorKind::InvalidData)?;
    let bodiless = method == "HEAD" || matches!(status, 101 | 204 | 304);
    if !bodiless {
        outcome.body = String::from_utf8_lossy(&io.body(&head, true).await?).into_owned();
    }
    outcome.status = Some(status);
    let closes = head.start[0] == "HTTP/1.0" || closes(&head) || version == "HTTP/1.0";
    outcome.headers = head.headers;
    Ok(!closes)
}

fn closes(head: &Head) -> bool {
    head.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"))
}

async fn http2(sending: &Sending<'_>, requests: SendRequest<Bytes>, outcome: &mut Outcome) -> io::Result<()> {
    let request = sending.request;
    let is_grpc = request.protocol == Protocol::Grpc;
    let authority = sending.authority.as_deref().unwrap_or_default();
    let path = request.path.as_deref().unwrap_or("/");
    let method = request.method.as_deref().unwrap_or(if is_grpc { "POST" } else { "GET" });
    let mut head = HttpRequest::builder().method(method).uri(format!("http://{authority}{path}"));
    if is_grpc {
        head = head.header("content-type", "application/grpc").header("te", "trailers");
    }
    for (name, value) in &sending.headers {
        head = head.header(name, value);
    }
    let head = head.body(()).map_err(io::Error::other)?;
    let body = match &request.body {
        Some(body) => Bytes::copy_from_slice(body.as_bytes()),
        // An empty message.
        None if is_grpc => Bytes::from_static(&[0; 5]),
        None => Bytes::new(),
    };
    let mut requests = requests.ready().await.map_err(io::Error::other)?;
    let (response, mut stream) = requests.send_request(head, body.is_empty()).map_err(io::Error::other)?;
    if !body.is_empty() {
        stream.send_data(body, true).map_err(io::Error::other)?;
    }
    let (head, mut body) = response.await.map_err(io::Error::other)?.into_parts();
    outcome.status = Some(head.status.as_u16());
    outcome.headers = pairs(&head.headers);
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(io::Error::other)?;
        let _ = body.flow_control().release_capacity(chunk.len());
        bytes.extend_from_slice(&chunk);
    }
    outcome.body = String::from_utf8_lossy(&bytes).into_owned();
    let trailers = body.trailers().await.map_err(io::Error::other)?;
    let trailers = trailers.as_ref().map(pairs).unwrap_or_default();
    let status = joined(&trailers, "grpc-status").or_else(|| outcome.header("grpc-status"));
    outcome.grpc_status = status.and_then(|it| it.parse().ok());
    Ok(())
}
