//! The file systems that the agent needs: found in the mount table, mounted where missing.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{StatFs, fstatfs, statfs};
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

/// `BPF_FS_MAGIC` and `CGROUP2_SUPER_MAGIC`, include/uapi/linux/magic.h.
const BPF_FS: u64 = 0xcafe_4a11;
const CGROUP2: u64 = 0x6367_7270;

/// Makes sure that `path` lies in a bpf file system, mounting one at `/sys/fs/bpf` where none is.
///
/// # Errors
///
/// When it cannot be mounted, or `path` is elsewhere.
pub(crate) fn ensure_bpf(path: &Path) -> io::Result<()> {
    let usual = Path::new("/sys/fs/bpf");
    if is_bpf(path)? {
        return Ok(());
    }
    if path.starts_with(usual) {
        return mount("bpf", usual, "bpf", MountFlags::empty(), None).map_err(|error| {
            let error = io::Error::from(error);
            let why = format!("failed to mount a bpf file system at `/sys/fs/bpf`: {error}");
            io::Error::new(error.kind(), why)
        });
    }
    let shown = path.display();
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("`{shown}` is not in a bpf file system, which is usually mounted at `/sys/fs/bpf`"),
    ))
}

/// Opens a directory of a cgroup2 file system.
///
/// # Errors
///
/// When it cannot be opened, or is something else.
pub(crate) fn open_cgroup(path: &Path) -> io::Result<File> {
    let shown = path.display();
    let named = |error: io::Error| io::Error::new(error.kind(), format!("`{shown}`: {error}"));
    let dir = File::open(path).map_err(named)?;
    if kind(fstatfs(&dir).map_err(|error| named(error.into()))?) == CGROUP2 {
        return Ok(dir);
    }
    let found = match cgroup2() {
        Ok(mount) => format!("; one is mounted at `{}`", mount.display()),
        Err(error) => format!("; {error}"),
    };
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("`{shown}` is not in a cgroup2 file system{found}"),
    ))
}

/// Returns whether `path`, or the nearest directory above it that exists, is in a bpf file system.
///
/// # Errors
///
/// The kernel's.
pub(crate) fn is_bpf(path: &Path) -> io::Result<bool> {
    let there = path.ancestors().find(|path| path.exists());
    let stat = statfs(there.unwrap_or(Path::new("/")))?;
    Ok(kind(stat) == BPF_FS)
}

fn kind(stat: StatFs) -> u64 {
    // A signed word on some machines: only its lower half counts.
    stat.f_type.cast_unsigned() & 0xffff_ffff
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
