//! What the API server lets through and Istio's admission would refuse, by our CRDs and by Istio's: its author is told which field,
//! its last good version stays in force, and its neighbours do not notice.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use undermesh_cluster::run::output;
use undermesh_cluster::{ControlPlane, can_run_here};
use undermesh_deploy::manifests;
use undermesh_tests::{Binaries, Node, Process, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 8081;

/// Kind, name, the good spec, the bad one, its field, and what is said of it.
type Case = (&'static str, &'static str, Value, Value, &'static str, &'static str);

fn rule(name: &str, http: &Value) -> Value {
    json!({"hosts": [format!("{name}.example")], "gateways": ["public"], "http": [http]})
}

fn answer(body: &str) -> Value {
    json!({"directResponse": {"status": 200, "body": {"string": body}}})
}

fn cases() -> Vec<Case> {
    let good = |name| rule(name, &answer("good"));
    let http = |name, http| rule(name, &http);
    let (vs, dr) = ("VirtualService", "DestinationRule");
    let both = [
        json!({"destination": {"host": "a"}, "weight": 0}),
        json!({"destination": {"host": "b"}, "weight": 0}),
    ];
    let subsets = |second| json!({"host": "a", "subsets": [{"name": "v1"}, {"name": second}]});
    let servers = |second| {
        let server = |name: &str, port: u16| json!({"hosts": ["*"], "port": {"number": port, "name": name, "protocol": "HTTP"}});
        json!({"selector": {"istio": "ingressgateway"}, "servers": [server("a", PORT + 1), server(second, PORT + 2)]})
    };
    let entry = |address| {
        json!({"hosts": ["c.example"], "resolution": "STATIC", "endpoints": [{"address": address}],
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]})
    };
    vec![
        (
            vs,
            "weights",
            good("weights"),
            http("weights", json!({"route": both})),
            "spec.http[0].route",
            "total destination weight = 0",
        ),
        (
            vs,
            "regex",
            good("regex"),
            http("regex", json!({"match": [{"uri": {"regex": "/bad("}}], "directResponse": {"status": 200}})),
            "spec.http[0].match[0].uri.regex",
            "not an RE2 expression",
        ),
        (
            vs,
            "host",
            good("host"),
            http("host", json!({"route": [{"destination": {"host": ""}}]})),
            "spec.http[0].route[0].destination.host",
            "empty domain name",
        ),
        (
            vs,
            "both",
            good("both"),
            http("both", json!({"redirect": {"uri": "/x"}, "directResponse": {"status": 200}})),
            "spec.http[0]",
            "cannot contain both",
        ),
        (
            vs,
            "nothing",
            good("nothing"),
            json!({"hosts": ["nothing.example"], "gateways": ["public"]}),
            "spec",
            "http, tcp or tls",
        ),
        (dr, "subsets", subsets("v2"), subsets("v1"), "spec.subsets[1].name", "duplicate subset"),
        ("Gateway", "ports", servers("b"), servers("a"), "spec.servers[1].port.name", "duplicate name a"),
        (
            "ServiceEntry",
            "addresses",
            entry("10.9.9.9"),
            entry("no-address.example"),
            "spec.endpoints[0].address",
            "not a valid IP address",
        ),
    ]
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn apply(plane: &ControlPlane, items: &[Value]) -> anyhow::Result<()> {
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
}

/// Reason and message of each object's condition, by `Kind name`.
fn told(plane: &ControlPlane) -> anyhow::Result<BTreeMap<String, (String, String)>> {
    let kinds = "virtualservices,destinationrules,gateways.networking.istio.io,serviceentries";
    let said: Value = serde_json::from_str(&output(plane.kubectl().args(["get", kinds, "-o", "json"]))?)?;
    let mut told = BTreeMap::new();
    for object in said["items"].as_array().into_iter().flatten() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let conditions = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
        if let Some(ours) = conditions.iter().find(|it| it["type"] == "undermesh.io/InForce") {
            let name = format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
            told.insert(name, (text(&ours["reason"]), text(&ours["message"])));
        }
    }
    Ok(told)
}

