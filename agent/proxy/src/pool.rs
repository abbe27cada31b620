//! Upstream connections as the codecs get them: leased, given back, or dropped.

use std::rc::Rc;

use tokio::net::TcpStream;

/// Where a leased connection came from, told what became of it.
pub trait Home {
    /// The exchange ended cleanly and the connection may carry another one.
    fn give_back(&self, io: TcpStream);
    /// The connection was closed.
    fn gone(&self);
}

/// One HTTP/1.1 upstream connection, in the hands of one exchange. Dropping it closes the connection.
pub struct Lease {
    io: Option<TcpStream>,
    reused: bool,
    home: Rc<dyn Home>,
}

impl Lease {
    /// `reused`: it carried an exchange before and waited in the pool.
    pub fn new(io: TcpStream, reused: bool, home: Rc<dyn Home>) -> Self {
        Self { io: Some(io), reused, home }
    }

    /// Whether it carried an exchange before.
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// The connection; `None` never happens while the lease is held.
    pub fn io(&mut self) -> Option<&mut TcpStream> {
        self.io.as_mut()
    }

    /// Gives the connection back for the next exchange.
    pub fn release(mut self) {
        if let Some(io) = self.io.take() {
            self.home.give_back(io);
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
