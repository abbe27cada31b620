//! `cargo xtask lint`: formatting, clippy, words that must not stay, and the licences and sources of what we build on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{bail, ensure};

use crate::cargo::{cargo, in_ci, line, root, succeed};

/// Check formatting, clippy, leftover markers, and licences (cargo-deny)
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask lint
  cargo xtask lint --install     also installs cargo-deny, into the target folder, if it is not there")]
pub(crate) struct Args {
    /// Install cargo-deny if it is missing (in CI this is the default)
    #[arg(long)]
    pub(crate) install: bool,
}

/// Needs no newer Rust than ours.
const DENY_VERSION: &str = "0.20.2";
/// What marks work that is not done. In two parts, or this file would be the first to be found.
const MARKERS: [&str; 5] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
];

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    // All of them, whatever the first says: one run shows everything that has to be put right.
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    let clean = |()| "clean";
    let outcomes = [
        ("formatting (cargo fmt --all)", succeed(&mut cargo(["fmt", "--all", "--check"])).map(clean)),
        ("markers", markers()),
        ("clippy", succeed(&mut cargo(clippy)).map(clean)),
        ("licences", licences(args.install || in_ci())),
    ];
    let mut failed = Vec::new();
    for (name, outcome) in outcomes {
        match outcome {
            Ok(word) => println!("lint: {name}: {word}"),
            Err(e) => {
                println!("lint: {name}: {e:#}");
                failed.push(name);
            }
        }
    }
    ensure!(failed.is_empty(), "lint: {}", failed.join(", "));
    Ok(())
}

/// Unfinished work in what git tracks. Says `clean`, or why it did not look.
fn markers() -> anyhow::Result<&'static str> {
    let listed = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "-z", "*.rs", "*.toml", "*.sh"])
        .output()?;
    // Without git (a source archive) there is no list of what is ours; that is not an error of the source.
    if !listed.status.success() {
        return Ok("SKIP: not a git checkout");
    }
    let mut found = Vec::new();
    for name in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|n| !n.is_empty()) {
        // A tracked file may have been deleted and not yet committed.
        let Ok(text) = fs::read_to_string(root().join(name)) else { continue };
        found.extend(unfinished(name, &text));
    }
    for one in &found {
        println!("  {one}");
    }
    ensure!(found.is_empty(), "{} markers of unfinished work", found.len());
    Ok("clean")
}

fn unfinished(name: &str, text: &str) -> Vec<String> {
    let marked = text.lines().enumerate().filter(|(_, l)| MARKERS.iter().any(|m| has_word(l, m)));
    marked.map(|(n, l)| format!("{name}:{}: {}", n + 1, l.trim())).collect()
}

/// `word` in `line`, not as a part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|s| s.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|s| s.chars().next());
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !inside(before) && (word.ends_with('(') || !inside(after))
    })
}

/// cargo-deny, with deny.toml. Says `clean`, or why it did not look; in CI cargo-deny is installed, so it always looks.
fn licences(install: bool) -> anyhow::Result<&'static str> {
    let Some(deny) = deny(install)? else {
        return Ok("SKIP: cargo-deny is not installed; cargo xtask lint --install brings it");
    };
    // Advisories need a database from the network, see deny.toml.
    let mut check = Command::new(deny);
    check.current_dir(root()).args([
        "--locked",
        "--log-level",
        "error",
        "check",
        "licenses",
        "bans",
        "sources",
    ]);
    succeed(&mut check).map(|()| "clean")
}

fn deny(install: bool) -> anyhow::Result<Option<PathBuf>> {
    let tools = target().join("tools");
    let private = tools.join("bin/cargo-deny");
    for candidate in [PathBuf::from("cargo-deny"), private.clone()] {
        let works =
            Command::new(&candidate).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if works.is_ok_and(|s| s.success()) {
            return Ok(Some(candidate));
        }
    }
    if !install {
        return Ok(None);
    }
    println!("installing cargo-deny {DENY_VERSION} into {} (some minutes, once)", tools.display());
    // Unoptimised: it runs for a second and would compile for minutes.
    let mut command = cargo(["install", "cargo-deny", "--debug", "--locked", "--version", DENY_VERSION]);
    command.arg("--root").arg(&tools);
    if !command.status().is_ok_and(|s| s.success()) {
        bail!("cannot install cargo-deny: {} failed", line(&command));
    }
    Ok(Some(private))
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |t| Path::new(&t).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_found_as_words_and_not_inside_others() {
        let [one, _, three, macro_call, _] = MARKERS;
        for (line, want) in [
            (format!("// {one}: later"), true),
            (format!("    {macro_call}\"later\")"), true),
            (format!("{three} here"), true),
            ("let mastodon = 1;".into(), false),
            (format!("A{three}Y"), false),
            (format!("{one}_LIST"), false),
            ("nothing".into(), false),
        ] {
            assert_eq!(!unfinished("a.rs", &line).is_empty(), want, "{line}");
        }
    }

    #[test]
    fn a_marker_is_reported_with_its_line() {
        let text = format!("fine\n  // {} x\n", MARKERS[1]);
        assert_eq!(unfinished("a/b.rs", &text), [format!("a/b.rs:2: // {} x", MARKERS[1])]);
    }
}
