//! The machine that tests run on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// What a measurement must say about where it was made. Nothing that names the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Version of the kernel, without what its builder appended.
    pub kernel: String,
    /// Model of the processor.
    pub cpu: String,
    /// Cores that can be used.
    pub cores: usize,
    /// Memory in GiB, rounded.
    pub memory_gib: u64,
}

/// Returns a description of this machine.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn describe() -> Result<Machine> {
    let field = |path: &str, name: &str| -> Result<String> {
        let text = fs::read_to_string(path).with_context(|| format!("failed to read `{path}`"))?;
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        Ok(value.map_or_else(String::new, |(_, value)| value.trim().to_owned()))
    };
    let memory = field("/proc/meminfo", "MemTotal")?;
    let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    Ok(Machine {
        kernel: release
            .split(['-', '+'])
            .next()
            .unwrap_or_default()
            .to_owned(),
        cpu: field("/proc/cpuinfo", "model name")?,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_gib: (kib + (1 << 19)) >> 20,
    })
}

/// Returns whether this process is root, and says loudly that the caller is skipped when it is not.
///
/// # Panics
/// Without root where the environment variable `CI` is set: there, a skipped test is a lie.
pub fn require_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(
            std::env::var_os("CI").is_none(),
            "this needs root, and CI must not skip it"
        );
        eprintln!("\n!!! SKIPPED: this needs root !!!\n");
    }
    root
}

/// Returns when process `pid` started, in the kernel's own unit, or `None` when there is none.
pub(crate) fn start_time(pid: u32) -> Option<String> {
    stat_field(pid, 22)
}

/// Returns field `number` (as in proc(5), above 2) of `/proc/PID/stat`.
pub(crate) fn stat_field(pid: u32, number: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, may itself contain blanks and brackets.
    let (_, fields) = text.rsplit_once(") ")?;
    fields.split(' ').nth(number - 3).map(str::to_owned)
}

/// Returns the program `name` of this workspace: from the environment variable, or beside the running program.
///
/// # Errors
/// When it is in neither place.
pub fn workspace_program(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(PathBuf::from(path));
    }
    let own = std::env::current_exe().context("failed to find the running program")?;
    // A test runs from `target/PROFILE/deps`, a binary from `target/PROFILE`; the agent counts as built in release.
    let profile = own.ancestors().skip(1).find(|path| !path.ends_with("deps"));
    let profile = profile.context("the running program has no directory")?;
    let target = profile.parent().unwrap_or(profile);
    let places = [
        profile.to_owned(),
        target.join("release"),
        target.join("debug"),
    ];
    let found = places
        .iter()
        .map(|place| place.join(name))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!("no program `{name}` beside this one: build it, or name it in `{variable}`")
    })
}

/// Returns whether all of `names` are on the search path; says so loudly when one is not.
///
/// # Panics
/// In CI, where everything has to be there.
pub fn require_programs(names: &[&str]) -> bool {
    if let Some(name) = names.iter().find(|name| !has_program(name)) {
        assert!(std::env::var_os("CI").is_none(), "this needs `{name}`");
        eprintln!("\n!!! SKIPPED: this needs `{name}`; `cargo xtask setup` installs it !!!\n");
        return false;
    }
    true
}

/// Returns whether the program `name` is on the search path.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|place| Path::new(&place).join(name).is_file())
}
