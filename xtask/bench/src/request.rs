//! The request that is sent: a small GET, ready as bytes.

/// The bytes of one request.
#[derive(Debug, Clone)]
pub struct Request(Vec<u8>);

/// What the client does with its connection afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// Keeps it for the next request.
    KeepAlive,
    /// Says `Connection: close`.
    Close,
}

impl Request {
    /// A GET of `path` at `host`.
    pub fn get(host: &str, path: &str, afterwards: Afterwards) -> Self {
        let close = if afterwards == Afterwards::Close { "Connection: close\r\n" } else { "" };
        Self(
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n{close}\r\n")
                .into_bytes(),
        )
    }

    /// As it goes on the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
