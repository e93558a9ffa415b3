//! How a command ended, as an exit code and a message.

#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// HTTP status for what there is not (any more).
pub(super) const NOT_FOUND: u16 = 404;

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// 0: all is well.
    Fine,
    /// 1: the answer is bad, or the command failed.
    Bad,
    /// 2: the command line is wrong.
    Usage,
    /// 3: the agent could not be reached, or went away.
    Unreachable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Fine => 0,
            Exit::Bad => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
        })
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// Nobody answers at the socket.
    #[error("failed to reach the agent at `{socket}`: {why}")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The cluster's API server does not say which agents there are.
    #[error("{0}")]
    NoCluster(String),
    /// The agent went away in the middle of its answer.
    #[error("the agent went away")]
    Gone,
    /// The agent said no.
    #[error("{error}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the agent said.
        error: String,
    },
    /// The agent's answer makes no sense to this program.
    #[error("failed to understand the agent's answer; is it of another version?")]
    NotUnderstood(#[from] serde_json::Error),
    /// Standard output or the terminal failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Prints why a command failed, and returns its exit code. A reader that went away (`| head`) is no failure.
pub(super) fn report(done: Result<Exit, CtlError>) -> Exit {
    let error = match done {
        Ok(exit) => return exit,
        Err(CtlError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Exit::Fine,
        Err(error) => error,
    };
    let exit = match &error {
        CtlError::Unreachable { .. } | CtlError::NoCluster(_) | CtlError::Gone => Exit::Unreachable,
        CtlError::Refused { .. } | CtlError::NotUnderstood(_) | CtlError::Io(_) => Exit::Bad,
    };
    eprintln!("node-agent: {:#}", anyhow::Error::new(error));
    exit
}
