//! Cgroups, namespaces and processes for the cases, each removed by its guard.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use undermesh_core::capture::Capture;
use undermesh_redirect::netns::Netns;
use undermesh_redirect::origin::Origin;
use undermesh_redirect::plan::{ExcludedPorts, FailMode, LocalWorkload, Node, Place, plan};
use undermesh_redirect::{Counter, Redirect, Settings};

use crate::child::ROLE;

pub(crate) const POD4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 3));
pub(crate) const POD6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 3));
pub(crate) const SERVICE4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 80);
pub(crate) const SERVICE6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10)), 80);
pub(crate) const LISTENER4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15001);
pub(crate) const LISTENER6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 15002);

const PATIENCE: Duration = Duration::from_secs(5);

/// Why the cases cannot run on this machine.
pub(crate) fn possible() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("they need root".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err("the kernel has no BTF".to_owned());
    }
    cgroup_mount().map(drop).ok_or_else(|| "no cgroup2 is mounted".to_owned())
}

fn cgroup_mount() -> Option<PathBuf> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.join("cgroup.procs").exists() && path.join("cgroup.subtree_control").exists())
}

/// A cgroup that is removed with everything below it.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    pub(crate) fn top() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("undermesh-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self::create(cgroup_mount().expect("checked by `possible`").join(name))
    }

    pub(crate) fn child(&self, name: &str) -> Self {
        Self::create(self.0.join(name))
    }

    fn create(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("a cgroup");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was just reaped may be counted a moment longer.
        for _ in 0..100 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => break,
            }
        }
        if self.0.exists() {
            eprintln!("left behind: {}", self.0.display());
        }
    }
}

/// Leaves this process a mount of `part` as all it sees of cgroup2, as a container with a bind mount does.
pub(crate) fn see_only(part: &Path) {
    // SAFETY: this process has one thread, and no path it holds open is unmounted.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.expect("unshare");
    let mount = |from: Option<&Path>, to: &Path, kind: Option<&str>, flags| {
        let text = |text: &std::ffi::OsStr| std::ffi::CString::new(text.as_encoded_bytes()).expect("no NUL");
        let (from, to) = (from.map(|from| text(from.as_os_str())), text(to.as_os_str()));
        let kind = kind.map(|kind| text(kind.as_ref()));
        let pointer =
            |text: &Option<std::ffi::CString>| text.as_ref().map_or(std::ptr::null(), |it| it.as_ptr());
        // SAFETY: strings that live until the call returns; no data.
        let result =
            unsafe { libc::mount(pointer(&from), to.as_ptr(), pointer(&kind), flags, std::ptr::null()) };
        assert_eq!(result, 0, "mount: {}", io::Error::last_os_error());
    };
    mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE);
    mount(None, Path::new("/mnt"), Some("tmpfs"), 0);
    fs::create_dir("/mnt/part").expect("a mount point");
    mount(Some(part), Path::new("/mnt/part"), None, libc::MS_BIND);
    let whole = cgroup_mount().expect("checked by `possible`");
    let whole = std::ffi::CString::new(whole.as_os_str().as_encoded_bytes()).expect("no NUL");
    // SAFETY: a string that lives until the call returns.
    let result = unsafe { libc::umount2(whole.as_ptr(), libc::MNT_DETACH) };
    assert_eq!(result, 0, "umount: {}", io::Error::last_os_error());
}

