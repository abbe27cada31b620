//! Running programs to their end.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use undermesh_tests::last_lines;

/// Runs `command` with its output going to ours.
///
/// # Errors
/// It cannot be started or ends with another code than 0.
pub fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", line(command)))?;
    if !status.success() {
        bail!("failed ({status}): {}", line(command));
    }
    Ok(())
}

/// Runs `command` and gives its standard output.
///
/// # Errors
/// As [`succeed`]; the message has the last lines of its standard error.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {}", line(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("failed ({}): {}; it said: {}", output.status, line(command), last_lines(&said, 15));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `kubectl apply --server-side` of the objects in `text`.
///
/// # Errors
/// kubectl's own, which went to our standard error.
pub fn apply(mut kubectl: Command, text: &str) -> anyhow::Result<()> {
    kubectl.args(["apply", "--server-side", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = kubectl.spawn().with_context(|| format!("cannot run {}", line(&kubectl)))?;
    child.stdin.take().context("it is piped")?.write_all(text.as_bytes())?;
    let status = child.wait()?;
    ensure!(status.success(), "kubectl apply failed ({status})");
    Ok(())
}

/// As one would type it.
pub fn line(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    command.get_args().fold(program, |all, one| format!("{all} {}", one.to_string_lossy()))
}
