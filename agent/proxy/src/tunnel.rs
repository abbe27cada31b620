//! Opaque bytes both ways between two sockets: TCP services, TLS passed through, and whatever else is not HTTP.
//!
//! Small messages go through one scratch buffer of the worker (nothing is held while a connection waits); a direction that
//! fills it several times in a row moves to splice(2), which costs about a quarter of the CPU on bulk and more on small
//! writes, so each gets what suits it. sockmap was measured and rejected (DESIGN D4).

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::fd::{AsFd, OwnedFd};
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Shared by all tunnels of a worker; borrowed only between two awaits.
pub(crate) type Scratch = RefCell<Box<[u8]>>;

/// Size of the scratch buffer.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;
/// Full scratch buffers in a row after which a direction is taken for bulk.
const BULK_STREAK: u32 = 4;
/// An unprivileged pipe may be this large by default (`fs.pipe-max-size`).
const PIPE_BYTES: usize = 1 << 20;

/// Limits of a tunnel. `None`: none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TunnelLimits {
    /// Nothing moved either way for so long. Istio: `tcp.idleTimeout`.
    pub idle: Option<Duration>,
    /// Age of the connection. Istio: `tcp.maxConnectionDuration`.
    pub duration: Option<Duration>,
}

/// How a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunnelEnd {
    /// Both sides ended in order.
    Complete,
    /// The client's socket failed.
    ClientReset,
    /// The upstream's socket failed.
    UpstreamReset,
    /// [`TunnelLimits::idle`] passed.
    Idle,
    /// [`TunnelLimits::duration`] passed.
    TooOld,
}

/// Bytes moved so far; cells, so that they count even when the tunnel is dropped midway.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// From the client.
    pub received: Cell<u64>,
    /// To the client.
    pub sent: Cell<u64>,
}

/// Moves bytes until both directions ended. A side that ends (FIN) is passed on as such while the other direction goes on;
/// a reset of one side resets the other, so that no end of stream is invented.
pub(crate) async fn tunnel(
    client: &TcpStream,
    upstream: &TcpStream,
    scratch: &Scratch,
    limits: TunnelLimits,
    moved: &Moved,
) -> TunnelEnd {
    let started = Instant::now();
    let last = Cell::new(started);
    let mut upward = pin!(copy(client, upstream, scratch, &moved.received, &last));
    let mut downward = pin!(copy(upstream, client, scratch, &moved.sent, &last));
    let mut watch = pin!(watch(started, &last, limits));
    let (mut upward_done, mut downward_done) = (false, false);
    let end = poll_fn(|context| {
        if !upward_done && let Poll::Ready(result) = upward.as_mut().poll(context) {
            match result {
                Ok(()) => upward_done = true,
                Err(error) => {
                    return Poll::Ready(error.blame(TunnelEnd::ClientReset, TunnelEnd::UpstreamReset));
                }
            }
        }
        if !downward_done && let Poll::Ready(result) = downward.as_mut().poll(context) {
            match result {
                Ok(()) => downward_done = true,
                Err(error) => {
                    return Poll::Ready(error.blame(TunnelEnd::UpstreamReset, TunnelEnd::ClientReset));
                }
            }
        }
        if upward_done && downward_done {
            return Poll::Ready(TunnelEnd::Complete);
        }
        watch.as_mut().poll(context)
    })
    .await;
    if end != TunnelEnd::Complete {
        reset(client);
        reset(upstream);
    }
    end
}

/// Makes closing the socket send RST, so that the peer does not take a broken stream for a complete one.
pub(crate) fn reset(io: &TcpStream) {
    // Best effort: a socket that fails here is broken already.
    let _ = rustix::net::sockopt::set_socket_linger(io, Some(Duration::ZERO));
}

/// Which side of a copy failed.
enum CopyError {
    Read,
    Write,
}

impl CopyError {
    fn blame(&self, reader: TunnelEnd, writer: TunnelEnd) -> TunnelEnd {
        match self {
            Self::Read => reader,
            Self::Write => writer,
        }
    }
}

