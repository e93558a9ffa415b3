//! A file of the state directory that outlives the agent: what it holds is known to be whole, and of a schema that is read.
//!
//! One line with the schema, the length and the checksum of what follows, then that. Written beside and renamed, so a reader finds
//! the old one or the new one, whole; private, since it says who runs where.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::source::registered::hash;

/// A file in its directory.
#[derive(Clone, Debug)]
pub(super) struct KeptFile {
    dir: PathBuf,
    name: &'static str,
    /// Another one is another format, which this agent does not read.
    schema: &'static str,
    /// Bytes that are read at most.
    most: u64,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it does not begin with `{0}`; was it written by another version of the agent?")]
    Schema(&'static str),
    #[error("it is damaged: its checksum does not match")]
    Checksum,
    #[error("it is larger than {} KiB", .0 >> 10)]
    TooLarge(u64),
}

impl KeptFile {
    pub(super) fn new(dir: &Path, name: &'static str, schema: &'static str, most: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            name,
            schema,
            most,
        }
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.join(self.name)
    }

    /// Makes the directory (0700) if it does not exist.
    pub(super) fn make_directory(&self) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&self.dir)
    }

    /// Returns what was kept; `None` where there is no file.
    pub(super) fn load(&self) -> Result<Option<String>, KeptError> {
        let file = match File::open(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(self.most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > self.most {
            return Err(KeptError::TooLarge(self.most));
        }
        self.parse(bytes).map(Some)
    }

    /// Moves a broken file aside, where somebody may look at it; returns where to.
    pub(super) fn set_aside(&self) -> io::Result<PathBuf> {
        let aside = self.dir.join(format!("{}.broken", self.name));
        fs::rename(self.path(), &aside)?;
        Ok(aside)
    }

    /// Writes the file: whole, or not at all.
    pub(super) fn save(&self, body: &str) -> io::Result<()> {
        self.make_directory()?;
        let first = format!("{} {} {:016x}\n", self.schema, body.len(), hash(body));
        let draft = self.dir.join(format!("{}.new", self.name));
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

    fn parse(&self, bytes: Vec<u8>) -> Result<String, KeptError> {
        let schema = || KeptError::Schema(self.schema);
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(schema)?;
        let first = std::str::from_utf8(&bytes[..end]).map_err(|_| schema())?;
        let numbers = first
            .strip_prefix(self.schema)
            .ok_or_else(schema)?
            .to_owned();
        let mut body = bytes;
        drop(body.drain(..=end));
        let body = String::from_utf8(body).map_err(|_| KeptError::Checksum)?;
        if numbers != format!(" {} {:016x}", body.len(), hash(&body)) {
            return Err(KeptError::Checksum);
        }
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn file(dir: &Path, schema: &'static str) -> KeptFile {
        KeptFile::new(&dir.join("state"), "file", schema, 1024)
    }

    #[test]
    fn what_was_saved_is_loaded_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(dir.path(), "test/v1");
        assert_eq!(file.load().unwrap(), None);
        file.save("a\nb").unwrap();
        assert_eq!(file.load().unwrap().as_deref(), Some("a\nb"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file.path()), 0o600);
        assert_eq!(mode(file.path().parent().unwrap()), 0o700);
        file.save(&"x".repeat(1024)).unwrap();
        assert!(matches!(file.load(), Err(KeptError::TooLarge(1024))));
        let aside = file.set_aside().unwrap();
        assert!(aside.exists() && !file.path().exists());
    }

    #[test]
    fn every_damage_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let one = file(dir.path(), "test/v1");
        one.save("some text\nof two lines").unwrap();
        let good = fs::read(one.path()).unwrap();
        for cut in 0..good.len() {
            assert!(one.parse(good[..cut].to_vec()).is_err(), "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(one.parse(bad).is_err(), "a bit of byte {at}");
        }
        let newer = file(dir.path(), "test/v2");
        assert!(matches!(newer.load(), Err(KeptError::Schema("test/v2"))));
    }
}
