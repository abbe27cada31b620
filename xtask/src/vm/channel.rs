//! Commands inside the machine, by its second serial port; its other end is `guest/commands.sh`.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// The first word of the other end.
const UP: &str = "@@up\n";

pub(super) struct Channel {
    stream: UnixStream,
    /// Of the last command.
    number: u32,
}

impl Channel {
    pub(super) fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).context("the machine's second serial port")?;
        Ok(Self { stream, number: 0 })
    }

    /// Waits until a machine that starts listens: what is said before is lost.
    pub(super) fn wait_up(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.read_until(limit, |said| said.contains(UP).then_some(()))
    }

    /// What a script writes; an error with it if its exit code is not 0.
    pub(super) fn run(&mut self, script: &str, limit: Duration) -> anyhow::Result<String> {
        self.number += 1;
        // An empty line first: whatever was half said before is ended by it.
        self.stream.write_all(format!("\n{} {}\n", self.number, one_line(script)).as_bytes())?;
        let number = self.number;
        let (output, code) = self.read_until(limit, |said| answer(said, number))?;
        ensure!(code == 0, "in the machine, exit code {code}: {}", output.trim());
        Ok(output)
    }

    fn read_until<T>(&mut self, limit: Duration, found: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
        let end = Instant::now() + limit;
        let mut said = Vec::new();
        loop {
            if let Some(found) = found(&String::from_utf8_lossy(&said)) {
                return Ok(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the machine said nothing of the kind in {limit:.0?}");
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut buffer = [0; 4096];
            let read = match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the machine has ended"),
                Ok(read) => read,
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                    ) =>
                {
                    0
                }
                Err(e) => return Err(e).context("the machine's second serial port"),
            };
            said.extend(buffer.get(..read).unwrap_or_default());
        }
    }
}

/// For the shell's `printf %b`.
fn one_line(script: &str) -> String {
    script.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// Output and exit code of the command, once both are there.
fn answer(said: &str, number: u32) -> Option<(String, i32)> {
    let (output, rest) = said.split_once(&format!("\n@@ended {number} "))?;
    let code = rest.strip_suffix('\n')?.trim().parse().ok()?;
    // Words of the time before: of its start, or of a command that nobody waited for.
    let output = output.strip_prefix(UP).unwrap_or(output);
    Some((output.to_owned(), code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_one_line_that_the_shell_reads_back() {
        let script = "set -e\necho 'a\\b' \u{2713}\n";
        let line = one_line(script);
        assert!(!line.contains('\n'), "{line}");
        let read =
            std::process::Command::new("bash").args(["-c", "printf '%b' \"$1\"", "bash", &line]).output();
        assert_eq!(read.expect("bash").stdout, script.as_bytes());
    }

    #[test]
    fn an_answer_is_whole_or_none() {
        assert_eq!(answer("hello\n\n@@ended 7 0\n", 7), Some(("hello\n".into(), 0)));
        assert_eq!(answer("@@up\nno\n\n@@ended 7 12\n", 7), Some(("no\n".into(), 12)));
        for half in ["hello\n", "hello\n\n@@ended 7 1", "hello\n\n@@ended 6 0\n"] {
            assert_eq!(answer(half, 7), None, "{half}");
        }
    }
}
