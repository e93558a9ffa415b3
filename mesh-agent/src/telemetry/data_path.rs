//! How the data path stands, for whoever looks from outside.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Told by who keeps the data path, read by `status`.
#[derive(Debug, Default)]
pub struct DataPathState {
    threads: AtomicUsize,
    listening: AtomicUsize,
    problem: Mutex<Option<String>>,
}

impl DataPathState {
    /// Says how many data threads there are.
    pub fn set_threads(&self, threads: usize) {
        self.threads.store(threads, Ordering::Relaxed);
    }

    /// Returns how many data threads there are.
    pub fn threads(&self) -> usize {
        self.threads.load(Ordering::Relaxed)
    }

    /// Says in how many workloads there are listeners.
    pub fn set_listening(&self, workloads: usize) {
        self.listening.store(workloads, Ordering::Relaxed);
    }

    /// Returns in how many workloads there are listeners.
    pub fn listening(&self) -> usize {
        self.listening.load(Ordering::Relaxed)
    }

    /// Says why connections cannot be led to the agent; `None`: they can. Returns whether that is another reason.
    pub fn set_problem(&self, problem: Option<String>) -> bool {
        let mut known = self.lock();
        let changed = *known != problem;
        *known = problem;
        changed
    }

    /// Returns why connections cannot be led to the agent.
    pub fn problem(&self) -> Option<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
