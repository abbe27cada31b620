//! What a large cluster costs: memory of the process, time to read it, and what the server is asked for. Only on request:
//! `cargo test --release -p undermesh --test kubernetes -- --ignored --nocapture scale`

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{api, kubeconfig};

const SERVICES: usize = 10_000;
/// Of each service.
const ENDPOINTS: usize = 10;
const PODS: usize = 20_000;

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As kubelet and controllers write them, much of which nobody reads.
fn pod(number: usize) -> Value {
    let ip = format!("10.{}.{}.{}", 128 + number / 65_536, number / 256 % 256, number % 256);
    let container = json!({"name": "app", "image": "registry.example/app:1.2.3", "ports": [{"name": "http", "containerPort": 8080}],
        "env": (0..10).map(|it| json!({"name": format!("SETTING_{it}"), "value": "some value of this setting"})).collect::<Vec<_>>(),
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]});
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("app-{number:05}-7d9f8b6c5d-x2x4z"), "namespace": format!("ns{}", number % 100),
            "labels": {"app": format!("app-{}", number % SERVICES), "version": "v1", "pod-template-hash": "7d9f8b6c5d"},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {"f:conditions": {}, "f:containerStatuses": {}}}}]},
        "spec": {"nodeName": format!("node-{}", number % 1000), "serviceAccountName": "default", "containers": [container]},
        "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn service(number: usize) -> Value {
    let ip = format!("10.{}.{}.{}", 96 + number / 65_536, number / 256 % 256, number % 256);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("app-{number}"), "namespace": format!("ns{}", number % 100)},
        "spec": {"clusterIP": ip, "selector": {"app": format!("app-{number}")}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

fn slice(number: usize) -> Value {
    let endpoint = |at: usize| {
        let pod = (number + at * SERVICES) % PODS;
        let address = number * ENDPOINTS + at;
        json!({"addresses": [format!("10.{}.{}.{}", 128 + address / 65_536, address / 256 % 256, address % 256)],
            "conditions": {"ready": true, "serving": true, "terminating": false}, "nodeName": format!("node-{}", at % 1000),
            "zone": format!("zone-{}", at % 3),
            "targetRef": {"kind": "Pod", "namespace": format!("ns{}", number % 100), "name": format!("app-{pod:05}-7d9f8b6c5d-x2x4z")}})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("app-{number}-abcde"), "namespace": format!("ns{}", number % 100),
            "labels": {"kubernetes.io/service-name": format!("app-{number}")}},
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(), "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
}

fn field(process: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "a measurement"]
fn scale() {
    let api = api();
    (0..SERVICES).for_each(|number| api.apply(service(number)));
    (0..SERVICES).for_each(|number| api.apply(slice(number)));
    (0..PODS).for_each(|number| api.apply(pod(number)));
    let kubeconfig = kubeconfig(&api);
    let socket = kubeconfig.with_extension("sock");
    let began = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_undermesh"));
    command.args([
        "gateway",
        "--workers",
        "2",
        "--access-log",
        "off",
        "--labels",
        "istio=none",
        "--kubeconfig",
    ]);
    command.arg(&kubeconfig).arg("--admin-socket").arg(&socket).args(["--log", "warn"]).stdout(Stdio::null());
    let agent = Agent(command.spawn().unwrap());
    let status = || {
        let mut ask = Command::new(env!("CARGO_BIN_EXE_undermesh"));
        let answer =
            ask.args(["status", "--output", "json", "--admin-socket"]).arg(&socket).output().unwrap();
        serde_json::from_slice::<Value>(&answer.stdout).unwrap_or_default()
    };
    while status().pointer("/configuration/services").and_then(Value::as_u64) != Some(SERVICES as u64) {
        assert!(began.elapsed() < Duration::from_secs(300), "{}", status());
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("read and in force after {:?}", began.elapsed());
    std::thread::sleep(Duration::from_secs(5));
    let process = agent.0.id();
    println!(
        "resident {} MiB, at most {} MiB",
        field(process, "VmRSS") / 1024,
        field(process, "VmHWM") / 1024
    );
    println!("requests {}, bytes {} MiB", api.asked().len(), api.bytes() >> 20);
    println!("compile {} ms", status().pointer("/configuration/compile_ms").unwrap());
    let before = (api.asked().len(), api.bytes());
    for at in 0..1000 {
        let mut slice = slice(at);
        slice["endpoints"][0]["conditions"]["ready"] = json!(at % 2 == 0);
        api.apply(slice);
        std::thread::sleep(Duration::from_millis(10));
    }
    println!(
        "10 s of 100 changes a second: requests {}, bytes {} KiB",
        api.asked().len() - before.0,
        (api.bytes() - before.1) >> 10
    );
    println!(
        "resident {} MiB, at most {} MiB",
        field(process, "VmRSS") / 1024,
        field(process, "VmHWM") / 1024
    );
    let _ = std::fs::remove_file(kubeconfig);
}
