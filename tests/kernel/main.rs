//! Tests that need root: real namespaces, real cgroups, the real kernel programs and the real agent binary.

mod harness;
