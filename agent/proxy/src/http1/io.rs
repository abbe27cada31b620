//! What the codec needs of a client's connection besides reading and writing.

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;

/// A client's connection.
pub trait ClientIo: AsyncRead + AsyncWrite + Unpin {
    /// Makes the coming close a reset, so that a cut message cannot be taken for a complete one. Streams whose protocol
    /// tells the two apart by itself (TLS without `close_notify`) need nothing.
    fn reset_on_close(&mut self) {}

    /// Whether dropping it ends the stream in order, without a shutdown before.
    fn closes_by_drop(&self) -> bool {
        false
    }
}

impl ClientIo for TcpStream {
    fn reset_on_close(&mut self) {
        // Best effort: a socket that fails here is broken already.
        let _ = self.set_zero_linger();
    }

    fn closes_by_drop(&self) -> bool {
        true
    }
}

/// In memory, for tests.
impl ClientIo for DuplexStream {}
