//! Running other programs.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Runs a command to its end; whatever it prints goes where ours goes.
///
/// # Errors
///
/// When it cannot be started or does not succeed.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("failed to start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Returns the first line that a command prints, or `None` where it is missing or fails.
pub(crate) fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let stdout = String::from_utf8(output.stdout).ok()?;
    let line = stdout.lines().next()?.to_owned();
    output.status.success().then_some(line)
}

/// A command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// `cargo`, at the root of the repository.
pub(crate) fn cargo(task: &str) -> Command {
    let mut command = Command::new("cargo");
    // The configuration of this repository hides the progress of the builds inside builds. This one is to be seen.
    command.arg(task).env_remove("CARGO_TERM_QUIET");
    command.current_dir(root());
    command
}

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The folder that cargo builds into, with or without a target's name in it: two above this program.
///
/// # Errors
///
/// When the system does not say where this program is.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let xtask = std::env::current_exe().context("failed to find the target folder")?;
    let target = xtask.ancestors().nth(2);
    Ok(target.context("no folder above this program")?.to_owned())
}

/// Returns whether this process runs as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Returns where a program is: in `PATH`, or where systems keep what only root runs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
