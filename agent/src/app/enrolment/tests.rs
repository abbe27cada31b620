use serde_json::{Value, json};
use undermesh_core::api;

use super::*;

fn inputs(objects: impl IntoIterator<Item = Value>) -> Inputs {
    let mut inputs = Inputs::default();
    for value in objects {
        let parsed = api::parse(value, Default::default());
        assert!(parsed.diagnostics.is_empty(), "{:?}", parsed.diagnostics);
        inputs.insert(parsed.object.unwrap());
    }
    inputs
}

fn pod(labels: &Value, annotations: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "ns1", "labels": labels, "annotations": annotations},
        "spec": {"nodeName": "n1"}, "status": {"podIPs": [{"ip": "10.1.0.2"}, {"ip": "fd00::2"}]}})
}

fn namespace(labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns1", "labels": labels}})
}

/// As the source of files has it.
const FILES: Rules = Rules { istio_injection: false, trusts_annotations: true, own_pod: None };

fn local_pods(inputs: &Inputs, node: &str) -> Vec<Arc<LocalPod>> {
    LocalPods::new(node).of(inputs, FILES)
}

#[test]
fn pods_come_and_go_with_the_inputs() {
    let mut pods = LocalPods::new("n1");
    let mut inputs = inputs([pod(&json!({}), &json!({}))]);
    assert_eq!(pods.of(&inputs, FILES).len(), 1);
    assert_eq!(pods.of(&inputs, FILES).len(), 1);
    let mut moved = pod(&json!({}), &json!({}));
    moved["spec"]["nodeName"] = json!("n2");
    inputs.insert(api::parse(moved, Default::default()).object.unwrap());
    assert_eq!(pods.of(&inputs, FILES).len(), 0);
    inputs.insert(api::parse(pod(&json!({}), &json!({})), Default::default()).object.unwrap());
    assert_eq!(pods.of(&inputs, FILES).len(), 1);
    inputs.pods.remove(&Key::new("ns1", "a"));
    assert_eq!(pods.of(&inputs, FILES).len(), 0);
}

#[test]
fn the_pods_label_beats_the_namespaces() {
    let mode = |mode: &str| json!({MODE_LABEL: mode});
    for (namespace_label, pod_label, want) in [
        (json!({}), json!({}), Enrolment::NotLabelled),
        (mode("undermesh"), json!({}), Enrolment::ByNamespace),
        (mode("ambient"), json!({}), Enrolment::NotLabelled),
        (json!({}), mode("undermesh"), Enrolment::ByPod),
        (mode("undermesh"), mode("none"), Enrolment::OptedOut),
    ] {
        let inputs = inputs([namespace(&namespace_label), pod(&pod_label, &json!({}))]);
        assert_eq!(local_pods(&inputs, "n1")[0].enrolment, want);
    }
}

#[test]
fn only_pods_of_this_node_are_local() {
    let inputs = inputs([pod(&json!({}), &json!({}))]);
    assert_eq!(local_pods(&inputs, "n1").len(), 1);
    assert_eq!(local_pods(&inputs, "n2").len(), 0);
}

#[test]
fn annotations_are_read_and_nonsense_is_complained_about() {
    let good = json!({NETNS_ANNOTATION: "/run/netns/a", FAIL_MODE_ANNOTATION: "closed", EXCLUDE_PORTS_ANNOTATION: "25, 53"});
    let pods = local_pods(&inputs([pod(&json!({}), &good)]), "n1");
    let ports = ExcludedPorts::new([25, 53].map(|port| NonZeroU16::new(port).unwrap())).unwrap();
    assert_eq!(pods[0].netns.as_deref(), Some("/run/netns/a".as_ref()));
    assert_eq!(
        (pods[0].fail_mode, pods[0].excluded_ports, pods[0].complaints.len()),
        (FailMode::Closed, ports, 0)
    );
    assert_eq!(pods[0].address4, Some(Ipv4Addr::new(10, 1, 0, 2)));
    assert_eq!(pods[0].address6, Some("fd00::2".parse().unwrap()));

    let bad = json!({FAIL_MODE_ANNOTATION: "ajar", EXCLUDE_PORTS_ANNOTATION: "0"});
    let pods = local_pods(&inputs([pod(&json!({}), &bad)]), "n1");
    assert_eq!((pods[0].fail_mode, pods[0].excluded_ports), (FailMode::Open, ExcludedPorts::default()));
    assert_eq!(pods[0].complaints.len(), 2, "{:?}", pods[0].complaints);
}

const UID: &str = "0f6d5b2e-93a1-4c1e-8d55-0123456789ab";