async fn watch(started: Instant, last: &Cell<Instant>, limits: TunnelLimits) -> TunnelEnd {
    loop {
        let idle_at = limits.idle.map(|idle| last.get() + idle);
        let old_at = limits.duration.map(|duration| started + duration);
        let Some(next) = idle_at.into_iter().chain(old_at).min() else {
            return std::future::pending().await;
        };
        if Instant::now() >= next {
            return if old_at == Some(next) { TunnelEnd::TooOld } else { TunnelEnd::Idle };
        }
        tokio::time::sleep_until(next.into()).await;
    }
}

async fn copy(
    from: &TcpStream,
    to: &TcpStream,
    scratch: &Scratch,
    moved: &Cell<u64>,
    last: &Cell<Instant>,
) -> Result<(), CopyError> {
    let mut streak = 0;
    while streak < BULK_STREAK {
        from.readable().await.map_err(|_| CopyError::Read)?;
        let left = {
            let mut scratch = scratch.borrow_mut();
            let count = match from.try_read(&mut scratch) {
                Ok(0) => return finish(to),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return Err(CopyError::Read),
            };
            moved.set(moved.get() + count as u64);
            last.set(Instant::now());
            streak = if count == scratch.len() { streak + 1 } else { 0 };
            match to.try_write(&scratch[..count]) {
                Ok(written) if written == count => continue,
                Ok(written) => scratch[written..count].to_vec(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => scratch[..count].to_vec(),
                Err(_) => return Err(CopyError::Write),
            }
        };
        write_all(to, &left).await?;
        last.set(Instant::now());
    }
    match pipe() {
        Ok(pipe) => splice_all(from, to, &pipe, moved, last).await,
        // Out of file descriptors: go on as before.
        Err(_) => Box::pin(copy(from, to, scratch, moved, last)).await,
    }
}

fn finish(to: &TcpStream) -> Result<(), CopyError> {
    match rustix::net::shutdown(to, Shutdown::Write) {
        // The peer may have closed its side first.
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(_) => Err(CopyError::Write),
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8]) -> Result<(), CopyError> {
    while !bytes.is_empty() {
        to.writable().await.map_err(|_| CopyError::Write)?;
        match to.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(CopyError::Write),
        }
    }
    Ok(())
}

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    size: usize,
}

fn pipe() -> io::Result<Pipe> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // A user over the soft limit of pipe pages keeps the default size: slower, still right.
    let size = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES).unwrap_or(64 * 1024);
    Ok(Pipe { reader, writer, size })
}

async fn splice_all(
    from: &TcpStream,
    to: &TcpStream,
    pipe: &Pipe,
    moved: &Cell<u64>,
    last: &Cell<Instant>,
) -> Result<(), CopyError> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    let step = |source: &dyn AsFdDyn, target: &dyn AsFdDyn, bytes| {
        Ok(splice(source.fd(), None, target.fd(), None, bytes, flags)?)
    };
    loop {
        from.readable().await.map_err(|_| CopyError::Read)?;
        let mut held = match from.try_io(Interest::READABLE, || step(from, &pipe.writer, pipe.size)) {
            Ok(0) => return finish(to),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return Err(CopyError::Read),
        };
        moved.set(moved.get() + held as u64);
        last.set(Instant::now());
        while held > 0 {
            to.writable().await.map_err(|_| CopyError::Write)?;
            match to.try_io(Interest::WRITABLE, || step(&pipe.reader, to, held)) {
                Ok(count) => held -= count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(CopyError::Write),
            }
        }
        last.set(Instant::now());
    }
}

