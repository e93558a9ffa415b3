//! Reads a directory of manifests, file by file.
//!
//! Flat, as a ConfigMap volume is: sub-directories are not read, nor names that begin with a dot (editors' swap files, and
//! the `..data` of a ConfigMap volume). Files end in `.yaml`, `.yml` or `.json`. Nothing but regular files is opened, so that a
//! FIFO or a device cannot hold the agent up.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::content::Content;
use crate::config::limits;
use crate::config::problem::{Problem, Severity};

/// A file that was changed less than this before it was read is read again: it may change once more within one tick of the
/// file system's clock, and then looks the same from outside. The coarsest in use is that of FAT.
const CLOCK_TICK: Duration = Duration::from_secs(2);

/// Reads a directory and remembers what it read, so that a file that did not change costs a `stat`.
#[derive(Debug, Default)]
pub(crate) struct DirReader {
    files: BTreeMap<String, Remembered>,
}

#[derive(Debug)]
struct Remembered {
    /// `None` for what must be read again in any case.
    stamp: Option<Stamp>,
    content: Arc<Content>,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata, now: SystemTime) -> Option<Self> {
        let age = now.duration_since(metadata.modified().ok()?).ok()?;
        (age > CLOCK_TICK).then(|| Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl DirReader {
    /// Returns what every file of `dir` holds, ordered by file name; or of the one file that `dir` is.
    ///
    /// # Errors
    ///
    /// When the directory itself cannot be listed.
    pub(crate) fn read(&mut self, dir: &Path) -> Result<Vec<Arc<Content>>, Box<Problem>> {
        let (dir, mut names) = list(dir)?;
        names.sort();
        let beyond = names.split_off(names.len().min(limits::FILES));
        self.files
            .retain(|name, _| names.binary_search(name).is_ok());
        let mut contents = Vec::new();
        for name in names {
            contents.extend(self.read_file(&dir.join(&name), name));
        }
        if let Some(first) = beyond.first() {
            let problem = format!(
                "and {} more files are not read: the directory holds more than {}",
                beyond.len() - 1,
                limits::FILES
            );
            let problem = Problem::of_file(first, problem, "put several objects into one file");
            contents.push(Arc::new(Content::unreadable(first, problem)));
        }
        Ok(contents)
    }

    /// Reads only the files of these names again; what the others hold is taken to be as before. A name that is not that of a
    /// manifest is passed over.
    ///
    /// Returns `None` where that will not do, and the whole directory has to be read.
    pub(crate) fn read_some(
        &mut self,
        dir: &Path,
        names: &BTreeSet<String>,
    ) -> Option<Vec<Arc<Content>>> {
        let is_new = |name: &&String| is_manifest(name) && !self.files.contains_key(*name);
        if self.files.len() + names.iter().filter(is_new).count() > limits::FILES {
            return None;
        }
        for name in names.iter().filter(|name| is_manifest(name)) {
            self.read_file(&dir.join(name), name.clone());
        }
        let contents = self.files.values().map(|file| file.content.clone());
        Some(contents.collect())
    }

    /// Returns what a file holds, or nothing if it vanished meanwhile.
    fn read_file(&mut self, path: &Path, name: String) -> Option<Arc<Content>> {
        let (stamp, content) = match open(path) {
            Ok(Opened::Gone) => {
                self.files.remove(&name);
                return None;
            }
            Ok(Opened::Skipped(problem, severity)) => {
                let help = "only regular files in the directory itself are read";
                let problem = Problem::of_file(&name, problem, help);
                let mut content = Content::unreadable(
                    &name,
                    Problem {
                        severity,
                        ..problem
                    },
                );
                // A sub-directory is no file that was read before.
                content.complete = severity == Severity::Note;
                (None, content)
            }
            Ok(Opened::File(file, metadata)) => {
                let stamp = Stamp::of(&metadata, SystemTime::now());
                if let Some(known) = self.files.get(&name)
                    && stamp.is_some()
                    && known.stamp == stamp
                {
                    return Some(known.content.clone());
                }
                match read_bytes(file) {
                    Ok(bytes) => {
                        let before = self.files.get(&name).map(|known| &*known.content);
                        (stamp, parse(&name, &bytes, before))
                    }
                    Err(error) => (None, unreadable(&name, &error)),
                }
            }
            Err(error) => (None, unreadable(&name, &error)),
        };
        // An unchanged content stays the same object: cheap to compare.
        let content = match self.files.get(&name) {
            Some(known) if *known.content == content => known.content.clone(),
            Some(_) | None => Arc::new(content),
        };
        let remembered = Remembered {
            stamp,
            content: content.clone(),
        };
        self.files.insert(name, remembered);
        Some(content)
    }
}

/// Parses a file. A panic in the YAML library costs that file, not the agent.
fn parse(name: &str, bytes: &[u8], before: Option<&Content>) -> Content {
    std::panic::catch_unwind(|| Content::parse(name, bytes, before)).unwrap_or_else(|_| {
        let help =
            "please report this file as a bug of the agent; write it in another way meanwhile";
        let problem = Problem::of_file(name, "the YAML reader failed on this file", help);
        Content::unreadable(name, problem)
    })
}

fn unreadable(name: &str, error: &io::Error) -> Content {
    let help = if error.kind() == io::ErrorKind::PermissionDenied {
        "let the agent's user read the file"
    } else {
        "check the file system, then save the file again"
    };
    let problem = format!("cannot be read: {error}");
    Content::unreadable(name, Problem::of_file(name, problem, help))
}

/// Returns the directory, and the names in it that may be manifests.
fn list(dir: &Path) -> Result<(&Path, Vec<String>), Box<Problem>> {
    let shown = dir.display().to_string();
    let failed = |error: io::Error| {
        let (problem, help) = if error.kind() == io::ErrorKind::NotFound {
            let help = "create it, or give the right one";
            ("no such directory".to_owned(), help)
        } else {
            let problem = format!("the directory cannot be read: {error}");
            (problem, "give a directory that the agent's user can read")
        };
        Box::new(Problem::of_file(&shown, problem, help))
    };
    let metadata = fs::metadata(dir).map_err(failed)?;
    if metadata.is_file()
        && let (Some(parent), Some(name)) = (dir.parent(), dir.file_name())
    {
        return Ok((parent, vec![name.to_string_lossy().into_owned()]));
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        // A name that is not UTF-8 is shown with replacement characters, and then is not found: an error by itself.
        let name = name.to_string_lossy().into_owned();
        if is_manifest(&name) {
            names.push(name);
        }
    }
    Ok((dir, names))
}

fn is_manifest(name: &str) -> bool {
    let suffixes = [".yaml", ".yml", ".json"];
    !name.starts_with('.') && suffixes.iter().any(|suffix| name.ends_with(suffix))
}

enum Opened {
    File(File, Metadata),
    Gone,
    Skipped(String, Severity),
}

fn open(path: &Path) -> io::Result<Opened> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(match fs::read_link(path) {
                Ok(target) => {
                    let target = target.display();
                    let problem = format!("is a symbolic link to `{target}`, which does not exist");
                    Opened::Skipped(problem, Severity::Error)
                }
                Err(_) => Opened::Gone,
            });
        }
        Err(error) => return Err(error),
    };
    if metadata.is_dir() {
        let problem = "is a directory, which is not read".to_owned();
        return Ok(Opened::Skipped(problem, Severity::Note));
    }
    if !metadata.is_file() {
        return Ok(Opened::Skipped(not_regular(&metadata), Severity::Error));
    }
    // Should it have become a FIFO since: do not wait for a writer.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opened::Gone),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Opened::Skipped(not_regular(&metadata), Severity::Error));
    }
    Ok(Opened::File(file, metadata))
}

fn not_regular(metadata: &Metadata) -> String {
    let sort = metadata.file_type();
    let sort = if sort.is_fifo() {
        "a FIFO"
    } else if sort.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    format!("is {sort}, not a regular file")
}

fn read_bytes(file: File) -> io::Result<Vec<u8>> {
    // One byte more than allowed shows that there is more.
    let limit = u64::try_from(limits::FILE_BYTES + 1).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
