//! The generated documents say what the code says. `UPDATE_DOCS=1 cargo test -p undermesh --test docs` writes them anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

use std::fmt::Write;
use std::path::Path;

use undermesh_core::coverage;
use undermesh_core::diagnostic::Code;

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/{name} is not what the code says: run UPDATE_DOCS=1 cargo test -p undermesh --test docs"
    );
}

#[test]
fn coverage_is_current() {
    check("coverage.md", &coverage::markdown());
}

#[test]
fn diagnostics_are_current() {
    let mut text = String::from(
        "# Diagnostics\n\nGenerated from the code. What `undermesh check`, `undermesh diagnostics` and the log say about \
         configuration: each line names the file and line, the object, the field, and one of these codes. Codes are stable.\n\n\
         | code | meaning |\n| --- | --- |\n",
    );
    for code in Code::ALL {
        writeln!(text, "| {} | {} |", code.as_str(), code.meaning().replace('|', "\\|")).unwrap();
    }
    check("diagnostics.md", &text);
}
