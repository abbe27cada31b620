//! Running programs to their end.

use std::process::Command;

use anyhow::{Context as _, bail};
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

/// As one would type it.
pub fn line(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    command.get_args().fold(program, |all, one| format!("{all} {}", one.to_string_lossy()))
}
