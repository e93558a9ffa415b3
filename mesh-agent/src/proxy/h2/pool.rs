//! Connections to one endpoint: as few as have room for the streams that are wanted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::client::Connection;
use super::upstream::Upstream;
use crate::l7::cluster::InFlight;

/// The connections to one endpoint. Streams go to the first one with room, so that those which are needed no more become idle and
/// close. How many connections there are, and how many wait for room, is bounded by the cluster's circuit breaker, how long by
/// whoever waits.
#[derive(Debug)]
pub struct Pool<E> {
    state: Mutex<State<E>>,
    /// Told when a stream may have become possible.
    freed: Arc<Notify>,
}

#[derive(Debug)]
struct State<E> {
    connections: Vec<Connection>,
    /// Whether somebody makes a connection: one at a time, the others wait for it.
    connecting: bool,
    /// Attempts to connect so far, and the last that failed, with the reason.
    attempts: u64,
    failed: Option<(u64, E)>,
}

/// Connections that one request makes: an upstream that closes them at once, or allows no streams, is waited for after that.
const MAX_MADE: u32 = 3;

enum Taken<A> {
    Stream(Box<Upstream>),
    Connect(A),
    /// For the outcome of this attempt, if one is being made, or for a stream that ends, or a place for another connection.
    Wait(Option<u64>),
}

impl<E> Default for Pool<E> {
    fn default() -> Self {
        let state = State {
            connections: Vec::new(),
            connecting: false,
            attempts: 0,
            failed: None,
        };
        Self {
            state: Mutex::new(state),
            freed: Arc::default(),
        }
    }
}

impl<E: Clone> Pool<E> {
    /// Returns a stream. Where no connection has room, `admit` is asked for one more, and whether it is the first, and `connect`
    /// makes it; or else a stream is waited for, or until `room` says that `admit` is to be asked again. An attempt that fails fails
    /// for all who waited for it.
    ///
    /// # Errors
    /// Returns what `connect` did, here or for whoever tried first.
    pub async fn stream<A, F, W>(
        &self,
        mut admit: impl FnMut(bool) -> Option<A>,
        room: impl Fn() -> W,
        mut connect: impl FnMut(A) -> F,
    ) -> Result<Upstream, E>
    where
        F: Future<Output = Result<Connection, E>>,
        W: Future<Output = ()>,
    {
        let mut made = 0;
        loop {
            let (freed, room) = (self.freed.notified(), room());
            let may = made < MAX_MADE;
            match self.take(|is_first| may.then(|| admit(is_first)).flatten()) {
                Taken::Stream(stream) => return Ok(*stream),
                Taken::Connect(admitted) => {
                    made += 1;
                    if let Some(stream) = self.connect(connect(admitted)).await? {
                        return Ok(stream);
                    }
                }
                Taken::Wait(attempt) => {
                    tokio::select! {
                        () = freed => {}
                        // A connection to another endpoint that ends is not told to this pool.
                        () = room, if may && attempt.is_none() => {}
                    }
                    if let Some(why) = attempt.and_then(|attempt| self.failure_of(attempt)) {
                        return Err(why);
                    }
                }
            }
        }
    }

    async fn connect(
        &self,
        connect: impl Future<Output = Result<Connection, E>>,
    ) -> Result<Option<Upstream>, E> {
        let _attempt = Attempt(self);
        let connected = connect.await;
        let mut state = self.state();
        match connected {
            Ok(connection) => {
                connection.tell(&self.freed);
                let stream = connection.stream();
                state.connections.push(connection);
                Ok(stream)
            }
            Err(why) => {
                state.failed = Some((state.attempts, why.clone()));
                Err(why)
            }
        }
    }

    /// Opens no more streams on any connection: the endpoint is gone, or is spoken to in another way.
    pub fn retire(&self) {
        for connection in self.state().connections.drain(..) {
            connection.retire();
        }
    }

    /// Returns how many connections are open.
    pub fn connections(&self) -> usize {
        let mut state = self.state();
        state.connections.retain(Connection::is_open);
        state.connections.len()
    }

    fn state(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a stream on a connection that is there, if one has room.
    pub fn existing(&self) -> Option<Upstream> {
        let mut state = self.state();
        let stream = state.connections.iter().find_map(Connection::stream);
        if stream.is_none() {
            state.connections.retain(Connection::is_open);
        }
        stream
    }

    /// Retires a connection that nobody uses and that holds such a place; returns whether there was one.
    pub(in crate::proxy) fn retire_idle(&self, is_such: impl Fn(&InFlight) -> bool) -> bool {
        let mut state = self.state();
        let idle = |it: &Connection| it.active() == 0 && it.holds(&is_such);
        let at = state.connections.iter().position(idle);
        at.is_some_and(|at| {
            state.connections.remove(at).retire();
            true
        })
    }

    fn take<A>(&self, admit: impl FnOnce(bool) -> Option<A>) -> Taken<A> {
        if let Some(stream) = self.existing() {
            return Taken::Stream(Box::new(stream));
        }
        let mut state = self.state();
        if state.connecting {
            return Taken::Wait(Some(state.attempts));
        }
        let Some(admitted) = admit(state.connections.is_empty()) else {
            return Taken::Wait(None);
        };
        state.connecting = true;
        state.attempts += 1;
        Taken::Connect(admitted)
    }

    fn failure_of(&self, attempt: u64) -> Option<E> {
        let state = self.state();
        let failed = state.failed.as_ref().filter(|(it, _)| *it == attempt);
        failed.map(|(_, why)| why.clone())
    }
}

/// An attempt to connect, over when dropped.
struct Attempt<'p, E: Clone>(&'p Pool<E>);

impl<E: Clone> Drop for Attempt<'_, E> {
    fn drop(&mut self) {
        self.0.state().connecting = false;
        self.0.freed.notify_waiters();
    }
}
