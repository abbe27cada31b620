//! The labels and annotations that are our own: their names, and remarks about those that will not do what they seem to say.
//!
//! Kubernetes takes any label and annotation, so a typo in one is found by nobody else. What a value means is decided where it
//! is used (the agent's enrolment); what cannot be read there is remarked here.

use std::num::NonZeroU16;

use crate::api::meta::{Key, Kinded, ObjectMeta, Resource};
use crate::api::origin::push_key;
use crate::api::spelling::nearest;
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::inputs::Inputs;
use crate::inventory::{Pod, PodPhase};

/// On a namespace or pod; `undermesh` enrols, on a pod `none` opts out.
pub const MODE_LABEL: &str = "istio.io/dataplane-mode";
/// File mode: the path of the pod's network namespace.
pub const NETNS_ANNOTATION: &str = "undermesh.io/netns";
/// File mode: the path of the pod's cgroup.
pub const CGROUP_ANNOTATION: &str = "undermesh.io/cgroup";
/// Destination ports that are never captured, comma-separated.
pub const EXCLUDE_PORTS_ANNOTATION: &str = "undermesh.io/exclude-outbound-ports";
/// `open` or `closed`.
pub const FAIL_MODE_ANNOTATION: &str = "undermesh.io/fail-mode";

const ANNOTATIONS: [&str; 4] =
    [NETNS_ANNOTATION, CGROUP_ANNOTATION, EXCLUDE_PORTS_ANNOTATION, FAIL_MODE_ANNOTATION];
/// What our annotations begin with.
const PREFIX: &str = "undermesh.io/";

/// The annotations of an object that are ours, or meant to be.
pub fn annotations(meta: &ObjectMeta) -> impl Iterator<Item = (&str, &str)> {
    let ours = meta.annotations.iter().filter(|(key, _)| key.starts_with(PREFIX));
    ours.map(|(key, value)| (key.as_str(), value.as_str()))
}

/// Remarks about the labels and annotations of all pods and namespaces.
pub(crate) fn check(inputs: &Inputs, diagnostics: &mut Vec<Diagnostic>) {
    for namespace in inputs.namespaces.values() {
        mode(namespace, diagnostics);
        words(namespace, diagnostics);
    }
    for pod in inputs.pods.values() {
        mode(pod, diagnostics);
        words(pod, diagnostics);
        values(pod, diagnostics);
    }
}

/// Remarks about enrolled pods of a folder that no agent will find. A pod that comes from a cluster is found by its uid.
pub fn nowhere(inputs: &Inputs) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    for pod in inputs.pods.values().filter(|pod| pod.spec.uid.is_none() && is_enrolled(inputs, pod)) {
        let mut say = |field: &str, message: &str, hint: String| {
            let remark = pod.diagnostic(Severity::Info, Code::NotFoundOnNode, field, message).with_hint(hint);
            diagnostics.push(remark);
        };
        if pod.spec.node.is_empty() {
            let message =
                "the pod is enrolled, and no node is named on which it runs, so no agent captures it";
            say("spec", message, "name the node in spec.nodeName".to_owned());
        }
        let is_placed = [NETNS_ANNOTATION, CGROUP_ANNOTATION]
            .iter()
            .any(|annotation| pod.meta.annotations.contains_key(*annotation));
        if !is_placed {
            let message = "the pod is enrolled, and nothing says where it is, so it cannot be captured";
            let hint = format!(
                "give annotation {NETNS_ANNOTATION} (the path of its network namespace) or {CGROUP_ANNOTATION}"
            );
            say("metadata", message, hint);
        }
    }
    diagnostics
}

fn is_enrolled(inputs: &Inputs, pod: &Resource<Pod>) -> bool {
    if pod.spec.has_sidecar || matches!(pod.spec.phase, PodPhase::Succeeded | PodPhase::Failed) {
        return false;
    }
    let namespace = inputs.namespaces.get(&Key::new("", pod.meta.namespace.clone()));
    let of_namespace = || namespace.and_then(|it| it.meta.labels.get(MODE_LABEL));
    pod.meta.labels.get(MODE_LABEL).or_else(of_namespace).is_some_and(|mode| mode == "undermesh")
}

