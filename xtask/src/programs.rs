//! `cargo xtask demo` and `bench`: build everything in release, then become the program.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::process::{cargo, find, is_root, run, shown, target_dir};

/// Builds the agent and the programs of `mesh-tests`, and turns this process into `program`.
///
/// Turns into, not starts: Ctrl-C, signals and the exit code are then the program's own, and nobody goes before it has
/// cleaned up.
///
/// # Errors
///
/// When the build fails or the program cannot be started; it does not return otherwise.
pub(crate) fn become_program(program: &str, args: &[String]) -> anyhow::Result<()> {
    let sudo = !is_root();
    if sudo && find("sudo").is_none() {
        bail!("`{program}` needs root, and there is no sudo: run this as root");
    }
    run(cargo("build").args([
        "--release",
        "-p",
        "mesh-agent",
        "-p",
        "mesh-tests",
        "--bins",
    ]))?;
    let path = target_dir()?.join("release").join(program);
    let mut command = if sudo {
        println!("as root: it makes network namespaces and loads programs into the kernel");
        let mut sudo = Command::new("sudo");
        sudo.arg(path);
        sudo
    } else {
        Command::new(path)
    };
    command.args(args);
    Err(command.exec()).with_context(|| format!("failed to start `{}`", shown(&command)))
}
