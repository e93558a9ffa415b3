//! A directory of Kubernetes manifests, watched and read again when it changes.
//!
//! The directory is read by a thread of its own, so that neither a slow file system nor a large file holds up the agent. What
//! of it counts, and what stays in force when something in it is wrong, is said in `config::resolve`. In short: a bad object
//! rejects itself only, and nothing that runs is lost but by deleting its manifest.

#![forbid(unsafe_code)]

mod loader;
#[cfg(test)]
mod tests;
mod watcher;

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use tokio::sync::watch;

use crate::model::service::Services;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Acceleration;
use crate::source::Loaded;

use loader::Loader;
use watcher::{Signal, Watcher, Woken};

/// A directory of manifests that is being watched. Dropping it ends the watching.
#[derive(Debug)]
pub struct ManifestSource {
    loaded: watch::Receiver<Loaded>,
    signal: mpsc::Sender<Signal>,
    /// Generation that `next` returned last.
    seen: u64,
}

impl ManifestSource {
    /// Reads the directory once, and then again whenever it changes.
    ///
    /// Never fails on account of the directory: while it is missing or unreadable, the errors of the snapshot say so. The first
    /// snapshot has generation 1. `default` is the mode of workloads that neither they nor their namespace give one.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn start(dir: impl Into<PathBuf>, default: Acceleration) -> std::io::Result<Self> {
        Self::start_with(dir, default, Arc::default())
    }

    /// As [`start`](Self::start), where programs have registered these services already.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn start_with(
        dir: impl Into<PathBuf>,
        default: Acceleration,
        registered: Arc<Services>,
    ) -> std::io::Result<Self> {
        let mut loader = Loader::new(dir.into(), default, registered);
        let (signal, signals) = mpsc::channel();
        // Watch first, read then: what changes in between is read twice rather than never.
        let watcher = Watcher::new(loader.dir().to_owned(), signal.clone(), signals);
        loader.load();
        let (sender, loaded) = watch::channel(loader.loaded());
        thread::Builder::new()
            .name("manifests".to_owned())
            .spawn(move || run(loader, watcher, &sender))?;
        let seen = loaded.borrow().snapshot.generation;
        Ok(Self {
            loaded,
            signal,
            seen,
        })
    }

    /// Returns what was read last.
    pub fn loaded(&self) -> Loaded {
        self.loaded.borrow().clone()
    }

    /// Returns the latest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.loaded.borrow().snapshot.clone()
    }

    /// Waits for a snapshot that this method has not returned yet and returns it. The one that `start` read does not count.
    ///
    /// Only the latest: what came and went between two calls is never seen. Safe to cancel.
    pub async fn next(&mut self) -> Arc<Snapshot> {
        super::next(&mut self.loaded, &mut self.seen).await
    }

    /// Returns a handle to the latest outcome for others than the one who calls [`Self::next`].
    pub fn subscribe(&self) -> watch::Receiver<Loaded> {
        self.loaded.clone()
    }

    /// Tells which services programs registered from now on: routes and policies may name them.
    pub fn set_registered(&self, registered: Arc<Services>) {
        // As for `reload`.
        self.signal.send(Signal::Registered(registered)).ok();
    }

    /// Reads the directory again now, as if it had changed.
    pub fn reload(&self) {
        // It can only fail when the thread is gone, and then `next` has nothing to wait for either.
        self.signal.send(Signal::Changed).ok();
    }
}

impl Drop for ManifestSource {
    fn drop(&mut self) {
        self.signal.send(Signal::Stop).ok();
    }
}

fn run(mut loader: Loader, mut watcher: Watcher, sender: &watch::Sender<Loaded>) {
    while let Some(woken) = watcher.wait() {
        let changed = match woken {
            Woken::Files(names) => loader.load_some(&names),
            Woken::Registered(services) => loader.set_registered(services),
            Woken::All => {
                let start = Instant::now();
                let changed = loader.load();
                watcher.looked(start.elapsed());
                changed
            }
        };
        if changed {
            sender.send_replace(loader.loaded());
        }
    }
}