/// Status and body of `GET /` at the gateway.
fn get(node: &Node, host: &str, port: u16) -> anyhow::Result<(u16, String)> {
    node.netns().run(|| {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        let status = said.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or_default();
        Ok((status, said.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
    })
}

fn until_answer(node: &Node, name: &str, body: &str) -> anyhow::Result<()> {
    let (host, mut last) = (format!("{name}.example"), None);
    let waited = wait_until(LIMIT, &format!("{host} to answer {body:?}"), || {
        // Nobody listens yet, at first.
        last = get(node, &host, PORT).ok();
        Ok((last == Some((200, body.to_owned()))).then_some(()))
    });
    waited.map_err(|error| error.context(format!("{last:?}")))
}

fn start(plane: &ControlPlane, node: &Node, who: &str) -> anyhow::Result<Process> {
    let folder = plane.world().folder();
    let mut command = Command::new(&Binaries::for_tests()?.undermesh);
    command
        .args([who, "--workers", "1", "--access-log", "off", "--kubeconfig"])
        .arg(plane.kubeconfig_inside());
    command.arg("--admin-socket").arg(folder.join(format!("{who}.sock")));
    if who == "agent" {
        command.args(["--node", node.name(), "--pod-name", who, "--pod-namespace", "undermesh-system"]);
        command.arg("--cgroup").arg(node.pods_cgroup());
    } else {
        command.args(["--labels", "istio=ingressgateway", "--namespace", "default", "--name", who]);
    }
    node.spawn(who, &command)
}

fn tell(plane: &ControlPlane, node: &Node, whose: &str) -> anyhow::Result<()> {
    let cases = cases();
    let public = json!({"selector": {"istio": "ingressgateway"}, "servers": [
        {"hosts": ["*"], "port": {"number": PORT, "name": "http", "protocol": "HTTP"}}]});
    let neighbour = |body| object("VirtualService", "neighbour", &rule("neighbour", &answer(body)));
    let mut good: Vec<_> = cases.iter().map(|(kind, name, good, ..)| object(kind, name, good)).collect();
    good.extend([object("Gateway", "public", &public), neighbour("one")]);
    apply(plane, &good)?;
    let roles = ["agent", "gateway"].map(|who| start(plane, node, who));
    let [_agent, _gateway] = roles.map(|role| role.expect("a role starts"));
    let routed: Vec<_> = cases.iter().filter(|it| it.0 == "VirtualService").map(|it| it.1).collect();
    for name in &routed {
        until_answer(node, name, "good")?;
    }
    until_answer(node, "neighbour", "one")?;

    // The API server takes all of it.
    let mut bad: Vec<_> = cases.iter().map(|(kind, name, _, bad, ..)| object(kind, name, bad)).collect();
    // Bad from its beginning, so that there is no version to keep.
    let stillborn = json!({"hosts": ["stillborn.example"], "gateways": ["public"]});
    bad.extend([neighbour("two"), object("VirtualService", "stillborn", &stillborn)]);
    apply(plane, &bad)?;
    let wanted: Vec<String> = cases
        .iter()
        .map(|it| format!("{} {}", it.0, it.1))
        .chain(["VirtualService stillborn".into()])
        .collect();
    let mut said = BTreeMap::new();
    wait_until(LIMIT, "all authors to be told", || {
        said = told(plane)?;
        let is_told = |name: &String| said.get(name).is_some_and(|(reason, _)| reason == "NotInForce");
        Ok(wanted.iter().all(is_told).then_some(()))
    })
    .map_err(|error| error.context(format!("{whose} kinds: told {said:#?}")))?;
    for (kind, name, _, _, field, message) in &cases {
        let (_, text) = &said[&format!("{kind} {name}")];
        assert!(text.starts_with(&format!("{field}: ")) && text.contains(message), "{whose} {name}: {text}");
        assert!(text.contains("[UM0007]"), "{whose} {name}: its last good version stays: {text}");
    }
    assert!(!said["VirtualService stillborn"].1.contains("[UM0007]"), "{said:#?}");
    assert!(!said.contains_key("VirtualService neighbour"), "{said:#?}");
    // As it was, while the neighbour goes on.
    until_answer(node, "neighbour", "two")?;
    for name in &routed {
        assert_eq!(get(node, &format!("{name}.example"), PORT)?, (200, "good".into()), "{whose} {name}");
    }
    assert_eq!(get(node, "stillborn.example", PORT)?.0, 404);
    for port in [PORT + 1, PORT + 2] {
        assert_eq!(get(node, "any.example", port)?.0, 404, "{whose}: the gateway still listens");
    }

    // Mended.
    let mended = |it: &Case| match it.0 {
        "VirtualService" => object(it.0, it.1, &rule(it.1, &answer("mended"))),
        _ => object(it.0, it.1, &it.2),
    };
    apply(plane, &cases.iter().map(mended).collect::<Vec<_>>())?;
    for name in &routed {
        until_answer(node, name, "mended")?;
    }
    wait_until(LIMIT, "all to be well", || {
        said = told(plane)?;
        let is_well = |it: &Case| {
            said.get(&format!("{} {}", it.0, it.1)).is_some_and(|(reason, _)| reason != "NotInForce")
        };
        Ok(cases.iter().all(is_well).then_some(()))
    })
    .map_err(|error| error.context(format!("{whose} kinds: told {said:#?}")))
}

#[test]
fn what_istios_admission_would_refuse_is_told_to_its_author_and_changes_nothing() -> anyhow::Result<()> {
    let test = "what_istios_admission_would_refuse_is_told_to_its_author_and_changes_nothing";
    let Some(programs) = can_run_here(test) else { return Ok(()) };
    Binaries::for_tests()?;
    let mut plane = ControlPlane::start(&programs)?;
    let node = plane.world_mut().node("n1")?;
    plane.apply("{apiVersion: v1, kind: Namespace, metadata: {name: undermesh-system}}")?;
    let scratch = super::Scratch::new("admission");
    let ours = scratch.file("crds.yaml", &manifests::all_crds()?);
    super::install(&plane, &ours);
    tell(&plane, &node, "our")?;
    match super::istios(&scratch.0) {
        Ok(istios) => {
            output(plane.kubectl().args(["delete", "crd", "--all", "--wait", "--timeout=60s"]))?;
            super::install(&plane, &istios);
            tell(&plane, &node, "Istio's")?;
        }
        Err(reason) => super::skip(test, &reason),
    }
    assert_eq!(plane.end()?, Vec::<PathBuf>::new());
    Ok(())
}
