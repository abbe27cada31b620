//! Whole-process tests that need no root: the real binary as a gateway on loopback, with a folder of YAML as its control
//! plane.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use undermesh_tests::Binaries;

const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway process with a folder of its own; both are gone when this is dropped.
struct Gateway {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Gateway {
    fn start(name: &str, write: impl FnOnce(&Path, u16)) -> Self {
        let folder = std::env::temp_dir().join(format!("undermesh-gateway-{}-{name}", std::process::id()));
        std::fs::create_dir_all(folder.join("mesh")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        write(&folder.join("mesh"), port);
        let child = Command::new(&Binaries::for_tests().unwrap().undermesh)
            .args(["gateway", "--labels", "istio=ingressgateway", "--bind", "127.0.0.1", "--workers", "2"])
            .arg("--config")
            .arg(folder.join("mesh"))
            .arg("--admin-socket")
            .arg(folder.join("admin.sock"))
            .arg("--access-log-file")
            .arg(folder.join("access.log"))
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let gateway = Self { child, folder, port };
        gateway.wait("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        gateway
    }

    fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let started = Instant::now();
        while !holds() {
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(started.elapsed() < PATIENCE, "waited in vain until {what}\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Status and body.
    fn get(&self, host: &str, path: &str) -> (u16, String) {
        let mut io = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        io.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(io, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        io.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn ask(&self, verb: &[&str]) -> (bool, String) {
        let output = Command::new(&Binaries::for_tests().unwrap().undermesh)
            .args(verb)
            .arg("--admin-socket")
            .arg(self.folder.join("admin.sock"))
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn gateway_yaml(port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: {{ name: gw, namespace: default }}
spec:
  selector: {{ istio: ingressgateway }}
  servers:
  - port: {{ number: {port}, name: http, protocol: HTTP }}
    hosts: [istio.k3s.local]
"
    )
}

fn answer_yaml(body: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: page, namespace: default }}
spec:
  hosts: [istio.k3s.local]
  gateways: [gw]
  http:
  - match: [{{ uri: {{ prefix: /page }} }}]
    directResponse: {{ status: 200, body: {{ string: {body} }} }}
"
    )
}

#[test]
fn a_change_of_a_file_is_in_force_within_a_second_and_a_broken_file_changes_nothing() {
    let gateway = Gateway::start("reload", |mesh, port| {
        std::fs::write(mesh.join("gateway.yaml"), gateway_yaml(port)).unwrap();
        std::fs::write(mesh.join("page.yaml"), answer_yaml("one")).unwrap();
    });
    assert_eq!(gateway.get("istio.k3s.local", "/page"), (200, "one".to_owned()));
    assert_eq!(gateway.get("istio.k3s.local", "/other"), (404, String::new()));
    assert_eq!(gateway.get("elsewhere", "/page").0, 404);

    std::fs::write(gateway.folder.join("mesh/page.yaml"), answer_yaml("two")).unwrap();
    let changed = Instant::now();
    gateway.wait("the change is in force", || gateway.get("istio.k3s.local", "/page").1 == "two");
    // A second is the promise; the rest is for a machine that is busy building.
    assert!(changed.elapsed() < Duration::from_secs(3), "it took {:?}", changed.elapsed());

    // The object's last good version stays, and a diagnostic says so.
    std::fs::write(
        gateway.folder.join("mesh/page.yaml"),
        answer_yaml("three").replace("directResponse", "directRespons"),
    )
    .unwrap();
    gateway.wait("the mistake is told", || gateway.ask(&["diagnostics"]).1.contains("directRespons"));
    assert_eq!(gateway.get("istio.k3s.local", "/page"), (200, "two".to_owned()));
    assert!(gateway.ask(&["diagnostics"]).1.contains("last good version"));
}

#[test]
fn the_command_line_tells_what_the_gateway_does_and_why() {
    let gateway = Gateway::start("cli", |mesh, port| {
        std::fs::write(mesh.join("all.yaml"), format!("{}---\n{}", gateway_yaml(port), answer_yaml("one")))
            .unwrap();
    });
    assert_eq!(gateway.get("istio.k3s.local", "/page").0, 200);
    let (succeeded, routes) = gateway.ask(&["routes"]);
    assert!(succeeded && routes.contains("VirtualService/default/page#0"), "{routes}");
    let (_, status) = gateway.ask(&["status", "--output", "json"]);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((&status["role"], &status["workloads"]["listening"]), (&"gateway".into(), &1.into()));
    let url = format!("http://istio.k3s.local:{}/page", gateway.port);
    let (_, why) =
        gateway.ask(&["explain", "--gateway", "istio=ingressgateway", "--namespace", "istio-system", &url]);
    assert!(why.contains("=> direct_response 200"), "{why}");
    let (_, metrics) = gateway.ask(&["metrics"]);
    assert!(
        metrics.contains("undermesh_rule_requests_total{rule=\"VirtualService/default/page#0\"} 1"),
        "{metrics}"
    );
    gateway.wait("the request is logged", || {
        let log = std::fs::read_to_string(gateway.folder.join("access.log")).unwrap_or_default();
        log.contains("\"GET /page HTTP/1.1\" 200") && log.contains("rule=VirtualService/default/page#0")
    });
    assert!(!gateway.ask(&["bpf"]).0, "a gateway has no kernel half, and says so by its exit code");
}

#[test]
fn ports_of_tcp_servers_follow_the_rules_and_their_addresses() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = upstream.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for io in upstream.incoming() {
            let _ = io.unwrap().write_all(b"hello");
        }
    });
    let port = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap().port();
    let read = move || -> std::io::Result<String> {
        let mut text = String::new();
        TcpStream::connect(("127.0.0.2", port))?.read_to_string(&mut text)?;
        Ok(text)
    };
    let gateway = Gateway::start("tcp", |mesh, http| {
        // TLS that would have to be terminated is not listened for at all.
        let servers = format!(
            "  - port: {{ number: {port}, name: tcp, protocol: TCP }}\n    hosts: ['*']\n    bind: 127.0.0.2
  - port: {{ number: {}, name: https, protocol: HTTPS }}\n    hosts: ['*']\n    tls: {{ mode: SIMPLE, credentialName: c }}\n",
            http + 1
        );
        std::fs::write(mesh.join("gateway.yaml"), gateway_yaml(http) + &servers).unwrap();
    });
    assert!(TcpStream::connect(("127.0.0.1", gateway.port + 1)).is_err());
    assert!(read().is_err(), "no rule is bound to the server");
    std::fs::write(
        gateway.folder.join("mesh/rule.yaml"),
        format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{ name: tcp, namespace: default }}
spec:
  hosts: ['*']
  gateways: [gw]
  tcp: [{{ match: [{{ port: {port} }}], route: [{{ destination: {{ host: db.test }} }}] }}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: db, namespace: default }}
spec:
  hosts: [db.test]
  resolution: STATIC
  ports: [{{ number: {target}, name: tcp, protocol: TCP }}]
  endpoints: [{{ address: 127.0.0.1 }}]
"
        ),
    )
    .unwrap();
    gateway.wait("the rule opens the port", || read().is_ok_and(|text| text == "hello"));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the server has one address only");
    let (_, routes) = gateway.ask(&["routes"]);
    assert!(routes.contains("VirtualService/default/tcp#0"), "{routes}");
    std::fs::remove_file(gateway.folder.join("mesh/rule.yaml")).unwrap();
    gateway.wait("the port closes", || TcpStream::connect(("127.0.0.2", port)).is_err());
}

#[test]
fn sigterm_answers_the_current_request_and_ends() {
    let mut gateway = Gateway::start("drain", |mesh, port| {
        // Delayed, then forwarded to nobody.
        let slow = answer_yaml("slow").replace(
            "directResponse: { status: 200, body: { string: slow } }",
            "fault: { delay: { fixedDelay: 1s, percentage: { value: 100 } } }\n    route: [{ destination: { host: nobody } }]",
        );
        std::fs::write(mesh.join("all.yaml"), format!("{}---\n{slow}", gateway_yaml(port))).unwrap();
    });
    let mut io = TcpStream::connect(("127.0.0.1", gateway.port)).unwrap();
    io.set_read_timeout(Some(PATIENCE)).unwrap();
    io.write_all(b"GET /page HTTP/1.1\r\nhost: istio.k3s.local\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let pid = rustix::process::Pid::from_child(&gateway.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut text = String::new();
    io.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 503") && text.contains("connection: close"), "{text}");
    assert!(gateway.child.wait().unwrap().success());
}
