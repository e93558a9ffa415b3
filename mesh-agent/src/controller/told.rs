//! What was told of troubles, so that the hundredth failure is not logged like the first.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Subjects at most: rights, kinds of writes, and objects that the server refuses. Beyond it all are told again.
const SUBJECTS: usize = 1024;

/// What was told last, by what it is about.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<BTreeMap<String, String>>);

impl Told {
    /// Logs a message, unless it is what was told last of `about`.
    pub(super) fn tell(&self, about: &str, message: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(about).is_some_and(|before| before == message) {
            return;
        }
        if told.len() >= SUBJECTS {
            told.clear();
        }
        told.insert(about.to_owned(), message.to_owned());
        tracing::warn!(about, "{message}");
    }

    /// Notes that there is no trouble any more.
    pub(super) fn clear(&self, about: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.remove(about).is_some() {
            tracing::info!(about, "it works again");
        }
    }
}
