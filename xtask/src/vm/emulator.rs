//! QEMU with a machine of one shape: what it is saved with, it is restored with.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use undermesh_tests::last_lines;

use super::channel::Channel;
use super::guest;
use super::monitor::{Monitor, quoted};
use super::packages::Qemu;

/// What a saved machine depends on, beside QEMU's version.
const SHAPE: &str = "-M pc,hpet=off,vmport=off -cpu max -smp 2 -m 4096 -rtc base=utc,clock=vm -nodefaults -display none -no-reboot \
    -object rng-builtin,id=random -device virtio-rng-pci,rng=random";
/// `panic=-1`: what panics ends, and so does QEMU.
const APPEND: &str = "console=ttyS0 quiet panic=-1 mitigations=off nowatchdog tsc=reliable random.trust_cpu=on net.ifnames=0 \
    apparmor=0 audit=0 systemd.show_status=0 transparent_hugepage=never";
/// Of the second disk, whatever is on it; sparse.
const PAYLOAD: u64 = 1 << 30;
const START: Duration = Duration::from_secs(20);

/// What the key of a saved machine is made of.
pub(super) fn shape(use_kvm: bool) -> String {
    let cpu = if use_kvm { fs::read_to_string("/proc/cpuinfo").unwrap_or_default() } else { String::new() };
    let model = cpu.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
    format!("{SHAPE} {APPEND} {PAYLOAD} {use_kvm} {model}")
}

/// How to start one.
pub(super) struct Start<'a> {
    pub(super) qemu: &'a Qemu,
    /// The kernel.
    pub(super) image: &'a Path,
    /// Where `disk.img` and `initrd` are.
    pub(super) folder: &'a Path,
    /// Archives of images for the second disk.
    pub(super) payload: &'a [PathBuf],
    /// A saved memory to go on from. Then writes to the disk are thrown away.
    pub(super) from: Option<&'a Path>,
    pub(super) use_kvm: bool,
}

/// A running machine; ended, with its folder removed, on drop.
pub(super) struct Emulator {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Emulator {
    /// Starts one with `folder` for its sockets and what it throws away.
    pub(super) fn start(start: &Start<'_>, folder: PathBuf) -> anyhow::Result<Self> {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let payload = folder.join("payload");
        pack(start.payload, &payload)?;
        let port = free_port()?;
        let path = |name: &str| folder.join(name).display().to_string();
        let mut command = start.qemu.command();
        command.env("TMPDIR", &folder);
        command.args(SHAPE.split_whitespace());
        command.args(["-accel", if start.use_kvm { "kvm" } else { "tcg,thread=multi,tb-size=1024" }]);
        command.arg("-kernel").arg(start.image).arg("-initrd").arg(start.folder.join("initrd"));
        command.args(["-append", APPEND]);
        let disk = start.folder.join("disk.img");
        let drive = format!("file={},if=none,id=disk,format=raw,cache=unsafe,aio=threads", disk.display());
        command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"]);
        let drive = format!("file={},if=none,id=payload,format=raw,readonly=on", payload.display());
        command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=payload"]);
        // Nothing leads out of it, and one port in.
        let network = format!(
            "user,id=network,restrict=on,hostfwd=tcp:127.0.0.1:{port}-{}:{}",
            guest::ADDRESS,
            guest::PORT
        );
        command.args(["-netdev", &network, "-device", "virtio-net-pci,netdev=network,romfile="]);
        for (name, kind) in [("console", "file"), ("commands", "socket")] {
            let more = if kind == "socket" { ",server=on,wait=off" } else { "" };
            command.args(["-chardev", &format!("{kind},id={name},path={}{more}", path(name))]);
            command.args(["-serial", &format!("chardev:{name}")]);
        }
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", path("monitor"))]);
        if let Some(from) = start.from {
            command.arg("-snapshot").args(["-incoming", &format!("exec:cat {}", quoted(from))]);
        }
        let log = fs::File::create(folder.join("qemu.log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let mut emulator = Self { child: child.context("cannot start QEMU")?, folder, port };
        let end = Instant::now() + START;
        while !emulator.folder.join("monitor").exists() {
            emulator.must_run()?;
            if Instant::now() > end {
                bail!("QEMU does not start");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(emulator)
    }

    pub(super) fn monitor(&self) -> anyhow::Result<Monitor> {
        Monitor::connect(&self.folder.join("monitor"))
    }

    pub(super) fn channel(&self) -> anyhow::Result<Channel> {
        Channel::connect(&self.folder.join("commands"))
    }

    /// For files of its time.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The port of this machine that leads to the API server.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// An error with the last words of it if it has ended.
    pub(super) fn must_run(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let said = |name: &str| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let (log, console) = (said("qemu.log"), said("console"));
        bail!("the machine has ended ({status}): {} {}", last_lines(&log, 5), last_lines(&console, 15))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A disk with a tar file on it instead of a file system.
fn pack(archives: &[PathBuf], to: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("tar");
    command.arg("--create").arg("--file").arg(to);
    for archive in archives {
        let (folder, name) = (archive.parent().context("a path")?, archive.file_name().context("a path")?);
        command.arg("--directory").arg(folder).arg(name);
    }
    if archives.is_empty() {
        command.args(["--files-from", "/dev/null"]);
    }
    crate::cargo::succeed(&mut command)?;
    let file = fs::File::options().write(true).open(to)?;
    let size = file.metadata()?.len();
    anyhow::ensure!(size <= PAYLOAD, "{size} bytes of images are more than the second disk can hold");
    file.set_len(PAYLOAD).map_err(Into::into)
}

/// One that nobody listens on now. QEMU takes it a moment later; whoever is quicker makes it fail with that word.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
