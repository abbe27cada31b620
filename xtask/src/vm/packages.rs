//! Kernels and QEMU, from Debian's packages, unpacked into the cache and not installed.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use undermesh_cluster::sha256;

use super::Kernel;
use crate::cargo::{line, succeed};

/// An unpacked kernel.
pub(super) struct Unpacked {
    /// As `uname -r` says.
    pub(super) release: String,
    /// `vmlinuz`.
    pub(super) image: PathBuf,
    /// Modules that nodes and pods are made with, in the order in which they can be loaded.
    pub(super) modules: Vec<PathBuf>,
    /// All of its modules.
    pub(super) folder: PathBuf,
}

/// How to start an emulator.
pub(super) struct Qemu(Vec<String>);

impl Qemu {
    /// What it says of itself. A machine can be restored only by the version that saved it.
    pub(super) fn version(&self) -> anyhow::Result<String> {
        let mut command = self.command();
        let output = command.arg("--version").output().with_context(|| line(&command))?;
        let said = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
        ensure!(output.status.success() && !said.is_empty(), "{} says nothing", line(&command));
        Ok(said)
    }

    pub(super) fn command(&self) -> Command {
        // Whatever ends the thread that starts it ends it: nobody else would.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.0);
        command
    }
}

/// What the harness makes networks of; a module may be built in.
const MODULES: [&str; 4] = ["llc", "stp", "bridge", "veth"];

/// QEMU before this version panics Debian's 6.12.
const OLDEST_QEMU: u32 = 8;

/// Where unpacked packages stay.
pub(super) fn cache() -> anyhow::Result<PathBuf> {
    let path = undermesh_cluster::cache()?.join("vm");
    fs::create_dir_all(&path).with_context(|| format!("the cache {}", path.display()))?;
    Ok(path)
}

/// The machine's own if it is new enough, else Debian 13's.
pub(super) fn qemu(cache: &Path) -> anyhow::Result<Qemu> {
    if installed_qemu().is_some_and(|version| version >= OLDEST_QEMU) {
        return Ok(Qemu(vec!["qemu-system-x86_64".to_owned()]));
    }
    let root = cache.join("qemu");
    if !root.join("usr/bin/qemu-system-x86_64").exists() {
        install("mmdebstrap", "/usr/bin/mmdebstrap")?;
        println!("vm: unpacking Debian 13's QEMU (about 40 s, once)");
        let part = cache.join("qemu.part");
        let _ = fs::remove_dir_all(&part);
        succeed(
            Command::new("mmdebstrap")
                .args(["--quiet", "--mode=root", "--variant=minbase", "--include=qemu-system-x86"])
                .args(["--aptopt=APT::Install-Recommends \"false\"", "trixie"])
                .arg(&part),
        )?;
        fs::rename(&part, &root)?;
    }
    let at = |path: &str| root.join(path).display().to_string();
    // By its own loader and libraries: they are another Debian's.
    Ok(Qemu(vec![
        at("lib64/ld-linux-x86-64.so.2"),
        "--library-path".to_owned(),
        at("usr/lib/x86_64-linux-gnu"),
        at("usr/bin/qemu-system-x86_64"),
        "-L".to_owned(),
        at("usr/share/qemu"),
        "-L".to_owned(),
        at("usr/share/seabios"),
    ]))
}

fn installed_qemu() -> Option<u32> {
    let output = Command::new("qemu-system-x86_64").arg("--version").output().ok()?;
    major_version(&String::from_utf8_lossy(&output.stdout))
}

/// Of `QEMU emulator version 10.0.2 (Debian ...)`.
fn major_version(said: &str) -> Option<u32> {
    said.split("version ").nth(1)?.split('.').next()?.parse().ok()
}

/// The newest kernel of a series that there is a package of.
pub(super) fn kernel(cache: &Path, kernel: Kernel) -> anyhow::Result<Unpacked> {
    let series = kernel.series();
    let package = newest(series)?;
    let root = cache.join(&package);
    if !root.exists() {
        println!("vm: fetching {package}");
        let part = cache.join(format!("{package}.part"));
        let _ = fs::remove_dir_all(&part);
        fs::create_dir_all(&part)?;
        succeed(
            Command::new("apt-get")
                .current_dir(&part)
                .args(["download", "-q", "-o", "APT::Sandbox::User=root", &package])
                .stdout(Stdio::null()),
        )?;
        let files = fs::read_dir(&part)?.collect::<Result<Vec<_>, _>>()?;
        let deb =
            files.iter().map(fs::DirEntry::path).find(|path| path.extension().is_some_and(|it| it == "deb"));
        let deb = deb.with_context(|| format!("apt-get downloaded no {package}"))?;
        succeed(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&part))?;
        fs::remove_file(deb)?;
        fs::rename(&part, &root)?;
    }
    let release = package.strip_prefix("linux-image-").unwrap_or(&package).to_owned();
    let image = root.join("boot").join(format!("vmlinuz-{release}"));
    ensure!(image.exists(), "{package} has no {}", image.display());
    let folder = root.join("lib/modules").join(&release);
    Ok(Unpacked { modules: modules(&folder)?, release, image, folder })
}

