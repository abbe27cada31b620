//! `cargo xtask fuzz`: libFuzzer on each target of `tests/fuzz`, one after the other. Stable Rust: coverage counters are a pass
//! of LLVM that the compiler runs when told to; the engine itself is built from its sources (a C++ compiler is needed).
//!
//! What it finds goes to `target/fuzz`; an input that breaks a target is copied to the corpus, where every run of the tests
//! replays it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::cargo::{line, root, succeed};

/// The names of `undermesh_fuzz::TARGETS`.
const TARGETS: [&str; 3] = ["yaml", "config", "head"];

/// Look for inputs that break what must hold for any
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz                          each target for ten minutes
  cargo xtask fuzz --minutes 1 yaml         one of them, shortly")]
pub(crate) struct Args {
    /// How long each target runs
    #[arg(long, default_value_t = 10)]
    minutes: u32,
    /// Of yaml, config, head; all if none is given
    targets: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(unknown) = args.targets.iter().find(|target| !TARGETS.contains(&target.as_str())) {
        bail!("no target {unknown}; there are {}", TARGETS.join(", "));
    }
    let (root, folder) = (root(), root().join("target/fuzz"));
    let flags = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                 -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build
        .current_dir(root.join("tests/fuzz/engine"))
        .env("RUSTFLAGS", flags)
        .args(["build", "--release", "--locked", "--target-dir"])
        .arg(&folder)
        // Named, so that build scripts and macros, which run without the engine, are built without counters.
        .args(["--target", &host()?]);
    succeed(&mut build)?;
    let mut broken = Vec::new();
    let wanted =
        TARGETS.iter().filter(|it| args.targets.is_empty() || args.targets.iter().any(|own| own == *it));
    for target in wanted {
        if !one(&root, &folder, target, args.minutes)? {
            broken.push(*target);
        }
    }
    if !broken.is_empty() {
        bail!(
            "inputs that break {} are now in tests/fuzz/corpus; `cargo test -p undermesh-fuzz` replays them",
            broken.join(", ")
        );
    }
    Ok(())
}

fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc names no host")
}

/// Answers whether the target held.
fn one(root: &Path, folder: &Path, target: &str, minutes: u32) -> anyhow::Result<bool> {
    let found = folder.join("found").join(target);
    let corpus = root.join("tests/fuzz/corpus").join(target);
    std::fs::create_dir_all(&found)?;
    let mut fuzz = Command::new(folder.join(host()?).join("release").join(target));
    fuzz.arg(&found)
        .arg(&corpus)
        .arg(format!("-max_total_time={}", minutes * 60))
        .args(["-timeout=20", "-rss_limit_mb=2048", "-max_len=4096", "-print_final_stats=1"])
        // Beside the seeds: the next run of the tests replays what breaks.
        .arg(format!("-artifact_prefix={}/", corpus.display()));
    println!("== {target} for {minutes} min ==");
    let status = fuzz.status().with_context(|| format!("cannot run {}", line(&fuzz)))?;
    Ok(status.success())
}
