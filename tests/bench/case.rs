//! What is measured.

use serde::{Deserialize, Serialize};

/// What the two ends of a case do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Load {
    /// Every connection sends a request and waits for its response, again and again.
    Ask {
        /// Connections, all served by one thread at each end.
        connections: usize,
        /// Bytes of a request.
        request: usize,
        /// Bytes of a response.
        response: usize,
    },
    /// One connection is written to as fast as it takes it.
    Stream {
        /// Bytes of one write.
        write: usize,
    },
    /// Connections are opened and closed, one after another.
    Connect,
    /// The same, but what is timed is `connect` alone.
    Dial,
}

impl Load {
    /// Returns what is counted, and its unit.
    pub(crate) fn metric(self) -> (&'static str, &'static str) {
        match self {
            Self::Ask { .. } => ("requests", "requests/s"),
            Self::Stream { .. } => ("throughput", "MB/s"),
            Self::Connect | Self::Dial => ("connections", "connections/s"),
        }
    }

    /// Returns the word for what CPU time is told per.
    pub(crate) fn per(self) -> &'static str {
        match self {
            Self::Ask { .. } => "request",
            Self::Stream { .. } => "MB",
            Self::Connect | Self::Dial => "connection",
        }
    }
}

/// A case: a load with a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Fixed name, as in the JSON file.
    pub(crate) name: &'static str,
    /// Name for people.
    pub(crate) title: &'static str,
    /// What is done.
    pub(crate) load: Load,
}

const fn ask(connections: usize, response: usize) -> Load {
    Load::Ask {
        connections,
        request: 100,
        response,
    }
}

/// Every case, in groups: the agent is started and removed once for each group, so that what is compared lies close
/// together in time.
pub(crate) const GROUPS: [&[Case]; 3] = [
    &[
        Case {
            name: "rr_100b_1",
            title: "100 B ⇄ 100 B, 1 connection",
            load: ask(1, 100),
        },
        Case {
            name: "rr_100b_8",
            title: "100 B ⇄ 100 B, 8 connections",
            load: ask(8, 100),
        },
        Case {
            name: "rr_100b_64",
            title: "100 B ⇄ 100 B, 64 connections",
            load: ask(64, 100),
        },
        Case {
            name: "rr_100b_10kb_1",
            title: "100 B ⇄ 10 kB, 1 connection",
            load: ask(1, 10_000),
        },
    ],
    &[
        Case {
            name: "stream_1kb",
            title: "stream, 1 kB writes",
            load: Load::Stream { write: 1_000 },
        },
        Case {
            name: "stream_16kb",
            title: "stream, 16 kB writes",
            load: Load::Stream { write: 16_000 },
        },
        Case {
            name: "stream_64kb",
            title: "stream, 64 kB writes",
            load: Load::Stream { write: 64_000 },
        },
    ],
    &[Case {
        name: "connect",
        title: "connect and close",
        load: Load::Connect,
    }],
];
