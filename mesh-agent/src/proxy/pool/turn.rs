//! Whose turn it is where a service has as many connections as it may: requests wait in the order in which they came, on all
//! threads, until one of their own thread's is free or there is room for another.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Endpoint, Idle, Key, Leased, Pool, State};
use crate::l7::cluster::{Cluster, InFlight, Waiting};

/// Who waits for the very same connections is served before others that came this much earlier. It spares a new connection, which
/// costs more than most requests; nobody waits longer for it than this.
const PREFERENCE: Duration = Duration::from_millis(20);

/// What a request got that waited.
#[derive(Debug)]
pub enum Turn {
    /// A connection.
    Connection(Leased),
    /// The place of one.
    Place(InFlight),
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    number: u64,
    since: Instant,
    to: oneshot::Sender<Leased>,
}

/// Who gets a connection that is free.
pub(super) enum Next {
    /// One of the same thread, workload and endpoint.
    Here(oneshot::Sender<Leased>),
    /// Another one, who can only use its place.
    Elsewhere,
    Nobody,
}

impl Endpoint {
    /// Takes out who is next, while others have waited since that time.
    pub(super) fn next(&mut self, others: Option<std::time::Instant>) -> Next {
        let others = others.map(Instant::from_std);
        let is_first = |here: &Waiter| others.is_none_or(|others| here.since < others + PREFERENCE);
        match self.waiting.front() {
            Some(here) if is_first(here) => {
                let here = self.waiting.pop_front();
                here.map_or(Next::Nobody, |here| Next::Here(here.to))
            }
            Some(_) => Next::Elsewhere,
            None if others.is_some() => Next::Elsewhere,
            None => Next::Nobody,
        }
    }
}

/// A request's place among those that wait for a connection. Given up when dropped.
struct Queued<'p> {
    pool: &'p Arc<Pool>,
    key: Key,
    number: u64,
    from: oneshot::Receiver<Leased>,
}

impl<'p> Queued<'p> {
    fn new(pool: &'p Arc<Pool>, key: Key, since: Instant) -> Self {
        let (to, from) = oneshot::channel();
        let mut state = pool.state();
        let waiting = &mut state.endpoint(key).waiting;
        let number = waiting.back().map_or(0, |last| last.number + 1);
        waiting.push_back(Waiter { number, since, to });
        Self {
            pool,
            key,
            number,
            from,
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        if let Some(endpoint) = state.endpoints.get_mut(&self.key) {
            let waiting = &mut endpoint.waiting;
            let at = waiting.binary_search_by_key(&self.number, |it| it.number);
            if let Ok(at) = at {
                waiting.remove(at);
            }
        }
    }
}

impl Pool {
    /// Waits for a connection of the cluster, whose limit is reached.
    pub async fn turn(self: &Arc<Self>, key: Key, cluster: &Cluster) -> Turn {
        let now = Instant::now();
        let mut queued = Queued::new(self, key, now);
        let mut waiting = cluster.queue(now.into_std());
        self.make_room(cluster, &waiting);
        tokio::select! {
            // A place that comes at the same moment is passed on.
            biased;
            Ok(leased) = &mut queued.from => Turn::Connection(leased),
            place = waiting.place() => Turn::Place(place),
        }
    }

    /// Closes a connection that is idle, of whatever thread: it is worth less than one that is asked for.
    fn make_room(&self, cluster: &Cluster, waiting: &Waiting) {
        if !waiting.may_search() || self.close_idle(cluster) {
            return;
        }
        let all = self.all.get().into_iter().flatten();
        let mut others = all.filter_map(std::sync::Weak::upgrade);
        if !others.any(|it| it.close_idle(cluster)) {
            waiting.found_none();
        }
    }

    /// Closes an idle connection of the cluster; returns whether there was one.
    fn close_idle(&self, cluster: &Cluster) -> bool {
        let mut state = self.state();
        let idle = state.take_idle(cluster);
        let mut shared = state.streams.values();
        idle.is_some() || shared.any(|pool| pool.retire_idle(|it| cluster.admitted(it)))
    }
}

impl State {
    fn take_idle(&mut self, cluster: &Cluster) -> Option<Idle> {
        self.endpoints.values_mut().find_map(|endpoint| {
            let mut idle = endpoint.idle.iter();
            // The first one of them was used least lately.
            let at = idle.position(|it| cluster.admitted(&it.admitted))?;
            endpoint.open -= 1;
            Some(endpoint.idle.remove(at))
        })
    }
}
