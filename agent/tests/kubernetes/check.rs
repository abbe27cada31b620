//! `check` and `explain` of a cluster, by the real binary.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use undermesh_fake_api::FakeApi;

use crate::world::{api, kubeconfig, rule, service};

struct Cluster {
    api: FakeApi,
    kubeconfig: PathBuf,
}

impl Cluster {
    fn start() -> Self {
        let api = api();
        let kubeconfig = kubeconfig(&api);
        Self { api, kubeconfig }
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undermesh"));
        command.args(args).env("KUBECONFIG", &self.kubeconfig).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> (Option<i32>, Value) {
        let output = self.run(&[args, &["--output", "json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}")))
    }

    /// A file that is removed with the cluster.
    fn file(&self, object: &Value) -> String {
        let path = self.kubeconfig.with_extension("yaml");
        std::fs::write(&path, object.to_string()).unwrap();
        path.display().to_string()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for path in [self.kubeconfig.clone(), self.kubeconfig.with_extension("yaml")] {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[test]
fn check_without_files_reads_the_cluster() {
    let cluster = Cluster::start();
    cluster.api.apply(rule("r", "v1", "5s"));
    let (code, said) = cluster.json(&["check"]);
    assert_eq!((code, &said["valid"]), (Some(0), &json!(true)), "{said}");
    cluster.api.apply(rule("r", "v1", "five"));
    let (code, said) = cluster.json(&["check"]);
    assert_eq!((code, &said["valid"]), (Some(1), &json!(false)));
    let about = &said["diagnostics"][0];
    let want = json!(["VirtualService", "ns1", "r", "spec.http[0].timeout", null]);
    assert_eq!(
        json!([about["kind"], about["namespace"], about["name"], about["field"], about["file"]]),
        want
    );
}

#[test]
fn a_cluster_that_cannot_be_found_is_no_answer() {
    let cluster = Cluster::start();
    let nowhere =
        Command::new(env!("CARGO_BIN_EXE_undermesh")).arg("check").env("KUBECONFIG", "/nonexistent").output();
    assert_eq!(nowhere.unwrap().status.code(), Some(3));
    assert_eq!(cluster.run(&["check", "--context", "none"]).status.code(), Some(3));
}

#[test]
fn against_the_cluster_only_the_difference_is_told() {
    let cluster = Cluster::start();
    let mut held = service("a", 80);
    held["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": "{}"});
    cluster.api.apply(held);
    cluster.api.apply(rule("old", "v1", "wrong before"));
    cluster.api.apply(rule("r", "v1", "5s"));
    let counts = |said: &Value| {
        let count = |key: &str| said[key].as_array().unwrap().len();
        (count("objects"), said["same"].as_u64().unwrap(), count("come"), count("go"))
    };

    // The same, without what the API server added.
    let mut same = service("a", 80);
    same["spec"].as_object_mut().unwrap().remove("clusterIP");
    let (code, said) = cluster.json(&["check", "--against-cluster", &cluster.file(&same)]);
    assert_eq!((code, counts(&said)), (Some(0), (0, 1, 0, 0)), "{said}");

    let (code, said) = cluster.json(&["check", "--against-cluster", &cluster.file(&rule("r", "v1", "6s"))]);
    assert_eq!((code, counts(&said)), (Some(0), (1, 0, 0, 0)), "{said}");
    assert_eq!((&said["objects"][0]["change"], &said["hosts"]), (&json!("changed"), &json!(["r.example"])));

    let (code, said) = cluster.json(&["check", "--against-cluster", &cluster.file(&rule("n", "v1", "6s"))]);
    assert_eq!((code, &said["objects"][0]["change"]), (Some(0), &json!("new")), "{said}");

    // What is refused changes nothing, and is an error that comes.
    let (code, said) = cluster.json(&["check", "--against-cluster", &cluster.file(&rule("r", "v1", "six"))]);
    assert_eq!((code, counts(&said)), (Some(1), (0, 0, 1, 0)), "{said}");
    assert!(said["come"][0]["file"].is_string(), "{said}");

    // What mends an error of the cluster makes it go.
    let (code, said) = cluster.json(&["check", "--against-cluster", &cluster.file(&rule("old", "v1", "6s"))]);
    assert_eq!((code, counts(&said)), (Some(0), (1, 0, 0, 1)), "{said}");
    let text = cluster.run(&["check", "--against-cluster", &cluster.file(&rule("old", "v1", "6s"))]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("would not be said any more:")
            && text.ends_with("1 new, 0 changed, 0 as in the cluster\n"),
        "{text}"
    );
}

#[test]
fn against_the_cluster_the_routes_are_told_that_would_be_others() {
    let cluster = Cluster::start();
    cluster.api.apply(service("a", 80));
    let rule = |gateways: &[&str], timeout: &str| {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "a", "namespace": "ns1"},
            "spec": {"hosts": ["a.ns1.svc.cluster.local"], "gateways": gateways,
                "http": [{"timeout": timeout, "route": [{"destination": {"host": "a"}}]}]}})
    };
    cluster.api.apply(json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": "ns1"},
        "spec": {"selector": {"app": "gate"}, "servers": [{"hosts": ["*"], "port": {"number": 80, "name": "http", "protocol": "HTTP"}}]}}));
    let asked = |object: &Value| cluster.json(&["check", "--against-cluster", &cluster.file(object)]).1;

    cluster.api.apply(rule(&["mesh"], "5s"));
    let said = asked(&rule(&["mesh"], "5s"));
    assert_eq!(said["routes"], json!([]), "{said}");
    let said = asked(&rule(&["mesh"], "6s"));
    let routes = said["routes"].as_array().unwrap();
    assert_eq!(routes.len(), 1, "no gateway: {said}");
    assert_eq!(routes[0]["client"], "a client in ns1");
    assert_eq!(
        (&routes[0]["go"][0]["timeout"], &routes[0]["come"][0]["timeout"]),
        (&json!("5s"), &json!("6s"))
    );

    // What speaks at the gateway from then on, and in the mesh no more.
    let said = asked(&rule(&["g"], "5s"));
    let clients: Vec<&Value> = said["routes"].as_array().unwrap().iter().map(|it| &it["client"]).collect();
    assert_eq!(clients, ["a client in ns1", "the gateway app=gate"], "{said}");
    let text = cluster.run(&["check", "--against-cluster", &cluster.file(&rule(&["mesh"], "6s"))]).stdout;
    let text = String::from_utf8(text).unwrap();
    let go = text.lines().find(|line| line.starts_with("  - ")).unwrap_or_default();
    let come = text.lines().find(|line| line.starts_with("  + ")).unwrap_or_default();
    assert!(go.contains(":80 => 100% ") && go.contains(", timeout 5s"), "{text}");
    assert!(come.contains(":80 => 100% ") && come.contains(", timeout 6s"), "{text}");
}

#[test]
fn explain_answers_from_the_cluster_when_told_to() {
    let cluster = Cluster::start();
    cluster.api.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns1"}}));
    cluster.api.apply(service("a", 80));
    let (code, said) = cluster.json(&["explain", "--kubernetes", "--namespace", "ns1", "http://a/"]);
    assert_eq!(code, Some(0));
    assert!(said.to_string().contains("a.ns1.svc.cluster.local"), "{said}");
}
