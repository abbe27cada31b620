//! The admission cases of the conformance suite, read as a user's file would be and judged as `check` would.

use std::path::Path;

use serde_json::Value;
use undermesh_core::diagnostic::{Diagnostic, Severity};

use super::files::read_text;
use super::yaml;

/// Cases that we do not get right, and nothing else: one that comes right has to be taken out.
const NOT_YET: [&str; 0] = [];

fn cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance/cases/validation.yaml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let chunk = yaml::chunks(&text).next().expect("a document");
    let document = yaml::parse_document(chunk).expect("valid YAML").expect("not empty");
    document.value["cases"].as_array().expect("a list of cases").clone()
}

fn judge(case: &Value) -> Result<(), String> {
    // The config goes through text, so that it is read as any file is.
    let text: String = case["config"]
        .as_array()
        .ok_or("no config")?
        .iter()
        .map(|object| format!("---\n{object}\n"))
        .collect();
    let said: Vec<Diagnostic> =
        read_text("case.yaml", &text).into_iter().flat_map(|document| document.diagnostics).collect();
    let expect = &case["expect_config"];
    let is_valid = !said.iter().any(Diagnostic::is_error);
    if Some(is_valid) != expect["valid"].as_bool() {
        return Err(format!("valid is {is_valid}: {said:#?}"));
    }
    for (key, severity) in [("errors_contain", Severity::Error), ("warnings_contain", Severity::Warning)] {
        for part in expect[key].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !said.iter().any(|said| said.severity == severity && said.message.contains(part)) {
                return Err(format!("nothing says {part:?}: {said:#?}"));
            }
        }
    }
    Ok(())
}

#[test]
fn admission_agrees_with_the_suite() {
    let cases = cases();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let mut wrong = Vec::new();
    let mut reasons = String::new();
    for case in &cases {
        if let Err(reason) = judge(case) {
            let name = case["name"].as_str().unwrap_or_default();
            reasons.push_str(&format!("{name}: {reason}\n"));
            wrong.push(name.to_owned());
        }
    }
    assert_eq!(wrong, NOT_YET, "{reasons}");
}
