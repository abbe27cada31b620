//! `cargo xtask bpf`: builds the kernel programs.
