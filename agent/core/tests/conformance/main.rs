//! Conformance, the offline half: every case's configuration is compiled and every request of it explained; whatever of the
//! expectation a decision alone can settle is compared (see `expect.rs`). The same cases with live traffic are run elsewhere.
//!
//! `NOT_YET` lists, by name, the cases that do not pass. The list is exact: a case in it that passes fails the test too.
#![expect(clippy::panic, reason = "a test says what is wrong by panicking")]

mod diagnostics;
mod expect;
mod mutate;
// Shared with the live half.
#[path = "../../../../tests/conformance/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

/// Cases that fail, each with the reason.
const NOT_YET: &[(&str, &str)] = &[
    ("authz-deny-all-empty-spec", "authorization is not enforced yet"),
    ("authz-deny-wins", "authorization is not enforced yet"),
    ("authz-source-principal", "authorization is not enforced yet"),
    ("egress-tls-origination", "TLS is not originated yet"),
    ("gw-https-reencrypt", "TLS servers of gateways are not served yet"),
    ("gw-tls-optional-mutual", "TLS servers of gateways are not served yet"),
    ("jwt-invalid-401-missing-passes", "tokens are not verified yet"),
];

#[test]
fn cases_that_can_be_decided_offline_agree() {
    let mut failed: Vec<(String, String)> = Vec::new();
    let mut passed = 0;
    let known: BTreeSet<&str> = NOT_YET.iter().map(|(name, _)| *name).collect();
    let mut seen = BTreeSet::new();
    for case in cases() {
        let name = case["name"].as_str().expect("a name").to_owned();
        match run(&case) {
            Ok(()) => {
                passed += 1;
                assert!(!known.contains(&*name), "{name} passes now: take it off the list");
            }
            Err(why) if !known.contains(&*name) => failed.push((name.clone(), why)),
            Err(_) => {}
        }
        assert!(seen.insert(name.clone()), "{name} exists twice");
    }
    for name in &known {
        assert!(seen.contains(*name), "{name} is on the list but no case");
    }
    let report: Vec<_> = failed.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    assert!(failed.is_empty(), "{passed} passed, {} failed:\n{}", failed.len(), report.join("\n"));
    assert!(passed > 100, "only {passed} cases were found and passed");
}

fn cases() -> Vec<Value> {
    world::cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/cases"))
}

fn run(case: &Value) -> Result<(), String> {
    let world = world::World::new(case)?;
    for request in case["requests"].as_array().expect("requests") {
        let id = request["id"].as_str().unwrap_or_default();
        let answer = world.explain(request);
        let alternatives = match request.get("expect") {
            Some(expect) => vec![expect],
            None => request["expect_any"].as_array().expect("alternatives").iter().collect(),
        };
        let mut reasons = Vec::new();
        for expect in &alternatives {
            if let Err(why) = expect::check(&answer, request, expect, &world) {
                reasons.push(why);
            }
        }
        if reasons.len() == alternatives.len() {
            return Err(format!("{id}: {}", reasons.join(" / ")));
        }
    }
    Ok(())
}