/// Sockets and pipes alike, for the one splice call.
trait AsFdDyn {
    fn fd(&self) -> rustix::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdDyn for T {
    fn fd(&self) -> rustix::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    fn scratch() -> Scratch {
        RefCell::new(vec![0; SCRATCH_BYTES].into())
    }

    /// Runs a tunnel between a client and a server driven by `drive`.
    async fn with_tunnel<F: Future>(
        limits: TunnelLimits,
        drive: impl FnOnce(TcpStream, TcpStream) -> F,
    ) -> (TunnelEnd, Moved, F::Output) {
        let (client, client_side) = pair().await;
        let (upstream_side, server) = pair().await;
        let (scratch, moved) = (scratch(), Moved::default());
        let proxy = async move {
            let end = tunnel(&client_side, &upstream_side, &scratch, limits, &moved).await;
            (end, moved)
        };
        let ((end, moved), output) = tokio::join!(proxy, drive(client, server));
        (end, moved, output)
    }

    #[tokio::test]
    async fn half_close_is_passed_on_and_the_other_direction_goes_on() {
        let (end, moved, ()) = with_tunnel(TunnelLimits::default(), |mut client, mut server| async move {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = Vec::new();
            server.read_to_end(&mut question).await.unwrap();
            assert_eq!(question, b"question");
            server.write_all(b"answer").await.unwrap();
            drop(server);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"answer");
        })
        .await;
        assert_eq!((end, moved.received.get(), moved.sent.get()), (TunnelEnd::Complete, 8, 6));
    }

    #[tokio::test]
    async fn bulk_goes_through_whole_and_unchanged_in_both_directions() {
        const BYTES: usize = 24 << 20;
        let pattern = |seed: u32| -> Vec<u8> {
            (0..BYTES as u32)
                .map(|index| (index.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8)
                .collect()
        };
        let (end, moved, ()) = with_tunnel(TunnelLimits::default(), |client, server| async move {
            let (mut client_read, mut client_write) = client.into_split();
            let (mut server_read, mut server_write) = server.into_split();
            let (up, down) = (pattern(1), pattern(2));
            let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
            tokio::join!(
                async {
                    client_write.write_all(&up).await.unwrap();
                    client_write.shutdown().await.unwrap();
                },
                async {
                    server_write.write_all(&down).await.unwrap();
                    server_write.shutdown().await.unwrap();
                },
                async { assert_eq!(server_read.read_to_end(&mut got_up).await.unwrap(), BYTES) },
                async { assert_eq!(client_read.read_to_end(&mut got_down).await.unwrap(), BYTES) },
            );
            assert!(got_up == up && got_down == down);
        })
        .await;
        let sizes = (moved.received.get(), moved.sent.get());
        assert_eq!((end, sizes), (TunnelEnd::Complete, (BYTES as u64, BYTES as u64)));
    }

    #[tokio::test]
    async fn a_reset_is_passed_on_as_a_reset() {
        let (end, _, error) = with_tunnel(TunnelLimits::default(), |mut client, server| async move {
            reset(&server);
            drop(server);
            client.read(&mut [0; 1]).await.map_err(|error| error.kind())
        })
        .await;
        assert_eq!((end, error), (TunnelEnd::UpstreamReset, Err(io::ErrorKind::ConnectionReset)));
    }

    #[tokio::test]
    async fn an_idle_tunnel_ends_and_a_busy_one_does_not() {
        // Far apart, so that a busy machine does not decide: what keeps the tunnel is longer than the limit in all, and each
        // pause in it is much shorter.
        let limits = TunnelLimits { idle: Some(Duration::from_secs(1)), duration: None };
        let (end, moved, ()) = with_tunnel(limits, |mut client, mut server| async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(250)).await;
                client.write_all(b"x").await.unwrap();
            }
            let mut bytes = Vec::new();
            // The end comes as a reset, after everything that was sent.
            let _ = server.read_to_end(&mut bytes).await;
            assert_eq!(bytes, b"xxxxx");
        })
        .await;
        assert_eq!((end, moved.received.get()), (TunnelEnd::Idle, 5));
    }

    #[tokio::test]
    async fn a_tunnel_ends_at_its_greatest_age_even_when_busy() {
        let limits = TunnelLimits { idle: None, duration: Some(Duration::from_millis(50)) };
        let (end, _, ()) = with_tunnel(limits, |mut client, server| async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            drop(server);
        })
        .await;
        assert_eq!(end, TunnelEnd::TooOld);
    }
}
