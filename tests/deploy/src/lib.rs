//! What is under `deploy/`, made and checked: the CRDs come from the types of `undermesh-core`, the manifests from the chart.
//!
//! No schema crate derives the CRDs: the types already tell their fields to a recording deserializer
//! ([`undermesh_core::api::schema`]), on which unknown fields and the coverage table are built. So the CRDs cannot know other
//! fields than the parser, and core needs neither a derive on ninety types nor a dependency. What no type says, such as which
//! field is required, is in [`crds::rules`], a table; descriptions are the types' own comments.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

pub mod crds;
pub mod manifests;
pub mod rights;
pub mod schemas;

use std::path::{Path, PathBuf};

/// A path in the repository.
#[must_use]
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