#[test]
fn istios_own_label_enrols_only_where_it_is_asked_for() {
    let enabled = json!({INJECTION_LABEL: "enabled"});
    let of = |namespace_labels: &Value, labels: &Value, istio_injection| {
        let inputs = inputs([namespace(namespace_labels), pod(labels, &json!({}))]);
        LocalPods::new("n1").of(&inputs, Rules { istio_injection, ..FILES })[0].enrolment
    };
    assert_eq!(of(&enabled, &json!({}), true), Enrolment::ByInjection);
    assert_eq!(of(&enabled, &json!({}), false), Enrolment::NotLabelled);
    assert_eq!(of(&json!({INJECTION_LABEL: "disabled"}), &json!({}), true), Enrolment::NotLabelled);
    assert_eq!(of(&enabled, &json!({INJECT_LABEL: "false"}), true), Enrolment::OptedOut);
    assert_eq!(of(&enabled, &json!({MODE_LABEL: "none"}), true), Enrolment::OptedOut);
    let ambient = json!({INJECTION_LABEL: "enabled", MODE_LABEL: "ambient"});
    assert_eq!(of(&ambient, &json!({}), true), Enrolment::NotLabelled);
}

#[test]
fn a_pod_with_a_sidecar_and_the_agents_own_are_never_enrolled() {
    let labels = json!({MODE_LABEL: "undermesh"});
    let mut with_sidecar = pod(&labels, &json!({}));
    with_sidecar["spec"]["containers"] = json!([{"name": "app"}, {"name": "istio-proxy"}]);
    assert_eq!(local_pods(&inputs([with_sidecar]), "n1")[0].enrolment, Enrolment::HasSidecar);
    let mut own = pod(&labels, &json!({}));
    own["metadata"]["uid"] = json!(UID);
    let inputs = inputs([own]);
    let of = |own_pod: Option<&str>| {
        let rules = Rules { own_pod: own_pod.and_then(|uid| uid.parse().ok()), ..FILES };
        LocalPods::new("n1").of(&inputs, rules)[0].enrolment
    };
    assert_eq!(of(Some(UID)), Enrolment::Agent);
    assert_eq!(of(Some("1f6d5b2e-93a1-4c1e-8d55-0123456789ab")), Enrolment::ByPod);
    assert_eq!(of(None), Enrolment::ByPod);
}

#[test]
fn where_a_pod_is_by_its_annotations_is_believed_of_files_only() {
    let annotations = json!({NETNS_ANNOTATION: "/proc/1/ns/net", CGROUP_ANNOTATION: "/sys/fs/cgroup"});
    let inputs = inputs([pod(&json!({}), &annotations)]);
    let of = |trusts_annotations| {
        LocalPods::new("n1").of(&inputs, Rules { trusts_annotations, ..FILES }).remove(0)
    };
    assert!(of(true).netns.is_some() && of(true).cgroup.is_some() && of(true).complaints.is_empty());
    assert!(of(false).netns.is_none() && of(false).cgroup.is_none());
    assert_eq!(of(false).complaints.len(), 2, "{:?}", of(false).complaints);
}

#[test]
fn a_pod_that_only_becomes_ready_is_the_same_and_its_addresses_are_told_apart() {
    let mut pods = LocalPods::new("n1");
    let mut inputs = inputs([pod(&json!({}), &json!({}))]);
    let first = pods.of(&inputs, FILES).remove(0);
    let set = |inputs: &mut Inputs, change: &dyn Fn(&mut Value)| {
        let mut pod = pod(&json!({}), &json!({}));
        change(&mut pod);
        inputs.insert(api::parse(pod, Default::default()).object.unwrap());
    };
    set(&mut inputs, &|pod| pod["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]));
    assert!(Arc::ptr_eq(&first, &pods.of(&inputs, FILES)[0]));
    set(&mut inputs, &|pod| pod["status"] = json!({}));
    let without = pods.of(&inputs, FILES).remove(0);
    assert!(without.differs_in_addresses_only(&first) && first.differs_in_addresses_only(&without));
    set(&mut inputs, &|pod| pod["metadata"]["labels"] = json!({"app": "other"}));
    assert!(!pods.of(&inputs, FILES)[0].differs_in_addresses_only(&first));
}

#[test]
fn a_finished_job_is_gone_and_a_pod_that_starts_is_there() {
    let of = |phase: &str| {
        let mut pod = pod(&json!({MODE_LABEL: "undermesh"}), &json!({}));
        pod["status"] = json!({"phase": phase});
        local_pods(&inputs([pod]), "n1").len()
    };
    assert_eq!([of("Pending"), of("Running"), of("Succeeded"), of("Failed")], [1, 1, 0, 0]);
}

#[test]
fn a_node_that_no_pod_names_is_said_and_one_that_has_pods_is_not() {
    let inputs = |node: &str| {
        let text =
            format!("{{kind: Pod, apiVersion: v1, metadata: {{name: a}}, spec: {{nodeName: {node}}}}}");
        crate::source::files::load_text("pods.yaml", &text).inputs
    };
    assert_eq!(elsewhere(&inputs("n1"), "n1"), None);
    assert!(elsewhere(&inputs("n2"), "n1").is_some_and(|text| text.contains("named: n2")));
    assert_eq!(elsewhere(&Inputs::default(), "n1"), None);
}
