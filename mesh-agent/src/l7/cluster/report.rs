//! How a cluster stands, for whoever looks from outside.

use super::{Cluster, Now};

/// What limits are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Open connections.
    Connections,
    /// Requests that wait for one.
    Pending,
    /// Requests in flight.
    Requests,
    /// Retries in flight.
    Retries,
}

impl Kind {
    /// Every kind, in the order of its declaration.
    pub const ALL: [Self; 4] = [
        Self::Connections,
        Self::Pending,
        Self::Requests,
        Self::Retries,
    ];

    /// Returns its word in labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "pending",
            Self::Requests => "requests",
            Self::Retries => "retries",
        }
    }
}

/// How much of a limit is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// In flight.
    pub used: u32,
    /// As many may be. Where there is a retry budget, it decides on retries, not this.
    pub limit: u32,
    /// Times that the limit, or the budget, said no.
    pub overflows: u64,
}

/// How a cluster stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Endpoints, of both families.
    pub endpoints: usize,
    /// Those of them that are ejected.
    pub ejected: usize,
    /// Ejections so far.
    pub ejections: u64,
    usage: [Usage; Kind::ALL.len()],
}

impl Report {
    /// Returns how much of a limit is used.
    pub fn usage(&self, kind: Kind) -> Usage {
        self.usage[kind as usize]
    }
}

impl Cluster {
    /// Returns how it stands.
    pub fn report(&self, now: Now) -> Report {
        let (v4, v6) = (self.v4.ejections(now), self.v6.ejections(now));
        Report {
            endpoints: self.endpoints(),
            ejected: v4.0 + v6.0,
            ejections: v4.1 + v6.1,
            usage: Kind::ALL.map(|kind| self.shared.usage(kind)),
        }
    }
}
