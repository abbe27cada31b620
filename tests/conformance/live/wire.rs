//! Bytes of a connection: a stream that can be looked into and rewound, and HTTP/1 messages read from it whole. Written for
//! tests: it reads what the proxy under test sends without any of the proxy's code.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// A connection of any kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A stream whose next bytes may have been read already.
pub(crate) struct Rewind<S> {
    ahead: Vec<u8>,
    pub(crate) io: S,
}

impl<S: Stream> Rewind<S> {
    pub(crate) fn new(io: S) -> Self {
        Self { ahead: Vec::new(), io }
    }

    /// Reads more behind what is known; answers how much.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        let count = self.io.read(&mut chunk).await?;
        self.ahead.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    /// The first bytes, without taking them: at least four, unless the peer stops before or pauses.
    pub(crate) async fn look(&mut self) -> io::Result<&[u8]> {
        while self.ahead.len() < 4 {
            let wait =
                if self.ahead.is_empty() { Duration::from_secs(600) } else { Duration::from_millis(100) };
            match tokio::time::timeout(wait, self.fill()).await {
                Ok(Ok(0)) | Err(_) => break,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
        Ok(&self.ahead)
    }

    /// Takes what has been read, or reads once. Empty at the end of the stream.
    pub(crate) async fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.ahead.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.ahead))
    }

    /// Takes up to and with `end`; `None` when the stream ends before its first byte.
    pub(crate) async fn until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|it| it == end) {
                return Ok(Some(self.ahead.drain(..at + end.len()).collect()));
            }
            if self.fill().await? == 0 {
                return if self.ahead.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Takes exactly `count` bytes.
    pub(crate) async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < count {
            if self.fill().await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.ahead.drain(..count).collect())
    }

    /// The head of the next HTTP/1 message; `None` when there is none.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Head>> {
        self.until(b"\r\n\r\n").await?.map(|bytes| Head::parse(&bytes)).transpose()
    }

    /// The body that belongs to `head`. `until_end`: a response without length ends with the stream.
    pub(crate) async fn body(&mut self, head: &Head, until_end: bool) -> io::Result<Vec<u8>> {
        if head.header("transfer-encoding").is_some_and(|it| it.eq_ignore_ascii_case("chunked")) {
            return self.chunks().await;
        }
        if let Some(length) = head.header("content-length") {
            return self.exactly(length.parse().map_err(|_| ErrorKind::InvalidData)?).await;
        }
        if until_end {
            while self.fill().await? > 0 {}
            return Ok(std::mem::take(&mut self.ahead));
        }
        Ok(Vec::new())
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n").await?.ok_or(ErrorKind::UnexpectedEof)?;
            let size = String::from_utf8_lossy(&line);
            let size = size.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(|_| ErrorKind::InvalidData)?;
            if size == 0 {
                // Trailers, up to the empty line.
                while self.until(b"\r\n").await?.ok_or(ErrorKind::UnexpectedEof)?.len() > 2 {}
                return Ok(body);
            }
            body.extend(self.exactly(size).await?);
            self.exactly(2).await?;
        }
    }
}

impl<S: Stream> AsyncRead for Rewind<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let count = this.ahead.len().min(buf.remaining());
        buf.put_slice(&this.ahead[..count]);
        this.ahead.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for Rewind<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// A head: the three parts of its first line, and its header lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) start: [String; 3],
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let mut lines =
            bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let first = latin1(lines.next().unwrap_or_default());
        let mut parts = first.splitn(3, ' ').map(str::to_owned);
        let start = std::array::from_fn(|_| parts.next().unwrap_or_default());
        let headers = lines.filter(|line| !line.is_empty()).map(|line| {
            let line = latin1(line);
            let (name, value) = line.split_once(':').ok_or(ErrorKind::InvalidData)?;
            Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Ok(Self { start, headers: headers.collect::<io::Result<_>>()? })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}
