//! Who waits for a place among a cluster's connections, on all threads. Who came first is first.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::Cluster;
use super::breaker::{InFlight, Shared};

/// The queue. As long as circuit breakers let requests wait.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Its length, for whoever has something to give and no time to take the lock.
    length: AtomicUsize,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// In the order of their numbers.
    waiting: VecDeque<Waiter>,
    next: u64,
    /// No connection is idle, and none becomes it while somebody waits.
    searched: bool,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    since: Instant,
    to: oneshot::Sender<InFlight>,
}

/// One who waits. Leaves the queue when it is dropped, and what it got meanwhile is the next one's.
#[derive(Debug)]
pub struct Waiting {
    shared: Arc<Shared>,
    number: u64,
    place: oneshot::Receiver<InFlight>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.length.load(Ordering::SeqCst) == 0
    }

    /// Returns since when the first one waits.
    pub(super) fn first(&self) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        self.line().waiting.front().map(|first| first.since)
    }

    /// Takes the first one out, with what `enter` returns for it, if that is anything.
    pub(super) fn serve<P>(
        &self,
        enter: impl FnOnce() -> Option<P>,
    ) -> Option<(oneshot::Sender<InFlight>, P)> {
        if self.is_empty() {
            return None;
        }
        let mut line = self.line();
        line.waiting.front()?;
        let place = enter()?;
        let first = line.waiting.pop_front()?;
        self.has_changed(&mut line);
        Some((first.to, place))
    }

    fn has_changed(&self, line: &mut Line) {
        line.searched &= !line.waiting.is_empty();
        self.length.store(line.waiting.len(), Ordering::SeqCst);
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn find(&self, number: u64) -> Option<usize> {
        let found = self.waiting.binary_search_by_key(&number, |it| it.number);
        found.ok()
    }
}

impl Cluster {
    /// Has somebody wait for a place among the connections, behind those who do already.
    pub fn queue(&self, now: Instant) -> Waiting {
        let (to, place) = oneshot::channel();
        let queue = &self.shared.queue;
        let number = {
            let mut line = queue.line();
            let number = line.next;
            line.next += 1;
            line.waiting.push_back(Waiter {
                number,
                since: now,
                to,
            });
            queue.has_changed(&mut line);
            number
        };
        // One that became free before the queue was seen not to be empty.
        Shared::hand_out(&self.shared);
        Waiting {
            shared: Arc::clone(&self.shared),
            number,
            place,
        }
    }
}

impl Waiting {
    /// Returns the place once it is this one's turn.
    pub async fn place(&mut self) -> InFlight {
        match (&mut self.place).await {
            Ok(place) => place,
            // Nobody takes one out of the queue without giving it a place.
            Err(_) => pending().await,
        }
    }

    /// Returns whether to look for an idle connection that could make room.
    pub fn may_search(&self) -> bool {
        !self.shared.queue.line().searched
    }

    /// There is no such connection.
    pub fn found_none(&self) {
        let mut line = self.shared.queue.line();
        // Only while nobody could have kept one since.
        line.searched |= line.find(self.number).is_some();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let queue = &self.shared.queue;
        let mut line = queue.line();
        if let Some(at) = line.find(self.number) {
            line.waiting.remove(at);
            queue.has_changed(&mut line);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::l7::cluster::policy::{BreakerPolicy, ClusterPolicy};
    use crate::l7::cluster::report::Kind;

    fn policy(connections: u32) -> ClusterPolicy {
        ClusterPolicy {
            breaker: BreakerPolicy {
                connections,
                ..BreakerPolicy::default()
            },
            ..ClusterPolicy::default()
        }
    }

    fn cluster(connections: u32) -> Cluster {
        super::super::tests::cluster(&[], policy(connections))
    }

    fn got(waiting: &mut Waiting) -> Option<InFlight> {
        waiting.place.try_recv().ok()
    }

    fn used(cluster: &Cluster) -> u32 {
        cluster.report(0).usage(Kind::Connections).used
    }

    #[test]
    fn who_came_first_is_first_and_nobody_passes_by() {
        let cluster = cluster(1);
        let now = Instant::now();
        let held = cluster.admit_connection().unwrap();
        let (mut one, mut two) = (cluster.queue(now), cluster.queue(now));
        assert!(held.is_wanted() && held.wanted_since() == Some(now));
        assert!(got(&mut one).is_none());
        drop(held);
        assert!(cluster.admit_connection().is_err());
        assert!(got(&mut two).is_none());
        let held = got(&mut one).unwrap();
        drop(held);
        let held = got(&mut two).unwrap();
        assert!(!held.is_wanted());
        assert!(cluster.admit_connection().is_err());
        drop(held);
        cluster.admit_connection().map(drop).unwrap();
        assert_eq!(used(&cluster), 0);
    }

    #[test]
    fn who_leaves_takes_nothing_along() {
        let cluster = cluster(1);
        let now = Instant::now();
        let held = cluster.admit_connection().unwrap();
        let [one, two, mut three] = [(); 3].map(|()| cluster.queue(now));
        drop(one);
        drop(held);
        // It was given the place, and never took it.
        drop(two);
        assert!(got(&mut three).is_some());
        assert_eq!(used(&cluster), 0);
        assert!(cluster.shared.queue.is_empty());
    }

    #[test]
    fn a_higher_limit_is_for_those_who_wait() {
        let cluster = cluster(1);
        let now = Instant::now();
        let held = cluster.admit_connection().unwrap();
        let mut waiting = [(); 3].map(|()| cluster.queue(now));
        cluster.set_policy(policy(3), 0, &mut crate::chance::Chance::seeded(1));
        let places = waiting.each_mut().map(got);
        assert_eq!(places.each_ref().map(Option::is_some), [true, true, false]);
        drop((held, places));
        assert!(got(&mut waiting[2]).is_some());
    }

    #[test]
    fn a_search_that_found_nothing_holds_until_nobody_waits() {
        let cluster = cluster(1);
        let now = Instant::now();
        let held = cluster.admit_connection().unwrap();
        let one = cluster.queue(now);
        let two = cluster.queue(now);
        assert!(one.may_search());
        one.found_none();
        assert!(!two.may_search());
        drop((one, two));
        let three = cluster.queue(now);
        assert!(three.may_search());
        drop(held);
        // It has its place already: what is idle since then it cannot know.
        three.found_none();
        assert!(cluster.queue(now).may_search());
    }

    #[test]
    fn no_place_is_lost_between_threads() {
        let cluster = cluster(2);
        let turns = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.unwrap().block_on(async {
                for _ in 0..5_000 {
                    let place = match cluster.admit_connection() {
                        Ok(place) => place,
                        Err(_) => cluster.queue(Instant::now()).place().await,
                    };
                    assert!(used(&cluster) <= 2);
                    drop(place);
                }
            });
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(turns);
            }
        });
        assert_eq!(used(&cluster), 0);
        assert!(cluster.shared.queue.is_empty());
    }
}
