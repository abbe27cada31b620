//! `cargo xtask bpf`: builds the kernel programs into the committed object; `--check` proves that the committed bytes are
//! what the source builds.
//!
//! The object is committed so that `cargo build` needs neither a BPF toolchain nor LLVM (docs/bpf.md). Byte for byte the
//! same object comes out of any folder and any CARGO_HOME, as long as the tools have the versions written beside it:
//! rustc and a prebuilt `core` for BPF come from Debian's `rustc-web`, so no nightly and no `-Zbuild-std`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

const RUSTC: &str = "/usr/bin/rustc";
const CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";
const OBJCOPY: &str = "/usr/bin/llvm-objcopy-22";
const LLVM: &str = "/usr/lib/llvm-22";
const PACKAGES: [&str; 3] = ["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"];
/// The newest that works with LLVM 22 and Rust 1.95.
const LINKER_VERSION: &str = "0.13.0";
const TARGET: &str = "bpfel-unknown-none";

/// Build the kernel programs (needs Debian's rustc-web and LLVM 22, which this installs)
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compare with the committed object and change nothing; exit 1 if it differs
    #[arg(long)]
    check: bool,
    /// Build with aya-log lines for debugging, beside the committed object, which stays as it is
    #[arg(long, conflicts_with = "check")]
    log: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let root = root()?;
    let linker = toolchain()?;
    let target_dir = target_dir(&root);
    let built = build(&root, &target_dir, &linker, args)?;
    if args.log {
        let path = target_dir.join("undermesh-log.o");
        fs::copy(&built, &path)?;
        println!("{}: run the agent with UNDERMESH_BPF_OBJECT naming it", path.display());
        return Ok(());
    }

    let committed = root.join("agent/redirect/bpf/undermesh.o");
    let note = root.join("agent/redirect/bpf/undermesh.o.txt");
    let description = describe(&built, &linker)?;
    if args.check {
        return check(&built, &description, &committed, &note);
    }
    if let Some(folder) = committed.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(&built, &committed)?;
    fs::write(&note, &description)?;
    print!("{}:\n{description}", committed.display());
    Ok(())
}

fn root() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    ensure!(
        root.join("ebpf/Cargo.toml").is_file(),
        "{} is not this project's folder any more: run cargo xtask again, so that it is built anew",
        root.display()
    );
    Ok(root.to_owned())
}

/// Apart from the other builds: another compiler works here.
fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir)).join("bpf")
}

fn check(built: &Path, description: &str, committed: &Path, note: &Path) -> anyhow::Result<()> {
    let noted = fs::read_to_string(note).with_context(|| format!("cannot read {}", note.display()))?;
    let tools = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| !line.starts_with("sha256") && !line.starts_with("size"))
            .map(str::to_owned)
            .collect()
    };
    let (here, there) = (tools(description), tools(&noted));
    if here != there {
        bail!(
            "the committed object was built with other tools, and other tools give other bytes:\ncommitted:\n  {}\nhere:\n  {}\n\
             install those versions, or rebuild and commit with `cargo xtask bpf`",
            there.join("\n  "),
            here.join("\n  ")
        );
    }
    if fs::read(built)? != fs::read(committed)? {
        bail!(
            "{} is not what the source builds: run `cargo xtask bpf` and commit the result (this build is at {})",
            committed.display(),
            built.display()
        );
    }
    ensure!(noted == description, "{} does not describe the object beside it", note.display());
    println!("the committed object is what the source builds:\n{description}");
    Ok(())
}

