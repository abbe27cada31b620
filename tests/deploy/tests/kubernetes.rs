//! On a real API server: our CRDs and Istio's own come to the same verdicts, the manifests are accepted, and kinds that were
//! there before the chart stay whose they are.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

#[path = "kubernetes/schemas.rs"]
mod schemas;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use undermesh_cluster::run::output;
use undermesh_cluster::{ControlPlane, can_run_here};
use undermesh_deploy::manifests::{self, objects};
use undermesh_deploy::repository;

#[path = "kubernetes/admission.rs"]
mod admission;
#[path = "kubernetes/rights.rs"]
mod rights;

/// The release whose CRDs ours are held against.
const ISTIO_API: &str = "istio.io/api@v1.31.1";

/// Istio's CRDs, by the Go module proxy; the reason if they cannot be had.
fn istios(folder: &Path) -> anyhow::Result<PathBuf> {
    std::fs::write(folder.join("go.mod"), "module verdicts\n")?;
    let said = output(Command::new("go").current_dir(folder).args(["mod", "download", "-json", ISTIO_API]))?;
    let said: Value = serde_json::from_str(&said)?;
    Ok(Path::new(said["Dir"].as_str().unwrap_or_default())
        .join("kubernetes/customresourcedefinitions.gen.yaml"))
}

