//! What is to be looked at, and when: one entry for each subject, however often it changes. Pure.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

use crate::config::key::Key;

/// Something to look at.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Job {
    /// Whether a node waits for its agent.
    Taint(Key),
    /// Whether an object's status is as it should be.
    Status(Key),
    /// Whether something is to be said about an object.
    Event(Key),
}

/// Jobs, each with its time and how often it failed.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: BTreeSet<(Instant, Job)>,
    jobs: HashMap<Job, (Instant, u32)>,
}

impl Queue {
    /// Adds a job. One that waits already keeps its time: a change does not end the pause after a failure.
    pub(super) fn add(&mut self, job: Job, at: Instant) {
        if !self.jobs.contains_key(&job) {
            self.put(job, at, 0);
        }
    }

    /// Puts a job off that was taken out.
    pub(super) fn put(&mut self, job: Job, at: Instant, failures: u32) {
        if let Some((before, _)) = self.jobs.insert(job.clone(), (at, failures)) {
            self.order.remove(&(before, job.clone()));
        }
        self.order.insert((at, job));
    }

    /// Returns when the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the next one out, if it is due; also returns how often it failed.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Job, u32)> {
        if self.next()? > now {
            return None;
        }
        let (_, job) = self.order.pop_first()?;
        let (_, failures) = self.jobs.remove(&job)?;
        Some((job, failures))
    }

    /// Returns how many wait.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.order.clear();
        self.jobs.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::key::Kind;

    fn job(name: &str) -> Job {
        Job::Status(Key {
            kind: Kind::HTTPRoute,
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        })
    }

    #[test]
    fn one_entry_for_each_subject_and_a_change_ends_no_pause() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut queue = Queue::default();
        queue.put(job("a"), later, 3);
        queue.add(job("a"), now);
        queue.add(job("b"), now);
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.take(now), Some((job("b"), 0)));
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.next(), Some(later));
        assert_eq!(queue.take(later), Some((job("a"), 3)));
        assert_eq!(queue.len(), 0);
        queue.add(job("a"), now);
        assert_eq!(queue.take(now), Some((job("a"), 0)));
    }
}