/// A child in a cgroup; as a "pod" in a network namespace of its own, else in that of the calling thread.
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(role: &str, cgroup: &Cgroup) -> Self {
        let mut child = Command::new("/proc/self/exe")
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a child");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut process = Self { child, stdin, stdout };
        fs::write(cgroup.path().join("cgroup.procs"), process.child.id().to_string())
            .expect("move the child");
        assert_eq!(process.ask("go"), "ready");
        process
    }

    pub(crate) fn netns(&self) -> Netns {
        Netns::of_pid(self.child.id()).expect("the child's namespace")
    }

    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("tell the child");
    }

    pub(crate) fn reply(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the child's reply");
        line.trim_end().to_owned()
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.reply()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Best effort: a child that is gone already is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a case mostly needs: the programs attached at `top`, an enrolled pod and the proxy's listeners in it.
pub(crate) struct World {
    // In the order in which they must go.
    pub(crate) pod: Process,
    pub(crate) redirect: Redirect,
    pub(crate) netns: Netns,
    pub(crate) listener4: TcpListener,
    pub(crate) listener6: TcpListener,
    pub(crate) pods: Cgroup,
    pub(crate) top: Cgroup,
    before: Vec<(Counter, u64)>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// With changes to the pod's workload and the node's settings.
    pub(crate) fn with(change: impl FnOnce(&mut LocalWorkload, &mut Node)) -> Self {
        let top = Cgroup::top();
        let pods = top.child("pods");
        let settings = Settings { cgroup: Some(top.path().to_owned()), ..Settings::default() };
        let redirect = Redirect::load(&settings).expect("load");
        let pod = Process::start("pod", &pods);
        let netns = pod.netns();
        let listener4 = netns.listen(LISTENER4, 128).expect("listen on 127.0.0.1");
        let listener6 = netns.listen(LISTENER6, 128).expect("listen on ::1");
        let mut world = Self { pod, redirect, netns, listener4, listener6, pods, top, before: Vec::new() };
        let mut workload = workload(7, Place::Netns(world.netns.cookie()));
        let mut node = world.redirect.node();
        change(&mut workload, &mut node);
        world.redirect.apply(&plan(captures(), &[workload], &node, 3)).expect("apply");
        world.mark();
        world
    }

    /// Counts from here.
    pub(crate) fn mark(&mut self) {
        self.before = self.redirect.counters().expect("counters");
    }

    /// The counters that changed since the mark, and by how much.
    pub(crate) fn counted(&self) -> Vec<(&'static str, u64)> {
        let now = self.redirect.counters().expect("counters");
        now.iter()
            .zip(&self.before)
            .filter(|((_, now), (_, before))| now > before)
            .map(|((counter, now), (_, before))| (counter.name(), now - before))
            .collect()
    }

    /// The pod dials `target`; a listener of the proxy accepts, says "proxied" and tells the origin.
    pub(crate) fn proxied(&mut self, kind: &str, target: SocketAddr) -> (String, Option<Origin>) {
        self.pod.tell(&format!("connect {kind} {target}"));
        let listener = if target.is_ipv4() { &self.listener4 } else { &self.listener6 };
        let (mut stream, peer) = accept(listener);
        let origin = self.redirect.origins().take(self.netns.cookie(), peer);
        assert_eq!(self.redirect.origins().take(self.netns.cookie(), peer), None, "taken twice");
        stream.write_all(b"proxied\n").expect("greet");
        (self.pod.reply(), origin)
    }

    /// The pod dials `listener`'s own address, which accepts and says "direct".
    pub(crate) fn direct(&mut self, kind: &str, listener: &TcpListener) -> String {
        self.pod.tell(&format!("connect {kind} {}", listener.local_addr().expect("an address")));
        let (mut stream, _) = accept(listener);
        stream.write_all(b"direct\n").expect("greet");
        self.pod.reply()
    }
}

pub(crate) fn captures() -> Vec<Capture> {
    let service = |to: SocketAddr| Capture::Address { address: to.ip(), port: to.port() };
    // 10.96.0.98 is a service too; 10.96.0.99 is none.
    let other = SocketAddr::new(Ipv4Addr::new(10, 96, 0, 98).into(), 80);
    vec![service(SERVICE4), service(SERVICE6), service(other), Capture::Port(8443)]
}

pub(crate) fn workload(id: u32, place: Place) -> LocalWorkload {
    LocalWorkload {
        id,
        place,
        is_enrolled: true,
        listener4: NonZeroU16::new(LISTENER4.port()),
        listener6: NonZeroU16::new(LISTENER6.port()),
        address4: Some(Ipv4Addr::new(10, 244, 1, 3)),
        address6: match POD6 {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        },
        fail_mode: FailMode::Open,
        excluded_ports: ExcludedPorts::default(),
    }
}

pub(crate) fn count(redirect: &Redirect, counter: Counter) -> u64 {
    let counters = redirect.counters().expect("counters");
    counters.iter().find(|(which, _)| *which == counter).expect("every counter is there").1
}

/// Of a non-blocking listener, within a few seconds.
pub(crate) fn accept(listener: &TcpListener) -> (std::net::TcpStream, SocketAddr) {
    let end = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false).expect("blocking");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                return (stream, peer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("nobody came to {:?}: {error}", listener.local_addr()),
        }
    }
}

/// What the client wrote before it closed.
pub(crate) fn read_all(mut stream: std::net::TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read to the end");
    text
}

fn ioctl<T>(domain: libc::c_int, request: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    let socket = socket2::Socket::new(domain.into(), socket2::Type::DGRAM, None)?;
    // SAFETY: `argument` is the struct that belongs to the request.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn ifreq(name: &str) -> libc::ifreq {
    // SAFETY: integers and a union of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    request
}

/// Brings `lo` of the thread's namespace up.
pub(crate) fn loopback_up() {
    let mut request = ifreq("lo");
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    ioctl(libc::AF_INET, libc::SIOCSIFFLAGS, &mut request).expect("lo up");
}

/// Adds an address to `lo` of the thread's namespace.
pub(crate) fn add_address(address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let mut request = ifreq("lo:1");
            request.ifr_ifru.ifru_addr = socket_address(address);
            ioctl(libc::AF_INET, libc::SIOCSIFADDR, &mut request).expect("an IPv4 address on lo");
            // Or all of 10.0.0.0/8 would be local.
            request.ifr_ifru.ifru_addr = socket_address(Ipv4Addr::BROADCAST);
            ioctl(libc::AF_INET, libc::SIOCSIFNETMASK, &mut request).expect("its mask");
        }
        IpAddr::V6(address) => {
            /// `struct in6_ifreq` of linux/ipv6.h.
            #[repr(C)]
            struct In6Ifreq {
                address: [u8; 16],
                prefix_length: u32,
                interface: i32,
            }
            let mut request =
                In6Ifreq { address: address.octets(), prefix_length: 128, interface: 1 /* lo */ };
            ioctl(libc::AF_INET6, libc::SIOCSIFADDR, &mut request).expect("an IPv6 address on lo");
        }
    }
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: both are 16 bytes of plain integers, which is what sockaddr is for.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(address) }
}
