//! `cargo xtask`: the project's own commands, a file per verb. They need nothing but cargo; what else a verb needs it
//! installs or names.

mod bench;
mod bpf;
mod cargo;
mod ci;
mod cluster;
mod demo;
mod deps;
mod fuzz;
mod image;
mod lint;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "Examples:
  cargo xtask demo               a mesh on this machine, driven and reported; as root
  cargo xtask demo --keep        the same, left running until Ctrl-C
  cargo xtask cluster            real Kubernetes on this machine, with the mesh on it; as root
  cargo xtask image              the container image, without Docker
  cargo xtask test               everything that is tested; as root for the kernel's part
  cargo xtask test --only unit   the part that needs neither root nor BPF
  cargo xtask bench              cost per request beside HAProxy and Envoy; as root
  cargo xtask fuzz               what must hold for any input, with made-up inputs
  cargo xtask vm                 the demo on kernels 6.1 and 6.12, in QEMU
  cargo xtask ci                 what has to be green before a merge"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Demo(demo::Args),
    Cluster(cluster::Args),
    Image(image::Args),
    Test(test::Args),
    Bench(bench::Args),
    Bpf(bpf::Args),
    Lint(lint::Args),
    Deps(deps::Args),
    Fuzz(fuzz::Args),
    Vm(vm::Args),
    Ci(ci::Args),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Demo(args) => demo::run(&args),
        Verb::Cluster(args) => cluster::run(&args),
        Verb::Image(args) => image::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Bpf(args) => bpf::run(&args),
        Verb::Lint(args) => lint::run(&args),
        Verb::Deps(args) => deps::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Vm(args) => vm::run(&args),
        Verb::Ci(args) => ci::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Arguments::command().debug_assert();
    }
}
