//! `cargo xtask fuzz`: libFuzzer on the targets of `tests/fuzz`, one process each, side by side. Stable Rust: coverage counters
//! are a pass of LLVM that the compiler runs when told to; the engine itself is built from its sources (a C++ compiler is needed).
//!
//! What it finds goes to `target/fuzz`; an input that breaks a target is copied to the corpus, where every run of the tests
//! replays it. See `tests/fuzz/README.md`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context as _, bail};

use crate::cargo::{line, root, succeed};

/// The names of `undermesh_fuzz::TARGETS`.
const TARGETS: [&str; 3] = ["yaml", "config", "head"];

/// Look for inputs that break what must hold for any
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz                          every target for ten minutes
  cargo xtask fuzz --minutes 1 yaml         one of them, shortly")]
pub(crate) struct Args {
    /// How long the targets run
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
    write_seeds(&root, &folder.join("seeds/yaml"))?;
    let wanted =
        TARGETS.iter().filter(|it| args.targets.is_empty() || args.targets.iter().any(|own| own == *it));
    let mut running = Vec::new();
    for target in wanted {
        running.push((*target, start(&root, &folder, target, args.minutes)?));
    }
    let mut broken = Vec::new();
    for (target, mut child) in running {
        let log = folder.join(target).with_extension("log");
        if !child.wait()?.success() {
            broken.push(target);
        }
        println!("== {target}: {} ==\n{}", log.display(), end(&fs::read_to_string(&log)?));
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

/// Starts a target; what it says goes to a log beside what it finds.
fn start(root: &Path, folder: &Path, target: &str, minutes: u32) -> anyhow::Result<Child> {
    let (found, seeds) = (folder.join("found").join(target), folder.join("seeds").join(target));
    let corpus = root.join("tests/fuzz/corpus").join(target);
    fs::create_dir_all(&found)?;
    let mut fuzz = Command::new(folder.join(host()?).join("release").join(target));
    fuzz.arg(&found).arg(&corpus);
    if seeds.is_dir() {
        fuzz.arg(seeds);
    }
    let dictionary = root.join("tests/fuzz/dictionaries").join(target).with_extension("dict");
    if dictionary.is_file() {
        fuzz.arg(format!("-dict={}", dictionary.display()));
    }
    fuzz.arg(format!("-max_total_time={}", minutes * 60))
        .args([
            "-timeout=20",
            "-report_slow_units=20",
            "-rss_limit_mb=2048",
            "-max_len=4096",
            "-print_final_stats=1",
        ])
        // Beside the seeds: the next run of the tests replays what breaks.
        .arg(format!("-artifact_prefix={}/", corpus.display()));
    let log = File::create(folder.join(target).with_extension("log"))?;
    println!("== {target} for {minutes} min ==");
    fuzz.stdout(log.try_clone()?).stderr(log).spawn().with_context(|| format!("cannot run {}", line(&fuzz)))
}

/// What the examples and the configurations of the conformance cases say, a file each: the names of all fields.
fn write_seeds(root: &Path, into: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(into)?;
    for path in files(&root.join("tests/conformance/cases"))? {
        let text = fs::read_to_string(&path)?;
        for (number, rest) in text.split("\n  config:\n").skip(1).enumerate() {
            let config = documents(rest);
            fs::write(into.join(format!("{}-{number}", stem(&path))), config)?;
        }
    }
    for folder in files(&root.join("deploy/examples"))?.iter().filter(|path| path.is_dir()) {
        for path in files(folder)?.iter().filter(|path| path.extension().is_some_and(|it| it == "yaml")) {
            fs::copy(path, into.join(format!("{}-{}", stem(folder), stem(path))))?;
        }
    }
    Ok(())
}

/// The list that `text` begins with, as it is in a case: each item a document.
fn documents(text: &str) -> String {
    let mut all = String::new();
    for line in text.lines() {
        if let Some(first) = line.strip_prefix("  - ") {
            all += "---\n";
            all += first;
        } else if let Some(more) = line.strip_prefix("    ") {
            all += more;
        } else {
            break;
        }
        all.push('\n');
    }
    all
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The last lines: what broke if something did, and the numbers.
fn end(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cases_configuration_is_documents() {
        let rest = "  - kind: A\n    spec:\n      a: b\n  - kind: B\n  requests:\n  - id: a\n";
        assert_eq!(super::documents(rest), "---\nkind: A\nspec:\n  a: b\n---\nkind: B\n");
    }
}
