//! `cargo xtask setup`: what the machine needs to build and test, installed where it is missing.
//!
//! Debian 12 is installed on; any other system is only looked at, and told what is missing.

mod debian;
mod elsewhere;
pub(crate) mod peers;
mod programs;
mod tools;

use std::fs;

use anyhow::Context as _;

use crate::process::first_line;
use crate::toolchain::Toolchain;

/// How much of it to set up. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// The agent and its kernel object.
    Build,
    /// Also what links the agent without the system's libc.
    Image,
    /// Also the programs that tests, demo and benchmarks drive.
    Run,
    /// Also what `lint` checks with.
    Lint,
}

/// Sets up what `need` asks for. Says each step before it runs, and `ok` for one that has nothing to do.
///
/// # Errors
///
/// When a step fails, or when this is not Debian 12 and something is missing.
pub(crate) fn run(need: Need) -> anyhow::Result<()> {
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if debian::is_supported(&os) {
        debian::install_packages(need)?;
        debian::link_compiler()?;
        tools::install_linker()?;
    } else {
        elsewhere::check(&os, need)?;
    }
    if need >= Need::Image {
        tools::install_target()?;
    }
    if need >= Need::Lint {
        tools::install_components()?;
        tools::install_deny()?;
    }
    let toolchain = Toolchain::choose().context("no compiler for the kernel object after all")?;
    let rustc = first_line("rustc", &["--version"]).context("failed to run `rustc`")?;
    ok(&format!("the agent: {rustc}"));
    ok(&format!("the kernel object: {toolchain}"));
    Ok(())
}

/// Says that a step has nothing to do.
fn ok(what: &str) {
    println!("  ok       {what}");
}

/// Says what the next step does.
fn doing(what: &str) {
    println!("  install  {what}");
}
