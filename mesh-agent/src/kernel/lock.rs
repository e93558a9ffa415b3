//! One agent for each directory of pins.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};

/// Holds the directory of pins as long as it lives; the kernel releases it however the process ends.
///
/// The lock is on the directory itself, so nothing is left of it, and whoever has the directory finds the lock, whatever its
/// socket is called.
#[derive(Debug)]
pub(super) struct Lock {
    dir: File,
}

impl Lock {
    /// Takes the lock of `bpf_dir`, which exists.
    ///
    /// # Errors
    ///
    /// Where another process holds it, or it cannot be opened.
    pub(super) fn take(bpf_dir: &Path) -> anyhow::Result<Self> {
        let shown = bpf_dir.display();
        let dir = File::open(bpf_dir).with_context(|| format!("failed to open `{shown}`"))?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                bail!("an agent runs with `{shown}`; stop it first (or give another --bpf-dir)")
            }
            Err(error) => return Err(error).with_context(|| format!("failed to lock `{shown}`")),
        }
        // What was locked may have been removed in between, by `uninstall`: then the lock is on nothing.
        let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
        let there = std::fs::metadata(bpf_dir).map(identity).ok();
        if there != dir.metadata().map(identity).ok() {
            bail!("`{shown}` was removed at this moment; try again");
        }
        Ok(Self { dir })
    }
}

impl Drop for Lock {
    /// Does not leave it to the descriptor's end: a child that some other thread is about to start has that as well until it executes.
    fn drop(&mut self) {
        // Without this the lock goes with the last descriptor.
        flock(&self.dir, FlockOperation::Unlock).unwrap_or_default();
    }
}
