//! Upstream connections as the codecs get them: leased, given back, or dropped.

use std::rc::Rc;

use tokio::net::TcpStream;

/// Where a leased connection came from, told what became of it.
pub trait Home {
    /// The exchange ended cleanly and the connection may carry another one; it has carried `served` of them.
    fn give_back(&self, io: TcpStream, served: u32);
    /// The connection was closed.
    fn gone(&self);
}

/// One HTTP/1.1 upstream connection, in the hands of one exchange. Dropping it closes the connection.
pub struct Lease {
    io: Option<TcpStream>,
    served: u32,
    home: Rc<dyn Home>,
}

impl Lease {
    /// `served`: how many exchanges the connection has carried before this one.
    pub fn new(io: TcpStream, served: u32, home: Rc<dyn Home>) -> Self {
        Self { io: Some(io), served, home }
    }

    /// Whether it carried an exchange before, and so may turn out to be stale.
    pub fn is_reused(&self) -> bool {
        self.served > 0
    }

    /// The connection; `None` never happens while the lease is held.
    pub fn io(&mut self) -> Option<&mut TcpStream> {
        self.io.as_mut()
    }

    /// Gives the connection back for the next exchange.
    pub fn release(mut self) {
        if let Some(io) = self.io.take() {
            self.home.give_back(io, self.served.saturating_add(1));
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.io.take().is_some() {
            self.home.gone();
        }
    }
}

/// An upstream connection or stream, ready for one attempt.
pub enum Upstream {
    /// A connection of its own for the length of the exchange.
    Http1(Lease),
    /// A stream of a shared HTTP/2 connection.
    Http2(h2::client::SendRequest<bytes::Bytes>),
}
