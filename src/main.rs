//! `kindlift`: parses, runs, and turns the result into one line and an exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
