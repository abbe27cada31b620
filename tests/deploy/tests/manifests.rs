//! The manifests are what the chart renders, and keep the rules that people hold manifests to.
//! `UPDATE_DOCS=1 cargo test -p undermesh-deploy` writes them anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

use std::collections::BTreeSet;
use std::io::Write as _;

use serde_json::Value;
use undermesh_deploy::manifests::{self, ALL, COMMITTED, objects};
use undermesh_deploy::repository;

const UPDATE: &str = "run UPDATE_DOCS=1 cargo test -p undermesh-deploy";

fn check(name: &str, text: &str) {
    let path = repository("deploy/manifests").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "deploy/manifests/{name} is not what the chart renders: {UPDATE}");
}

/// The chart with these values; `None`, said aloud, without helm, which fails in CI.
fn rendered(test: &str, values: &[&str]) -> Option<String> {
    if let Err(reason) = manifests::helm() {
        let in_ci = matches!(std::env::var("CI").as_deref(), Ok("true" | "1"));
        assert!(!in_ci, "{test} cannot run in CI: {reason:#}");
        let _ = writeln!(std::io::stderr(), "SKIP {test}: {reason:#}");
        return None;
    }
    Some(manifests::rendered(values).unwrap())
}

fn committed() -> Vec<Value> {
    objects(&std::fs::read_to_string(repository("deploy/manifests/undermesh.yaml")).unwrap()).unwrap()
}

#[test]
fn the_crds_in_one_file_are_those_of_the_chart() {
    check("crds.yaml", &manifests::all_crds().unwrap());
}

#[test]
fn the_manifests_are_what_the_chart_renders() {
    if let Some(text) = rendered("the_manifests_are_what_the_chart_renders", COMMITTED) {
        check("undermesh.yaml", &text);
    }
}

#[test]
fn a_misspelt_value_is_refused() {
    if rendered("a_misspelt_value_is_refused", COMMITTED).is_some() {
        let error = manifests::rendered(&["agent.lisenerPort=3"]).unwrap_err();
        assert!(format!("{error:#}").contains("lisenerPort"), "{error:#}");
    }
}

#[test]
fn the_chart_is_of_the_workspaces_version() {
    let chart = std::fs::read_to_string(repository("deploy/chart/Chart.yaml")).unwrap();
    let chart = objects(&chart).unwrap().remove(0);
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_committed_manifests_keep_the_rules() {
    assert_eq!(faults(&committed()), Vec::<String>::new());
}

#[test]
fn whatever_the_chart_renders_keeps_the_rules() {
    if let Some(text) = rendered("whatever_the_chart_renders_keeps_the_rules", ALL) {
        let objects = objects(&text).unwrap();
        assert_eq!(faults(&objects), Vec::<String>::new());
        let kinds: BTreeSet<_> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
        for kind in ["CustomResourceDefinition", "PodDisruptionBudget", "PodMonitor", "Namespace"] {
            assert!(kinds.contains(kind), "{kind} is not rendered: {kinds:?}");
        }
    }
}

#[test]
fn each_rule_finds_its_fault() {
    for (pointer, value, want) in [
        ("/spec/template/spec/containers/0/securityContext/privileged", Value::from(true), "privileged"),
        (
            "/spec/template/spec/containers/0/securityContext/readOnlyRootFilesystem",
            false.into(),
            "read-only root",
        ),
        ("/spec/template/spec/containers/0/securityContext/capabilities/drop", Value::Null, "capabilities"),
        ("/spec/template/spec/containers/0/resources/limits", Value::Null, "limit of memory"),
        ("/spec/template/spec/containers/0/livenessProbe", Value::Null, "livenessProbe"),
        ("/spec/template/spec/containers/0/image", "undermesh:latest".into(), "tag"),
        ("/spec/template/spec/serviceAccountName", "default".into(), "service account"),
        ("/spec/template/spec/hostNetwork", true.into(), "hostNetwork"),
        ("/metadata/labels/app.kubernetes.io~1name", Value::Null, "app.kubernetes.io/name"),
    ] {
        let mut objects = committed();
        let agent = objects.iter_mut().find(|object| object["kind"] == "DaemonSet").unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        agent.pointer_mut(parent).unwrap()[key.replace("~1", "/")] = value;
        let faults = faults(&objects);
        assert!(faults.len() == 1 && faults[0].contains(want), "{pointer}: {faults:?}");
    }
}

/// What a reviewer of manifests would say.
fn faults(objects: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    for object in objects {
        let name =
            format!("{} {}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        let mut must = |holds: bool, what: &str| {
            if !holds {
                faults.push(format!("{name}: {what}"));
            }
        };
        for label in ["app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/version"] {
            must(object["metadata"]["labels"][label].is_string(), label);
        }
        let pod = &object["spec"]["template"]["spec"];
        if !pod.is_object() {
            continue;
        }
        let is_agent = object["kind"] == "DaemonSet";
        must(
            pod["serviceAccountName"].as_str().is_some_and(|account| account != "default"),
            "a service account of its own",
        );
        must(!pod["hostNetwork"].as_bool().unwrap_or_default(), "no hostNetwork");
        must(!pod["hostIPC"].as_bool().unwrap_or_default(), "no hostIPC");
        must(is_agent == pod["hostPID"].as_bool().unwrap_or_default(), "hostPID for the agent alone");
        let labels = &object["spec"]["template"]["metadata"]["labels"];
        must(labels["istio.io/dataplane-mode"] == "none", "the mesh does not capture itself");
        for (label, value) in object["spec"]["selector"]["matchLabels"].as_object().unwrap() {
            must(&labels[label] == value, "the selector finds the pods");
        }
        let paths =
            pod["volumes"].as_array().into_iter().flatten().filter_map(|it| it["hostPath"]["path"].as_str());
        let paths: Vec<_> = paths.collect();
        let may: &[&str] = if is_agent { &["/sys/fs/cgroup", "/run/undermesh"] } else { &[] };
        must(paths == may, "host paths by name");
        for container in pod["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            must(security["privileged"] == false, "not privileged");
            must(security["allowPrivilegeEscalation"] == false, "no privilege escalation");
            must(security["readOnlyRootFilesystem"] == true, "a read-only root");
            let is_dropped = security["capabilities"]["drop"] == serde_json::json!(["ALL"]);
            let added = security["capabilities"]["add"].as_array().map_or(&[][..], Vec::as_slice);
            let may: &[&str] = if is_agent { &["SYS_ADMIN", "SYS_PTRACE"] } else { &[] };
            must(is_dropped && added == may, "capabilities by name");
            if !is_agent {
                must(pod["securityContext"]["runAsNonRoot"] == true, "not root");
            }
            let profile =
                [&security["seccompProfile"]["type"], &pod["securityContext"]["seccompProfile"]["type"]];
            must(profile.iter().any(|it| **it == "RuntimeDefault"), "seccomp");
            for (list, what) in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")] {
                let is_there = container["resources"][list][what].is_string();
                must(is_there, &format!("a {} of {what}", list.trim_end_matches('s')));
            }
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                must(container[probe]["httpGet"]["path"].is_string(), probe);
            }
            let image = container["image"].as_str().unwrap_or_default();
            must(image.rsplit_once(':').is_some_and(|(_, tag)| tag != "latest"), "an image with a tag");
        }
    }
    faults
}

