//! QEMU's monitor (QMP): ending a machine's life in memory, and beginning it again.
//!
//! <https://www.qemu.org/docs/master/interop/qmp-spec.html>

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

/// For one answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Memory is written and read at the speed of the disk.
const MOVED: Duration = Duration::from_secs(180);

pub(super) struct Monitor {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Monitor {
    pub(super) fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).context("QEMU's monitor")?;
        stream.set_read_timeout(Some(ANSWER))?;
        let lines = BufReader::new(stream.try_clone()?);
        let mut monitor = Self { stream, lines };
        let greeting = monitor.line()?;
        ensure!(greeting.get("QMP").is_some(), "this is no monitor of QEMU: {greeting}");
        monitor.ask("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Waits until what was saved is in memory, and lets it go on.
    pub(super) fn go_on(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + MOVED;
        while self.status()? == "inmigrate" {
            ensure!(Instant::now() < end, "the saved memory is not back after {MOVED:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.ask("cont", &json!({})).map(drop)
    }

    /// Stops the machine and writes memory and devices to the file.
    pub(super) fn save(&mut self, to: &Path) -> anyhow::Result<()> {
        self.ask("stop", &json!({}))?;
        self.ask("migrate-set-parameters", &json!({"max-bandwidth": 100_000_000_000_u64}))?;
        self.ask("migrate", &json!({"uri": format!("exec:cat > {}", quoted(to))}))?;
        let end = Instant::now() + MOVED;
        loop {
            let said = self.ask("query-migrate", &json!({}))?;
            match said.get("status").and_then(Value::as_str) {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => bail!("the machine could not be saved: {said}"),
                _ => ensure!(Instant::now() < end, "the machine is not saved after {MOVED:?}: {said}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn status(&mut self) -> anyhow::Result<String> {
        let said = self.ask("query-status", &json!({}))?;
        Ok(said.get("status").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        let question = json!({"execute": command, "arguments": arguments});
        writeln!(self.stream, "{question}").with_context(|| format!("{command}: QEMU has ended"))?;
        loop {
            // What is neither is an event.
            let said = self.line().with_context(|| command.to_owned())?;
            if let Some(error) = said.get("error") {
                bail!("QEMU refused {command}: {error}");
            }
            if let Some(answer) = said.get("return") {
                return Ok(answer.clone());
            }
        }
    }

    fn line(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        ensure!(self.lines.read_line(&mut line)? > 0, "QEMU has ended");
        serde_json::from_str(&line).with_context(|| format!("not a line of QEMU's monitor: {line}"))
    }
}

/// For the shell that QEMU asks.
pub(super) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_to_the_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")), "'/a b/it'\\''s'");
    }
}
