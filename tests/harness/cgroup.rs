//! cgroups of nodes and pods: one in the cgroup2 tree, and one in the memory tree where that is apart (cgroup v1).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::mounts;
use crate::wait::{PATIENCE, wait_for};

/// Returns where the cgroup2 tree is mounted.
///
/// # Errors
/// When there is none.
pub fn unified_mount() -> Result<PathBuf> {
    mounts::find("cgroup2", "")?.context("no cgroup2 tree is mounted on this machine")
}

/// Returns the memory controller's own tree, or `None` where it belongs to the cgroup2 tree.
pub(crate) fn memory_v1_mount() -> Result<Option<PathBuf>> {
    mounts::find("cgroup", "memory")
}

/// Makes the cgroup `path` and returns it.
pub(crate) fn make(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path)
        .with_context(|| format!("failed to make cgroup `{}`", path.display()))?;
    Ok(path)
}

/// Kills every process in the cgroup `path` and below, then removes it all. One that is not there is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let kill = path.join("cgroup.kill");
    if kill.exists() {
        fs::write(&kill, "1").with_context(|| format!("failed to write `{}`", kill.display()))?;
    }
    wait_for(
        &format!("the processes of cgroup `{}` to end", path.display()),
        PATIENCE,
        || remove_tree(path).is_ok(),
    )
}

/// Removes the cgroups below `path` and then `path`: a cgroup's files go with its directory, so only directories matter.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
