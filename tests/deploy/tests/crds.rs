//! The CRDs of the chart are what the types say. `UPDATE_DOCS=1 cargo test -p undermesh-deploy --test crds` writes them anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

use std::collections::BTreeSet;

use serde_json::Value;
use undermesh_deploy::crds::{self, rules};
use undermesh_deploy::repository;

const FOLDER: &str = "deploy/chart/files/crds";

#[test]
fn the_crds_are_what_the_types_say() {
    let folder = repository(FOLDER);
    let files = crds::files().unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        for (name, text) in &files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    let there: BTreeSet<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(there, files.keys().cloned().collect(), "files in {FOLDER}");
    for (name, text) in files {
        let written = std::fs::read_to_string(folder.join(&name)).unwrap();
        assert!(
            written == text,
            "{FOLDER}/{name} is not what the types say: run UPDATE_DOCS=1 cargo test -p undermesh-deploy --test crds"
        );
    }
}

#[test]
fn each_rule_is_for_a_field_that_there_is() {
    let mut paths = Vec::new();
    for text in crds::files().unwrap().values() {
        let crd: Value = serde_yaml_ng::from_str(text).unwrap();
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        each_path(kind, spec, &mut paths);
    }
    for pattern in rules::patterns() {
        assert!(paths.iter().any(|path| rules::is_end(path, pattern)), "no field for the rule of {pattern}");
    }
    assert!(!rules::is_end("VirtualService.http[].myroute[]", "route[]"));
}

fn each_path(path: &str, schema: &Value, paths: &mut Vec<String>) {
    paths.push(path.to_owned());
    for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
        each_path(&format!("{path}.{field}"), schema, paths);
    }
    if schema["items"].is_object() {
        each_path(&format!("{path}[]"), &schema["items"], paths);
    }
    if schema["additionalProperties"].is_object() {
        each_path(&format!("{path}{{}}"), &schema["additionalProperties"], paths);
    }
}
