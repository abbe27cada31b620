//! What a machine must have before a cluster can run on it, and what happens to a test when it has not.

use std::io::Write as _;

use anyhow::bail;

use crate::packages;
use crate::programs::Programs;

/// Installs and builds what is missing: Debian's packages, Kubernetes' programs. `told` gets a line for each.
///
/// # Errors
/// One cannot be had.
pub fn prepare(told: impl Fn(&str)) -> anyhow::Result<Programs> {
    packages::install(&told)?;
    Programs::prepare(told)
}

/// The programs, when the calling test can run. When it cannot, prints the reason past the test harness' capture, so that a
/// skipped test never looks like a passed one; in CI (`CI=true`) it panics instead.
#[must_use]
pub fn can_run_here(test: &str) -> Option<Programs> {
    if !undermesh_tests::can_run_here(test) {
        return None;
    }
    let found = Programs::cached().and_then(|programs| match packages::missing().as_slice() {
        [] => Ok(programs),
        missing => bail!("{} is missing: `cargo xtask cluster --prepare` installs it", missing.join(", ")),
    });
    match found {
        Ok(programs) => Some(programs),
        Err(reason) => {
            let in_ci = matches!(std::env::var("CI").as_deref(), Ok("true" | "1"));
            assert!(!in_ci, "{test} cannot run in CI: {reason}");
            // Not eprintln!: libtest captures that, and hides it when the test "passes".
            let _ = writeln!(std::io::stderr(), "SKIP {test}: {reason}");
            None
        }
    }
}
