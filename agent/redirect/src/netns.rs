//! Working inside a pod's network namespace: its listeners, and its upstream sockets (DESIGN D1, D2).
//!
//! A namespace belongs to the thread, not to the process. So everything here is synchronous: enter, make sockets, come
//! back, with no await between, or the executor would go on with other pods' work in this pod. If the way back fails the
//! process aborts: a thread left in the wrong namespace would open other pods' sockets there.
//!
//! A thread's home is where it was when it first used this module. So a thread that does must not change its namespace by
//! other means afterwards (`unshare`, `setns`): it would be brought back to the old one.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

/// The kernel's number for a network namespace, never used twice while the machine runs. A pod cannot choose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsCookie(pub u64);

/// Why something in a network namespace failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// The path or process is not there, or no namespace.
    #[error("cannot open the network namespace {netns}: {cause}")]
    Open {
        /// The path.
        netns: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// setns(2) failed.
    #[error("cannot enter the network namespace {netns}: {cause} (this needs CAP_SYS_ADMIN)")]
    Enter {
        /// The path.
        netns: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A program of the pod listens there already.
    #[error(
        "port {} is taken in the network namespace {netns}: a program of the pod listens on {address}; give the agent \
         another port or move that program", address.port()
    )]
    PortTaken {
        /// The path.
        netns: PathBuf,
        /// What was to be bound.
        address: SocketAddr,
    },
    /// The pod has no loopback of that family.
    #[error("the network namespace {netns} has no address {}: its lo interface is down, or IPv6 is off in it", address.ip())]
    NoSuchAddress {
        /// The path.
        netns: PathBuf,
        /// What was to be bound.
        address: SocketAddr,
    },
    /// Any other failure with a socket.
    #[error("cannot {operation} in the network namespace {netns}: {cause}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// The path.
        netns: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// An open network namespace. While it is held the namespace exists, also when its pod is gone.
pub struct Netns {
    handle: File,
    path: PathBuf,
    cookie: NetnsCookie,
    identity: (u64, u64),
}

impl Netns {
    /// The namespace at `path`, such as `/run/netns/NAME`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, NetnsError> {
        let path = path.into();
        let opened = File::open(&path).and_then(|handle| {
            let metadata = handle.metadata()?;
            Ok((handle, (metadata.dev(), metadata.ino())))
        });
        let (handle, identity) = opened.map_err(|cause| NetnsError::Open { netns: path.clone(), cause })?;
        let mut netns = Self { handle, path, cookie: NetnsCookie(0), identity };
        netns.cookie =
            netns.enter(own_cookie)?.map_err(|source| netns.socket_error("ask for the cookie", source))?;
        Ok(netns)
    }

    /// The namespace of a process. It may end meanwhile: compare with something else that is known of the pod.
    pub fn of_pid(pid: u32) -> Result<Self, NetnsError> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the kernel programs know it.
    pub fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// Device and inode: equal for handles of the same namespace, whatever the paths.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Whether both are the same namespace, whatever the paths.
    pub fn is_same(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Runs `work` in the namespace, on the calling thread, which is back in its own namespace afterwards, also when
    /// `work` panics.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let error = |cause| NetnsError::Enter { netns: self.path.clone(), cause };
        let home = Home::take().map_err(error)?;
        move_into(&self.handle).map_err(error)?;
        let way_back = WayBack(Some(home));
        let result = work();
        drop(way_back);
        Ok(result)
    }

    /// A non-blocking TCP listener on `address`. Of an IPv6 address it serves IPv6 only. With port 0 the kernel chooses.
    pub fn listen(&self, address: SocketAddr, backlog: i32) -> Result<TcpListener, NetnsError> {
        self.enter(|| listener(address, backlog))?.map_err(|source| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => NetnsError::PortTaken { netns: self.path.clone(), address },
            Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT) => {
                NetnsError::NoSuchAddress { netns: self.path.clone(), address }
            }
            _ => self.socket_error("listen", source),
        })
    }

    /// A non-blocking TCP socket, not yet bound or connected.
    pub fn socket(&self, domain: Domain) -> Result<Socket, NetnsError> {
        self.enter(|| tcp(domain))?.map_err(|source| self.socket_error("make a socket", source))
    }

    fn socket_error(&self, operation: &'static str, cause: io::Error) -> NetnsError {
        NetnsError::Socket { operation, netns: self.path.clone(), cause }
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netns").field("path", &self.path).field("cookie", &self.cookie.0).finish()
    }
}

fn move_into(netns: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?)
}

thread_local! {
    /// The thread's own namespace, once it was needed: opening it costs as much as changing into another.
    static HOME: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// A handle on the namespace in which the calling thread is.
struct Home(File);

impl Home {
    /// From the thread's store, or opened: the first time, and inside another `enter`, where the store is empty.
    fn take() -> io::Result<Self> {
        match HOME.take() {
            Some(handle) => Ok(Self(handle)),
            None => Ok(Self(File::open("/proc/thread-self/ns/net")?)),
        }
    }
}

/// Brings the thread home when dropped.
struct WayBack(Option<Home>);

impl Drop for WayBack {
    fn drop(&mut self) {
        let Some(Home(home)) = self.0.take() else { return };
        if let Err(error) = move_into(&home) {
            tracing::error!(%error, "cannot leave a pod's network namespace; stopping at once");
            std::process::abort();
        }
        HOME.set(Some(home));
    }
}

fn tcp(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
}

fn listener(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let socket = tcp(Domain::for_address(address))?;
    // So that a restarted agent can listen while connections of the old one are in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// The cookie of the calling thread's namespace.
fn own_cookie() -> io::Result<NetnsCookie> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the socket is open; `cookie` has room for `length` bytes, of which the kernel writes at most that many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(NetnsCookie(cookie)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_named_in_the_error() {
        let error = Netns::open("/nowhere/at/all").unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn what_the_system_said_is_said_once() {
        use std::error::Error as _;
        let error = Netns::open("/nowhere/at/all").unwrap_err();
        assert!(error.to_string().contains("os error 2") && error.source().is_none(), "{error}");
    }

    #[test]
    fn errors_say_what_to_do() {
        let address: SocketAddr = "127.0.0.1:15001".parse().unwrap();
        let taken = NetnsError::PortTaken { netns: "/run/netns/a".into(), address }.to_string();
        assert!(taken.contains("15001") && taken.contains("/run/netns/a"), "{taken}");
    }
}
