//! The image's one layer: its files in order, without times, names or rights of whoever built it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use anyhow::Context as _;
use flate2::{Compression, GzBuilder};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// Files and folders, by path.
#[derive(Debug, Default)]
pub(super) struct Layer {
    files: BTreeMap<String, (Vec<u8>, u32)>,
    folders: BTreeSet<String>,
}

/// A layer as an image holds it.
#[derive(Debug)]
pub(super) struct Packed {
    /// The archive.
    pub(super) unpacked: Vec<u8>,
    /// The same, compressed.
    pub(super) packed: Vec<u8>,
}

impl Layer {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds a file.
    ///
    /// # Errors
    ///
    /// When there is one already.
    pub(super) fn file(&mut self, path: &str, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.folder(above)?;
        }
        let before = self.files.insert(path.to_owned(), (bytes.to_owned(), mode));
        anyhow::ensure!(before.is_none(), "`{path}` is in the image twice");
        Ok(())
    }

    /// Adds a folder, and those above it.
    ///
    /// # Errors
    ///
    /// When it is a file.
    pub(super) fn folder(&mut self, path: &str) -> anyhow::Result<()> {
        let ends = path.match_indices('/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let folder = &path[..end];
            anyhow::ensure!(!self.files.contains_key(folder), "`{folder}` is a file");
            self.folders.insert(folder.to_owned());
        }
        Ok(())
    }

    /// Makes the archive; `well` takes its time for the smallest.
    ///
    /// # Errors
    ///
    /// When a path is too long for an archive.
    pub(super) fn pack(&self, well: bool) -> anyhow::Result<Packed> {
        let mut tar = tar::Builder::new(Vec::new());
        let folders = self.folders.iter().map(|path| (path, None));
        let files = self.files.iter().map(|(path, file)| (path, Some(file)));
        // A folder comes before what is in it, since its path is shorter.
        let all: BTreeMap<_, _> = folders.chain(files).collect();
        for (path, file) in all {
            let mut header = Header::new_ustar();
            let (bytes, mode) = match file {
                Some((bytes, mode)) => (bytes.as_slice(), *mode),
                None => (&[][..], 0o755),
            };
            header.set_entry_type(match file {
                Some(_) => EntryType::Regular,
                None => EntryType::Directory,
            });
            header.set_mode(if path == "tmp" { 0o1777 } else { mode });
            append(&mut tar, header, path, bytes)?;
        }
        let unpacked = tar.into_inner().context("failed to end an archive")?;
        let level = match well {
            true => Compression::best(),
            false => Compression::fast(),
        };
        let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), level);
        packed.write_all(&unpacked)?;
        Ok(Packed {
            packed: packed.finish()?,
            unpacked,
        })
    }
}

/// Adds an entry of nobody's and of no time.
///
/// # Errors
///
/// When its path is too long.
pub(super) fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    mut header: Header,
    path: &str,
    bytes: &[u8],
) -> anyhow::Result<()> {
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(u64::try_from(bytes.len())?);
    tar.append_data(&mut header, path, bytes)
        .with_context(|| format!("failed to add `{path}` to an archive"))
}

/// Returns the digest by which an image names its parts.
pub(super) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_is_in_order_and_of_no_time() {
        let mut layer = Layer::new();
        layer.file("usr/bin/b", b"bb", 0o755).unwrap();
        layer.file("etc/a", b"a", 0o644).unwrap();
        layer.folder("var/lib/c").unwrap();
        assert!(layer.file("etc/a", b"", 0o644).is_err());
        assert!(layer.folder("etc/a/d").is_err());
        let packed = layer.pack(true).unwrap();
        assert_eq!(packed.packed, layer.pack(true).unwrap().packed);
        let mut archive = tar::Archive::new(packed.unpacked.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (0, 0));
            let path = entry.path().unwrap().display().to_string();
            format!("{path} {:o}", header.mode().unwrap())
        });
        let entries: Vec<String> = entries.collect();
        let folders = [
            "etc 755",
            "etc/a 644",
            "usr 755",
            "usr/bin 755",
            "usr/bin/b 755",
        ];
        assert_eq!(entries[..5], folders);
        assert_eq!(entries[5..], ["var 755", "var/lib 755", "var/lib/c 755"]);
    }

    #[test]
    fn digests_are_those_of_everybody() {
        assert_eq!(
            digest(b""),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
