//! Services that programs register themselves, over the agent's admin API: for machines without manifests.
//!
//! An instance lives as long as it gives a sign of life within its TTL. After that nothing is sent to it any more, and after
//! ten times as long it is removed. A service has addresses of its own as long as it has an instance; what is registered, and who
//! has which address, outlives the agent in a file.

#![forbid(unsafe_code)]

mod book;
pub mod limits;
mod merge;
mod range;
mod registration;
mod service;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use book::Registered;
pub use merge::merge;
pub(super) use range::hash;
pub use range::{Range, ServiceRange};
pub use registration::{CheckKind, RegisteredCheck, RegisteredPort, Registration};

use crate::model::service::{ServiceName, Services};
use book::Book;
use state::{State, StateFile};

/// Longest time between two looks at the clock: addresses whose rest is over, and a write that failed, are not urgent.
const LOOK: Duration = Duration::from_secs(10);

/// How long an answer waits for the disk. A registration that is not written yet holds all the same.
const DISK_PATIENCE: Duration = Duration::from_secs(2);

/// Why something was not registered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RegistryError {
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It contradicts something that holds.
    #[error("{0}")]
    Conflict(String),
    /// There is no room.
    #[error("{0}")]
    Full(String),
    /// There is no such instance.
    #[error("{0}")]
    NotFound(String),
}

/// An instance as somebody sees it who looks its service up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceView {
    /// What it said of itself.
    pub registration: Arc<Registration>,
    /// Whether its time ran out.
    pub expired: bool,
    /// What is left of its time; zero if it ran out.
    pub expires_in: Duration,
}

/// Registered services. Dropping it writes what is not written yet.
#[derive(Debug)]
pub struct RegisteredSource {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    wake: Condvar,
    changed: watch::Sender<Arc<Services>>,
    saved: watch::Sender<Saved>,
}

#[derive(Debug)]
struct Inner {
    book: Book,
    /// Version of the book that was published last.
    published: u64,
    stop: bool,
}

/// Up to which revision was written, or tried in vain.
#[derive(Clone, Copy, Debug, Default)]
struct Saved {
    revision: u64,
    tried: u64,
}

impl RegisteredSource {
    /// Takes over what is in `state_dir`, and starts the thread that watches the time and writes there.
    ///
    /// Never fails on account of the file: a broken one is moved aside, and where nothing can be written, what is registered
    /// lasts as long as this agent.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub fn start(state_dir: &Path, range: ServiceRange) -> std::io::Result<Self> {
        let mut book = Book::new(range);
        let file = StateFile::new(state_dir)
            .inspect_err(|error| {
                let dir = state_dir.display();
                tracing::error!(%error, "failed to use `{dir}` (--state-dir; each agent needs its own): registrations will not outlive this agent");
            })
            .ok();
        if let Some(file) = &file {
            load(file, &mut book);
        }
        let services = Arc::new(book.services());
        let inner = Inner {
            published: book.version,
            book,
            stop: false,
        };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            wake: Condvar::new(),
            changed: watch::Sender::new(services),
            saved: watch::Sender::default(),
        });
        let running = shared.clone();
        let thread = thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || running.run(file.as_ref()))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Returns the registered services as they stand, without regard to manifests.
    pub fn services(&self) -> Arc<Services> {
        self.shared.changed.borrow().clone()
    }

    /// Returns a channel that has the registered services whenever they change.
    pub fn changed(&self) -> watch::Receiver<Arc<Services>> {
        self.shared.changed.subscribe()
    }

    /// Tells which services are in the manifests: their names and addresses are refused to others from now on.
    pub fn set_manifests(&self, manifests: Arc<Services>) {
        self.shared.lock().book.set_manifests(manifests);
    }

    /// Registers an instance, or renews it.
    ///
    /// # Errors
    ///
    /// When the registration makes no sense, contradicts what holds, or finds no room.
    pub fn register(
        &self,
        service: &ServiceName,
        id: &str,
        registration: Registration,
    ) -> Result<Registered, RegistryError> {
        self.change(|book, now| book.register(service, id, registration, now))
    }

    /// Gives an instance its whole time again.
    ///
    /// # Errors
    ///
    /// When it is not registered (any more).
    pub fn heartbeat(&self, service: &ServiceName, id: &str) -> Result<Registered, RegistryError> {
        self.change(|book, now| book.heartbeat(service, id, now))
    }

    /// Takes an instance out; returns what [`Self::kept`] takes.
    ///
    /// # Errors
    ///
    /// When it is not registered (any more).
    pub fn deregister(&self, service: &ServiceName, id: &str) -> Result<u64, RegistryError> {
        self.change(|book, now| book.deregister(service, id, now))
    }

    /// Returns the instances of a service by their ids.
    pub fn instances(&self, service: &ServiceName) -> BTreeMap<String, InstanceView> {
        let now = Instant::now();
        let inner = self.shared.lock();
        let Some(entry) = inner.book.entries.get(service) else {
            return BTreeMap::new();
        };
        let view = |instance: &book::Instance| InstanceView {
            registration: instance.registration.clone(),
            expired: instance.expired,
            expires_in: instance.deadline.saturating_duration_since(now),
        };
        entry
            .instances
            .iter()
            .map(|(id, instance)| (id.clone(), view(instance)))
            .collect()
    }

    /// Waits until this registration outlives the agent; returns whether it does.
    pub async fn is_kept(&self, registered: &Registered) -> bool {
        self.kept(registered.revision).await
    }

    /// Waits until `revision` is written; returns whether it is.
    pub async fn kept(&self, revision: u64) -> bool {
        let mut saved = self.shared.saved.subscribe();
        let tried = saved.wait_for(|saved| saved.tried >= revision);
        match tokio::time::timeout(DISK_PATIENCE, tried).await {
            Ok(Ok(saved)) => saved.revision >= revision,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Book, Instant) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut inner = self.shared.lock();
        let before = inner.book.revision;
        let outcome = change(&mut inner.book, Instant::now());
        self.shared.publish(&mut inner);
        // A sign of life alone is nothing to write, and its deadline later than what the thread wakes for.
        if inner.book.revision != before {
            self.shared.wake.notify_all();
        }
        outcome
    }
}

