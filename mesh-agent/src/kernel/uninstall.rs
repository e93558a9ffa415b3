//! Removes every trace: links (so that nothing runs any more), then maps, then directories. Also after a crash.
//!
//! Sockets that are in the socket map stay with their program until they close; the kill switch makes it pass everything to
//! TCP. That switch is set first.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use mesh_common::workload::{Control, REDIRECT_KILLED};

use crate::kernel::sys;

/// Removes what is pinned under `bpf_dir`, of any ABI version. Fine when nothing is there.
///
/// # Errors
///
/// Lists everything that could not be removed, after removing all that could.
pub fn uninstall(bpf_dir: &Path) -> io::Result<()> {
    let Some(entries) = read_dir(bpf_dir)? else {
        return Ok(());
    };
    let mut failures = Vec::new();
    for version in entries {
        collect(&mut failures, &version, remove_version(&version));
    }
    collect(&mut failures, bpf_dir, std::fs::remove_dir(bpf_dir));
    if failures.is_empty() {
        Ok(())
    } else {
        Err(io::Error::other(failures.join("; ")))
    }
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
    let mut value = bytemuck::bytes_of(&Control::default()).to_vec();
    sys::map_lookup(control.as_fd(), &key, &mut value)?;
    value[..4].copy_from_slice(&REDIRECT_KILLED.to_ne_bytes());
    sys::map_update(control.as_fd(), &key, &value)
}

fn read_dir(dir: &Path) -> io::Result<Option<Vec<std::path::PathBuf>>> {
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
