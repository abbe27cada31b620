//! What keeps an agent or a gateway from starting is said before anything of the machine is touched. Real binary, no root.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest start on a machine busy with a build.
const START: Duration = Duration::from_secs(30);

/// A folder with an empty configuration and a place for the socket.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("undermesh-start-{}-{name}", std::process::id()));
        std::fs::create_dir_all(path.join("mesh")).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }

    fn command(&self, role: &str, config: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undermesh"));
        command.args([role, "--workers", "1"]).arg("--config").arg(config);
        command.arg("--admin-socket").arg(self.socket());
        if role == "gateway" {
            command.args(["--labels", "istio=ingressgateway"]);
        }
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Ends it, whatever the test found.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn refused(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    text
}

#[test]
fn whoever_has_the_admin_socket_keeps_it_and_a_second_one_touches_nothing() {
    let place = Place::new("second");
    let mesh = place.0.join("mesh");
    let first = place.command("gateway", &mesh).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _first = Running(first);
    let status = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undermesh"));
        command.arg("status").arg("--admin-socket").arg(place.socket()).output().unwrap()
    };
    let began = Instant::now();
    while !status().status.success() {
        assert!(began.elapsed() < START, "the first one does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    // The agent would need root for its next step, so what it says shows that it did not come to it.
    for role in ["agent", "gateway"] {
        let text = refused(&place.command(role, &mesh).output().unwrap());
        assert!(text.contains("another agent answers at"), "{role}: {text}");
    }
    assert!(status().status.success(), "the first one goes on");
}

#[test]
fn a_mistyped_folder_ends_the_start() {
    let place = Place::new("folder");
    for role in ["agent", "gateway"] {
        let text = refused(&place.command(role, Path::new("./nix")).output().unwrap());
        assert!(text.contains("there is no configuration at ./nix"), "{role}: {text}");
        assert_eq!(text.matches("os error").count(), 1, "{role}: {text}");
        assert!(!place.socket().exists(), "{role}");
    }
}
