//! The file systems that the agent needs: found in the mount table, mounted where missing.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount};

/// Returns where cgroup v2 is mounted, also beside v1.
///
/// # Errors
///
/// When it is not mounted, or the mount table cannot be read.
pub fn cgroup2() -> io::Result<PathBuf> {
    find("cgroup2")?.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no cgroup2 file system is mounted (mount -t cgroup2 none /sys/fs/cgroup)",
        )
    })
}

/// Makes sure that `path` lies in a bpf file system, mounting one at `/sys/fs/bpf` where none is.
///
/// # Errors
///
/// When it cannot be mounted, or `path` is elsewhere.
pub(crate) fn ensure_bpf(path: &Path) -> io::Result<()> {
    let usual = Path::new("/sys/fs/bpf");
    if find_at("bpf", path)?.is_some() {
        return Ok(());
    }
    if path.starts_with(usual) {
        return mount("bpf", usual, "bpf", MountFlags::empty(), None).map_err(io::Error::from);
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("`{}` is not in a bpf file system", path.display()),
    ))
}

/// Makes sure that tracefs is mounted, which tracepoints are looked up in.
///
/// # Errors
///
/// When it cannot be mounted.
pub(crate) fn ensure_tracefs() -> io::Result<()> {
    if find("tracefs")?.is_some() {
        return Ok(());
    }
    mount(
        "tracefs",
        "/sys/kernel/tracing",
        "tracefs",
        MountFlags::empty(),
        None,
    )
    .map_err(io::Error::from)
}

fn find(kind: &str) -> io::Result<Option<PathBuf>> {
    Ok(mounts()?
        .into_iter()
        .find(|(_, found)| found == kind)
        .map(|(at, _)| at))
}

fn find_at(kind: &str, path: &Path) -> io::Result<Option<PathBuf>> {
    Ok(mounts()?
        .into_iter()
        .find(|(at, found)| found == kind && path.starts_with(at))
        .map(|(at, _)| at))
}

/// Returns mount points and their file systems (proc(5), `/proc/pid/mountinfo`).
fn mounts() -> io::Result<Vec<(PathBuf, String)>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let parse = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        Some((
            PathBuf::from(before.split(' ').nth(4)?),
            after.split(' ').next()?.to_owned(),
        ))
    };
    Ok(table.lines().filter_map(parse).collect())
}
