//! `cargo xtask image`: container images without Docker, of static release binaries and nothing else: no shell, no package
//! manager, no C library. The same source and compiler give the same bytes in any folder.
//!
//! Static means linked with glibc (`+crt-static`), for which stable Rust has all it needs. glibc loads parts of itself when
//! names of users or hosts are looked up; the agent looks up hosts with its own resolver and users not at all, so it has no use
//! for them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use undermesh_cluster::{Image, sha256};

use crate::cargo::{cargo, items, line, metadata, root, text};

/// Build the container image: an archive for `docker load` and `ctr images import`
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask image                                  target/image/undermesh.tar, and beside it the program
  cargo xtask image --bookinfo                       target/image/bookinfo.tar, the example application
  ctr --namespace k8s.io images import target/image/undermesh.tar

On a machine with Docker: docker build -f deploy/image/Dockerfile .")]
pub(crate) struct Args {
    /// The example application instead of the mesh
    #[arg(long)]
    bookinfo: bool,
    /// Where to write it
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Build without optimisation: quicker to build, slower to run
    #[arg(long)]
    dev: bool,
}

/// The images that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// The agent and the gateway.
    Undermesh,
    /// The example application.
    Bookinfo,
}

const REPOSITORY: &str = "ghcr.io/undermesh";

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let which = if args.bookinfo { Which::Bookinfo } else { Which::Undermesh };
    let path = build(which, args.dev)?;
    let path = match &args.output {
        Some(output) => {
            fs::copy(&path, output).with_context(|| format!("cannot write {}", output.display()))?;
            output
        }
        None => &path,
    };
    let bytes = fs::read(path)?;
    println!("{}\n{}\n{} bytes, sha256 {}", which.name()?, path.display(), bytes.len(), sha256(&bytes));
    Ok(())
}

/// Builds one and gives the path of its archive. The program is left beside it.
pub(crate) fn build(which: Which, dev: bool) -> anyhow::Result<PathBuf> {
    let program = command(which, dev)?;
    must_be_static(&program)?;
    let content = fs::read(&program)?;
    let image = Image {
        name: which.name()?,
        programs: vec![(which.program().to_owned(), content)],
        links: Vec::new(),
        // For sockets and temporary files where the root is not read-only.
        folders: vec!["tmp".into(), "run/undermesh".into()],
        entry_point: vec![format!("/{}", which.program())],
        // The agent needs root, with few capabilities; what runs the gateway as somebody else is its manifest.
        user: match which {
            Which::Undermesh => String::new(),
            Which::Bookinfo => "65532:65532".into(),
        },
        labels: vec![
            ("org.opencontainers.image.title".into(), which.program().into()),
            ("org.opencontainers.image.version".into(), version()?),
            ("org.opencontainers.image.licenses".into(), "Apache-2.0".into()),
        ],
    };
    let path = program.with_extension("tar");
    fs::write(&path, image.archive()?).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Builds the image's program alone, which runs on any machine, and gives its path. Beside undermesh is its other name,
/// `kubectl-undermesh`: the folder in the PATH makes `kubectl undermesh`.
pub(crate) fn command(which: Which, dev: bool) -> anyhow::Result<PathBuf> {
    let built = program(which, dev)?;
    let folder = target_folder()?.join("image");
    fs::create_dir_all(&folder)?;
    let path = folder.join(which.program());
    // By another name first: the old one may be running.
    let part = folder.join(format!("{}.{}.part", which.program(), std::process::id()));
    fs::copy(&built, &part).with_context(|| format!("cannot copy {}", built.display()))?;
    fs::rename(&part, &path)?;
    if which == Which::Undermesh {
        match symlink("undermesh", folder.join("kubectl-undermesh")) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e.into()),
            _ => {}
        }
    }
    Ok(path)
}

impl Which {
    fn program(self) -> &'static str {
        match self {
            Self::Undermesh => "undermesh",
            Self::Bookinfo => "bookinfo",
        }
    }

    /// Repository and tag, as the chart names it.
    pub(crate) fn name(self) -> anyhow::Result<String> {
        Ok(format!("{REPOSITORY}/{}:{}", self.program(), version()?))
    }
}

/// The workspace's version.
pub(crate) fn version() -> anyhow::Result<String> {
    let metadata = metadata(false)?;
    let own = items(&metadata, "packages").find(|p| text(p, "name") == "undermesh");
    Ok(text(own.context("there is no package undermesh")?, "version").to_owned())
}

fn target_folder() -> anyhow::Result<PathBuf> {
    Ok(PathBuf::from(text(&metadata(false)?, "target_directory")))
}

/// Builds the static binary and gives its path.
fn program(which: Which, dev: bool) -> anyhow::Result<PathBuf> {
    let target = target()?;
    let mut command = cargo(["build", "--locked", "--bins", "--package", which.program()]);
    // With a target named, the flags are not for build scripts and macros, which cannot be static.
    command.args(["--target", &target]);
    if !dev {
        command.arg("--release");
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags()?).env_remove("RUSTFLAGS");
    command.env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo").env("CARGO_PROFILE_DEV_STRIP", "debuginfo");
    let status = command.status().with_context(|| line(&command))?;
    ensure!(status.success(), "failed ({status}): {}", line(&command));
    let profile = if dev { "debug" } else { "release" };
    Ok(target_folder()?.join(target).join(profile).join(which.program()))
}

/// The compiler's own.
fn target() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = said.lines().find_map(|l| l.strip_prefix("host: ")).context("rustc -vV names no host")?;
    ensure!(host.ends_with("-linux-gnu"), "images are built on Linux with glibc, not on {host}");
    Ok(host.to_owned())
}

/// Static, and without the paths of this machine: they get into binaries by messages of panics.
fn flags() -> anyhow::Result<OsString> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let registries = home.context("neither CARGO_HOME nor HOME is set")?.join("registry/src");
    let mut folders: Vec<PathBuf> =
        fs::read_dir(&registries).into_iter().flatten().flatten().map(|e| e.path()).collect();
    folders.sort();
    let mut flags = OsString::from("-Ctarget-feature=+crt-static");
    let mut remap = |from: &Path, to: &str| {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(from);
        flags.push(format!("={to}"));
    };
    remap(&root(), "/undermesh");
    for folder in &folders {
        remap(folder, "/crates");
    }
    Ok(flags)
}

/// Runs it where there is nothing else at all.
fn must_be_static(program: &Path) -> anyhow::Result<()> {
    if !rustix_is_root() {
        // Only root may change the root; the flags above make it static all the same.
        return Ok(());
    }
    let folder = target_folder()?.join("image/empty");
    fs::create_dir_all(&folder)?;
    let name = program.file_name().context("a program has a name")?;
    fs::copy(program, folder.join(name))?;
    let mut command = Command::new("chroot");
    command.arg(&folder).arg(Path::new("/").join(name)).arg("--version").stdout(Stdio::null());
    let status = command.status().context("cannot run chroot")?;
    fs::remove_dir_all(&folder)?;
    ensure!(status.success(), "{} does not run without files beside it ({status})", program.display());
    Ok(())
}

fn rustix_is_root() -> bool {
    // The owner of what this process makes, without another dependency.
    std::os::unix::fs::MetadataExt::uid(&match fs::metadata("/proc/self") {
        Ok(metadata) => metadata,
        Err(_) => return false,
    }) == 0
}