/// The value of the label that enrols.
fn mode<T: Kinded>(object: &Resource<T>, diagnostics: &mut Vec<Diagnostic>) {
    let Some(value) = object.meta.labels.get(MODE_LABEL) else { return };
    if matches!(value.as_str(), "undermesh" | "none") {
        return;
    }
    let field = field("labels", MODE_LABEL);
    diagnostics.push(match nearest(value, ["undermesh", "none"]) {
        Some(meant) => object
            .diagnostic(Severity::Warning, Code::UnreadValue, &field, format!("{value:?} enrols nobody"))
            .with_hint(format!("did you mean {meant:?}?")),
        None => {
            let message = format!("{value:?} is another data plane's: it is left to that one");
            object.diagnostic(Severity::Info, Code::OtherDataPlane, &field, message)
        }
    });
}

/// Names that do not exist, or stand in the wrong place.
fn words<T: Kinded>(object: &Resource<T>, diagnostics: &mut Vec<Diagnostic>) {
    let mut say = |place: &str, key: &str, message: &str, hint: String| {
        let remark = object.diagnostic(Severity::Warning, Code::UnknownWord, &field(place, key), message);
        diagnostics.push(remark.with_hint(hint));
    };
    for (key, _) in annotations(&object.meta) {
        if !ANNOTATIONS.contains(&key) {
            // What all of them begin with is no likeness.
            let name = |key: &'static str| key.strip_prefix(PREFIX).unwrap_or(key);
            let word = key.strip_prefix(PREFIX).unwrap_or(key);
            let hint = nearest(word, ANNOTATIONS.map(name)).map_or_else(
                || format!("there are: {}", ANNOTATIONS.join(", ")),
                |meant| format!("did you mean \"{PREFIX}{meant}\"?"),
            );
            say("annotations", key, "no such annotation", hint);
        } else if T::KIND != Pod::KIND {
            say("annotations", key, "has no effect here", "it belongs on a Pod".to_owned());
        }
    }
    if object.meta.annotations.contains_key(MODE_LABEL) {
        say("annotations", MODE_LABEL, "has no effect as an annotation", "make it a label".to_owned());
    }
    for key in object.meta.labels.keys() {
        if ANNOTATIONS.contains(&key.as_str()) {
            say("labels", key, "has no effect as a label", "make it an annotation".to_owned());
        } else if key != MODE_LABEL && key.contains("dataplane") && nearest(key, [MODE_LABEL]).is_some() {
            say("labels", key, "no such label", format!("did you mean {MODE_LABEL:?}?"));
        }
    }
}

/// Values that cannot be read.
fn values(pod: &Resource<Pod>, diagnostics: &mut Vec<Diagnostic>) {
    let mut say = |key: &str, message: String, hint: &str| {
        let remark =
            pod.diagnostic(Severity::Warning, Code::UnreadValue, &field("annotations", key), message);
        diagnostics.push(remark.with_hint(hint));
    };
    for (key, value) in annotations(&pod.meta) {
        match key {
            FAIL_MODE_ANNOTATION if !matches!(value, "open" | "closed") => {
                say(key, format!("{value:?} cannot be read; open is in force"), "write open or closed");
            }
            EXCLUDE_PORTS_ANNOTATION => {
                let mut entries = value.split(',').map(str::trim).filter(|entry| !entry.is_empty());
                if let Some(bad) = entries.find(|entry| entry.parse::<NonZeroU16>().is_err()) {
                    let message = format!("{bad:?} is no port; no port is excluded");
                    say(key, message, "write numbers from 1 to 65535 with commas between them");
                }
            }
            NETNS_ANNOTATION | CGROUP_ANNOTATION if !value.starts_with('/') => {
                say(
                    key,
                    format!("{value:?} is no absolute path"),
                    "write the path from the root of the node",
                );
            }
            _ => {}
        }
    }
}

