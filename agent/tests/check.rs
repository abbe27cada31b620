//! `undermesh check`, as people run it: four different mistakes in one folder are each named by file and line with what to
//! change, and the objects beside them apply. Real binary, no root.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: { name: reviews, namespace: default }
spec:
  clusterIP: 10.96.0.12
  selector: { app: reviews }
  ports: [{ name: http, port: 9080 }]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: good, namespace: default }
spec:
  hosts: [reviews]
  http:
  - match: [{ uri: { prefix: /old } }]
    route:
    - destination: { host: reviews, subset: v9 }
  - name: rest
    directResponse: { status: 204 }
";
const TYPO: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: typo, namespace: default }
spec:
  hosts: [typo.example.com]
  http:
  - timeuot: 5s
    directResponse: { status: 204 }
";
const REGEX: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: regex, namespace: default }
spec:
  hosts: [regex.example.com]
  http:
  - match:
    - uri: { regex: '/bad(' }
    directResponse: { status: 204 }
";
/// A good document, then one that is not YAML.
const BROKEN: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: beside, namespace: default }
spec:
  hosts: [beside.example.com]
  http:
  - directResponse: { status: 204 }
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: [broken
  namespace: default
";

/// A folder of configuration that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn of(name: &str, files: &[(&str, &str)]) -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("check-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        for (file, text) in files {
            std::fs::write(path.join(file), text).unwrap();
        }
        Self(path)
    }

    fn undermesh(&self, verb: &str, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undermesh"));
        command.arg(verb).arg("--config").arg(&self.0).args(more).output().unwrap()
    }

    /// The status that a request to the URL would get by the mesh itself; null if an upstream would decide.
    fn status_of(&self, url: &str) -> Value {
        let output = self.undermesh("explain", &[url, "--output", "json"]);
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        answer.pointer("/results/0/status").unwrap().clone()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Below the target folder: what could not be removed is in nobody's way.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bad_folder(name: &str) -> Folder {
    Folder::of(
        name,
        &[("broken.yaml", BROKEN), ("mesh.yaml", SERVICE), ("regex.yaml", REGEX), ("typo.yaml", TYPO)],
    )
}

/// Number of the line with `needle`, from 1.
fn line_of(text: &str, needle: &str) -> u64 {
    text.lines().position(|line| line.contains(needle)).unwrap() as u64 + 1
}

