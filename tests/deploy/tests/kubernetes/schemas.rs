//! Every manifest that there is, and whatever the chart renders, is what the running API server publishes and takes: by
//! kubeconform with schemas made of its OpenAPI document, and by a dry run through all of admission.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use undermesh_cluster::run::output;
use undermesh_cluster::{ControlPlane, Programs, can_run_here};
use undermesh_deploy::manifests::{self, ALL, COMMITTED, objects};
use undermesh_deploy::{repository, schemas};

use super::{Scratch, install};

/// Values that people set, each with what it turns on.
const VALUES: [(&str, &[&str]); 7] = [
    ("committed", COMMITTED),
    ("all", ALL),
    ("agent alone", &["ingressGateway.enabled=false", "crds.install=false", "metrics.annotations=false"]),
    (
        "NodePort",
        &[
            "ingressGateway.service.type=NodePort",
            "ingressGateway.service.ports[0].name=http2",
            "ingressGateway.service.ports[0].port=80",
            "ingressGateway.service.ports[0].nodePort=30080",
            "ingressGateway.service.externalTrafficPolicy=Local",
            "egressGateway.enabled=true",
        ],
    ),
    (
        "LoadBalancer",
        &[
            "ingressGateway.replicas=3",
            "ingressGateway.podDisruptionBudget.minAvailable=50%",
            "ingressGateway.service.loadBalancerClass=example.com/internal",
            "ingressGateway.service.loadBalancerIP=192.0.2.1",
            "ingressGateway.service.loadBalancerSourceRanges[0]=10.0.0.0/8",
            "ingressGateway.service.annotations.a=b",
        ],
    ),
    (
        "where pods go",
        &[
            "agent.nodeSelector.pool=a",
            "agent.tolerations[0].key=a",
            "agent.tolerations[0].operator=Exists",
            "agent.updateStrategy.rollingUpdate.maxUnavailable=25%",
            "agent.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key=a",
            "agent.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator=Exists",
            "ingressGateway.priorityClassName=system-cluster-critical",
            "ingressGateway.tolerations[0].key=a",
            "ingressGateway.tolerations[0].operator=Exists",
            "ingressGateway.topologySpreadConstraints[0].maxSkew=1",
            "ingressGateway.topologySpreadConstraints[0].topologyKey=kubernetes.io/hostname",
            "ingressGateway.topologySpreadConstraints[0].whenUnsatisfiable=ScheduleAnyway",
            "ingressGateway.topologySpreadConstraints[0].labelSelector.matchLabels.app=istio-ingressgateway",
        ],
    ),
    (
        "words and numbers",
        &[
            "image.pullSecrets[0]=registry",
            "logLevel=debug",
            "logFormat=json",
            "accessLog=off",
            "agent.workers=4",
            "agent.podLabels.a=b",
            "agent.podAnnotations.a=b",
            "agent.extraArgs[0]=--trace",
            "agent.extraEnv[0].name=A",
            "agent.extraEnv[0].value=b",
            "ingressGateway.extraEnv[0].name=A",
            "ingressGateway.extraEnv[0].value=b",
            "ingressGateway.podLabels.a=b",
        ],
    ),
];

/// A kind of the Prometheus operator, whose CRDs are not in this cluster: known to neither.
const NOT_HERE: &str = "PodMonitor";

/// Services for those who have no Kubernetes: their addresses are written into them, of two families, and a cluster gives its own.
const BY_HAND: &str = "/services.yaml";

/// The files of `deploy` that are applied as they are.
fn committed_files() -> Vec<PathBuf> {
    let mut folders: Vec<_> =
        ["manifests", "kubernetes", "examples"].map(|folder| repository("deploy").join(folder)).to_vec();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Every text of manifests, with a name for people.
fn texts() -> Vec<(String, String)> {
    let committed = committed_files().into_iter().map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(repository("deploy")).unwrap();
        (name.to_string_lossy().into_owned(), text)
    });
    let rendered =
        VALUES.map(|(name, values)| (format!("the chart, {name}"), manifests::rendered(values).unwrap()));
    committed.chain(rendered).collect()
}

/// What kubeconform says is wrong with a text, one line for each object.
fn faults(programs: &Programs, schemas: &Path, file: &Path) -> Vec<String> {
    let mut kubeconform = Command::new(programs.kubeconform());
    kubeconform.args(["-strict", "-output", "json", "-skip", NOT_HERE, "-schema-location"]);
    kubeconform.arg(schemas.join(schemas::TEMPLATE)).arg(file);
    let said = kubeconform.output().unwrap();
    let report: Value = serde_json::from_slice(&said.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&said.stderr)));
    let faults = report["resources"].as_array().into_iter().flatten();
    let faults = faults.map(|it| format!("{} {}: {}", it["kind"], it["name"], it["msg"]));
    let faults: Vec<_> = faults.collect();
    assert_eq!(said.status.success(), faults.is_empty(), "{report}");
    faults
}

