//! A file that lines are appended to, and that others may rename.

#![forbid(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Owner and group may read it: it says who asked for what.
const MODE: u32 = 0o640;

/// A file that lines are appended to.
pub(super) struct File {
    path: PathBuf,
    file: fs::File,
    /// Device and inode.
    id: (u64, u64),
}

impl File {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(MODE).open(path)?;
        let id = id(&file.metadata()?);
        Ok(Self {
            path: path.to_owned(),
            file,
            id,
        })
    }

    /// Goes on with another file, when this one is no longer at its path, since that is how logs are rotated; returns whether it does.
    pub(super) fn renew(&mut self) -> io::Result<bool> {
        let is_there = fs::metadata(&self.path).is_ok_and(|it| id(&it) == self.id);
        if !is_there {
            *self = Self::open(&self.path)?;
        }
        Ok(!is_there)
    }

    /// Writes at the end, maybe a part only.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }
}

fn id(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
