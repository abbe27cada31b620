//! A machine with Kubernetes in it, saved once it is up and warm, and kept in the cache under all that it depends on. From it
//! a machine goes on within a second or two, where booting one takes a minute.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use undermesh_cluster::run::{apply, output};
use undermesh_cluster::{Image, KUBERNETES, Programs, dns, sha256};

use super::emulator::{self, Emulator, Start};
use super::kubernetes::Distribution;
use super::packages::{self, Qemu, Unpacked};
use super::{Kernel, disk, guest};
use crate::demo::report::progress;

/// Emulated, a machine is up after less than one minute; beside other work, after several.
const UP: Duration = Duration::from_secs(600);
/// For what Kubernetes has begun to come to its end: what is saved half done is done by every machine that goes on from it.
const SETTLE: Duration = Duration::from_secs(10);

/// Archives of the images that Kubernetes itself needs.
const IMAGES: [&str; 2] = ["pause.tar", "coredns.tar"];

/// A saved machine.
pub(super) struct Saved {
    folder: PathBuf,
}

/// What it is made of.
pub(super) struct Parts<'a> {
    pub(super) cache: &'a Path,
    pub(super) qemu: &'a Qemu,
    pub(super) kernel: Kernel,
    pub(super) unpacked: &'a Unpacked,
    pub(super) distribution: &'a Distribution,
    pub(super) programs: &'a Programs,
    pub(super) use_kvm: bool,
}

impl Saved {
    /// The folder with its disk and initramfs.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its memory.
    pub(super) fn memory(&self) -> PathBuf {
        self.folder.join("memory")
    }

    /// That of the cache, or a new one, which takes some minutes. `scratch` is for files of the time.
    pub(super) fn find(parts: &Parts<'_>, scratch: &Path) -> anyhow::Result<Self> {
        let name = format!("{}-{}", parts.distribution.name(), parts.unpacked.release);
        let folder = parts.cache.join(format!("{name}-{}", parts.key()?));
        if folder.join("memory").is_file() {
            return Ok(Self { folder });
        }
        // Those that nothing will ever ask for again.
        for entry in fs::read_dir(parts.cache)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&name) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let part = parts.cache.join(format!("{name}.part"));
        // Of a process that was ended meanwhile.
        let _ = fs::remove_dir_all(&part);
        fs::create_dir_all(&part)?;
        let made = parts.make(&part, scratch);
        if made.is_err() {
            let _ = fs::remove_dir_all(&part);
        }
        made?;
        fs::rename(&part, &folder)?;
        Ok(Self { folder })
    }
}

