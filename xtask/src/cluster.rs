//! `cargo xtask test --cluster`: the suite of `tests/cluster`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

use crate::process::{cargo, run, shown, target_dir};

/// Builds the suite, and turns this process into it.
///
/// # Errors
///
/// When the build fails or the program cannot be started; it does not return otherwise.
pub(crate) fn test(args: &[String]) -> anyhow::Result<()> {
    // The agent says what it does not understand of what is rendered.
    run(cargo("build").args([
        "-p",
        "mesh-agent",
        "-p",
        "mesh-tests",
        "--bin",
        "node-agent",
        "--bin",
        "cluster",
    ]))?;
    let mut command = Command::new(target_dir()?.join("debug/cluster"));
    command.args(args);
    Err(command.exec()).with_context(|| format!("failed to start `{}`", shown(&command)))
}
