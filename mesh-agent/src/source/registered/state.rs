//! The state file: what is registered, for the agent's next life, as JSON.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::model::service::ServiceName;
use crate::source::kept_file::{KeptError, KeptFile};
use crate::source::registered::book::Book;
use crate::source::registered::limits;
use crate::source::registered::registration::{Registration, check_names, check_service};

/// Schema of the file. Another number is another format, which this agent does not read.
const SCHEMA: &str = "underpass.dev/registry-state/v1";

/// Name of the file in the state directory.
const FILE: &str = "registry";

/// Everything that is kept.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    services: Vec<KeptService>,
    /// Addresses of services that are gone.
    resting: Vec<KeptRest>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct KeptService {
    name: ServiceName,
    addresses: Vec<IpAddr>,
    instances: Vec<KeptInstance>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct KeptInstance {
    id: String,
    registration: Registration,
    /// Whether its time had run out. What was left of it is not kept: whoever comes back gets all of it.
    expired: bool,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct KeptRest {
    name: ServiceName,
    addresses: Vec<IpAddr>,
    /// For how many seconds they had rested.
    rested_seconds: u64,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error(transparent)]
    File(#[from] KeptError),
    #[error("it is not what it has to be")]
    Content(#[from] serde_json::Error),
}

impl State {
    /// Returns what `book` has to remember.
    pub(super) fn of(book: &Book, now: Instant) -> Self {
        let services = book.entries.iter().map(|(name, entry)| KeptService {
            name: name.clone(),
            addresses: entry.addresses.clone(),
            instances: entry
                .instances
                .iter()
                .map(|(id, instance)| KeptInstance {
                    id: id.clone(),
                    registration: Registration::clone(&instance.registration),
                    expired: instance.expired,
                })
                .collect(),
        });
        let resting = book
            .resting
            .iter()
            .map(|(name, (addresses, since))| KeptRest {
                name: name.clone(),
                addresses: addresses.clone(),
                rested_seconds: now.saturating_duration_since(*since).as_secs(),
            });
        Self {
            services: services.collect(),
            resting: resting.collect(),
        }
    }

    /// Gives `book` what was remembered. What an agent with other limits wrote and this one would refuse is left out.
    pub(super) fn restore(self, book: &mut Book, now: Instant) {
        let mut room = limits::INSTANCES;
        for kept in self.services.into_iter().take(limits::SERVICES) {
            let mut instances: Vec<_> = kept
                .instances
                .into_iter()
                .filter(|i| {
                    check_names(&kept.name, &i.id)
                        .and_then(|()| i.registration.check())
                        .is_ok()
                })
                .map(|i| (i.id, i.registration, i.expired))
                .collect();
            instances.truncate(room);
            room -= instances.len();
            if !instances.is_empty() {
                book.restore(kept.name, kept.addresses, instances, now);
            }
        }
        for kept in self.resting.into_iter().take(limits::RESTING) {
            // A machine that was just booted knows no moment that long ago: then it rests anew.
            let since = now.checked_sub(Duration::from_secs(kept.rested_seconds));
            if check_service(&kept.name).is_ok() {
                book.restore_resting(kept.name, kept.addresses, since.unwrap_or(now));
            }
        }
    }
}

/// The file in its directory, which is this agent's alone.
#[derive(Debug)]
pub(super) struct StateFile {
    file: KeptFile,
    /// Held as long as this lives; the kernel releases it however the agent ends.
    _lock: File,
}

impl StateFile {
    /// Returns the file in `dir`, which is made (0700) if it does not exist.
    ///
    /// # Errors
    ///
    /// When it cannot be made; `WouldBlock` when another agent uses it.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let file = KeptFile::new(dir, FILE, SCHEMA, limits::STATE_BYTES);
        file.make_directory()?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(dir.join(format!("{FILE}.lock")))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { file, _lock: lock })
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.file.path()
    }

    /// Returns what was kept; nothing where there is no file.
    pub(super) fn load(&self) -> Result<State, StateError> {
        match self.file.load()? {
            Some(body) => Ok(serde_json::from_str(&body)?),
            None => Ok(State::default()),
        }
    }

    /// Moves a broken file aside, where somebody may look at it; returns where to.
    pub(super) fn set_aside(&self) -> io::Result<PathBuf> {
        self.file.set_aside()
    }

    /// Writes the file: whole, or not at all.
    pub(super) fn save(&self, state: &State) -> io::Result<()> {
        self.file.save(&serde_json::to_string(state)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path) -> StateFile {
        StateFile::new(&dir.join("state")).unwrap()
    }

    fn state() -> State {
        let registration = super::super::registration::tests::registration("10.0.0.1", 80);
        let name = ServiceName {
            namespace: "shop".into(),
            name: "cart".into(),
        };
        State {
            services: vec![KeptService {
                name,
                addresses: vec!["240.96.0.1".parse().unwrap()],
                instances: vec![KeptInstance {
                    id: "a".into(),
                    registration,
                    expired: false,
                }],
            }],
            resting: Vec::new(),
        }
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        assert_eq!(file.load().unwrap(), State::default());
        file.save(&state()).unwrap();
        assert_eq!(file.load().unwrap(), state());
    }
}
