//! Where configuration comes from (DESIGN D10): a folder of YAML, later also the Kubernetes API.
//!
//! A source yields [`undermesh_core::inputs::Inputs`] and diagnostics, and says when there is something new. No code behind
//! it may know which source it was.

pub mod files;
pub mod yaml;

#[cfg(test)]
mod conformance;
