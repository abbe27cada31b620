//! Starting the machine, showing what it says, and ending it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::initramfs::ENDED;
use super::packages::Qemu;

/// Memory of the machine, in MiB.
const MEMORY: u32 = 3072;

/// The exit code of what was run in it.
pub(super) fn run(
    qemu: &Qemu,
    image: &Path,
    initrd: PathBuf,
    use_kvm: bool,
    limit: Duration,
) -> anyhow::Result<i32> {
    let mut command = qemu.command();
    command
        .args(["-M", "pc,hpet=off,vmport=off", "-cpu", "max", "-smp", "2", "-m", &MEMORY.to_string()])
        .args(["-accel", if use_kvm { "kvm" } else { "tcg,thread=multi,tb-size=512" }])
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .args(["-object", "rng-builtin,id=random", "-device", "virtio-rng-pci,rng=random"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initrd)
        // What panics ends, and so does QEMU.
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off nowatchdog tsc=reliable random.trust_cpu=on",
        ]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start QEMU")?;
    let mut machine = Machine { child, watched: Arc::new(AtomicBool::new(true)) };
    let output = machine.child.stdout.take().context("QEMU has no output")?;
    machine.watch(limit);
    let mut code = None;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        println!("  | {line}");
        if let Some(said) = line.strip_prefix(ENDED) {
            code = said.trim().parse().ok();
        }
    }
    match code {
        Some(code) => Ok(code),
        None if machine.watched.load(Ordering::SeqCst) => {
            bail!("the machine ended without a word of how it went")
        }
        None => bail!("the machine was ended after {limit:.0?}"),
    }
}

/// A running QEMU, ended on drop.
struct Machine {
    child: Child,
    /// Whether it was not ended for taking too long.
    watched: Arc<AtomicBool>,
}

impl Machine {
    /// Ends it after `limit`.
    fn watch(&self, limit: Duration) {
        let (pid, watched) = (self.child.id(), self.watched.clone());
        let began = Instant::now();
        std::thread::spawn(move || {
            while began.elapsed() < limit {
                std::thread::sleep(Duration::from_millis(500));
                if Arc::strong_count(&watched) == 1 {
                    return;
                }
            }
            watched.store(false, Ordering::SeqCst);
            if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
