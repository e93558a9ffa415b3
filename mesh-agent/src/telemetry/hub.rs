//! What ended a while ago (flows, requests), and whoever waits for the next.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_common::flow::FlowRecord;
use tokio::sync::broadcast;

use crate::model::observed::KernelView;
use crate::telemetry::clock::Now;
use crate::telemetry::flow::Flow;

/// Ended flows kept for `flows`. About 700 bytes each: 3 MB, and at a hundred flows a second the last 40 seconds.
pub const RECENT_FLOWS: usize = 4096;

/// Flows that wait for a follower before it loses the oldest. A quarter of what is kept, so that a follower which was
/// told of a loss can still find the lost ones with `since`.
pub const FOLLOW_QUEUE: usize = RECENT_FLOWS / 4;

/// What ended a while ago, and whoever waits for more.
///
/// No follower can hold up another, or whoever pushes: who reads too slowly loses the oldest and is told.
#[derive(Debug)]
pub struct Ring<T> {
    kept: usize,
    recent: Mutex<VecDeque<Arc<T>>>,
    followers: broadcast::Sender<Arc<T>>,
    lost_by_followers: AtomicU64,
}

impl<T> Ring<T> {
    /// Returns an empty ring that keeps this many; `waiting` of them wait for a follower before it loses the oldest.
    pub fn new(kept: usize, waiting: usize) -> Self {
        Self {
            kept,
            recent: Mutex::new(VecDeque::with_capacity(kept)),
            followers: broadcast::Sender::new(waiting),
            lost_by_followers: AtomicU64::new(0),
        }
    }

    /// Takes one that has ended. Never blocks for longer than another `push` or a copy of the ring takes.
    pub fn push(&self, ended: Arc<T>) {
        let mut recent = self.lock();
        if recent.len() == self.kept {
            recent.pop_front();
        }
        recent.push_back(ended.clone());
        // Under the lock, so that `follow` neither misses one nor hands it out twice. No follower: nothing to do.
        drop(self.followers.send(ended));
    }

    /// Returns those that ended last, oldest first.
    pub fn recent(&self) -> Vec<Arc<T>> {
        self.lock().iter().cloned().collect()
    }

    /// Returns those that ended last, oldest first, and a follower of all that end from now on.
    pub fn follow(self: &Arc<Self>) -> (Vec<Arc<T>>, Follower<T>) {
        let recent = self.lock();
        let follower = Follower {
            ring: self.clone(),
            next: self.followers.subscribe(),
        };
        (recent.iter().cloned().collect(), follower)
    }

    /// Returns how many followers lost because they read too slowly.
    pub fn lost_by_followers(&self) -> u64 {
        self.lost_by_followers.load(Ordering::Relaxed)
    }

    /// Returns how many followers there are.
    pub fn followers(&self) -> usize {
        self.followers.receiver_count()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<T>>> {
        // A panic in between leaves a whole queue: every change is one call.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where ended flows arrive, get their names, are kept for a while, and go on to followers.
#[derive(Debug)]
pub struct FlowHub {
    kernel: Arc<dyn KernelView>,
    ring: Arc<Ring<Flow>>,
}

impl FlowHub {
    /// Returns a hub without flows, that takes names from `kernel`.
    pub fn new(kernel: Arc<dyn KernelView>) -> Self {
        Self {
            kernel,
            ring: Arc::new(Ring::new(RECENT_FLOWS, FOLLOW_QUEUE)),
        }
    }

    /// Takes a flow that has ended.
    pub fn push(&self, record: FlowRecord) {
        self.push_at(&record, &Now::read());
    }

    /// Takes a flow that has ended, with the clocks as given.
    pub fn push_at(&self, record: &FlowRecord, now: &Now) {
        let flow = Flow::of(record, now, self.kernel.as_ref());
        self.ring.push(Arc::new(flow));
    }

    /// Returns the flows that ended last, oldest first.
    pub fn recent(&self) -> Vec<Arc<Flow>> {
        self.ring.recent()
    }

    /// Returns the flows that ended last, oldest first, and a follower of all that end from now on.
    pub fn follow(&self) -> (Vec<Arc<Flow>>, Follower<Flow>) {
        self.ring.follow()
    }

    /// Returns how many flows followers lost because they read too slowly.
    pub fn lost_by_followers(&self) -> u64 {
        self.ring.lost_by_followers()
    }

    /// Returns how many followers there are.
    pub fn followers(&self) -> usize {
        self.ring.followers()
    }
}

/// What a follower gets next.
#[derive(Clone, PartialEq, Debug)]
pub enum Next<T> {
    /// One that ended.
    Ended(Arc<T>),
    /// This many were lost, because the follower read too slowly.
    Lost(u64),
}

/// Gets everything that ends from its creation on.
#[derive(Debug)]
pub struct Follower<T> {
    ring: Arc<Ring<T>>,
    next: broadcast::Receiver<Arc<T>>,
}

impl<T> Follower<T> {
    /// Waits for what comes next; `None` never comes while the follower holds its ring.
    pub async fn next(&mut self) -> Option<Next<T>> {
        match self.next.recv().await {
            Ok(ended) => Some(Next::Ended(ended)),
            Err(broadcast::error::RecvError::Lagged(count)) => {
                self.ring
                    .lost_by_followers
                    .fetch_add(count, Ordering::Relaxed);
                Some(Next::Lost(count))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::fake::{FakeKernel, NOW, record};

    fn hub() -> Arc<FlowHub> {
        Arc::new(FlowHub::new(Arc::new(FakeKernel::default())))
    }

    #[test]
    fn the_ring_keeps_the_last_flows_only() {
        let hub = hub();
        for id in 0..RECENT_FLOWS as u64 + 10 {
            hub.push_at(&record(id), &NOW);
        }
        let recent = hub.recent();
        assert_eq!(recent.len(), RECENT_FLOWS);
        assert_eq!(recent[0].id, 10);
    }

    #[tokio::test]
    async fn a_follower_gets_what_ends_after_it_came() {
        let hub = hub();
        hub.push_at(&record(1), &NOW);
        let (recent, mut follower) = hub.follow();
        hub.push_at(&record(2), &NOW);
        assert_eq!(recent.len(), 1);
        let Some(Next::Ended(flow)) = follower.next().await else {
            panic!("no flow");
        };
        assert_eq!(flow.id, 2);
    }

    #[tokio::test]
    async fn a_slow_follower_loses_the_oldest_and_is_told() {
        let hub = hub();
        let (_, mut slow) = hub.follow();
        let (_, mut quick) = hub.follow();
        let lost = 5;
        for id in 0..FOLLOW_QUEUE as u64 + lost {
            hub.push_at(&record(id), &NOW);
            assert!(matches!(quick.next().await, Some(Next::Ended(_))));
        }
        assert_eq!(slow.next().await, Some(Next::Lost(lost)));
        assert!(matches!(slow.next().await, Some(Next::Ended(flow)) if flow.id == lost));
        assert_eq!(hub.lost_by_followers(), lost);
    }

    #[test]
    fn names_are_those_of_the_time_of_the_flow() {
        let kernel = Arc::new(FakeKernel::default());
        let hub = FlowHub::new(kernel.clone());
        hub.push_at(&record(1), &NOW);
        kernel.change(|state| state.names.clear());
        let name = hub.recent()[0].source.workload.clone();
        assert_eq!(name.unwrap().to_string(), "shop/web");
    }
}
