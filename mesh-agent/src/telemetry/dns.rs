//! What became of name queries.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// What became of a name query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DnsOutcome {
    /// Answered from the services that are known, also that there is no such name.
    Answered,
    /// Answered by an upstream name server.
    Forwarded,
    /// No upstream name server answered.
    Failed,
    /// Refused: a zone transfer, a class that is not the internet's, or what is no query that makes sense.
    Refused,
    /// Left unanswered: over a limit, or no query at all.
    Dropped,
}

impl DnsOutcome {
    /// Every outcome with its label.
    pub const ALL: [(Self, &str); 5] = [
        (Self::Answered, "answered"),
        (Self::Forwarded, "forwarded"),
        (Self::Failed, "failed"),
        (Self::Refused, "refused"),
        (Self::Dropped, "dropped"),
    ];
}

/// Counts what became of name queries, each counter only grows; and in how many workloads they are answered.
#[derive(Debug, Default)]
pub struct DnsCounters {
    outcomes: [AtomicU64; DnsOutcome::ALL.len()],
    listening: AtomicU64,
}

impl DnsCounters {
    /// Counts one.
    pub fn count(&self, outcome: DnsOutcome) {
        self.of(outcome).fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many came to this.
    pub fn get(&self, outcome: DnsOutcome) -> u64 {
        self.of(outcome).load(Ordering::Relaxed)
    }

    /// Says in how many workloads name queries are answered.
    pub fn set_listening(&self, workloads: usize) {
        self.listening.store(workloads as u64, Ordering::Relaxed);
    }

    /// Returns in how many workloads name queries are answered.
    pub fn listening(&self) -> u64 {
        self.listening.load(Ordering::Relaxed)
    }

    fn of(&self, outcome: DnsOutcome) -> &AtomicU64 {
        &self.outcomes[outcome as usize]
    }
}