impl Drop for RegisteredSource {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_all();
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the thread of the registry had panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change leaves a whole book: what is to be refused is refused before the first write.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, inner: &mut Inner) {
        if inner.published != inner.book.version {
            inner.published = inner.book.version;
            self.changed.send_replace(Arc::new(inner.book.services()));
        }
    }

    /// Watches the time and writes what changed. What came while it wrote is written together.
    fn run(&self, file: Option<&StateFile>) {
        let mut inner = self.lock();
        let mut failed: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let next = inner.book.expire(now);
            self.publish(&mut inner);
            let revision = inner.book.revision;
            let before = *self.saved.borrow();
            let again = failed.is_some_and(|failed| now.duration_since(failed) >= LOOK);
            if before.tried < revision || again {
                let state = State::of(&inner.book, now);
                drop(inner);
                let written = file.is_some_and(|file| save(file, &state));
                failed = (file.is_some() && !written).then_some(now);
                let kept = if written { revision } else { before.revision };
                self.saved.send_replace(Saved {
                    revision: kept,
                    tried: revision,
                });
                inner = self.lock();
                continue;
            }
            if inner.stop {
                return;
            }
            let pause = next.map_or(LOOK, |next| next.saturating_duration_since(now).min(LOOK));
            let waited = self.wake.wait_timeout(inner, pause);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn load(file: &StateFile, book: &mut Book) {
    match file.load() {
        Ok(state) => state.restore(book, Instant::now()),
        Err(error) => {
            let aside = file
                .set_aside()
                .unwrap_or_else(|_| PathBuf::from("nowhere"));
            let (path, aside) = (file.path(), aside.display().to_string());
            tracing::error!(
                error = crate::chain::chain(&error),
                aside,
                "failed to read `{}`: what was registered before is forgotten",
                path.display()
            );
        }
    }
}

fn save(file: &StateFile, state: &State) -> bool {
    let saved = file.save(state);
    if let Err(error) = &saved {
        let path = file.path();
        tracing::error!(%error, "failed to write `{}`: registrations do not outlive this agent", path.display());
    }
    saved.is_ok()
}

#[cfg(test)]
mod tests;