impl Parts<'_> {
    /// Of everything that the saved memory and disk depend on.
    fn key(&self) -> anyhow::Result<String> {
        let all = [
            self.qemu.version()?,
            emulator::shape(self.use_kvm),
            self.unpacked.release.clone(),
            packages::node_packages(self.kernel),
            self.distribution.key()?,
            guest::text(),
            dns::manifest(dns::ADDRESS),
            include_str!("saved.rs").to_owned(),
            include_str!("disk.rs").to_owned(),
        ];
        Ok(sha256(all.join("\n").as_bytes()).get(..12).unwrap_or_default().to_owned())
    }

    fn make(&self, folder: &Path, scratch: &Path) -> anyhow::Result<()> {
        let release = &self.unpacked.release;
        packages::tools()?;
        let debian = packages::debian(self.cache, self.kernel)?;
        progress(&format!("making the disk of a machine with {release}"));
        disk::make(&debian, self.unpacked, self.distribution, folder)?;
        progress("starting it for the first time (a minute, or two)");
        let images = scratch.join("images");
        fs::create_dir_all(&images)?;
        let resolver = dns::image(&self.programs.coredns())?;
        let mut payload = Vec::new();
        for (name, image) in IMAGES.into_iter().zip([Image::pause(), resolver]) {
            payload.push(images.join(name));
            fs::write(images.join(name), image.archive()?)?;
        }
        let start = Start {
            qemu: self.qemu,
            image: &self.unpacked.image,
            folder,
            payload: &payload,
            from: None,
            use_kvm: self.use_kvm,
        };
        let mut machine = Emulator::start(&start, scratch.join("first"))?;
        fs::remove_dir_all(images)?;
        self.warm(&mut machine, folder)?;
        progress("saving it");
        let mut monitor = machine.monitor()?;
        // Under another name until it is whole.
        monitor.save(&folder.join("memory.part"))?;
        drop(machine);
        fs::rename(folder.join("memory.part"), folder.join("memory"))?;
        Ok(())
    }

    /// Until the node is ready and names are resolved in its pods.
    fn warm(&self, machine: &mut Emulator, folder: &Path) -> anyhow::Result<()> {
        let mut channel = machine.channel()?;
        channel.wait_up(UP).context("the machine's start")?;
        progress("it is up");
        for archive in IMAGES {
            channel.run(&self.distribution.import(Path::new(archive)), UP).context(archive)?;
        }
        progress("images imported");
        if let Distribution::K3s(_) = self.distribution {
            let script = format!("until [ -s {0} ]; do sleep 1; done; cat {0}", guest::K3S_WRITES);
            let said = channel.run(&script, UP).context("k3s's kubeconfig")?;
            fs::write(folder.join(guest::K3S_KUBECONFIG), said)?;
        }
        let config = guest::kubeconfig(folder, machine.port(), machine.folder().join("kubeconfig"))?;
        let kubectl = || {
            let mut command = Command::new(self.programs.kubectl());
            command.env("KUBECONFIG", &config).arg("--request-timeout=30s");
            command
        };
        until(machine, "the node to be ready", || {
            let of = |field: &str| {
                let path = format!("jsonpath={{{field}}}");
                output(kubectl().args(["get", "node", guest::NODE, "-o", &path]))
            };
            let ready = of(r#".status.conditions[?(@.type=="Ready")].status"#)?;
            Ok(ready == "True" && !of(".spec.podCIDR")?.is_empty() && of(".spec.taints")?.is_empty())
        })?;
        progress("the node is ready");
        let patient =
            dns::manifest(dns::ADDRESS).replace("periodSeconds: 1", "periodSeconds: 5, timeoutSeconds: 10");
        apply(kubectl(), &patient)?;
        until(machine, "CoreDNS to be ready", || {
            let path = "jsonpath={.status.availableReplicas}";
            Ok(output(kubectl().args(["get", "deploy", "-n", "kube-system", "coredns", "-o", path]))? == "1")
        })?;
        std::thread::sleep(SETTLE);
        channel.run("sync", UP).map(drop)
    }
}

/// Asks now and then: each question costs the machine time.
fn until(
    machine: &mut Emulator,
    what: &str,
    mut is_so: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let end = Instant::now() + UP;
    loop {
        machine.must_run()?;
        let asked = is_so();
        if matches!(asked, Ok(true)) {
            return Ok(());
        }
        if Instant::now() > end {
            let why = asked.err().map(|e| format!(": {e:#}")).unwrap_or_default();
            bail!("waited {UP:.0?} in vain for {what}{why}");
        }
        std::thread::sleep(Duration::from_secs(2));
    }
}

impl Distribution {
    fn name(&self) -> &'static str {
        match self {
            Self::Upstream(_) => "kubernetes",
            Self::K3s(_) => "k3s",
        }
    }

    fn key(&self) -> anyhow::Result<String> {
        match self {
            Self::Upstream(_) => Ok(KUBERNETES.to_owned()),
            Self::K3s(binary) => Ok(sha256(&fs::read(binary)?)),
        }
    }

    /// The script that takes an archive on the second disk into the store.
    pub(super) fn import(&self, archive: &Path) -> String {
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        let ctr = match self {
            Self::Upstream(_) => "ctr",
            Self::K3s(_) => "k3s ctr",
        };
        format!("archive={name} ctr='{ctr}'\n{}", guest::IMPORT)
    }
}
