//! The admin socket: bound so that only root and the agent's own user get in, and only one agent serves it.

#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A socket that could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent serves it.
    #[error("another agent serves `{0}`; stop it first, or give this one another --socket")]
    Live(PathBuf),
    /// There is something at the path that is no socket.
    #[error("`{0}` exists and is not a socket")]
    NotASocket(PathBuf),
    /// The operating system said no.
    #[error("failed to {doing} `{path}`")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A bound admin socket. Its file goes when this is dropped.
#[derive(Debug)]
pub(super) struct AdminSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Held as long as the agent serves the socket; the kernel releases it however the agent ends.
    _lock: File,
}

impl AdminSocket {
    /// Binds the socket at `path`, with mode 0600; its directory is made with mode 0700 where it does not exist.
    ///
    /// A file lock beside it, and not the socket, says whether another agent lives: an agent that was killed leaves its
    /// socket, and one that hangs does not answer.
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| SocketError::Io {
                doing,
                path,
                source,
            }
        };
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(io("make directory", dir))?;
        }
        let lock = lock(path)?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(io("bind", path))?;
        // Until here the mode is what the umask leaves; nobody is accepted yet, and credentials are checked then.
        let mode = Permissions::from_mode(0o600);
        fs::set_permissions(path, mode).map_err(io("set the mode of", path))?;
        listener
            .set_nonblocking(true)
            .map_err(io("prepare", path))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            _lock: lock,
        })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("failed to remove `{}`: {error}", self.path.display());
        }
    }
}

/// Returns whether a peer with this user id may use the admin API.
pub(super) fn trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn lock(socket: &Path) -> Result<File, SocketError> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let opened = options.open(&path).and_then(|file| {
        let taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
        taken.map(|()| file).map_err(io::Error::from)
    });
    opened.map_err(|source| {
        if source.kind() == io::ErrorKind::WouldBlock {
            return SocketError::Live(socket.to_owned());
        }
        SocketError::Io {
            doing: "lock",
            path,
            source,
        }
    })
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    // Nobody holds the lock, but something that is no agent may listen here.
    if UnixStream::connect(path).is_ok() {
        return Err(SocketError::Live(path.to_owned()));
    }
    fs::remove_file(path).map_err(|source| SocketError::Io {
        doing: "remove the stale socket",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_keep_others_out_and_the_file_goes_with_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_agent_keeps_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let _first = AdminSocket::bind(&path).unwrap();
        let error = AdminSocket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::Live(_)), "{error}");
        assert!(
            UnixStream::connect(&path).is_ok(),
            "the first still listens"
        );
    }

    #[test]
    fn the_socket_of_a_dead_agent_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        // What `kill -9` leaves: the file, without listener or lock.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _socket = AdminSocket::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let _other = UnixListener::bind(&path).unwrap();
        let error = AdminSocket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::Live(_)), "{error}");
        let file = dir.path().join("notes.txt");
        fs::write(&file, "precious").unwrap();
        let error = AdminSocket::bind(&file).unwrap_err();
        assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn root_and_the_agents_own_user_are_trusted() {
        let own = rustix::process::geteuid().as_raw();
        assert!(trusted(0) && trusted(own));
        assert!(!trusted(own + 12_345));
    }
}
