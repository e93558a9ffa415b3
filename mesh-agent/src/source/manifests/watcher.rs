//! Says when a directory may have changed.
//!
//! inotify tells at once of changes in the directory itself. A slow look from time to time finds the rest: what a
//! symbolic link out of the directory leads to, a directory that was replaced or came back, a file system that has no events.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, INotifyWatcher, RecursiveMode, Watcher as _};

use crate::model::service::Services;

/// Time between two looks at everything. One costs a `stat` for each file: at 100 files 0.02 % of a core.
const POLL: Duration = Duration::from_secs(1);
/// After a look that took `t`, the next one is at least this many times `t` away: 1 % of a core, however many files there are.
const POLL_PAUSE: u32 = 100;
/// But never further away than this.
const POLL_AT_MOST: Duration = Duration::from_secs(60);
/// What is being written is read when nothing was written to it for this long, should its writer not close it: editors and
/// `kubectl cp` write a file in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// But no later than this, should writes never end.
const QUIET_AT_MOST: Duration = Duration::from_millis(500);

/// Files that are told together at most: a stream of changes without end must not keep the first of them waiting.
const TOGETHER: usize = 1000;

/// What wakes the watcher.
#[derive(Debug)]
pub(super) enum Signal {
    /// A file of this name changed.
    File {
        /// Its name.
        name: String,
        /// Whether the change is complete: the file was closed, renamed or removed.
        is_complete: bool,
    },
    /// Something changed, and it is not known what.
    Changed,
    /// Programs registered other services.
    Registered(Arc<Services>),
    /// Nobody wants to know any more.
    Stop,
}

/// What may have changed.
#[derive(Debug)]
pub(super) enum Woken {
    /// Files of these names.
    Files(BTreeSet<String>),
    /// Anything.
    All,
    /// No file, but what is registered.
    Registered(Arc<Services>),
}

/// Waits for changes of one directory.
#[derive(Debug)]
pub(super) struct Watcher {
    dir: PathBuf,
    signal: Sender<Signal>,
    signals: Receiver<Signal>,
    watched: Option<Watched>,
    /// Files that are being written.
    half: Half,
    /// What is registered, if that was not told yet.
    registered: Option<Arc<Services>>,
    /// When to look at everything next.
    poll_at: Instant,
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
            half: Half::default(),
            registered: None,
            poll_at: Instant::now() + POLL,
            told: false,
        };
        watcher.renew();
        watcher
    }

    /// Waits until something may have changed, and says what; `None` when nobody wants to know any more.
    ///
    /// A complete change is told at once. A file that is only written to is told when its writer closes it or pauses.
    pub(super) fn wait(&mut self) -> Option<Woken> {
        let mut complete = BTreeSet::new();
        let mut is_all = false;
        loop {
            let now = Instant::now();
            let due = self
                .half
                .due()
                .map_or(self.poll_at, |due| due.min(self.poll_at));
            let is_ready = is_all || !complete.is_empty();
            if !is_ready && let Some(registered) = self.registered.take() {
                return Some(Woken::Registered(registered));
            }
            if now >= due || complete.len() > TOGETHER {
                break;
            }
            // What arrived together is told together.
            let patience = if is_ready {
                Duration::ZERO
            } else {
                due.saturating_duration_since(now)
            };
            match self.signals.recv_timeout(patience) {
                Ok(Signal::File { name, is_complete }) if is_complete => {
                    self.half.names.remove(&name);
                    complete.insert(name);
                }
                Ok(Signal::File { name, .. }) => self.half.add(name),
                Ok(Signal::Changed) => is_all = true,
                Ok(Signal::Registered(services)) => self.registered = Some(services),
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        let now = Instant::now();
        if self.half.due().is_some_and(|due| due <= now) {
            complete.append(&mut self.half.names);
        }
        is_all |= self.renew() || complete.is_empty() || now >= self.poll_at;
        Some(match is_all {
            true => Woken::All,
            false => Woken::Files(complete),
        })
    }

    /// Notes how long it took to look at everything.
    pub(super) fn looked(&mut self, took: Duration) {
        let pause = (took * POLL_PAUSE).clamp(POLL, POLL_AT_MOST);
        self.poll_at = Instant::now() + pause;
    }

    /// Sets the watch again if the path leads to another directory than the one that is watched, and returns whether it does.
    fn renew(&mut self) -> bool {
        let identity = identity(&self.dir);
        if let Some(watched) = &self.watched
            && watched.identity == identity
        {
            return false;
        }
        let was_watched = self.watched.take().is_some();
        if identity.is_none() {
            return was_watched;
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
        true
    }
}

/// Files that are being written.
#[derive(Debug, Default)]
struct Half {
    names: BTreeSet<String>,
    /// When the first and the last sign came.
    since: Option<(Instant, Instant)>,
}

impl Half {
    fn add(&mut self, name: String) {
        let now = Instant::now();
        let first = match self.since {
            Some((first, _)) if !self.names.is_empty() => first,
            Some(_) | None => now,
        };
        self.since = Some((first, now));
        self.names.insert(name);
    }

    /// Returns when they are to be read although nobody closed them.
    fn due(&self) -> Option<Instant> {
        let (first, last) = self.since.filter(|_| !self.names.is_empty())?;
        Some((last + QUIET).min(first + QUIET_AT_MOST))
    }
}

fn identity(dir: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(dir).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn watch(dir: &Path, signal: Sender<Signal>) -> notify::Result<INotifyWatcher> {
    let own = dir.to_owned();
    let handler = move |event: notify::Result<Event>| {
        let signals = match &event {
            Ok(event) => of_event(&own, event),
            // Events were lost.
            Err(_) => vec![Signal::Changed],
        };
        for one in signals {
            // Fails only when nobody waits any more.
            signal.send(one).ok();
        }
    };
    let mut inotify = INotifyWatcher::new(handler, notify::Config::default())?;
    inotify.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(inotify)
}

/// Returns what an event means for the directory. Reading it makes events too, which must not lead to another.
fn of_event(dir: &Path, event: &Event) -> Vec<Signal> {
    let is_complete = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => return Vec::new(),
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => true,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Other => false,
    };
    if event.need_rescan() {
        return vec![Signal::Changed];
    }
    let signal = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str);
        match name {
            // The `..data` of a ConfigMap volume is where all of its files lie.
            Some(name) if path.parent() == Some(dir) && !name.starts_with("..") => Signal::File {
                name: name.to_owned(),
                is_complete,
            },
            Some(_) | None => Signal::Changed,
        }
    };
    event.paths.iter().map(signal).collect()
}