#[test]
fn each_mistake_is_named_with_file_line_field_and_what_to_change() {
    let folder = bad_folder("named");
    let output = folder.undermesh("check", &["--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["valid"], false);
    let found = answer["diagnostics"].as_array().unwrap();
    for (file, line, severity, field, says) in [
        ("typo.yaml", line_of(TYPO, "timeuot"), "error", "spec.http[0].timeuot", "did you mean \"timeout\"?"),
        (
            "mesh.yaml",
            line_of(SERVICE, "subset: v9"),
            "warning",
            "spec.http[0].route[0].destination.subset",
            "add the subset to a DestinationRule",
        ),
        (
            "regex.yaml",
            line_of(REGEX, "/bad("),
            "error",
            "spec.http[0].match[0].uri.regex",
            "not an RE2 expression: unclosed group",
        ),
        ("broken.yaml", line_of(BROKEN, "[broken"), "error", "", "invalid YAML"),
    ] {
        let one = found.iter().find(|one| one["file"].as_str().unwrap().ends_with(file));
        let one = one.unwrap_or_else(|| panic!("nothing about {file} in {found:#?}"));
        let text = format!("{} {}", one["message"].as_str().unwrap(), one["hint"].as_str().unwrap());
        assert_eq!((&one["severity"], &one["field"]), (&severity.into(), &field.into()), "{file}: {text}");
        assert!(text.contains(says), "{file}: {text}");
        // A parser notices an unclosed bracket only after it, at the latest at the end of the file.
        let at = one["line"].as_u64().unwrap();
        if file == "broken.yaml" {
            assert!((line..=BROKEN.lines().count() as u64 + 1).contains(&at), "{at}");
        } else {
            assert_eq!(at, line, "{file}: {text}");
        }
    }
    assert_eq!(found.len(), 4, "nothing else is wrong: {found:#?}");
}

#[test]
fn text_begins_with_file_and_line_as_compilers_do() {
    let folder = bad_folder("text");
    let output = folder.undermesh("check", &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let path = folder.0.join("typo.yaml");
    let want = format!("{}:{}: error[", path.display(), line_of(TYPO, "timeuot"));
    assert!(text.lines().any(|line| line.starts_with(&want)), "{want} in:\n{text}");
    assert!(
        text.trim_end().ends_with("4 files, 3 objects in force: 3 errors, 1 warning, 0 remarks"),
        "{text}"
    );
}

#[test]
fn files_are_named_as_they_were_given() {
    let folder = Folder::of("given", &[("typo.yaml", TYPO)]);
    let check = |path: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undermesh"));
        let output = command.current_dir(&folder.0).args(["check", path]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for (path, want) in
        [("typo.yaml", "typo.yaml:7: "), ("./typo.yaml", "./typo.yaml:7: "), (".", "./typo.yaml:7: ")]
    {
        assert!(check(path).starts_with(want), "{path}: {}", check(path));
    }
}

#[test]
fn an_empty_folder_is_told_from_a_good_one_and_a_missing_one_cannot_be_checked() {
    let folder = Folder::of("empty", &[("notes.txt", "nothing")]);
    let output = folder.undermesh("check", &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("no file ends in .yaml") && text.contains("0 files, 0 objects in force"), "{text}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_undermesh"));
    let output = command.args(["check", "./nowhere"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("./nowhere"), "{text}");
}

#[test]
fn a_broken_document_says_what_is_skipped() {
    let folder = bad_folder("skipped");
    let output = folder.undermesh("check", &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("the document of lines 9 to 13 (VirtualService) is skipped"), "{text}");
}

#[test]
fn warnings_fail_only_who_asks_for_that() {
    let folder = Folder::of("warnings", &[("mesh.yaml", SERVICE)]);
    let code = |more: &[&str]| folder.undermesh("check", more).status.code();
    assert_eq!(code(&[]), Some(0));
    assert_eq!(code(&["--fail-on", "warning"]), Some(1));
    let without = SERVICE.replace("reviews, subset: v9", "reviews");
    let folder = Folder::of("no-warnings", &[("mesh.yaml", &without)]);
    assert_eq!(folder.undermesh("check", &["--fail-on", "warning"]).status.code(), Some(0));
}

#[test]
fn good_objects_apply_beside_broken_ones_and_broken_ones_do_not() {
    let folder = bad_folder("apply");
    // In the file of the broken document, in the object with the unknown subset, and that route itself: it fails visibly.
    assert_eq!(folder.status_of("http://beside.example.com/"), 204);
    assert_eq!(folder.status_of("http://reviews:9080/"), 204);
    assert_eq!(folder.status_of("http://reviews:9080/old"), 503);
    for host in ["typo.example.com", "regex.example.com"] {
        assert_ne!(folder.status_of(&format!("http://{host}/")), 204, "{host}");
    }
}

#[test]
fn a_folder_without_mistakes_is_valid() {
    let service = SERVICE.replace("reviews, subset: v9", "reviews");
    let folder =
        Folder::of("valid", &[("mesh.yaml", &service), ("typo.yaml", &TYPO.replace("timeuot", "timeout"))]);
    let output = folder.undermesh("check", &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("0 errors, 0 warnings"), "{text}");
    assert_eq!(folder.status_of("http://typo.example.com/"), 204);
}

#[test]
fn nothing_is_to_be_said_of_the_mesh_without_kubernetes() {
    let mesh = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/standalone");
    let mut command = Command::new(env!("CARGO_BIN_EXE_undermesh"));
    let output = command.arg("check").arg(mesh).args(["--output", "json"]).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["valid"], &answer["diagnostics"]), (&true.into(), &Value::Array(Vec::new())));
}

#[test]
fn nothing_is_wrong_with_the_examples() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let mut command = Command::new(env!("CARGO_BIN_EXE_undermesh"));
    let output = command.arg("check").arg(examples).args(["--output", "json"]).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["valid"], &answer["admitted"]), (&true.into(), &true.into()), "{answer}");
    // The article's short host, which Istio would answer with 503 (DESIGN D8), is what that example shows.
    let codes: Vec<_> = answer["diagnostics"].as_array().unwrap().iter().map(|it| &it["code"]).collect();
    assert_eq!(codes, ["UM0506"], "{answer}");
}

#[test]
fn what_is_admitted_and_refused_here_is_told_apart() {
    let rule = |mode: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{ name: a, namespace: default }}\n\
             spec:\n  mtls: {{ mode: {mode} }}\n"
        )
    };
    for (mode, valid, admitted) in
        [("STRICT", false, true), ("DISABLE", true, true), ("strict", false, false)]
    {
        let folder = Folder::of(&format!("admitted-{mode}"), &[("a.yaml", &rule(mode))]);
        let output = folder.undermesh("check", &["--output", "json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&answer["valid"], &answer["admitted"]),
            (&valid.into(), &admitted.into()),
            "{mode}: {answer}"
        );
        assert_eq!(output.status.code(), Some(i32::from(!valid)), "{mode}");
    }
}

#[test]
fn bad_requests_are_named_and_standard_input_is_read() {
    use std::io::Write;
    use std::process::Stdio;

    let folder = Folder::of("requests", &[("mesh.yaml", SERVICE)]);
    let ask = |requests: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undermesh"));
        command.args(["explain", "--config"]).arg(&folder.0).args(["--requests", "-", "--output", "json"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(requests.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let bad = ask(r#"{"requests": [{"id": "a", "port": 1}, {"id": "b", "port": 1, "protocol": "smtp"}]}"#);
    let text = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(
        !bad.status.success() && text.contains("requests[1] (\"b\"): protocol: unknown variant"),
        "{text}"
    );
    let good = ask(r#"{"requests": [{"id": "a", "port": 9080, "authority": "reviews", "path": "/"}]}"#);
    let answer: Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!((&answer["version"], &answer["results"][0]["status"]), (&1.into(), &204.into()), "{answer}");
}