/// Installs what is missing and gives the path of bpf-linker.
fn toolchain() -> anyhow::Result<PathBuf> {
    if [RUSTC, CORE, OBJCOPY, LLVM].iter().any(|path| !Path::new(path).exists()) {
        progress(&format!("installing {} (about 10 s)", PACKAGES.join(" ")));
        ensure!(
            Path::new("/usr/bin/apt-get").exists(),
            "the object is built with Debian's {}, and there is no apt-get here: run this in a Debian 12 container",
            PACKAGES.join(", ")
        );
        let install = || {
            let mut command = Command::new("apt-get");
            command.env("DEBIAN_FRONTEND", "noninteractive");
            command.args(["install", "-y", "--no-install-recommends"]).args(PACKAGES);
            command
        };
        if succeed(&mut install()).is_err() {
            progress("the package lists may be old: apt-get update");
            succeed(Command::new("apt-get").arg("update"))?;
            succeed(&mut install()).context("are you root, and is this Debian 12 or newer?")?;
        }
    }
    let linker = cargo_home()?.join("bin/bpf-linker");
    if output(Command::new(&linker).arg("--version")).ok().as_deref()
        != Some(&format!("bpf-linker {LINKER_VERSION}"))
    {
        progress(&format!("installing bpf-linker {LINKER_VERSION} (about 90 s)"));
        let mut command = cargo();
        command.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"]);
        // Its default is LLVM 23, newer than the compiler's 22.
        command.args(["--no-default-features", "--features", "llvm-22"]);
        // Not the caller's settings for the project's own builds.
        command.env("LLVM_PREFIX", LLVM).env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
        succeed(&mut command)?;
    }
    Ok(linker)
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) => Ok(home.into()),
        None => Ok(PathBuf::from(std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?)
            .join(".cargo")),
    }
}

/// Builds and strips; gives the path of the object.
fn build(root: &Path, target_dir: &Path, linker: &Path, args: &Args) -> anyhow::Result<PathBuf> {
    progress("building the kernel programs");
    let mut command = cargo();
    command.current_dir(root).args(["build", "--profile", "bpf"]);
    if args.check {
        command.arg("--locked");
    }
    command.args(["--package", "undermesh-ebpf", "--bin", "undermesh-bpf", "--target", TARGET]);
    if args.log {
        command.args(["--features", "log"]);
    }
    command.env("CARGO_TARGET_DIR", target_dir);
    // Debian's compiler brings `core` for BPF; aya-ebpf uses an unstable feature of it (asm for BPF).
    command.env("RUSTC", RUSTC).env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_ENCODED_RUSTFLAGS", rustflags(root)?).env_remove("RUSTFLAGS");
    // The target's linker is looked for by name; by path it would be part of what the object is made from.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = linker.parent().map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders)?);
    for wrapper in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        command.env_remove(wrapper);
    }
    succeed(&mut command)?;

    let object = target_dir.join("undermesh.o");
    let mut strip = Command::new(OBJCOPY);
    // DWARF goes; BTF, which the kernel needs, stays.
    strip.arg("--strip-debug").arg(target_dir.join(TARGET).join("bpf/undermesh-bpf")).arg(&object);
    succeed(&mut strip)?;
    Ok(object)
}

/// The flags, separated as cargo wants them. Paths get into the object by panic messages and BTF lines: the checkout and
/// the sources of the crates are renamed, so that neither where they lie nor what the registry's folder is called matters.
fn rustflags(root: &Path) -> anyhow::Result<OsString> {
    let mut flags = vec![
        "--cfg=bpf_target_arch=\"x86_64\"".into(),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        remapped(root, "/undermesh"),
    ];
    let registries = cargo_home()?.join("registry/src");
    let mut folders: Vec<PathBuf> = fs::read_dir(&registries)
        .with_context(|| format!("no crates in {}", registries.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    folders.sort();
    flags.extend(folders.iter().map(|folder| remapped(folder, "/crates")));
    Ok(flags.join(std::ffi::OsStr::new("\u{1f}")))
}

fn remapped(path: &Path, name: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(path);
    flag.push("=");
    flag.push(name);
    flag
}

/// What is written beside the object.
fn describe(object: &Path, linker: &Path) -> anyhow::Result<String> {
    let sum = output(Command::new("sha256sum").arg(object))?;
    let sum = sum.split_whitespace().next().context("sha256sum says nothing")?;
    let llvm = output(Command::new(OBJCOPY).arg("--version"))?;
    let llvm =
        llvm.lines().find(|line| line.contains("LLVM version")).context("llvm-objcopy has no version")?;
    Ok(format!(
        "sha256      {sum}\nsize        {}\nrustc       {}\nbpf-linker  {}\nllvm        {}\n",
        fs::metadata(object)?.len(),
        output(Command::new(RUSTC).arg("--version"))?,
        output(Command::new(linker).arg("--version"))?,
        llvm.trim(),
    ))
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn progress(what: &str) {
    eprintln!("bpf: {what}");
}
