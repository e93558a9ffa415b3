//! Connections to one endpoint: as few as have room for the streams that are wanted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::client::Connection;
use super::upstream::Upstream;

/// Limits of a pool.
#[derive(Clone, Debug)]
pub struct PoolLimits {
    /// Connections at the same time. With the 100 streams that most servers allow, 8 are more than circuit breakers let through.
    pub connections: usize,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { connections: 8 }
    }
}

/// The connections to one endpoint. Streams go to the first one with room, so that those which are needed no more become idle and
/// close. How many may wait for room is not bounded here but by the cluster's circuit breaker, how long by whoever waits.
#[derive(Debug)]
pub struct Pool<E> {
    state: Mutex<State<E>>,
    /// Told when a stream may have become possible.
    freed: Arc<Notify>,
    limits: PoolLimits,
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

enum Taken {
    Stream(Box<Upstream>),
    Connect,
    /// For the outcome of this attempt, if one is being made, or for a stream that ends.
    Wait(Option<u64>),
}

impl<E: Clone> Pool<E> {
    /// Returns a pool without connections.
    pub fn new(limits: PoolLimits) -> Self {
        let state = State {
            connections: Vec::new(),
            connecting: false,
            attempts: 0,
            failed: None,
        };
        Self {
            state: Mutex::new(state),
            freed: Arc::new(Notify::new()),
            limits,
        }
    }

    /// Returns a stream. Where no connection has room, `connect` makes one more, or, at the limit, a stream is waited for. An
    /// attempt that fails fails for all who waited for it.
    ///
    /// # Errors
    /// Returns what `connect` did, here or for whoever tried first.
    pub async fn stream<F>(&self, mut connect: impl FnMut() -> F) -> Result<Upstream, E>
    where
        F: Future<Output = Result<Connection, E>>,
    {
        let mut made = 0;
        loop {
            let freed = self.freed.notified();
            match self.take(made < MAX_MADE) {
                Taken::Stream(stream) => return Ok(*stream),
                Taken::Connect => {
                    made += 1;
                    if let Some(stream) = self.connect(connect()).await? {
                        return Ok(stream);
                    }
                }
                Taken::Wait(attempt) => {
                    freed.await;
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

    fn take(&self, may_connect: bool) -> Taken {
        if let Some(stream) = self.existing() {
            return Taken::Stream(Box::new(stream));
        }
        let mut state = self.state();
        if state.connecting {
            return Taken::Wait(Some(state.attempts));
        }
        if state.connections.len() >= self.limits.connections || !may_connect {
            return Taken::Wait(None);
        }
        state.connecting = true;
        state.attempts += 1;
        Taken::Connect
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
