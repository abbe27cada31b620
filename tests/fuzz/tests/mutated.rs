//! No text makes the source panic, hang or lose good documents: valid files, mutated. The part of fuzzing that every run of the
//! tests can afford.

use std::path::Path;

use undermesh::source::files::read_text;
use undermesh_worlds::chance::Chance;

const PIECES: [&str; 34] = [
    "---\n",
    "...\n",
    "\n",
    " ",
    "  ",
    "\t",
    ":",
    ": ",
    "- ",
    "-",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "!x ",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "#",
    "\\",
    "%",
    "null",
    "yes",
    "-1",
    "1e999",
    "99999999999999999999",
    "\u{0}",
    "\u{e9}",
    "spec:\n  http:\n",
];

fn mutated(text: &str, random: &mut Chance) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(5) {
            0 => {
                let end = (at + 1 + random.below(20)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            1 => {
                let piece = PIECES[random.below(PIECES.len())];
                bytes.splice(at..at, piece.bytes());
            }
            2 if at < bytes.len() => bytes[at] = random.below(256) as u8,
            3 => {
                // A part of the text again, elsewhere.
                let start = random.below(bytes.len());
                let end = (start + random.below(60)).min(bytes.len());
                let part = bytes[start..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => bytes.truncate(at),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn samples() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/cases");
    let validation = std::fs::read_to_string(folder.join("validation.yaml")).expect("the suite's cases");
    let kinds = "apiVersion: v1\nkind: List\nitems:\n- &s\n  apiVersion: v1\n  kind: Service\n  metadata: {name: a, labels: {a: b}}\n  \
         spec:\n    clusterIP: 10.0.0.1\n    ports: [{name: http, port: 80, targetPort: web}]\n- <<: *s\n  metadata: {name: b}\n- apiVersion: \
         v1\n  kind: Pod\n  metadata: {name: p, namespace: ns}\n  status: {podIPs: [{ip: 10.1.1.1}]}\n---\napiVersion: \
         discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\nendpoints: [{addresses: [\"fd00::1\"]}]\nports: [{port: 80}]\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |-\n    rootNamespace: x\n    \
         defaultHttpRetryPolicy: {attempts: 1}\n---\n{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"n\"}}\n";
    // Each case's config as a file of its own: the suite's indentation, less the case's.
    let mut samples: Vec<String> = validation
        .split("  config:\n  - ")
        .skip(1)
        .filter_map(|rest| rest.split("\n- name:").next())
        .map(|config| config.replace("\n    ", "\n"))
        .collect();
    samples.push(kinds.to_owned());
    samples
}

#[test]
fn the_samples_are_objects_before_they_are_mutated() {
    let samples = samples();
    assert!(samples.len() > 60, "{}", samples.len());
    let objects = samples
        .iter()
        .flat_map(|text| read_text("a.yaml", text))
        .filter(|document| document.object.is_some());
    assert!(objects.count() > 10);
}

#[test]
fn no_mutation_of_a_file_makes_reading_panic() {
    let samples = samples();
    let mut random = Chance::new(0x5eed);
    for round in 0..6_000 {
        let text = mutated(&samples[random.below(samples.len())], &mut random);
        // The number of the round comes before the panic's message.
        eprintln!("round {round}: {text:?}");
        undermesh_fuzz::yaml(text.as_bytes());
    }
}
