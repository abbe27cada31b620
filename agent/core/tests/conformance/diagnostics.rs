//! What `check` would say of the cases' configurations, which all mean something and are in use somewhere: no error, but for what
//! we refuse; and what is remarked is written down in `diagnostics.txt`, so that a change of it is seen.
//! `UPDATE_DOCS=1 cargo test -p undermesh-core --test conformance` writes it anew.
//!
//! Also here: the coverage tables and the list of failures have to agree, as both say what does not work.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use undermesh_core::api::origin::{Lines, Origin};
use undermesh_core::api::{parse, validate};
use undermesh_core::compile::compile;
use undermesh_core::diagnostic::{Code, Diagnostic};
use undermesh_core::inputs::Inputs;

use super::{NOT_YET, cases, world};

/// Cases that fail for another reason than a field of a kind of Istio's that we do not act on.
const NO_FIELD: &[&str] = &[
    "gw-http10-or-missing-host",
    "self-call-via-service",
    // A field of a Service; the tables are about Istio's kinds.
    "locality-traffic-distribution-same-node",
];

/// Cases whose configuration Istio's admission refuses, which the suite put in force without it.
const REFUSED_AT_ADMISSION: &[&str] = &["header-host-cannot-be-removed"];

/// Cases that use a refused field and pass nevertheless, as no request of them needs it.
const REFUSED_AND_NOT_NEEDED: &[&str] = &[];

/// All that is said of a case's objects.
fn said(case: &Value) -> Vec<Diagnostic> {
    let mut inputs = Inputs::default();
    let mut all = Vec::new();
    for object in world::objects(case) {
        // The suite's stand-in for the public keys of its test issuer.
        let text = object.to_string().replace("<test jwks>", r#"{\"keys\": []}"#);
        let object: Value = serde_json::from_str(&text).expect("JSON");
        let parsed = parse(object, Origin::new("case.yaml", Lines::at(1)));
        all.extend(parsed.diagnostics);
        if let Some(object) = parsed.object {
            all.extend(validate(&object));
            inputs.insert(object);
        }
    }
    all.extend(compile(&inputs).diagnostics);
    all
}

fn is_about_coverage(said: &Diagnostic) -> bool {
    matches!(said.code, Code::NotEnforced | Code::Refused)
}

#[test]
fn no_case_is_an_error_and_remarks_are_as_written_down() {
    let mut text = String::new();
    let mut errors = String::new();
    for case in cases() {
        let name = case["name"].as_str().expect("a name").to_owned();
        let mut lines = BTreeSet::new();
        for said in said(&case).iter().filter(|said| !is_about_coverage(said)) {
            let object = format!("{} {}/{}", said.kind, said.namespace, said.name);
            let line = format!("  {} {} {object} {}", said.severity, said.code, said.field);
            if said.is_error() && !REFUSED_AT_ADMISSION.contains(&&*name) {
                writeln!(errors, "{name}: {said}").expect("a string");
            }
            lines.insert(line);
        }
        if !lines.is_empty() {
            let lines: Vec<_> = lines.into_iter().collect();
            writeln!(text, "{name}\n{}", lines.join("\n")).expect("a string");
        }
    }
    assert!(errors.is_empty(), "{errors}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/diagnostics.txt");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).expect("a writable file");
    }
    let have = std::fs::read_to_string(&path).unwrap_or_default();
    let changed: Vec<_> = text.lines().filter(|line| !have.lines().any(|other| other == *line)).collect();
    assert!(
        have == text,
        "{} is not current: write it with UPDATE_DOCS=1 cargo test -p undermesh-core --test conformance\nnew: {changed:#?}",
        path.display()
    );
}

#[test]
fn the_coverage_tables_and_the_list_of_failures_agree() {
    let fails: BTreeSet<&str> = NOT_YET.iter().map(|(name, _)| *name).collect();
    let mut without_reason = Vec::new();
    let mut refused = Vec::new();
    for case in cases() {
        let name = case["name"].as_str().expect("a name").to_owned();
        let said = said(&case);
        let uncovered: Vec<_> = said.iter().filter(|said| is_about_coverage(said)).collect();
        if fails.contains(&*name) && uncovered.is_empty() && !NO_FIELD.contains(&&*name) {
            without_reason.push(name.clone());
        }
        let is_refused = uncovered.iter().any(|said| said.is_error());
        if is_refused && !fails.contains(&*name) {
            refused.push(name);
        }
    }
    assert!(
        without_reason.is_empty(),
        "these fail and the coverage tables say that all of their fields are enforced: {without_reason:?}"
    );
    assert_eq!(refused, REFUSED_AND_NOT_NEEDED, "cases that use a refused field and pass");
}
