//! Servers that keep whole requests: head, content, trailers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::world::{PATIENCE, header, read_head};

/// A request that came whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Lines, `name: value`; over HTTP/2 the pseudo headers too.
    pub head: String,
    pub body: Vec<u8>,
    pub trailers: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }
}

/// What is answered, once the request is whole.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    Status(u16),
    /// Nothing, ever.
    Never,
    /// Not even the body is read.
    Deaf,
}

/// See the module's text.
pub struct Recorder {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Recorder {
    /// HTTP/1.1.
    pub fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let kept = seen.clone();
        std::thread::spawn(move || {
            for io in listener.incoming().map_while(Result::ok) {
                let kept = kept.clone();
                std::thread::spawn(move || drop(serve(io, answer, &kept)));
            }
        });
        Self { address, seen }
    }

    /// HTTP/2, answering 200.
    pub fn start_http2() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let kept = seen.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((io, _)) = listener.accept().await {
                    tokio::spawn(serve_http2(io, kept.clone()));
                }
            });
        });
        Self { address, seen }
    }

    pub fn all(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits for so many requests.
    pub fn wait(&self, count: usize) -> Vec<Seen> {
        let started = Instant::now();
        loop {
            let all = self.all();
            if all.len() >= count {
                return all;
            }
            assert!(started.elapsed() < PATIENCE, "{} of {count} requests came", all.len());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn serve(io: TcpStream, answer: Answer, seen: &Mutex<Vec<Seen>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(io.try_clone()?);
    let mut io = io;
    while let Some(head) = read_head(&mut reader)? {
        if let Answer::Deaf = answer {
            std::thread::sleep(PATIENCE * 10);
        }
        let mut request = Seen { head, ..Seen::default() };
        match header(&request.head, "content-length") {
            Some(length) => {
                request.body.resize(length.parse().unwrap(), 0);
                reader.read_exact(&mut request.body)?;
            }
            None if header(&request.head, "transfer-encoding").is_some() => {
                read_chunks(&mut reader, &mut request)?;
            }
            None => {}
        }
        seen.lock().unwrap().push(request);
        match answer {
            Answer::Status(status) => {
                write!(io, "HTTP/1.1 {status} X\r\ncontent-length: 8\r\n\r\nrecorded")?;
            }
            Answer::Never | Answer::Deaf => std::thread::sleep(PATIENCE * 10),
        }
    }
    Ok(())
}

fn read_chunks(reader: &mut impl BufRead, request: &mut Seen) -> std::io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = line.trim().split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(std::io::Error::other)?;
        if size == 0 {
            break;
        }
        let at = request.body.len();
        request.body.resize(at + size + 2, 0);
        reader.read_exact(&mut request.body[at..])?;
        request.body.truncate(at + size);
    }
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(());
        }
        request.trailers.push_str(&line);
    }
}

fn lines(headers: &http::HeaderMap) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap())).collect()
}

async fn serve_http2(io: tokio::net::TcpStream, seen: Arc<Mutex<Vec<Seen>>>) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(io).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let seen = seen.clone();
        tokio::spawn(async move {
            let (parts, mut body) = request.into_parts();
            let mut request = Seen {
                head: format!("{} {} HTTP/2\r\n{}", parts.method, parts.uri, lines(&parts.headers)),
                ..Seen::default()
            };
            while let Some(data) = body.data().await {
                let data = data?;
                let _ = body.flow_control().release_capacity(data.len());
                request.body.extend_from_slice(&data);
            }
            if let Some(trailers) = body.trailers().await? {
                request.trailers = lines(&trailers);
            }
            seen.lock().unwrap().push(request);
            respond.send_response(http::Response::new(()), true).map(drop)
        });
    }
    Ok(())
}