fn field(place: &str, key: &str) -> String {
    let mut path = format!("metadata.{place}");
    push_key(&mut path, key);
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::fixture::inputs;

    fn pod(metadata: &str, spec: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: a, namespace: shop, {metadata}}}, spec: {{{spec}}}}}"
        )
    }

    /// Severity, code and text of what is said.
    fn said(yaml: &str) -> Vec<(Severity, Code, String)> {
        let mut diagnostics = Vec::new();
        check(&inputs(&[yaml]), &mut diagnostics);
        diagnostics
            .into_iter()
            .map(|it| (it.severity, it.code, format!("{}: {} {}", it.field, it.message, it.hint)))
            .collect()
    }

    #[test]
    fn what_is_written_as_meant_is_passed_over() {
        for metadata in [
            "labels: {istio.io/dataplane-mode: undermesh, app: a, istio.io/rev: x}",
            "labels: {istio.io/dataplane-mode: none}",
            "annotations: {undermesh.io/netns: /run/netns/a, undermesh.io/cgroup: /sys/fs/cgroup/a}",
            "annotations: {undermesh.io/fail-mode: closed, undermesh.io/exclude-outbound-ports: '5432, 6379'}",
            "annotations: {example.com/netns: x, sidecar.istio.io/inject: 'true'}",
        ] {
            assert_eq!(said(&pod(metadata, "")), [], "{metadata}");
        }
    }

    #[test]
    fn what_does_nothing_is_named_with_what_was_meant() {
        use Severity::{Info, Warning};
        for (metadata, severity, code, says) in [
            (
                "labels: {istio.io/dataplane-mode: ambient}",
                Info,
                Code::OtherDataPlane,
                "another data plane's",
            ),
            ("labels: {istio.io/dataplane-mode: undermsh}", Warning, Code::UnreadValue, "\"undermesh\"?"),
            (
                "labels: {istio.io/dataplane-mod: undermesh}",
                Warning,
                Code::UnknownWord,
                "istio.io/dataplane-mode",
            ),
            (
                "annotations: {istio.io/dataplane-mode: undermesh}",
                Warning,
                Code::UnknownWord,
                "make it a label",
            ),
            ("labels: {undermesh.io/fail-mode: open}", Warning, Code::UnknownWord, "make it an annotation"),
            (
                "annotations: {undermesh.io/fail-mod: open}",
                Warning,
                Code::UnknownWord,
                "undermesh.io/fail-mode\"?",
            ),
            (
                "annotations: {undermesh.io/colour: red}",
                Warning,
                Code::UnknownWord,
                "there are: undermesh.io/netns,",
            ),
            ("annotations: {undermesh.io/fail-mode: Closed}", Warning, Code::UnreadValue, "open is in force"),
            (
                "annotations: {undermesh.io/netns: run/netns/a}",
                Warning,
                Code::UnreadValue,
                "no absolute path",
            ),
            (
                "annotations: {undermesh.io/exclude-outbound-ports: '80,http'}",
                Warning,
                Code::UnreadValue,
                "\"http\" is no port",
            ),
        ] {
            let said = said(&pod(metadata, ""));
            let [(its_severity, its_code, text)] = said.as_slice() else { panic!("{metadata}: {said:?}") };
            assert_eq!((*its_severity, *its_code), (severity, code), "{metadata}: {text}");
            assert!(text.contains(says), "{metadata}: {text}");
        }
    }

    #[test]
    fn a_pod_of_a_folder_has_to_say_where_it_is_if_it_is_enrolled() {
        let label = "labels: {istio.io/dataplane-mode: undermesh}";
        let placed = format!("{label}, annotations: {{undermesh.io/netns: /run/netns/a}}");
        let uid = format!("{label}, uid: 6f1e4a52-0c1d-4d6b-9d6e-0a1b2c3d4e5f");
        for (metadata, spec, want) in [
            (label, "nodeName: n1", vec!["metadata"]),
            (&placed, "nodeName: n1", vec![]),
            // As a misspelt nodeName is none.
            (&placed, "nodeNam: n1", vec!["spec"]),
            ("labels: {app: a}", "", vec![]),
            ("labels: {istio.io/dataplane-mode: none}", "", vec![]),
            (&uid, "nodeName: n1", vec![]),
        ] {
            let found = nowhere(&inputs(&[&pod(metadata, spec)]));
            let fields: Vec<_> = found.iter().map(|it| it.field.as_str()).collect();
            assert_eq!(fields, want, "{metadata} {spec}");
        }
        let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: undermesh}}}";
        assert_eq!(nowhere(&inputs(&[namespace, &pod("labels: {app: a}", "nodeName: n1")])).len(), 1);
    }
}
