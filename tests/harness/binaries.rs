//! The programs under test, as cargo builds them.
//!
//! `CARGO_BIN_EXE_*` exists only for binaries of the same package, and guessing paths in the target folder runs yesterday's
//! program. So cargo is asked: a build that is up to date takes a fraction of a second, and its messages name the files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, anyhow, ensure};

/// Which cargo profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build, slow to run.
    Dev,
    /// What users run.
    Release,
}

/// The mesh and the application that is run on it.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `undermesh`
    pub undermesh: PathBuf,
    /// `bookinfo`: every role of the example application, and the clients tests use.
    pub bookinfo: PathBuf,
}

impl Binaries {
    /// Builds both, cargo's progress going to standard error.
    pub fn build(profile: Profile) -> anyhow::Result<Self> {
        let built = cargo_build(profile, &["undermesh", "bookinfo"], Stdio::inherit())?;
        Ok(Self { undermesh: found(&built, "undermesh")?, bookinfo: found(&built, "bookinfo")? })
    }

    /// Those named by `UNDERMESH_BIN` and `BOOKINFO_BIN`, if both are.
    pub fn given() -> Option<Self> {
        let one = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        Some(Self { undermesh: one("UNDERMESH_BIN")?, bookinfo: one("BOOKINFO_BIN")? })
    }

    /// The programs for tests: those named by `UNDERMESH_BIN` and `BOOKINFO_BIN`, the rest built in the dev profile, once
    /// per process.
    pub fn for_tests() -> anyhow::Result<&'static Self> {
        static BUILT: OnceLock<Result<Binaries, String>> = OnceLock::new();
        BUILT
            .get_or_init(|| {
                let one = |variable: &str, package: &str| match std::env::var_os(variable) {
                    Some(path) => Ok(PathBuf::from(path)),
                    None => {
                        cargo_build(Profile::Dev, &[package], Stdio::null()).and_then(|b| found(&b, package))
                    }
                };
                let both = one("UNDERMESH_BIN", "undermesh")
                    .and_then(|undermesh| Ok(Self { undermesh, bookinfo: one("BOOKINFO_BIN", "bookinfo")? }));
                both.map_err(|e| format!("{e:#}"))
            })
            .as_ref()
            .map_err(|e| anyhow!("{e}"))
    }
}

/// Name and path of each binary that the packages have.
fn cargo_build(
    profile: Profile,
    packages: &[&str],
    progress: Stdio,
) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    cargo.args(["build", "--bins", "--message-format", "json-render-diagnostics"]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    let output = cargo.stderr(progress).stdin(Stdio::null()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo build of {} failed", packages.join(", "));
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(executable).collect())
}

/// The binary that a line of cargo's messages tells of, if it does.
/// <https://doc.rust-lang.org/cargo/reference/external-tools.html#artifact-messages>
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), path.into()))
}

fn found(built: &[(String, PathBuf)], name: &str) -> anyhow::Result<PathBuf> {
    let one = built.iter().find(|(n, _)| n == name);
    one.map(|(_, path)| path.clone()).with_context(|| format!("cargo built no binary {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_executable_from_cargos_messages_and_nothing_else() {
        let binary = r#"{"reason":"compiler-artifact","target":{"name":"undermesh"},"executable":"/t/debug/undermesh"}"#;
        assert_eq!(executable(binary), Some(("undermesh".into(), "/t/debug/undermesh".into())));
        let library = r#"{"reason":"compiler-artifact","target":{"name":"undermesh"},"executable":null}"#;
        for line in [library, r#"{"reason":"build-finished","success":true}"#, "not json", ""] {
            assert_eq!(executable(line), None, "{line}");
        }
    }
}
