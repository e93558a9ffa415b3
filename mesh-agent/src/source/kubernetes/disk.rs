//! What was last known, on disk: so that an agent that starts while the API server is away runs what ran.
//!
//! One line with the schema, length and checksum of what follows; then a line with server and time, and one for each object: its
//! kind and what is kept of it. Written beside and renamed, so a reader finds the old one or the new one, whole; private,
//! since it says who runs where. It is read by the same code as the server's answers, so it can say nothing that they could not.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::event;
use super::limits;
use super::store::Object;
use crate::config::key::Kind;
use crate::source::registered::hash;

/// Schema of the file. Another number is another format, which this agent does not read.
const SCHEMA: &str = "underpass.dev/kubernetes-snapshot/v1";

/// Name of the file in the state directory.
const FILE: &str = "kubernetes";

/// Where and when it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) server: String,
    pub(super) written: Timestamp,
}

/// Everything that was kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    pub(super) head: Head,
    pub(super) objects: Vec<(Kind, Object)>,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it does not begin with `{SCHEMA}`; was it written by another version of the agent?")]
    Schema,
    #[error("it is damaged: its checksum does not match")]
    Checksum,
    #[error("it is larger than {} MiB", limits::FILE_BYTES >> 20)]
    TooLarge,
    #[error("it is not what it has to be")]
    Content(#[from] serde_json::Error),
    #[error("it is of another API server, `{0}`")]
    OtherServer(String),
}

/// The file in its directory.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    dir: PathBuf,
}

impl Disk {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Returns what was kept of this server; `None` where there is no file.
    pub(super) fn load(&self, server: &str) -> Result<Option<Kept>, DiskError> {
        let file = match File::open(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(limits::FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limits::FILE_BYTES {
            return Err(DiskError::TooLarge);
        }
        let kept = parse(&bytes)?;
        match kept.head.server == server {
            true => Ok(Some(kept)),
            false => Err(DiskError::OtherServer(kept.head.server)),
        }
    }

    /// Moves a broken file aside, where somebody may look at it; returns where to.
    pub(super) fn set_aside(&self) -> io::Result<PathBuf> {
        let aside = self.dir.join(format!("{FILE}.broken"));
        fs::rename(self.path(), &aside)?;
        Ok(aside)
    }

    /// Writes the file: whole, or not at all.
    pub(super) fn save(&self, head: &Head, objects: &[(Kind, Arc<str>)]) -> io::Result<()> {
        let mut body = serde_json::to_string(head)? + "\n";
        for (kind, text) in objects {
            body.push_str(kind.word());
            body.push('\t');
            body.push_str(text);
            body.push('\n');
        }
        let mut first = String::new();
        writeln!(first, "{SCHEMA} {} {:016x}", body.len(), hash(&body))
            .map_err(io::Error::other)?;
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.dir)?;
        let draft = self.dir.join(format!("{FILE}.new"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&draft)?;
        file.write_all(first.as_bytes())?;
        file.write_all(body.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, self.path())?;
        // The name is in the directory, which has to reach the disk as well.
        File::open(&self.dir)?.sync_all()
    }
}

fn parse(bytes: &[u8]) -> Result<Kept, DiskError> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (first, body) = bytes.split_at(end.ok_or(DiskError::Schema)?);
    let first = std::str::from_utf8(first).map_err(|_| DiskError::Schema)?;
    let numbers = first.strip_prefix(SCHEMA).ok_or(DiskError::Schema)?;
    let body = std::str::from_utf8(&body[1..]).map_err(|_| DiskError::Checksum)?;
    if numbers != format!(" {} {:016x}", body.len(), hash(body)) {
        return Err(DiskError::Checksum);
    }
    let (head, lines) = body.split_once('\n').ok_or(DiskError::Schema)?;
    let head = serde_json::from_str(head)?;
    let mut objects = Vec::new();
    for line in lines.lines() {
        let (word, text) = line.split_once('\t').ok_or(DiskError::Schema)?;
        let raw: &RawValue = serde_json::from_str(text)?;
        let of = event::head(raw)?;
        let object = Object {
            namespace: of.namespace.into_owned(),
            name: of.name.into_owned(),
            version: 0,
            text: text.to_owned(),
        };
        objects.push((Kind::of_word(word).ok_or(DiskError::Schema)?, object));
    }
    Ok(Kept { head, objects })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SERVER: &str = "https://10.96.0.1";

    fn saved(dir: &Path) -> (Disk, Kept) {
        let disk = Disk::new(&dir.join("state"));
        let head = Head {
            server: SERVER.to_owned(),
            written: Timestamp::UNIX_EPOCH,
        };
        let text = r#"{"metadata":{"name":"a","namespace":"shop","labels":{"x":"tab\there, line\nthere"}}}"#;
        let object = Object {
            namespace: "shop".to_owned(),
            name: "a".to_owned(),
            version: 0,
            text: text.to_owned(),
        };
        disk.save(&head, &[(Kind::Pod, text.into())]).unwrap();
        let objects = vec![(Kind::Pod, object)];
        (disk, Kept { head, objects })
    }

    #[test]
    fn what_was_saved_is_loaded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Disk::new(dir.path()).load(SERVER).unwrap().is_none());
        let (disk, kept) = saved(dir.path());
        assert_eq!(disk.load(SERVER).unwrap(), Some(kept));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&disk.path()), 0o600);
        assert_eq!(mode(disk.path().parent().unwrap()), 0o700);
    }

    #[test]
    fn another_server_s_objects_are_not_taken_for_this_one_s() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = saved(dir.path());
        let error = disk.load("https://other").unwrap_err();
        assert!(matches!(error, DiskError::OtherServer(_)), "{error}");
    }

    #[test]
    fn every_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = saved(dir.path());
        let good = fs::read(disk.path()).unwrap();
        for cut in 0..good.len() {
            assert!(parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(parse(&bad).is_err(), "a bit of byte {at}");
        }
        let newer = String::from_utf8(good).unwrap();
        let newer = newer.replace("snapshot/v1", "snapshot/v2");
        assert!(matches!(parse(newer.as_bytes()), Err(DiskError::Schema)));
    }
}
