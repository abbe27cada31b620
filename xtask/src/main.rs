//! The project's own commands.
mod bpf;
fn main() {}
