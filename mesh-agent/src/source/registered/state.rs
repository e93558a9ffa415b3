//! The state file: what is registered, for the agent's next life.
//!
//! One line with the schema, the length and the checksum of what follows, then JSON. Written beside and renamed, so a reader
//! finds the old one or the new one, whole; private, since it says who runs where.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::model::service::ServiceName;
use crate::source::registered::book::Book;
use crate::source::registered::limits;
use crate::source::registered::range::hash;
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
    Io(#[from] io::Error),
    #[error("it does not begin with `{SCHEMA}`; was it written by another version of the agent?")]
    Schema,
    #[error("it is damaged: its checksum does not match")]
    Checksum,
    #[error("it is larger than {} bytes", limits::STATE_BYTES)]
    TooLarge,
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

/// The file in its directory.
#[derive(Clone, Debug)]
pub(super) struct StateFile {
    dir: PathBuf,
}

impl StateFile {
    /// Returns the file in `dir`, which is made (0700) if it does not exist.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Returns what was kept; nothing where there is no file.
    pub(super) fn load(&self) -> Result<State, StateError> {
        let file = match File::open(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            file => file?,
        };
        let mut text = Vec::new();
        file.take(limits::STATE_BYTES + 1).read_to_end(&mut text)?;
        if text.len() as u64 > limits::STATE_BYTES {
            return Err(StateError::TooLarge);
        }
        parse(&text)
    }

    /// Moves a broken file aside, where somebody may look at it; returns where to.
    pub(super) fn set_aside(&self) -> io::Result<PathBuf> {
        let aside = self.dir.join(format!("{FILE}.broken"));
        fs::rename(self.path(), &aside)?;
        Ok(aside)
    }

    /// Writes the file: whole, or not at all.
    pub(super) fn save(&self, state: &State) -> io::Result<()> {
        let body = serde_json::to_string(state)?;
        let head = format!("{SCHEMA} {} {:016x}\n", body.len(), hash(&body));
        let draft = self.dir.join(format!("{FILE}.new"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&draft)?;
        file.write_all(head.as_bytes())?;
        file.write_all(body.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, self.path())?;
        // The name is in the directory, which has to reach the disk as well.
        File::open(&self.dir)?.sync_all()
    }
}

fn parse(text: &[u8]) -> Result<State, StateError> {
    let end = text.iter().position(|byte| *byte == b'\n');
    let (head, body) = text.split_at(end.ok_or(StateError::Schema)?);
    let head = std::str::from_utf8(head).map_err(|_| StateError::Schema)?;
    let numbers = head.strip_prefix(SCHEMA).ok_or(StateError::Schema)?;
    let body = std::str::from_utf8(&body[1..]).map_err(|_| StateError::Checksum)?;
    if numbers != format!(" {} {:016x}", body.len(), hash(body)) {
        return Err(StateError::Checksum);
    }
    Ok(serde_json::from_str(body)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
    fn what_was_saved_is_loaded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        assert_eq!(file.load().unwrap(), State::default());
        file.save(&state()).unwrap();
        assert_eq!(file.load().unwrap(), state());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file.path()), 0o600);
        assert_eq!(mode(file.path().parent().unwrap()), 0o700);
    }

    #[test]
    fn every_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path());
        file.save(&state()).unwrap();
        let good = fs::read(file.path()).unwrap();
        for cut in 0..good.len() {
            assert!(parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(parse(&bad).is_err(), "a bit of byte {at}");
        }
        let newer = String::from_utf8(good)
            .unwrap()
            .replace("state/v1", "state/v2");
        assert!(matches!(parse(newer.as_bytes()), Err(StateError::Schema)));
    }
}
