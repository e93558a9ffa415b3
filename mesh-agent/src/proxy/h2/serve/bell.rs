//! A wake-up that tells which of the things that a task waits for it is about.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// Wakes a task, and leaves a note.
pub(super) struct Bell {
    rang: AtomicBool,
    task: Waker,
}

impl Bell {
    pub(super) fn new(task: Waker) -> Self {
        Self {
            rang: AtomicBool::new(false),
            task,
        }
    }

    /// Returns whether it rang since somebody asked.
    pub(super) fn rang(&self) -> bool {
        self.rang.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rang.store(true, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}
