//! `cargo xtask`: set-up, build, tests, demo and benchmarks of this repository.

mod cluster;
mod ebpf;
mod fuzz;
mod image;
mod lint;
mod process;
mod programs;
mod rules;
mod setup;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::image::ImageArgs;
use crate::setup::Need;
use crate::test::Kind;

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
    /// Check style, documentation, dependencies and house rules
    Lint,
    /// Build and run tests
    #[command(
        after_help = "Examples:\n  cargo xtask test\n  cargo xtask test unit\n  cargo xtask test kernel -- eagain --nocapture\n  cargo xtask test --cluster -- --help"
    )]
    Test {
        /// Which
        #[arg(value_enum, default_value_t = Kind::All)]
        kind: Kind,
        /// Test in the cluster that KUBECONFIG names, and nothing else
        #[arg(long, conflicts_with = "kind")]
        cluster: bool,
        /// Passed to the test programs: part of a test's name, `--nocapture` ...
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run one target of `tests/fuzz` until it fails, led by coverage
    #[command(
        after_help = "Examples:\n  cargo xtask fuzz request\n  cargo xtask fuzz manifests -- -max_total_time=600 -jobs=4"
    )]
    Fuzz {
        /// Which
        target: String,
        /// Passed to libFuzzer; `-help=1` shows what it takes
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Make a container image of the agent, for `ctr images import` or `docker load`
    #[command(
        after_help = "Examples:\n  cargo xtask image\n  ctr --namespace k8s.io images import target/image/release.tar"
    )]
    Image(ImageArgs),
    /// Show the mesh at work on this machine
    Demo {
        /// Passed to the demo; `cargo xtask demo -- --help` shows which
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Measure, and compare with a machine without the mesh
    #[command(
        after_help = "Examples:\n  cargo xtask bench redirect --quick\n  cargo xtask bench redirect --json result.json\n  cargo xtask bench l7 --quick"
    )]
    Bench {
        /// Passed to the benchmarks: which one, and its options; `cargo xtask bench -- --help` shows them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
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
        Task::Setup => {
            setup::run(Need::Lint)?;
            setup::peers::install()
        }
        Task::BuildEbpf => {
            setup::run(Need::Build)?;
            ebpf::build()
        }
        Task::Lint => {
            setup::run(Need::Lint)?;
            lint::lint()
        }
        Task::Test {
            cluster: true,
            args,
            ..
        } => {
            setup::run(Need::Image)?;
            cluster::test(&args)
        }
        Task::Test { kind, args, .. } => {
            setup::run(Need::Run)?;
            test::test(kind, &args)
        }
        Task::Fuzz { target, args } => {
            setup::run(Need::Build)?;
            fuzz::fuzz(&target, &args)
        }
        Task::Image(args) => {
            setup::run(Need::Image)?;
            image::image(&args)
        }
        Task::Demo { args } => {
            setup::run(Need::Run)?;
            programs::become_program("demo", &args)
        }
        Task::Bench { args } => {
            setup::run(Need::Run)?;
            if args.first().is_some_and(|first| first == "l7") {
                setup::peers::install()?;
            }
            programs::become_program("bench", &args)
        }
    }
}