/// What the API server says to a text, without doing it.
fn refusal(plane: &ControlPlane, file: &Path) -> Option<String> {
    let mut kubectl = plane.kubectl();
    kubectl.args([
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-f",
    ]);
    output(kubectl.arg(file)).err().map(|error| format!("{error:#}"))
}

#[test]
fn manifests_are_what_the_api_server_publishes_and_takes() {
    let Some(programs) = can_run_here("manifests_are_what_the_api_server_publishes_and_takes") else {
        return;
    };
    let scratch = Scratch::new("schemas");
    let plane = ControlPlane::start(&programs).unwrap();
    install(&plane, &scratch.file("crds.yaml", &manifests::all_crds().unwrap()));
    let texts = texts();
    // A dry run makes no namespace for what follows in the same file.
    let mut namespaces = BTreeSet::from(["undermesh-system".to_owned()]);
    for (_, text) in &texts {
        let all = objects(text).unwrap();
        namespaces
            .extend(all.iter().filter_map(|it| it["metadata"]["namespace"].as_str().map(str::to_owned)));
    }
    for namespace in namespaces.iter().filter(|name| *name != "default") {
        output(plane.kubectl().args(["create", "namespace", namespace])).unwrap();
    }
    let folder = published(&plane, &scratch);

    let (mut faulty, mut count) = (Vec::new(), 0);
    for (number, (name, text)) in texts.iter().enumerate() {
        let file = scratch.file(&format!("{number}.yaml"), text);
        faulty.extend(faults(&programs, &folder, &file).into_iter().map(|it| format!("{name}: {it}")));
        let all = objects(text).unwrap();
        count += all.len();
        if name.ends_with(BY_HAND) {
            continue;
        }
        let known: Vec<_> = all.iter().filter(|it| it["kind"] != NOT_HERE).collect();
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": known});
        let file = scratch.file(&format!("{number}.json"), &list.to_string());
        faulty.extend(refusal(&plane, &file).map(|it| format!("{name}: {it}")));
    }
    assert_eq!(faulty, Vec::<String>::new());
    println!("{count} objects in {} texts", texts.len());
    assert!(count > 150, "{count}");
    each_fault_is_found(&programs, &plane, &folder, &scratch);
    assert_eq!(plane.end().unwrap(), Vec::<PathBuf>::new());
}

/// The schemas of the API server, in a folder.
fn published(plane: &ControlPlane, scratch: &Scratch) -> PathBuf {
    let folder = scratch.0.join("schemas");
    std::fs::create_dir_all(&folder).unwrap();
    let has_all = |files: &std::collections::BTreeMap<String, Value>| {
        let kinds = ["virtualservice", "destinationrule", "gateway", "serviceentry", "sidecar"];
        kinds.iter().all(|kind| files.contains_key(&format!("networking.istio.io_v1alpha3_{kind}.json")))
    };
    // It publishes new kinds a moment after it serves them.
    let files =
        undermesh_tests::wait_until(std::time::Duration::from_secs(30), "all kinds to be published", || {
            let said = output(plane.kubectl().args(["get", "--raw", "/openapi/v2"]))?;
            let files = schemas::files(&serde_json::from_str(&said)?)?;
            Ok(has_all(&files).then_some(files))
        })
        .unwrap();
    println!("{} schemas", files.len());
    for (name, schema) in files {
        std::fs::write(folder.join(name), schema.to_string()).unwrap();
    }
    folder
}

/// The negative twins: both judges find an unknown field and a wrong type, and kubeconform a kind that nobody knows.
fn each_fault_is_found(programs: &Programs, plane: &ControlPlane, schemas: &Path, scratch: &Scratch) {
    let agent = manifests::rendered(COMMITTED).unwrap();
    let rules = std::fs::read_to_string(repository("deploy/examples/bookinfo/reviews.yaml")).unwrap();
    for (text, good, bad, want) in [
        (&agent, "hostPID: true", "hostPID: \"yes\"", "hostPID"),
        (&agent, "hostPID: true", "hostPid: true", "hostPid"),
        (&agent, "verbs:", "verb: [a]\n    verbs:", "verb"),
        (&rules, "weight: 90", "weight: \"90\"", "weight"),
        (&rules, "weight: 90", "wieght: 90", "wieght"),
    ] {
        let broken = text.replacen(good, bad, 1);
        assert_ne!(broken, *text, "{good} is not in it");
        let file = scratch.file("broken.yaml", &broken);
        let faults = faults(programs, schemas, &file);
        assert!(faults.len() == 1 && faults[0].contains(want), "{bad}: {faults:?}");
        let refusal = refusal(plane, &file).unwrap_or_default();
        assert!(refusal.contains(want), "{bad}: {refusal}");
    }
    let unknown = agent.replacen("kind: DaemonSet", "kind: DeamonSet", 1);
    let faults = faults(programs, schemas, &scratch.file("broken.yaml", &unknown));
    assert!(faults.len() == 1 && faults[0].contains("DeamonSet"), "{faults:?}");
}
