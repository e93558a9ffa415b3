//! What still has to happen before the agent is ready.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What still has to happen before the agent is ready: nothing, as long as nobody blocks it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<Arc<str>, usize>>>);

impl Readiness {
    /// Blocks readiness for the reason `why` until the returned value is dropped.
    #[must_use = "readiness is blocked until this is dropped"]
    pub fn block(&self, why: impl Into<Arc<str>>) -> Block {
        let why = why.into();
        *self.lock().entry(why.clone()).or_default() += 1;
        Block {
            readiness: self.clone(),
            why,
        }
    }

    /// Returns what the agent still waits for; empty when it is ready.
    pub fn pending(&self) -> Vec<String> {
        self.lock().keys().map(|why| why.to_string()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, usize>> {
        // A panic in between leaves a whole map: every change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks readiness until it is dropped.
#[derive(Debug)]
pub struct Block {
    readiness: Readiness,
    why: Arc<str>,
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut pending = self.readiness.lock();
        if let Some(count) = pending.get_mut(&self.why) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_the_last_block_is_gone() {
        let readiness = Readiness::default();
        assert!(readiness.pending().is_empty());
        let first = readiness.block("hooks");
        let second = readiness.block("hooks");
        let config = readiness.block("configuration");
        assert_eq!(readiness.pending(), ["configuration", "hooks"]);
        drop(config);
        drop(first);
        assert_eq!(readiness.pending(), ["hooks"]);
        drop(second);
        assert!(readiness.pending().is_empty());
    }
}