fn skip(test: &str, reason: &anyhow::Error) {
    let in_ci = matches!(std::env::var("CI").as_deref(), Ok("true" | "1"));
    assert!(!in_ci, "{test} cannot run in CI: {reason:#}");
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {reason:#}");
}

/// A folder of the test's own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("undermesh-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Objects of the Istio kinds, each under a name of its own: those of all conformance cases, and those that only a schema
/// refuses.
fn candidates() -> BTreeMap<String, Value> {
    let mut all = Vec::new();
    let mut paths: Vec<_> = std::fs::read_dir(repository("tests/conformance/cases"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    paths.sort();
    for path in paths {
        let suite = objects(&std::fs::read_to_string(path).unwrap()).unwrap().remove(0);
        for case in suite["cases"].as_array().into_iter().flatten() {
            all.extend(case["config"].as_array().into_iter().flatten().cloned());
        }
    }
    all.extend(by_hand());
    let mut named = BTreeMap::new();
    for mut object in all {
        let group = object["apiVersion"].as_str().unwrap_or_default();
        if !group.starts_with("networking.istio.io/") && !group.starts_with("security.istio.io/") {
            continue;
        }
        let kind = object["kind"].as_str().unwrap_or_default().to_ascii_lowercase();
        if !manifests::all_crds().unwrap().contains(&format!("singular: {kind}\n")) {
            continue;
        }
        let name = format!("c{}-{kind}", named.len());
        object["metadata"]["name"] = name.as_str().into();
        object["metadata"]["namespace"] = "default".into();
        named.insert(name, object);
    }
    named
}

/// A good and a bad one for each sort of rule.
fn by_hand() -> Vec<Value> {
    let networking = |kind: &str, spec: Value| json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {}, "spec": spec});
    let security = |kind: &str, spec: Value| json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {}, "spec": spec});
    let http = |rule: Value| networking("VirtualService", json!({"hosts": ["a"], "http": [rule]}));
    let policy = |policy: Value| networking("DestinationRule", json!({"host": "a", "trafficPolicy": policy}));
    let mut all = vec![
        json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": {}}),
        json!({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "metadata": {}}),
        json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {}}),
        networking("DestinationRule", json!({})),
        networking("ServiceEntry", json!({"hosts": ["*"]})),
        networking("ServiceEntry", json!({"hosts": []})),
        networking("ServiceEntry", json!({"hosts": ["a.b"], "resolution": "DNS"})),
        networking("ServiceEntry", json!({"hosts": ["a.b"], "resolution": "NOPE"})),
        networking(
            "ServiceEntry",
            json!({"hosts": ["a.b"], "ports": [{"number": 80, "name": "a"}, {"number": 80, "name": "b"}]}),
        ),
        networking("ServiceEntry", json!({"hosts": ["a.b"], "ports": [{"number": 0, "name": "a"}]})),
        networking("ServiceEntry", json!({"hosts": ["a.b"], "ports": [{"number": 65535, "name": "a"}]})),
        networking(
            "ServiceEntry",
            json!({"hosts": ["a.b"], "addresses": ["10.0.0.0/8"], "resolution": "DNS"}),
        ),
        networking(
            "ServiceEntry",
            json!({"hosts": ["a.b"], "resolution": "STATIC", "endpoints": [{"address": "1.2.3.4"}]}),
        ),
        networking(
            "ServiceEntry",
            json!({"hosts": ["a.b"], "resolution": "STATIC", "endpoints": [{"labels": {"a": "b"}}]}),
        ),
        networking(
            "ServiceEntry",
            json!({"hosts": ["a.b"], "resolution": "STATIC", "endpoints": [{"address": "1.2.3.4"}], "workloadSelector": {"labels": {"a": "b"}}}),
        ),
        networking("ServiceEntry", json!({"hosts": ["a.b"], "workloadSelector": {"labels": {"a": "*"}}})),
        networking("WorkloadEntry", json!({"address": "unix:///a", "ports": {"a": 80}})),
        networking("WorkloadEntry", json!({"address": "unix://a"})),
        networking("WorkloadEntry", json!({"address": "1.2.3.4", "ports": {"a_b": 80}})),
        networking("WorkloadEntry", json!({"address": "1.2.3.4", "weight": -1})),
        networking("Gateway", json!({"servers": [{"hosts": ["a"]}]})),
        networking("Gateway", json!({"servers": [{"hosts": ["a"], "port": {"number": 80, "name": "a"}}]})),
        networking(
            "Gateway",
            json!({"servers": [{"hosts": ["a"], "port": {"number": 80, "name": "a", "protocol": "HTTP"}}]}),
        ),
        networking(
            "Gateway",
            json!({"servers": [{"hosts": ["a"], "port": {"number": 443, "name": "a", "protocol": "HTTPS"}, "tls": {"mode": "SIMPLE", "credentialName": "a", "credentialNames": ["b"]}}]}),
        ),
        networking("Sidecar", json!({"egress": [{}]})),
        networking("Sidecar", json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}})),
        networking("Sidecar", json!({"outboundTrafficPolicy": {"mode": "ALLOW_ANY_DYNAMIC_DNS"}})),
        networking("VirtualService", json!({"hosts": "a"})),
        networking("VirtualService", json!({"hosts": ["a"], "htttp": []})),
        networking("VirtualService", json!({"hosts": ["a"], "tls": [{"route": []}]})),
        http(json!({"route": [{}]})),
        http(json!({"route": [{"destination": {}}]})),
        http(json!({"route": [{"destination": {"host": "a", "port": {"number": "80"}}}]})),
        http(json!({"match": [{"uri": {"exact": "/", "prefix": "/"}}]})),
        http(json!({"match": [{"headers": {"a": {}}}]})),
        http(json!({"match": [{"headers": {"a": {"exact": "1", "regex": "1"}}}]})),
        http(json!({"timeout": "0s"})),
        http(json!({"timeout": "5"})),
        http(json!({"timeout": "5d"})),
        http(json!({"timeout": "1.5s"})),
        http(json!({"timeout": 5})),
        http(json!({"fault": {"delay": {"fixedDelay": "1s", "exponentialDelay": "1s"}}})),
        http(json!({"fault": {"abort": {"httpStatus": 500, "grpcStatus": "OK"}}})),
        http(json!({"fault": {"abort": {"httpStatus": 500, "percentage": {"value": 10}}}})),
        http(json!({"redirect": {"port": 1, "derivePort": "FROM_REQUEST_PORT"}})),
        http(json!({"directResponse": {}})),
        http(json!({"directResponse": {"status": 200, "body": {"string": "a", "bytes": "YQ=="}}})),
        http(json!({"mirror_percent": 5})),
        http(json!({"mirrorPercent": null})),
        http(json!({"retries": {"attempts": 1, "retryRemoteLocalities": null}})),
        http(json!({"corsPolicy": {"unmatchedPreflights": "SOME"}})),
        policy(json!({"loadBalancer": {"simple": "RANDOM", "consistentHash": {"useSourceIp": true}}})),
        policy(json!({"loadBalancer": {"consistentHash": {"useSourceIp": true, "httpHeaderName": "a"}}})),
        policy(
            json!({"loadBalancer": {"consistentHash": {"useSourceIp": true, "maglev": {}, "ringHash": {}}}}),
        ),
        policy(json!({"loadBalancer": {"consistentHash": {"httpCookie": {"name": "a", "ttl": "0s"}}}})),
        policy(json!({"loadBalancer": {"consistentHash": {"httpCookie": {"ttl": "0s"}}}})),
        policy(json!({"loadBalancer": {"warmup": {"duration": "1s", "minimumPercent": 101}}})),
        policy(json!({"loadBalancer": {"simple": "SOMEHOW"}})),
        policy(json!({"connectionPool": {"tcp": {"idleTimeout": "0s", "maxConnections": 1}}})),
        policy(json!({"connectionPool": {"http": {"idleTimeout": "0s"}}})),
        policy(json!({"connectionPool": {"tcp": {"maxConnections": "1"}}})),
        policy(json!({"outlierDetection": {"consecutive5xxErrors": null, "interval": "1s"}})),
        policy(json!({"outlierDetection": {"outlierDetectionHttpErrorCodes": [99]}})),
        policy(json!({"retryBudget": {"percent": 100.5}})),
        policy(json!({"tunnel": {"targetHost": "a"}})),
        policy(json!({"tls": {"mode": "SOME"}})),
        security("PeerAuthentication", json!({"mtls": {"mode": "STRICT"}})),
        security("PeerAuthentication", json!({"mtls": {"mode": "strict"}})),
        security("PeerAuthentication", json!({"portLevelMtls": {"80": {"mode": "STRICT"}}})),
        security(
            "PeerAuthentication",
            json!({"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"80": {"mode": "STRICT"}}}),
        ),
        security("PeerAuthentication", json!({"selector": {"matchLabels": {"a": "b*"}}})),
        security("AuthorizationPolicy", json!({"action": "MAYBE"})),
        security("AuthorizationPolicy", json!({"rules": [{"when": [{"values": ["a"]}]}]})),
        security(
            "AuthorizationPolicy",
            json!({"rules": [{"from": [{"source": {"serviceAccounts": ["a"], "namespaces": ["b"]}}]}]}),
        ),
        security(
            "AuthorizationPolicy",
            json!({"targetRefs": [{"kind": "Service", "name": "a", "namespace": "b"}]}),
        ),
        security(
            "AuthorizationPolicy",
            json!({"targetRefs": [{"kind": "Service", "name": "a"}], "selector": {"matchLabels": {"a": "b"}}}),
        ),
        security("RequestAuthentication", json!({"jwtRules": [{"issuer": "a", "jwksUri": "ftp://a"}]})),
        security(
            "RequestAuthentication",
            json!({"jwtRules": [{"issuer": "a", "jwksUri": "https://a", "jwks": "{}"}]}),
        ),
        security("RequestAuthentication", json!({"jwtRules": [{"issuer": "a", "jwks_uri": "https://a"}]})),
        security("RequestAuthentication", json!({"jwtRules": [{"issuer": ""}]})),
    ];
    for version in ["v1beta1", "v1alpha3"] {
        let mut object = http(json!({"route": [{"destination": {"host": "a"}}]}));
        object["apiVersion"] = format!("networking.istio.io/{version}").into();
        all.push(object);
    }
    all
}

