//! What a test and a remote peer say to each other, one JSON line each way.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bytes::Stream;

/// Kind of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// Plain TCP.
    Tcp,
    /// Multipath TCP.
    Mptcp,
    /// UDP.
    Udp,
}

/// A piece of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Piece {
    /// The stream.
    pub stream: Stream,
    /// Where the piece begins.
    pub offset: u64,
    /// Its length; the largest number for "to the end of the connection".
    pub length: u64,
}

impl Piece {
    /// Returns the first `length` bytes of the stream with this seed.
    pub fn first(seed: u64, length: u64) -> Self {
        Self {
            stream: Stream(seed),
            offset: 0,
            length,
        }
    }

    /// Returns the piece of this length that follows.
    #[must_use]
    pub fn then(self, length: u64) -> Self {
        Self {
            offset: self.offset + self.length,
            length,
            ..self
        }
    }

    /// Returns all that follows.
    #[must_use]
    pub fn rest(self) -> Self {
        self.then(u64::MAX)
    }
}

/// A request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// A socket that listens.
    Listen {
        /// Where.
        address: SocketAddr,
        /// What kind.
        kind: Kind,
    },
    /// A socket that is connected.
    Connect {
        /// Its own address, where that matters.
        from: Option<SocketAddr>,
        /// Where to.
        to: SocketAddr,
        /// What kind.
        kind: Kind,
    },
    /// A socket and nothing more.
    Bare {
        /// What kind.
        kind: Kind,
        /// Whether it is an IPv6 socket.
        v6: bool,
    },
    /// Takes the socket whose descriptor came with this request (`SCM_RIGHTS`).
    Take,
    /// A call on a socket.
    Call {
        /// The socket.
        socket: u32,
        /// The call.
        call: Call,
    },
}

/// A call on a socket. Flags, levels and names are the system's own numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Call {
    /// Accepts.
    Accept,
    /// Binds.
    Bind(SocketAddr),
    /// Listens.
    Listen,
    /// Connects.
    Connect(SocketAddr),
    /// Writes a piece, cut into writes of these sizes.
    Write {
        /// What.
        piece: Piece,
        /// Sizes, from and to.
        cut: (usize, usize),
    },
    /// Writes a piece like `Write`, but only as much as is taken: until there has been no room for a fifth of a second.
    /// The socket has to be non-blocking.
    Fill {
        /// What.
        piece: Piece,
        /// Sizes, from and to.
        cut: (usize, usize),
    },
    /// Reads a piece with buffers of these sizes, and checks every byte.
    Read {
        /// What.
        piece: Piece,
        /// Sizes, from and to.
        cut: (usize, usize),
    },
    /// One `recv`.
    Receive {
        /// Size of the buffer.
        length: usize,
        /// Flags.
        flags: i32,
    },
    /// One `send`.
    Send {
        /// What.
        bytes: Vec<u8>,
        /// Flags.
        flags: i32,
        /// Where to, for a socket that is not connected (TCP Fast Open).
        to: Option<SocketAddr>,
    },
    /// `splice` of up to this many bytes into a pipe.
    Splice(usize),
    /// `ioctl(FIONREAD)`.
    Readable,
    /// `shutdown(SHUT_WR)`.
    Finish,
    /// `close`.
    Close,
    /// `setsockopt` of an `int`.
    SetOption {
        /// Level.
        level: i32,
        /// Name.
        name: i32,
        /// Value.
        value: i32,
    },
    /// `getsockopt` of an `int`.
    Option {
        /// Level.
        level: i32,
        /// Name.
        name: i32,
    },
    /// `setsockopt` of any value.
    SetBytes {
        /// Level.
        level: i32,
        /// Name.
        name: i32,
        /// Value.
        bytes: Vec<u8>,
    },
    /// `getsockopt` of any value.
    OptionBytes {
        /// Level.
        level: i32,
        /// Name.
        name: i32,
        /// Length of the value at most.
        length: usize,
    },
    /// Gives the descriptor to the peer with this door (`SCM_RIGHTS`); its own stays open.
    Give(PathBuf),
    /// Starts a peer with this door that inherits the descriptor, as its only socket (`fork`, `exec`); its own stays open.
    Bequeath(PathBuf),
    /// Makes the socket non-blocking, or blocking. On a non-blocking one, `Write` and `Read` wait with `poll`.
    Nonblocking(bool),
    /// Waits for these `poll` events, up to so many milliseconds; the answer's count holds what was seen.
    Poll {
        /// Events.
        events: i16,
        /// Milliseconds.
        timeout: i32,
    },
}

/// What a call that succeeded gave.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// A new socket and its own address.
    pub socket: Option<(u32, SocketAddr)>,
    /// Its descriptor in the peer.
    pub descriptor: Option<i32>,
    /// Bytes moved, or the number asked for.
    pub count: u64,
    /// Bytes received.
    pub bytes: Vec<u8>,
}

/// Why a call failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The system's number of the error, where it was the system.
    pub errno: Option<i32>,
    /// In words.
    pub words: String,
    /// Bytes moved before.
    pub count: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {} bytes", self.words, self.count)
    }
}

impl std::error::Error for Failure {}
