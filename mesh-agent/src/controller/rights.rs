//! Rights that are needed and that the API server refuses: told in the log and a metric, and a controller that lacks one is not ready.
//!
//! Nobody waits for a controller, so not to be ready harms nobody: it is where people look, and it stops a roll-out.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::admin::readiness::{Block, Readiness};
use crate::controller::told::Told;
use crate::telemetry::metrics::controller::{Counts, Sort};

/// Rights that are missing.
#[derive(Debug)]
pub(super) struct Rights {
    told: Arc<Told>,
    counts: Arc<Counts>,
    readiness: Readiness,
    missing: Mutex<Missing>,
}

/// What each is needed for, and which right it is.
type Missing = BTreeMap<(&'static str, String), Block>;

impl Rights {
    pub(super) fn new(told: Arc<Told>, counts: Arc<Counts>, readiness: Readiness) -> Self {
        Self {
            told,
            counts,
            readiness,
            missing: Mutex::default(),
        }
    }

    /// Notes that a right is missing.
    pub(super) fn lack(&self, sort: Sort, right: &str, message: &str) {
        let words = format!("the controller's role needs the right `{right}`: {message}");
        self.told.tell(right, &words);
        let mut missing = self.lock();
        let block = || self.readiness.block(format!("the right `{right}`"));
        let key = (sort.word(), right.to_owned());
        missing.entry(key).or_insert_with(block);
        self.counts.miss(missing.len());
    }

    /// Notes that a right is there.
    pub(super) fn have(&self, sort: Sort, right: &str) {
        let mut missing = self.lock();
        if missing.remove(&(sort.word(), right.to_owned())).is_some() {
            self.told.clear(right);
            self.counts.miss(missing.len());
        }
    }

    /// Forgets what was needed to write: somebody else does it now, or there is nothing left to write. Everybody asks for the lease.
    pub(super) fn forget_writes(&self) {
        let mut missing = self.lock();
        missing.retain(|(sort, _), _| *sort == Sort::Lease.word());
        self.counts.miss(missing.len());
    }

    fn lock(&self) -> MutexGuard<'_, Missing> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_ready_while_it_lacks_nothing() {
        let readiness = Readiness::default();
        let rights = Rights::new(Arc::default(), Arc::default(), readiness.clone());
        rights.lack(Sort::Status, "patch nodes", "no");
        rights.lack(Sort::Status, "patch nodes", "no");
        rights.lack(Sort::Lease, "update leases", "no");
        assert_eq!(
            readiness.pending(),
            ["the right `patch nodes`", "the right `update leases`"]
        );
        rights.forget_writes();
        assert_eq!(readiness.pending(), ["the right `update leases`"]);
        rights.have(Sort::Lease, "update leases");
        rights.have(Sort::Status, "patch nodes");
        assert!(readiness.pending().is_empty());
    }
}
