//! Network namespaces by name, as `ip netns` keeps them.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command;

/// Where `ip netns` keeps namespaces.
const DIRECTORY: &str = "/run/netns";

/// Returns the path of the namespace `name`.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Returns the names of all namespaces that start with `prefix`.
pub(crate) fn names(prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect()
}

/// Makes the namespace `name`, with its loopback up.
pub(crate) fn make(name: &str) -> Result<()> {
    command::ip(None, &format!("netns add {name}\n"))?;
    command::ip(Some(name), "link set lo up\n")
}

/// Removes the namespace `name`.
pub(crate) fn remove(name: &str) -> Result<()> {
    command::ip(None, &format!("netns del {name}\n"))
}

/// Returns what `work` returns on a thread of its own inside the namespace `name`.
pub(crate) fn enter<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let path = path(name);
    let file = File::open(&path).with_context(|| format!("failed to open `{}`", path.display()))?;
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("failed to enter `{}`", path.display()))?;
            Ok(work())
        });
        inside
            .join()
            .map_err(|_| anyhow!("the work inside `{name}` panicked"))?
    })
}
