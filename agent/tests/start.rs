//! What keeps an agent or a gateway from starting is said before anything of the machine is touched. Real binary, no root.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
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

#[test]
fn whoever_holds_connections_to_the_metrics_keeps_no_probe_out_and_a_head_has_an_end() {
    let place = Place::new("metrics");
    // Free a moment ago, and outside of what the system gives to others by itself only by luck: the start says if it was not.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = place.command("gateway", &place.0.join("mesh"));
    command.arg("--metrics-address").arg(address.to_string());
    let _gateway = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let probe = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /healthz/live HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let began = Instant::now();
    while probe().is_err() {
        assert!(began.elapsed() < START, "it does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut held: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stream in &mut held {
        // Those that were let go may say so here or later.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nx: ");
    }
    assert!(probe().unwrap().starts_with("HTTP/1.1 200"));
    assert!(has_ended(&mut held[0]), "the oldest was let go");
    let mut long = TcpStream::connect(address).unwrap();
    let _ = long.write_all(&[b"GET /metrics HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 64 << 10]].concat());
    assert!(has_ended(&mut long), "a head without an end was read on");
    assert!(!has_ended(&mut held[199]), "one of the newest goes on, within its minute");
}

/// By an answer and an end, or by a reset; not by our own patience.
fn has_ended(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let read = stream.read_to_end(&mut Vec::new());
    !read.is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}