/// The rules as a table for people.
fn table_of_rights(objects: &[Value]) -> String {
    let texts = |list: &Value, quote: &str| -> Vec<String> {
        let texts = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.map(|text| format!("{quote}{text}{quote}")).collect()
    };
    let mut table =
        "| Who | Where | Group | Resources | Verbs |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for role in objects.iter().filter(|it| matches!(it["kind"].as_str(), Some("Role" | "ClusterRole"))) {
        let who = role["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap();
        let place = if role["kind"] == "Role" { "its namespace" } else { "everywhere" };
        for rule in role["rules"].as_array().unwrap() {
            let groups = texts(&rule["apiGroups"], "").join(", ");
            let group = if groups.is_empty() { "core" } else { &groups };
            let names = texts(&rule["resourceNames"], "`").join(", ");
            let only = if names.is_empty() { String::new() } else { format!(" ({names})") };
            let resources = texts(&rule["resources"], "").join(", ");
            let verbs = texts(&rule["verbs"], "`").join(", ");
            table += &format!("| {who} | {place} | {group} | {resources}{only} | {verbs} |\n");
        }
    }
    table
}

#[test]
fn the_documentation_names_the_rights() {
    const MARKS: [&str; 2] = ["<!-- rights -->\n", "<!-- end of rights -->"];
    let path = repository("docs/kubernetes-source.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(MARKS[0]).unwrap();
    let (_, tail) = rest.split_once(MARKS[1]).unwrap();
    let want = format!("{head}{}\n{}\n{}{tail}", MARKS[0], table_of_rights(&committed()), MARKS[1]);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &want).unwrap();
    } else {
        assert!(
            text == want,
            "docs/kubernetes-source.md does not have the rights of the manifests: {UPDATE}"
        );
    }
}

/// Rights, one a line: who, where, which verb, of what.
#[test]
fn what_it_may_do_is_this_and_no_more() {
    let objects = committed();
    let mut rights = BTreeSet::new();
    for role in objects.iter().filter(|it| matches!(it["kind"].as_str(), Some("Role" | "ClusterRole"))) {
        let who = role["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap();
        let place = if role["kind"] == "Role" { "its namespace" } else { "everywhere" };
        let list = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().map(|it| it.as_str().unwrap().to_owned()).collect()
        };
        for rule in role["rules"].as_array().unwrap() {
            let mut names = list(&rule["resourceNames"]);
            if names.is_empty() {
                names.push("*".to_owned());
            }
            for group in list(&rule["apiGroups"]) {
                for resource in list(&rule["resources"]) {
                    let dot = if group.is_empty() { "" } else { "." };
                    for name in &names {
                        let verbs = list(&rule["verbs"]).join(",");
                        rights.insert(format!("{who} {place} {verbs} {resource}{dot}{group} {name}"));
                    }
                }
            }
        }
    }
    let text: String = rights.iter().map(|right| format!("{right}\n")).collect();
    let path = repository("tests/deploy/tests/rights.txt");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "if this is meant: {UPDATE}");
    assert!(!text.contains("secrets") && !text.contains(" *."), "{text}");
    // Whoever is bound is one of ours.
    for binding in
        objects.iter().filter(|it| it["kind"].as_str().is_some_and(|kind| kind.ends_with("Binding")))
    {
        for subject in binding["subjects"].as_array().unwrap() {
            assert_eq!(subject["kind"], "ServiceAccount");
            assert!(subject["name"].as_str().unwrap().starts_with("undermesh-"));
        }
    }
}
