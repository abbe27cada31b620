//! The `undermesh` binary: parses the command line, runs the verb, maps the outcome to an exit code.

use std::process::ExitCode;

use clap::Parser;
use undermesh::cli::plugin::{self, Plugin};
use undermesh::cli::{Answer, Cli};

fn main() -> ExitCode {
    let answer = if plugin::is_called(std::env::args_os().next().as_deref()) {
        Plugin::parse().run()
    } else {
        Cli::parse().run()
    };
    match answer {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        // The reader of a pipe has left: nothing is wrong.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("undermesh: {error:#}");
            ExitCode::from(3)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
