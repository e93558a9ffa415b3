//! What a connection and the worker that holds it know of each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

/// The life of one connection of a client. Looked at with each request, and so plain loads and stores.
#[derive(Debug)]
pub struct Life {
    draining: Arc<AtomicBool>,
    idle: AtomicBool,
    /// When it is asked to close.
    until: Instant,
}

impl Life {
    /// Begins one that is asked to close from `until` on, or once `draining` is true.
    pub fn new(draining: Arc<AtomicBool>, until: Instant) -> Self {
        Self {
            draining,
            idle: AtomicBool::new(false),
            until,
        }
    }

    /// Returns whether no request shall follow the one in progress.
    pub fn is_ending(&self, now: Instant) -> bool {
        self.is_draining() || now >= self.until
    }

    /// Returns whether the worker is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Says whether a request is in progress: without one the connection may be closed at any time.
    pub fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// Returns whether none is.
    pub fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed)
    }
}
