//! The clients' connections of a data thread: how many there may be, and who is told to end.
//!
//! A task that has served one stays for the next: to make and to end one takes 0.3 us, mostly for its memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::poll_fn;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::proxy::connection::{self, Serving};
use crate::proxy::life::Life;
use crate::proxy::record::Client;

/// Tasks that wait for a connection, at most: of some 2 kB each.
const RESTING: usize = 256;

/// The connections of a thread. All is done on that thread, so the lock is never waited for.
pub(super) struct Crew {
    pub(super) serving: Serving,
    pub(super) draining: Arc<AtomicBool>,
    /// Tells connections that have to say something to that.
    drain: watch::Sender<bool>,
    /// How many there are, for other threads to see.
    load: Arc<AtomicUsize>,
    most: usize,
    most_of_workload: usize,
    state: Mutex<State>,
    /// The last one has ended.
    emptied: Notify,
}

#[derive(Default)]
struct State {
    chance: Chance,
    /// What the connection that came last is known by.
    last: u64,
    living: HashMap<u64, Living>,
    /// How many of them there are, by network namespace.
    counts: HashMap<u64, usize>,
    /// Tasks without a connection.
    resting: Vec<Arc<Seat>>,
}

/// A connection that is served.
struct Living {
    seat: Arc<Seat>,
    life: Arc<Life>,
    netns: u64,
}

/// A task that serves connections, one after the other.
#[derive(Default)]
struct Seat {
    next: Mutex<Next>,
    task: OnceLock<AbortHandle>,
}

#[derive(Default)]
struct Next {
    job: Option<Job>,
    waker: Option<Waker>,
}

/// A connection to be served.
struct Job {
    stream: TcpStream,
    client: Client,
    life: Arc<Life>,
    place: Place,
}

impl Seat {
    fn give(&self, job: Job) {
        let mut next = lock(&self.next);
        next.job = Some(job);
        next.waker.iter().for_each(Waker::wake_by_ref);
    }

    fn poll_job(&self, cx: &mut Context<'_>) -> Poll<Job> {
        let mut next = lock(&self.next);
        if let Some(job) = next.job.take() {
            return Poll::Ready(job);
        }
        match &mut next.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none @ None => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Ends the task, with its connection.
    fn close(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
        // One that the task has not come to.
        let job = lock(&self.next).job.take();
        drop(job);
    }
}

/// A connection's place. Free again when it is dropped, however the connection ends.
struct Place {
    crew: Arc<Crew>,
    number: u64,
    netns: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crew.left(self.number, self.netns);
    }
}

impl Crew {
    /// Returns one without connections. Of one workload there are `most_of_workload` at most, of all together `most`.
    pub(super) fn new(
        serving: Serving,
        draining: Arc<AtomicBool>,
        load: Arc<AtomicUsize>,
        most: usize,
        most_of_workload: usize,
    ) -> Arc<Self> {
        let state = State {
            chance: Chance::random(),
            ..State::default()
        };
        Arc::new(Self {
            serving,
            draining,
            drain: watch::Sender::new(false),
            load,
            most,
            most_of_workload,
            state: Mutex::new(state),
            emptied: Notify::new(),
        })
    }

    /// Serves a connection, or closes it where there are as many as may be.
    pub(super) fn serve(self: &Arc<Self>, stream: TcpStream, client: Client) {
        let netns = client.netns;
        let Some((place, age)) = self.place(netns) else {
            return;
        };
        let life = Life::new(Arc::clone(&self.draining), Instant::now() + age);
        let life = Arc::new(life);
        let number = place.number;
        let job = Job {
            stream,
            client,
            life: Arc::clone(&life),
            place,
        };
        let rested = self.state().resting.pop();
        let seat = rested.unwrap_or_else(|| {
            let seat = Arc::<Seat>::default();
            let task = tokio::spawn(Arc::clone(self).work(Arc::clone(&seat)));
            // It is new, and so has none.
            seat.task.get_or_init(|| task.abort_handle());
            seat
        });
        seat.give(job);
        let living = Living { seat, life, netns };
        self.state().living.insert(number, living);
    }

    /// Serves what the seat is given, for as long as not too many rest.
    async fn work(self: Arc<Self>, seat: Arc<Seat>) {
        loop {
            let job = poll_fn(|cx| seat.poll_job(cx)).await;
            let Job {
                stream,
                client,
                life,
                place,
            } = job;
            connection::serve(stream, client, &self.serving, &life, &self.drain).await;
            drop((place, life));
            let resting = &mut self.state().resting;
            if resting.len() >= RESTING {
                return;
            }
            resting.push(Arc::clone(&seat));
        }
    }

    /// Returns a place for one more, and how old it may get: clients are not all to come back at the same time.
    fn place(self: &Arc<Self>, netns: u64) -> Option<(Place, Duration)> {
        let state = &mut *self.state();
        let of_workload = state.counts.get(&netns).copied().unwrap_or(0);
        if state.living.len() >= self.most
            || of_workload >= self.most_of_workload
            || self.draining.load(Ordering::Relaxed)
        {
            return None;
        }
        state.last += 1;
        state.counts.insert(netns, of_workload + 1);
        self.load.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            crew: Arc::clone(self),
            number: state.last,
            netns,
        };
        Some((place, state.chance.about(self.serving.h1.max_age)))
    }

    fn left(&self, number: u64, netns: u64) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.state();
        if let Entry::Occupied(mut count) = state.counts.entry(netns) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        state.living.remove(&number);
        if state.living.is_empty() && self.draining.load(Ordering::Relaxed) {
            self.emptied.notify_one();
        }
    }

    /// Tells those that have to say something to it that the thread drains.
    pub(super) fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// Returns whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.state().living.is_empty()
    }

    /// Waits until the last one has ended while the thread drains.
    pub(super) async fn emptied(&self) {
        self.emptied.notified().await;
    }

    /// Closes those without a request in progress.
    pub(super) fn close_idle(&self) {
        self.close(|one| one.life.is_idle());
    }

    /// Closes those of the workload with this network namespace.
    pub(super) fn close_of(&self, netns: u64) {
        self.close(|one| one.netns == netns);
    }

    fn close(&self, which: impl Fn(&Living) -> bool) {
        let seats: Vec<Arc<Seat>> = {
            let state = self.state();
            let chosen = state.living.values().filter(|one| which(one));
            chosen.map(|one| Arc::clone(&one.seat)).collect()
        };
        // They leave, which takes the lock.
        seats.iter().for_each(|seat| seat.close());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tests::Scene;
    use crate::proxy::{h1, h2};

    #[tokio::test]
    async fn connections_of_clients_do_not_all_grow_old_at_the_same_time() {
        let limits = h1::Limits {
            max_age: Duration::from_secs(1000),
            ..h1::Limits::default()
        };
        let scene = Scene::plain().await;
        let serving = Serving::new(scene.room.clone(), limits, h2::Limits::default());
        let crew = Crew::new(serving, Arc::default(), Arc::default(), 200, 100);
        crew.state().chance = Chance::seeded(1);
        let mut left = [0; 4];
        for _ in 0..100 {
            let (_place, age) = crew.place(1).unwrap();
            let part = (age.as_secs_f64() - 900.0) / 50.0;
            assert!((0.0..4.0).contains(&part), "{age:?}");
            left[(0..4).rfind(|it| part >= f64::from(*it)).unwrap() as usize] += 1;
        }
        assert!(left.iter().all(|count| *count >= 15), "{left:?}");
    }
}
