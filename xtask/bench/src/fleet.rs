//! The client's connections: sending on them and learning what came of it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::poll::{Interest, Poll};
use crate::reply::Reply;
use crate::request::Request;

/// Longer than any answer that is measured one by one, and one read for it.
const SCRATCH: usize = 256 * 1024;

/// Which connection of a fleet.
pub type Slot = usize;

/// What came of a look at the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is complete; how long after the time given to [`Fleet::send`].
    Answered(Slot, Duration),
    /// The peer ended the connection; true if an answer was due. [`Fleet::renew`] makes it usable again.
    Ended(Slot, bool),
}

/// Connections to one target.
#[derive(Debug)]
pub struct Fleet {
    target: SocketAddr,
    poll: Poll,
    members: Vec<Member>,
    scratch: Vec<u8>,
    ready: Vec<u64>,
}

#[derive(Debug)]
struct Member {
    stream: TcpStream,
    reply: Reply,
    /// From when on the answer is due.
    asked: Option<Instant>,
}

impl Member {
    fn connect(target: SocketAddr) -> anyhow::Result<Self> {
        let stream = connect(target)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, reply: Reply::default(), asked: None })
    }
}

/// A connected, blocking socket.
pub fn connect(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    // The kernel completes a local handshake inside this call: the peer's program need not have accepted yet.
    socket.connect(&target.into()).with_context(|| format!("cannot connect to {target}"))?;
    Ok(socket.into())
}

impl Fleet {
    /// Opens `size` connections.
    pub fn open(target: SocketAddr, size: usize) -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let mut members = Vec::with_capacity(size);
        for slot in 0..size {
            let member = Member::connect(target)?;
            poll.add(&member.stream, slot as u64, Interest::Readable)?;
            members.push(member);
        }
        Ok(Self { target, poll, members, scratch: vec![0; SCRATCH], ready: Vec::new() })
    }

    /// How many connections.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Sends a request on a connection that has none under way; its latency counts from `asked`.
    pub fn send(&mut self, slot: Slot, request: &Request, asked: Instant) -> anyhow::Result<()> {
        let member = self.members.get_mut(slot).context("no such connection")?;
        member.asked = Some(asked);
        match member.stream.write(request.bytes()) {
            Ok(sent) if sent == request.bytes().len() => Ok(()),
            Ok(sent) => bail!("only {sent} bytes of a request fit into an empty socket"),
            // The peer has ended the connection: the read that follows says so.
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(()),
            Err(e) => Err(e).context("cannot send a request"),
        }
    }

    /// Replaces a connection by a new one to the same target.
    pub fn renew(&mut self, slot: Slot) -> anyhow::Result<()> {
        let member = self.members.get_mut(slot).context("no such connection")?;
        *member = Member::connect(self.target)?;
        Ok(self.poll.add(&member.stream, slot as u64, Interest::Readable)?)
    }

    /// Waits at most `limit` for answers and puts what came into `outcomes`.
    pub fn wait(&mut self, limit: Duration, outcomes: &mut Vec<Outcome>) -> anyhow::Result<()> {
        outcomes.clear();
        self.poll.wait(Some(limit), &mut self.ready)?;
        for token in &self.ready {
            let slot = usize::try_from(*token)?;
            let member = self.members.get_mut(slot).context("no such connection")?;
            match member.stream.read(&mut self.scratch) {
                Ok(0) => outcomes.push(Outcome::Ended(slot, member.asked.take().is_some())),
                Ok(got) => {
                    let Some(asked) = member.asked else { bail!("{got} bytes that nobody asked for") };
                    if member.reply.receive(self.scratch.get(..got).unwrap_or_default())? {
                        member.asked = None;
                        outcomes.push(Outcome::Answered(slot, asked.elapsed()));
                    }
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => {
                    outcomes.push(Outcome::Ended(slot, member.asked.take().is_some()));
                }
                Err(e) => return Err(e).context("cannot receive an answer"),
            }
        }
        Ok(())
    }
}
