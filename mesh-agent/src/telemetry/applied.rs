//! How long the last configuration took to reach the kernel's maps.

#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::model::snapshot::Snapshot;

/// A part of the configuration that reaches the maps by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Workloads: who they are and where.
    Workloads,
    /// Services and their endpoints.
    Services,
    /// Policies.
    Policies,
}

impl Part {
    /// Every part with its label.
    pub const ALL: [(Self, &str); 3] = [
        (Self::Workloads, "workloads"),
        (Self::Services, "services"),
        (Self::Policies, "policies"),
    ];
}

/// For each part, how long after the snapshot was made the maps were in line with it.
#[derive(Debug, Default)]
pub struct ApplyTimes([Mutex<Option<Applied>>; Part::ALL.len()]);

#[derive(Clone, Copy, Debug)]
struct Applied {
    generation: u64,
    after: Duration,
}

impl ApplyTimes {
    /// Says that the maps are in line with this part of a snapshot. Counts once for each generation: what brings the maps in line
    /// again later, such as a pod that moves, is no change of the configuration.
    pub fn note(&self, part: Part, snapshot: &Snapshot) {
        let Some(made) = snapshot.made else {
            return;
        };
        let mut last = self.of(part);
        if last.is_none_or(|last| last.generation < snapshot.generation) {
            *last = Some(Applied {
                generation: snapshot.generation,
                after: made.at.elapsed(),
            });
        }
    }

    /// Returns how long the last snapshot took; `None` before the first.
    pub fn get(&self, part: Part) -> Option<Duration> {
        self.of(part).map(|applied| applied.after)
    }

    fn of(&self, part: Part) -> std::sync::MutexGuard<'_, Option<Applied>> {
        let slot = &self.0[part as usize];
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::model::snapshot::Made;

    fn snapshot(generation: u64, age: Duration) -> Snapshot {
        let at = Instant::now().checked_sub(age).unwrap();
        let took = Duration::ZERO;
        Snapshot {
            generation,
            made: Some(Made { at, took }),
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_generation_counts_once() {
        let (times, second) = (ApplyTimes::default(), Duration::from_secs(1));
        times.note(Part::Services, &Snapshot::default());
        assert_eq!(times.get(Part::Services), None);
        times.note(Part::Services, &snapshot(1, second));
        let first = times.get(Part::Services).unwrap();
        assert!(first >= second);
        times.note(Part::Services, &snapshot(1, 100 * second));
        assert_eq!(times.get(Part::Services), Some(first));
        times.note(Part::Services, &snapshot(2, 3 * second));
        assert!(times.get(Part::Services).unwrap() >= 3 * second);
        assert_eq!(times.get(Part::Policies), None);
    }
}
