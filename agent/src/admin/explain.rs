//! `undermesh explain`: core's answer, and what core cannot know: whether the pod's connections are captured at all, which
//! objects were written and are not in force, and whose gateway is asked.

use std::collections::BTreeSet;

use serde_json::Value;
use undermesh_core::api::meta::Key;
use undermesh_core::diagnostic::{Code, Diagnostic};
use undermesh_core::explain::{self, GatewaySource, Requests, Results, Source};
use undermesh_core::inputs::Inputs;
use undermesh_core::snapshot::Snapshot;

use super::{Role, State};

/// Objects that an answer names as not in force, at most.
const MAX_NAMED: usize = 5;

/// Against what is in force here.
pub(super) fn live(state: &State, body: &[u8]) -> Result<Results, String> {
    let mut requests = Requests::parse(body).map_err(|error| error.to_string())?;
    if let Role::Gateway { client } = &state.role {
        for request in &mut requests.requests {
            // Who asks a gateway means that gateway, unless it says otherwise.
            if request.gateway.is_none() && request.source == Source::default() && request.address.is_none() {
                request.gateway = Some(GatewaySource {
                    namespace: client.namespace.to_string(),
                    labels: client.labels.clone(),
                    port: request.port,
                });
            }
        }
    }
    let config = state.published.config.load();
    let mut results =
        answers(&state.published.snapshot.load(), &config.inputs, &config.diagnostics, &requests);
    if let Role::Agent { node } = &state.role {
        let rows = state.workloads.load();
        for (request, result) in requests.requests.iter().zip(&mut results.results) {
            let Some(pod) = request.source.pod.as_deref().filter(|_| request.gateway.is_none()) else {
                continue;
            };
            match capture(&rows, pod) {
                Capture::Yes => {}
                Capture::No(why) => {
                    let line = format!("pod {pod} is not captured ({why}): its connections go as dialled");
                    *result = explain::untouched(request, line);
                }
                Capture::Unknown => {
                    let line = format!(
                        "pod {pod} does not run on this node ({node}): answered as if it were captured there"
                    );
                    result.trace.insert(0, line);
                }
            }
        }
    }
    Ok(results)
}

/// The document of docs/explain-schema.md, with a line for each object that could have mattered and is not in force.
pub fn answers(
    snapshot: &Snapshot,
    inputs: &Inputs,
    diagnostics: &[Diagnostic],
    requests: &Requests,
) -> Results {
    let mut results = explain::explain_all(snapshot, requests);
    let lines = not_in_force(inputs, diagnostics);
    for result in results.results.iter_mut().filter(|result| result.rule.is_none()) {
        result.trace.extend(lines.iter().cloned());
    }
    results
}

/// VirtualServices, Gateways and ServiceEntries that were written and have no version in force. An older version that is kept
/// is in force.
fn not_in_force(inputs: &Inputs, diagnostics: &[Diagnostic]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut lines = Vec::new();
    for said in diagnostics.iter().filter(|it| it.is_error() && it.code != Code::Refused) {
        let key = Key::new(said.namespace.as_str(), said.name.as_str());
        let is_missing = match said.kind.as_str() {
            "VirtualService" => !inputs.virtual_services.contains_key(&key),
            "Gateway" => !inputs.gateways.contains_key(&key),
            "ServiceEntry" => !inputs.service_entries.contains_key(&key),
            // A document that is no YAML does not say what it is.
            "" => said.file.is_some(),
            _ => false,
        };
        if is_missing && seen.insert((said.kind.clone(), key, said.file.clone())) {
            lines.push(format!("not in force: {said}"));
        }
    }
    let more = lines.len().saturating_sub(MAX_NAMED);
    lines.truncate(MAX_NAMED);
    if more > 0 {
        lines.push(format!("not in force: {more} more; see undermesh diagnostics"));
    }
    lines
}

/// Whether connections of a pod are captured.
enum Capture {
    Yes,
    /// They are not, for this reason.
    No(String),
    /// It is not one of this node's.
    Unknown,
}

/// From the rows of `workloads`. `pod` without a namespace is one of `default`.
fn capture(rows: &Value, pod: &str) -> Capture {
    let full = if pod.contains('/') { pod.to_owned() } else { format!("default/{pod}") };
    let row = rows.as_array().into_iter().flatten().find(|row| row["pod"] == full.as_str());
    match row {
        None => Capture::Unknown,
        Some(row) if row["capture"] == "yes" => Capture::Yes,
        Some(row) => Capture::No(row["reason"].as_str().unwrap_or("for no reason given").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_captured_only_if_its_row_says_so() {
        let rows = json!([
            {"pod": "default/in", "capture": "yes", "reason": "label on the pod"},
            {"pod": "default/out", "capture": "no", "reason": "no label"},
        ]);
        assert!(matches!(capture(&rows, "default/in"), Capture::Yes));
        assert!(matches!(capture(&rows, "in"), Capture::Yes));
        assert!(matches!(capture(&rows, "default/out"), Capture::No(why) if why == "no label"));
        assert!(matches!(capture(&rows, "ns2/in"), Capture::Unknown));
    }

    const GOOD: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: good, namespace: default}
spec: {hosts: [a.example.com], http: [{route: [{destination: {host: a.example.com}}]}]}
---
";

    fn trace(text: &str) -> Vec<String> {
        let loaded = crate::source::files::load_text("mesh.yaml", text);
        let compiled = undermesh_core::compile::compile(&loaded.inputs);
        let requests =
            Requests::parse(br#"{"requests": [{"id": "1", "port": 80, "authority": "reviews"}]}"#).unwrap();
        let results = answers(&compiled.snapshot, &loaded.inputs, &loaded.diagnostics, &requests);
        let lines = results.results.into_iter().flat_map(|result| result.trace);
        lines.filter(|line| line.starts_with("not in force")).collect()
    }

    #[test]
    fn what_was_written_and_is_not_in_force_is_named() {
        assert_eq!(trace(GOOD), Vec::<String>::new());
        let bad = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: default}
spec: {hosts: [reviews], http: [{match: [{uri: {regex: '('}}], route: [{destination: {host: reviews}}]}]}
";
        let lines = trace(&format!("{GOOD}{bad}"));
        assert!(
            matches!(&*lines, [one] if one.contains("default/reviews") && one.contains("mesh.yaml:")),
            "{lines:?}"
        );
        let lines = trace(&format!("{GOOD}kind: [\n"));
        assert!(matches!(&*lines, [one] if one.contains("mesh.yaml:")), "{lines:?}");
    }
}
