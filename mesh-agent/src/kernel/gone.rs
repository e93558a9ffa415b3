//! Handles of workloads that are gone, and when their counters may go too. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the counters of a workload that is gone are kept: several scrapes and a look by a person, and far less than it
/// takes even a node with much coming and going to fill the table of pairs.
const KEEP: Duration = Duration::from_secs(300);

/// Handles that no workload has, of which counters may be left.
#[derive(Debug, Default)]
pub(super) struct Gone(BTreeMap<u32, Instant>);

impl Gone {
    /// Notes that the workload with this handle is gone; the first time counts.
    pub(super) fn left(&mut self, id: u32, now: Instant) {
        self.0.entry(id).or_insert(now);
    }

    /// Notes that a workload has this handle.
    pub(super) fn taken(&mut self, id: u32) {
        self.0.remove(&id);
    }

    /// Returns the handles whose counters have been kept for long enough. They stay due until [`Gone::taken`].
    pub(super) fn due(&self, now: Instant) -> Vec<u32> {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= KEEP;
        let due = self.0.iter().filter(|(_, at)| old(at));
        due.map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_due_after_a_while_unless_it_is_taken_again() {
        let start = Instant::now();
        let mut gone = Gone::default();
        gone.left(1, start);
        gone.left(2, start + Duration::from_secs(10));
        gone.left(1, start + Duration::from_secs(100));
        assert_eq!(gone.due(start), Vec::<u32>::new());
        assert_eq!(gone.due(start + KEEP), [1]);
        gone.taken(1);
        assert_eq!(gone.due(start + KEEP), Vec::<u32>::new());
        assert_eq!(gone.due(start + 2 * KEEP), [2]);
        gone.taken(2);
        gone.left(2, start + 2 * KEEP);
        assert_eq!(gone.due(start + 2 * KEEP), Vec::<u32>::new());
    }
}
