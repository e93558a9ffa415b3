//! The key that seals session cookies: 32 bytes in a file of the state directory, made at the first start.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::l7::session::SessionKey;

/// The file in the state directory. Agents that serve the same clients are to have the same one: copy it.
const FILE: &str = "session.key";

/// Returns the key; `None` where it can be neither read nor made, which is logged: then sessions do not persist.
pub(super) fn load(state_dir: &Path) -> Option<SessionKey> {
    let path = state_dir.join(FILE);
    let bytes = match read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(&path),
        read => read,
    };
    match bytes {
        Ok(bytes) => SessionKey::new(&bytes).ok(),
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "no key for session persistence: clients are bound to no endpoint; the file has to hold 32 random bytes");
            None
        }
    }
}

fn read(path: &Path) -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let mut file = fs::File::open(path)?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn make(path: &Path) -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state").join(FILE);
        let made = make(&path).unwrap();
        assert_eq!(read(&path).unwrap(), made);
        assert!(load(path.parent().unwrap()).is_some());
        fs::write(&path, b"short").unwrap();
        assert!(load(path.parent().unwrap()).is_none());
    }
}
