//! Removes every trace: links (so that nothing runs any more), then maps, then directories. Also after a crash.
//!
//! Sockets that are in the socket map stay with their program until they close; the kill switch makes it pass everything to
//! TCP. That switch is set first.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use mesh_common::workload::REDIRECT_KILLED;

use crate::kernel::lock::Lock;
use crate::kernel::{mounts, sys};

/// Removes what is pinned under `bpf_dir`, of any ABI version. Fine when nothing is there. What others keep there stays.
///
/// # Errors
///
/// Where an agent runs with this directory. Else lists everything that could not be removed, after removing all that could.
pub fn uninstall(bpf_dir: &Path) -> anyhow::Result<()> {
    if !bpf_dir.exists() {
        return Ok(());
    }
    // In another file system, whatever is called `v1` is no agent's.
    anyhow::ensure!(
        mounts::is_bpf(bpf_dir)?,
        "`{}` is not in a bpf file system",
        bpf_dir.display()
    );
    let _lock = Lock::take(bpf_dir)?;
    let mut failures = Vec::new();
    for version in versions(bpf_dir)? {
        collect(&mut failures, &version, remove_version(&version));
    }
    match std::fs::remove_dir(bpf_dir) {
        // Not ours alone: something else is in it, or it is the mount itself.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
            ) && failures.is_empty() => {}
        other => collect(&mut failures, bpf_dir, other),
    }
    anyhow::ensure!(
        failures.is_empty(),
        "failed to remove everything: {}",
        failures.join("; ")
    );
    Ok(())
}

/// Returns the directories of all ABI versions: `v` and a number. Whatever else is there is somebody else's.
///
/// # Errors
///
/// Where `bpf_dir` cannot be read.
pub(super) fn versions(bpf_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let is_version = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix('v'));
        number.is_some_and(|number| number.parse::<u32>().is_ok()) && path.is_dir()
    };
    let entries = read_dir(bpf_dir)?.unwrap_or_default();
    Ok(entries.into_iter().filter(is_version).collect())
}

/// Removes one version's pins.
///
/// # Errors
///
/// As [`uninstall`].
pub(super) fn remove_version(dir: &Path) -> io::Result<()> {
    let mut failures = Vec::new();
    collect(&mut failures, dir, kill_redirect(&dir.join("maps")));
    for part in ["links", "maps"] {
        let part = dir.join(part);
        for pin in read_dir(&part)?.unwrap_or_default() {
            collect(&mut failures, &pin, std::fs::remove_file(&pin));
        }
        match std::fs::remove_dir(&part) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => collect(&mut failures, &part, other),
        }
    }
    collect(&mut failures, dir, std::fs::remove_dir(dir));
    if failures.is_empty() {
        Ok(())
    } else {
        Err(io::Error::other(failures.join("; ")))
    }
}

/// Sends live flows back to TCP. The first word of the settings has meant this in every ABI version.
fn kill_redirect(maps: &Path) -> io::Result<()> {
    let control = match sys::open_pinned(&maps.join("CONTROL")) {
        Ok(control) => control,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let key = 0u32.to_ne_bytes();
    // As long as that version has it, not ours.
    let layout = sys::map_layout(control.as_fd())?;
    let mut value = vec![0; layout.value_size as usize];
    if layout.key_size != 4 || value.len() < 4 {
        return Err(io::Error::other("`CONTROL` is not an agent's"));
    }
    sys::map_lookup(control.as_fd(), &key, &mut value)?;
    value[..4].copy_from_slice(&REDIRECT_KILLED.to_ne_bytes());
    sys::map_update(control.as_fd(), &key, &value)
}

fn read_dir(dir: &Path) -> io::Result<Option<Vec<PathBuf>>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()
            .map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn collect(failures: &mut Vec<String>, path: &Path, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        failures.push(format!("{}: {error}", path.display()));
    }
}
