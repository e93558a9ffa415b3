//! Says when a directory may have changed.
//!
//! inotify tells at once of changes in the directory itself. A slow look from time to time finds the rest: what a
//! symbolic link out of the directory leads to, a directory that was replaced or came back, a file system that has no events.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, INotifyWatcher, RecursiveMode, Watcher as _};

/// Time between two looks. One costs a `stat` for each file: at 100 files 0.02 % of a core.
const POLL: Duration = Duration::from_secs(1);
/// After a change, wait until nothing changed for this long: editors and `kubectl cp` write a file in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// But no longer than this, should changes never end.
const QUIET_AT_MOST: Duration = Duration::from_millis(500);

/// What wakes the watcher.
#[derive(Debug)]
pub(super) enum Signal {
    /// The directory changed.
    Changed,
    /// Nobody wants to know any more.
    Stop,
}

/// Waits for changes of one directory.
#[derive(Debug)]
pub(super) struct Watcher {
    dir: PathBuf,
    signal: Sender<Signal>,
    signals: Receiver<Signal>,
    watched: Option<Watched>,
    /// Whether the failure to watch was logged, which is done once.
    told: bool,
}

/// A watch in place, and the directory that it is on.
#[derive(Debug)]
struct Watched {
    /// Dropping it ends the watch.
    _inotify: INotifyWatcher,
    identity: Option<(u64, u64)>,
}

impl Watcher {
    /// Begins to watch `dir`, whether it exists or not. `signals` is the other end of `signal`.
    pub(super) fn new(dir: PathBuf, signal: Sender<Signal>, signals: Receiver<Signal>) -> Self {
        let mut watcher = Self {
            dir,
            signal,
            signals,
            watched: None,
            told: false,
        };
        watcher.renew();
        watcher
    }

    /// Waits until the directory may have changed, and returns whether anyone still wants to know.
    pub(super) fn wait(&mut self) -> bool {
        match self.signals.recv_timeout(POLL) {
            Ok(Signal::Changed) => {
                if !self.settle() {
                    return false;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        }
        self.renew();
        true
    }

    fn settle(&self) -> bool {
        let deadline = Instant::now() + QUIET_AT_MOST;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.signals.recv_timeout(QUIET.min(left)) {
                Ok(Signal::Changed) if !left.is_zero() => {}
                Ok(Signal::Changed) | Err(RecvTimeoutError::Timeout) => return true,
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Sets the watch again if the path leads to another directory than the one that is watched.
    fn renew(&mut self) {
        let identity = identity(&self.dir);
        if let Some(watched) = &self.watched
            && watched.identity == identity
        {
            return;
        }
        self.watched = None;
        if identity.is_none() {
            return;
        }
        match watch(&self.dir, self.signal.clone()) {
            Ok(inotify) => {
                self.watched = Some(Watched {
                    _inotify: inotify,
                    identity,
                });
            }
            Err(error) if !self.told => {
                self.told = true;
                let dir = self.dir.display();
                tracing::warn!("failed to watch `{dir}`, reading it every second instead: {error}");
            }
            Err(_) => {}
        }
    }
}

fn identity(dir: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(dir).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn watch(dir: &Path, signal: Sender<Signal>) -> notify::Result<INotifyWatcher> {
    let handler = move |event: notify::Result<Event>| {
        // An error means that events were lost.
        if event.map_or(true, |event| is_change(event.kind)) {
            // Fails only when nobody waits any more.
            signal.send(Signal::Changed).ok();
        }
    };
    let mut inotify = INotifyWatcher::new(handler, notify::Config::default())?;
    inotify.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(inotify)
}

/// Returns whether an event changes what the directory holds. Reading it makes events too, which must not lead to another.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}
