//! A process inside a namespace and a cgroup, with its output kept in files.
//!
//! The namespace is inherited from the thread that starts it. The cgroup is the harness' work: a shell waits for the end
//! of its input while the harness moves it, then becomes the program. So all of the program's sockets belong to the pod's
//! cgroup (a socket keeps the cgroup its maker was in at `socket()`), and whoever kills the cgroup gets the process. A
//! `pre_exec` hook would save the shell and cost `unsafe`.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::netns::NetNs;
use crate::wait::wait_until;

/// Becomes its arguments once its input ends.
const WAIT_AND_BECOME: &str = r#"read -r _; exec "$@" </dev/null"#;

/// Where a process lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) netns: &'a NetNs,
    pub(crate) cgroup: &'a Path,
    pub(crate) logs: &'a Path,
}

/// All children of this process that somebody still holds, see [`reap_ended`].
static CHILDREN: Mutex<Vec<Weak<Mutex<Child>>>> = Mutex::new(Vec::new());

/// A running process; dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    child: Arc<Mutex<Child>>,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// How a process ended and all it wrote.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// Everything written to standard output; bytes that are not UTF-8 replaced.
    pub stdout: String,
    /// Likewise for standard error.
    pub stderr: String,
}

impl Process {
    /// Starts `command` at `place`. Its program, arguments, environment and working folder are kept; its input is empty
    /// and its output goes to `<name>.out` and `<name>.err` in the logs folder.
    pub(crate) fn start(place: Place<'_>, name: &str, command: &Command) -> anyhow::Result<Self> {
        let stdout = place.logs.join(format!("{name}.out"));
        let stderr = place.logs.join(format!("{name}.err"));
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", WAIT_AND_BECOME, "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            shell.current_dir(folder);
        }
        shell
            .stdin(Stdio::piped())
            .stdout(File::create(&stdout).with_context(|| format!("cannot make {}", stdout.display()))?)
            .stderr(File::create(&stderr).with_context(|| format!("cannot make {}", stderr.display()))?)
            // Its own group: Ctrl-C on the terminal reaches the harness alone, which ends things in order.
            .process_group(0);
        let mut child = place
            .netns
            .run(move || shell.spawn().context("cannot start /bin/sh"))
            .with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take();
        let (pid, child) = (child.id(), Arc::new(Mutex::new(child)));
        // Owned from here on, so that an error below ends the process.
        let process = Self { name: name.to_owned(), pid, child, stdout, stderr };
        let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|c| c.strong_count() > 0);
        children.push(Arc::downgrade(&process.child));
        drop(children);
        std::fs::write(place.cgroup.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("cannot put {name} into cgroup {}", place.cgroup.display()))?;
        drop(input);
        Ok(process)
    }

    /// The name given at the start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, as the kernel and /proc know it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it wrote to standard output so far, after so many bytes: for those who follow much of it.
    pub fn stdout_from(&self, start: u64) -> String {
        let mut rest = Vec::new();
        let read = File::open(&self.stdout).and_then(|mut file| {
            file.seek(SeekFrom::Start(start))?;
            file.read_to_end(&mut rest)
        });
        read.map(|_| String::from_utf8_lossy(&rest).into_owned()).unwrap_or_default()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(lock(&self.child).try_wait()?)
    }

    /// An error with its last words if it has ended; for loops that wait for a sign from it.
    pub fn must_run(&mut self) -> anyhow::Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended ({status}); it said: {}", self.name, last_lines(&self.stderr(), 15))
            }
        }
    }

    /// Waits until standard output or standard error contains `text`.
    pub fn wait_for_text(&mut self, text: &str, limit: Duration) -> anyhow::Result<()> {
        let what = format!("{} to say {text:?}", self.name);
        wait_until(limit, &what, || {
            // Looked at before the output, so that the last words of a process that ended still count.
            let running = self.must_run();
            if self.stdout().contains(text) || self.stderr().contains(text) {
                return Ok(Some(()));
            }
            running.map(|()| None)
        })
    }

    /// Waits for its end; one that takes longer than `limit` is killed and an error.
    pub fn finish(mut self, limit: Duration) -> anyhow::Result<Finished> {
        let what = format!("the end of {}", self.name);
        let status = wait_until(limit, &what, || self.ended())
            .with_context(|| format!("it said: {}", last_lines(&self.stderr(), 15)))?;
        Ok(Finished { status, stdout: self.stdout(), stderr: self.stderr() })
    }

    /// SIGTERM, and waits for the end; one that is not gone within `grace` is killed and an error.
    pub fn terminate(self, grace: Duration) -> anyhow::Result<Finished> {
        self.signal(Signal::TERM)?;
        self.finish(grace)
    }

    /// SIGKILL, as the out-of-memory killer does it, and waits for the end.
    pub fn kill(self) -> anyhow::Result<Finished> {
        self.signal(Signal::KILL)?;
        self.finish(Duration::from_secs(10))
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no such pid")?;
        // The child is not reaped while we hold it, so the pid cannot be somebody else's.
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended and was waited for, which is what we want.
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Takes note of the end of every child that has ended. A cgroup stays populated by a dead process until its parent has
/// waited for it, so whoever removes cgroups must not wait for the owner of a [`Process`] to look. The status is kept.
pub(crate) fn reap_ended() {
    let children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for child in children.iter().filter_map(Weak::upgrade) {
        // An error means that it was waited for already.
        let _ = lock(&child).try_wait();
    }
}

fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Finished {
    /// Itself, or an error with its last words if it did not exit with 0.
    pub fn success(self, what: &str) -> anyhow::Result<Self> {
        if !self.status.success() {
            bail!("{what} failed ({}); it said: {}", self.status, last_lines(&self.stderr, 15));
        }
        Ok(self)
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
}

/// The last `count` lines, or a word that there are none.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    match lines.len() {
        0 => "nothing".into(),
        n => format!("\n  {}", lines.get(n.saturating_sub(count)..).unwrap_or_default().join("\n  ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_the_last_and_never_more() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "\n  b\n  c");
        assert_eq!(last_lines("a\n", 2), "\n  a");
        assert_eq!(last_lines("\n", 2), "nothing");
    }
}