/// Debian's packages of a machine with Kubernetes in it. The kernel is not one of them, nor what makes initramfs.
const NODE: &str = "systemd,systemd-sysv,dbus,udev,kmod,iproute2,iptables,containerd,runc,containernetworking-plugins,\
    busybox-static,bpftool,ca-certificates,conntrack,util-linux,mount,procps";

/// What the file systems depend on.
pub(super) fn node_packages(kernel: Kernel) -> String {
    format!("{} {NODE}", kernel.suite())
}

/// The file system of a Debian of the kernel's time, with containerd.
pub(super) fn debian(cache: &Path, kernel: Kernel) -> anyhow::Result<PathBuf> {
    let key = sha256(node_packages(kernel).as_bytes());
    let root = cache.join(format!("debian-{}-{}", kernel.suite(), key.get(..8).unwrap_or(&key)));
    if root.exists() {
        return Ok(root);
    }
    install("mmdebstrap", "/usr/bin/mmdebstrap")?;
    println!("vm: unpacking Debian ({}) with systemd and containerd (about 40 s, once)", kernel.suite());
    let part = cache.join(format!("debian-{}.part", kernel.suite()));
    let _ = fs::remove_dir_all(&part);
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=minbase", &format!("--include={NODE}")]);
    command.arg("--aptopt=APT::Install-Recommends \"false\"");
    for left_out in ["doc", "man", "locale"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{left_out}/*"));
    }
    // The scripts of packages have nothing to say here.
    succeed(command.arg(kernel.suite()).arg(&part).stderr(Stdio::null()))?;
    for waste in ["var/lib/apt/lists", "var/cache/apt"] {
        fs::remove_dir_all(part.join(waste))?;
    }
    fs::rename(&part, &root)?;
    Ok(root)
}

fn newest(series: &str) -> anyhow::Result<String> {
    let mut search = Command::new("apt-cache");
    search.args(["search", "--names-only", &format!("^linux-image-{series}[.0-9]*.*-cloud-amd64$")]);
    let output = search.output().with_context(|| format!("cannot run {}", line(&search)))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names =
        text.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| is_of(name, series));
    names.max_by(|a, b| by_numbers(a, b)).map(str::to_owned).with_context(|| {
        format!("there is no package of a kernel {series} for cloud machines: is this Debian 12, and was apt-get update run?")
    })
}

/// `linux-image-6.1.0-56-cloud-amd64` is of 6.1; `linux-image-6.12-cloud-amd64` names no kernel, and 6.12 is not of 6.1.
fn is_of(name: &str, series: &str) -> bool {
    let rest = name.strip_prefix("linux-image-").and_then(|rest| rest.strip_prefix(series));
    rest.is_some_and(|rest| rest.starts_with('.')) && !name.contains("unsigned") && !name.contains("-rt-")
}

/// By the numbers in them, in order: 9 is less than 10.
fn by_numbers(a: &str, b: &str) -> Ordering {
    let numbers = |text: &str| -> Vec<u64> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    numbers(a).cmp(&numbers(b))
}

fn modules(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let list = fs::read_to_string(folder.join("modules.order"))
        .with_context(|| format!("the modules in {}", folder.display()))?;
    let path = |name: &&str| {
        let file = format!("/{name}.ko");
        // The list names files without the suffix of their compression.
        let listed = list.lines().find(|line| line.ends_with(&file))?;
        ["", ".xz"].iter().map(|suffix| folder.join(format!("{listed}{suffix}"))).find(|path| path.exists())
    };
    Ok(MODULES.iter().filter_map(path).collect())
}

fn install(package: &str, file: &str) -> anyhow::Result<()> {
    if Path::new(file).exists() {
        return Ok(());
    }
    ensure!(
        Path::new("/usr/bin/apt-get").exists(),
        "{package} is missing, and there is no apt-get to install it"
    );
    println!("vm: installing {package}");
    succeed(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-q", "--no-install-recommends", package])
            .stdout(Stdio::null()),
    )
}

/// busybox and what makes archives.
pub(super) fn tools() -> anyhow::Result<()> {
    install("busybox-static", "/usr/bin/busybox")?;
    install("xz-utils", "/usr/bin/xz")?;
    install("binutils", "/usr/bin/strip")?;
    install("e2fsprogs", "/usr/sbin/mke2fs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_of_a_series_are_told_from_others_and_the_newest_is_found() {
        assert!(is_of("linux-image-6.1.0-56-cloud-amd64", "6.1"));
        assert!(is_of("linux-image-6.12.117+deb12-cloud-amd64", "6.12"));
        for (name, series) in [
            ("linux-image-6.12.117+deb12-cloud-amd64", "6.1"),
            ("linux-image-6.12-cloud-amd64", "6.12"),
            ("linux-image-6.1.0-56-cloud-amd64-unsigned", "6.1"),
        ] {
            assert!(!is_of(name, series), "{name}");
        }
        assert_eq!(by_numbers("linux-image-6.1.0-9-x", "linux-image-6.1.0-56-x"), Ordering::Less);
    }

    #[test]
    fn the_version_of_qemu_is_its_first_number() {
        assert_eq!(major_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"), Some(10));
        assert_eq!(major_version("no such program"), None);
    }
}
