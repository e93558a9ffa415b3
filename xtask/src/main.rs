//! `cargo xtask`: set-up, build, tests, demo and benchmarks of this repository.

mod ebpf;
mod process;
mod setup;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::setup::Need;

/// Sets up, builds, checks and runs everything in this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what building, testing and linting need (Debian 12), or say what is missing
    Setup,
    /// Build the kernel object alone, and say where it is
    BuildEbpf,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup => setup::run(Need::Lint),
        Task::BuildEbpf => {
            setup::run(Need::Build)?;
            ebpf::build()
        }
    }
}