/// The specs of the objects that the API server takes, as it keeps them: without fields that are unknown to it. A dry run,
/// through all of admission.
fn taken(plane: &ControlPlane, file: &Path) -> BTreeMap<String, Value> {
    let mut kubectl = plane.kubectl();
    kubectl.args(["create", "--dry-run=server", "--validate=ignore", "-o", "json", "-f"]).arg(file);
    let said = kubectl.output().unwrap();
    assert!(!said.stdout.is_empty(), "none is taken: {}", String::from_utf8_lossy(&said.stderr));
    let objects = serde_json::Deserializer::from_slice(&said.stdout).into_iter::<Value>();
    let objects = objects.map(Result::unwrap).map(|mut object| {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        (name, object["spec"].take())
    });
    objects.collect()
}

fn install(plane: &ControlPlane, crds: &Path) {
    let mut kubectl = plane.kubectl();
    output(kubectl.args(["apply", "--server-side", "-f"]).arg(crds)).unwrap();
    let mut kubectl = plane.kubectl();
    output(kubectl.args(["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])).unwrap();
}

#[test]
fn our_kinds_and_istios_come_to_the_same_verdicts() {
    let test = "our_kinds_and_istios_come_to_the_same_verdicts";
    let Some(programs) = can_run_here(test) else { return };
    let scratch = Scratch::new("verdicts");
    let istios = match istios(&scratch.0) {
        Ok(path) => path,
        Err(reason) => return skip(test, &reason),
    };
    let candidates = candidates();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": candidates.values().collect::<Vec<_>>()});
    let file = scratch.file("objects.json", &list.to_string());
    let ours = scratch.file("crds.yaml", &manifests::all_crds().unwrap());

    let plane = ControlPlane::start(&programs).unwrap();
    install(&plane, &istios);
    let by_istios = taken(&plane, &file);
    let mut kubectl = plane.kubectl();
    output(kubectl.args(["delete", "crd", "--all", "--wait", "--timeout=60s"])).unwrap();
    install(&plane, &ours);
    let by_ours = taken(&plane, &file);

    let (all, both) = (candidates.len(), by_ours.len());
    println!("{all} objects: {both} taken by ours, {} by Istio's", by_istios.len());
    let differ: Vec<_> =
        candidates.keys().filter(|name| by_ours.get(*name) != by_istios.get(*name)).collect();
    let differ = differ.iter().map(|name| (&candidates[*name], by_ours.get(*name), by_istios.get(*name)));
    assert_eq!(differ.clone().count(), 0, "verdicts differ: {:#?}", differ.collect::<Vec<_>>());
    assert!(both > 200 && all - both > 40, "too few of one sort: {both} of {all} taken");

    // `kubectl get` by the short name, in the oldest version.
    let mut kubectl = plane.kubectl();
    output(kubectl.args(["get", "vs,dr,gw,se,we,ap,pa,ra,sidecars.v1alpha3.networking.istio.io"])).unwrap();
    assert_eq!(plane.end().unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn the_api_server_takes_the_manifests_and_the_kinds_of_others_stay_theirs() {
    let test = "the_api_server_takes_the_manifests_and_the_kinds_of_others_stay_theirs";
    let Some(programs) = can_run_here(test) else { return };
    let plane = ControlPlane::start(&programs).unwrap();
    let run = |arguments: &[&str]| output(plane.kubectl().args(arguments)).unwrap();
    let helm = |arguments: &[&str]| {
        let mut helm = Command::new(programs.helm());
        helm.env("KUBECONFIG", plane.kubeconfig()).args(arguments);
        output(&mut helm)
    };

    // One kind is somebody else's, with a version that ours does not have.
    let theirs = r#"{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "sidecars.networking.istio.io", "labels": {"owner": "istio"}}, "spec": {
            "group": "networking.istio.io", "scope": "Namespaced", "names": {"kind": "Sidecar", "plural": "sidecars"},
            "versions": [{"name": "v9", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}"#;
    let scratch = Scratch::new("theirs");
    let theirs = scratch.file("theirs.json", theirs);
    run(&["create", "-f", theirs.to_str().unwrap()]);
    let version = |crd: &str| {
        run(&["get", "crd", crd, "-o", "jsonpath={.spec.versions[*].name}/{.metadata.generation}"])
    };
    let before = version("sidecars.networking.istio.io");

    let chart = repository("deploy/chart");
    let chart = chart.to_str().unwrap();
    let release = ["undermesh", chart, "--namespace", "undermesh-system"];
    let all = "egressGateway.enabled=true,egressGateway.replicas=2";
    let said = helm(&[&["install"], &release[..], &["--create-namespace", "--set", all]].concat()).unwrap();
    assert!(said.contains("kubectl label namespace NAMESPACE istio.io/dataplane-mode=undermesh"), "{said}");
    assert!(said.contains("sidecars.networking.istio.io was there before"), "{said}");
    assert_eq!(version("sidecars.networking.istio.io"), before);
    assert!(version("gateways.networking.istio.io").starts_with("v1 v1beta1 v1alpha3/"));

    // An upgrade takes its own along, and nobody else's.
    helm(&[&["upgrade"], &release[..], &["--reuse-values", "--set", "logLevel=debug"]].concat()).unwrap();
    assert_eq!(version("sidecars.networking.istio.io"), before);

    // The rights are those that the agent's reads need, and not those of a neighbour.
    let may = |who: &str, what: &[&str]| {
        let account = format!("--as=system:serviceaccount:undermesh-system:undermesh-{who}");
        plane.kubectl().args(["auth", "can-i", &account]).args(what).status().unwrap().success()
    };
    for (who, what, want) in [
        ("agent", &["list", "pods", "--all-namespaces"][..], true),
        ("agent", &["watch", "virtualservices.networking.istio.io", "--all-namespaces"], true),
        ("agent", &["list", "configmaps/istio", "-n", "istio-system"], true),
        ("agent", &["list", "configmaps/other", "-n", "istio-system"], false),
        ("agent", &["get", "virtualservices.networking.istio.io", "--all-namespaces"], true),
        ("agent", &["create", "events.events.k8s.io", "--all-namespaces"], true),
        (
            "agent",
            &["update", "leases.coordination.k8s.io/undermesh-diagnostics", "-n", "undermesh-system"],
            true,
        ),
        ("agent", &["update", "leases.coordination.k8s.io/undermesh-diagnostics", "-n", "default"], false),
        ("agent", &["update", "leases.coordination.k8s.io/other", "-n", "undermesh-system"], false),
        ("agent", &["patch", "virtualservices.networking.istio.io", "--subresource=status"], true),
        ("agent", &["patch", "virtualservices.networking.istio.io"], false),
        ("agent", &["get", "secrets", "--all-namespaces"], false),
        ("agent", &["create", "pods/exec"], false),
        ("gateway", &["list", "services", "--all-namespaces"], true),
        ("gateway", &["patch", "virtualservices.networking.istio.io", "--subresource=status"], false),
        ("gateway", &["create", "events.events.k8s.io"], false),
    ] {
        assert_eq!(may(who, what), want, "{who} {what:?}");
    }

    // The kinds stay, with the objects; the rest goes.
    run(&["create", "-f", repository("deploy/examples/article").to_str().unwrap(), "--dry-run=server"]);
    helm(&["uninstall", "undermesh", "--namespace", "undermesh-system", "--wait"]).unwrap();
    assert!(version("gateways.networking.istio.io").starts_with("v1 "));
    let left = run(&[
        "get",
        "clusterrole,clusterrolebinding",
        "-o",
        "name",
        "-l",
        "app.kubernetes.io/instance=undermesh",
    ]);
    assert_eq!(left, "");

    // And the other way to install it.
    run(&["delete", "-f", theirs.to_str().unwrap()]);
    let manifests = repository("deploy/manifests");
    run(&[
        "apply",
        "--server-side",
        "--force-conflicts",
        "-f",
        manifests.join("crds.yaml").to_str().unwrap(),
    ]);
    run(&["apply", "--dry-run=server", "-f", manifests.join("undermesh.yaml").to_str().unwrap()]);
    assert_eq!(plane.end().unwrap(), Vec::<PathBuf>::new());
}
