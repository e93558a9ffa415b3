//! What was last known, on disk: so that an agent that starts while the API server is away runs what ran.
//!
//! A line with server and time, and one for each object: its kind and what is kept of it. It is read by the same code as the server's
//! answers, so it can say nothing that they could not.
#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::event;
use super::limits;
use super::store::Object;
use crate::config::key::Kind;
use crate::source::kept_file::{KeptError, KeptFile};

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
    File(#[from] KeptError),
    #[error("it is not what it has to be")]
    Content(#[from] serde_json::Error),
    #[error("it holds a line or a kind that this version does not write")]
    Line,
    #[error("it is of another API server, `{0}`")]
    OtherServer(String),
}

/// The file in its directory.
#[derive(Clone, Debug)]
pub(super) struct Disk(KeptFile);

impl Disk {
    pub(super) fn new(dir: &Path) -> Self {
        Self(KeptFile::new(dir, FILE, SCHEMA, limits::FILE_BYTES))
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.0.path()
    }

    /// Returns what was kept of this server; `None` where there is no file.
    pub(super) fn load(&self, server: &str) -> Result<Option<Kept>, DiskError> {
        let Some(body) = self.0.load()? else {
            return Ok(None);
        };
        let kept = parse(&body)?;
        match kept.head.server == server {
            true => Ok(Some(kept)),
            false => Err(DiskError::OtherServer(kept.head.server)),
        }
    }

    /// Moves a broken file aside, where somebody may look at it; returns where to.
    pub(super) fn set_aside(&self) -> io::Result<PathBuf> {
        self.0.set_aside()
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
        self.0.save(&body)
    }
}

fn parse(body: &str) -> Result<Kept, DiskError> {
    let (head, lines) = body.split_once('\n').ok_or(DiskError::Line)?;
    let head = serde_json::from_str(head)?;
    let mut objects = Vec::new();
    for line in lines.lines() {
        let (word, text) = line.split_once('\t').ok_or(DiskError::Line)?;
        let raw: &RawValue = serde_json::from_str(text)?;
        let of = event::head(raw)?;
        let object = Object {
            namespace: of.namespace.into_owned(),
            name: of.name.into_owned(),
            version: 0,
            text: text.to_owned(),
        };
        objects.push((Kind::of_word(word).ok_or(DiskError::Line)?, object));
    }
    Ok(Kept { head, objects })
}

#[cfg(test)]
mod tests {
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
    fn what_was_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Disk::new(dir.path()).load(SERVER).unwrap().is_none());
        let (disk, kept) = saved(dir.path());
        assert_eq!(disk.load(SERVER).unwrap(), Some(kept));
    }

    #[test]
    fn another_server_s_objects_are_not_taken_for_this_one_s() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = saved(dir.path());
        let error = disk.load("https://other").unwrap_err();
        assert!(matches!(error, DiskError::OtherServer(_)), "{error}");
    }
}
