//! Memory of processes, of cgroups and of the kernel.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Returns the resident memory of process `pid` in bytes.
///
/// # Errors
/// When there is no such process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    kib_field(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// Returns the resident memory of process `pid` that is no file's, in bytes: without its code, of which a build for tests has
/// several times as much.
///
/// # Errors
/// When there is no such process.
pub fn anonymous_bytes(pid: u32) -> Result<u64> {
    kib_field(&format!("/proc/{pid}/status"), "RssAnon:")
}

/// Returns the most memory that process `pid` ever had resident, in bytes.
///
/// # Errors
/// When there is no such process.
pub fn peak_bytes(pid: u32) -> Result<u64> {
    kib_field(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// Returns the kernel's slab memory in bytes, whoever it is charged to. Other work on the machine moves it too.
///
/// # Errors
/// When `/proc/meminfo` cannot be read.
pub fn slab_bytes() -> Result<u64> {
    kib_field("/proc/meminfo", "Slab:")
}

/// Returns the free memory of the machine in bytes, what can be reclaimed included.
///
/// # Errors
/// When `/proc/meminfo` cannot be read.
pub fn available_bytes() -> Result<u64> {
    kib_field("/proc/meminfo", "MemAvailable:")
}

fn kib_field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to read `{path}`"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|value| value.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let kib = number.with_context(|| format!("`{path}` has no `{name}`"))?;
    Ok(kib * 1024)
}

/// Sets the limit of a memory cgroup.
pub(crate) fn set_limit(cgroup: &Path, bytes: u64) -> Result<()> {
    let v1 = cgroup.join("memory.limit_in_bytes");
    let path = if v1.exists() {
        v1
    } else {
        cgroup.join("memory.max")
    };
    fs::write(&path, bytes.to_string())
        .with_context(|| format!("failed to write `{}`", path.display()))
}

/// Returns the bytes charged to a memory cgroup.
pub(crate) fn charged(cgroup: &Path) -> Result<u64> {
    let v1 = cgroup.join("memory.usage_in_bytes");
    let path = if v1.exists() {
        v1
    } else {
        cgroup.join("memory.current")
    };
    let text = fs::read_to_string(&path)
        .with_context(|| format!("failed to read `{}`", path.display()))?;
    text.trim()
        .parse()
        .with_context(|| format!("`{}` holds no number", path.display()))
}
