//! Data threads: each has a runtime, a pool of upstream connections and the clients' connections that were given to it, which
//! live and end on it.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::l7::limit::shed::Shedder;
use crate::l7::session::SessionKey;
use crate::proxy::connection::Serving;
use crate::proxy::crew::Crew;
use crate::proxy::exchange::{Config, Limits, Room};
use crate::proxy::pool::Pool;
use crate::proxy::record::{Client, Observer};
use crate::proxy::shelf::Shelf;
use crate::proxy::socket::Sockets;
use crate::proxy::{h1, h2, pool::Limits as PoolLimits};

/// Connections that wait to be taken by a thread: more than the backlog of a listener would be refused there.
const QUEUE: usize = 1024;

/// Connections that are accepted in a row: then those that are there get their turn.
const BURST: u32 = 64;

/// How long accepting pauses after an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How the data path works.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Of exchanges.
    pub exchange: Limits,
    /// Of clients' connections of HTTP/1.
    pub h1: h1::Limits,
    /// Of those of HTTP/2.
    pub h2: h2::Limits,
    /// Of connections to upstreams, for each thread.
    pub pool: PoolLimits,
    /// Of threads.
    pub threads: Threads,
}

/// How many of what.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    /// Threads.
    pub count: usize,
    /// Clients' connections of each: beyond, new ones are closed at once.
    pub connections: usize,
    /// Those of one workload among them: one that leaks connections leaves room for the others.
    pub of_workload: usize,
}

impl Default for Threads {
    fn default() -> Self {
        let cores = std::thread::available_parallelism();
        Self {
            count: cores.map_or(1, usize::from),
            // Idle ones take some kilobytes; descriptors run out before memory does.
            connections: 32_768,
            of_workload: 16_384,
        }
    }
}

/// What is handed in.
#[derive(Clone)]
pub struct Outside {
    /// What requests go by.
    pub config: Arc<ArcSwap<Config>>,
    /// Makes sockets to upstreams.
    pub sockets: Arc<dyn Sockets>,
    /// Returns who hears of what has ended; one for each thread, so that they share nothing.
    pub observer: Arc<dyn Fn() -> Arc<dyn Observer> + Send + Sync>,
    /// What seals sessions, the same for all agents; without it there are none.
    pub sessions: Option<SessionKey>,
    /// What clusters count their time from.
    pub epoch: Instant,
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outside").finish_non_exhaustive()
    }
}

/// Says who a connection that was accepted is from, and what it is to.
pub trait Introduce: Send + Sync {
    /// Returns the cookie of the network namespace whose connections come.
    fn netns(&self) -> u64;

    /// Returns the client at this address; `None`: nobody knows it, and it is closed.
    fn client(&self, peer: SocketAddr) -> Option<Client>;
}

/// The data threads.
#[derive(Debug)]
pub struct Workers {
    hands: Arc<[Hand]>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pools: Vec<Arc<Pool>>,
    draining: Arc<AtomicBool>,
}

/// The way to a thread.
#[derive(Debug)]
struct Hand {
    to: mpsc::Sender<Command>,
    /// Connections that it has.
    load: Arc<AtomicUsize>,
}

enum Command {
    Serve(TcpStream, Box<Client>),
    Listen(TcpListener, Arc<dyn Introduce>),
    /// Close all that has to do with this network namespace.
    Close(u64),
    /// Close what is idle after this, and all at that time.
    Drain(Duration, Instant),
}

impl Workers {
    /// Starts the threads.
    ///
    /// # Errors
    /// Returns an error where the system has no more threads or descriptors.
    pub fn start(settings: &Settings, outside: &Outside) -> io::Result<Self> {
        let draining = Arc::new(AtomicBool::new(false));
        let limits = &settings.exchange;
        let shedder = Arc::new(Shedder::new(limits.in_flight, limits.kept_bytes));
        let epoch = outside.epoch;
        let count = settings.threads.count.max(1);
        let channels: Vec<_> = (0..count).map(|_| mpsc::channel(QUEUE)).collect();
        let hand = |to: &mpsc::Sender<Command>| Hand {
            to: to.clone(),
            load: Arc::default(),
        };
        let hands: Arc<[Hand]> = channels.iter().map(|(to, _)| hand(to)).collect();
        let mut threads = Vec::new();
        let mut pools = Vec::new();
        for (number, (_, commands)) in channels.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let pool = Pool::new(Arc::clone(&outside.sockets), settings.pool.clone());
            pools.push(pool.clone());
            let room = Room {
                config: Arc::clone(&outside.config),
                pool,
                observer: (outside.observer)(),
                limits: settings.exchange.clone(),
                sessions: outside.sessions.clone(),
                shedder: Arc::clone(&shedder),
                epoch,
                scratches: Shelf::default(),
            };
            let serving = Serving::new(Arc::new(room), settings.h1.clone(), settings.h2.clone());
            let crew = Crew::new(
                serving,
                Arc::clone(&draining),
                Arc::clone(&hands[number].load),
                settings.threads.connections,
                settings.threads.of_workload,
            );
            let worker = Worker {
                number,
                crew,
                hands: Arc::clone(&hands),
                listeners: JoinSet::new(),
                homes: HashMap::new(),
            };
            let thread = std::thread::Builder::new().name(format!("data-{number}"));
            threads.push(thread.spawn(move || runtime.block_on(worker.run(commands)))?);
        }
        Pool::join(&pools);
        Ok(Self {
            hands,
            threads: Mutex::new(threads),
            pools,
            draining,
        })
    }

    /// Gives a connection to the thread with the fewest. Where that cannot keep up, it is closed; returns whether it was not.
    pub fn give(&self, stream: TcpStream, client: Client) -> bool {
        if prepare(&stream).is_err() {
            return false;
        }
        let command = Command::Serve(stream, Box::new(client));
        least(&self.hands).is_some_and(|least| self.hands[least].send(command))
    }

    /// Returns how many connections to endpoints are in use, and how many are idle.
    pub fn connections(&self) -> (usize, usize) {
        let counts = self.pools.iter().map(|pool| pool.counts());
        counts.fold((0, 0), |(used, idle), (open, more)| {
            (used + open - more, idle + more)
        })
    }

    /// Returns the number of threads.
    pub fn threads(&self) -> usize {
        self.hands.len()
    }

    /// Has connections accepted on one of the threads until the listener fails for good, its network namespace is
    /// [closed](Self::close) or the threads drain.
    pub fn listen(&self, thread: usize, listener: TcpListener, who: Arc<dyn Introduce>) {
        self.tell(thread, Command::Listen(listener, who));
    }

    /// Closes all listeners and connections of the workload with this network namespace, those to upstreams too.
    pub fn close(&self, netns: u64) {
        for thread in 0..self.hands.len() {
            self.tell(thread, Command::Close(netns));
        }
    }

    /// Blocks while the thread is too busy to be told.
    fn tell(&self, thread: usize, command: Command) {
        let to = &self.hands[thread].to;
        let sent = match to.try_send(command) {
            Err(TrySendError::Full(command)) => to.blocking_send(command).is_ok(),
            sent => sent.is_ok(),
        };
        if !sent && !self.draining.load(Ordering::Relaxed) {
            tracing::error!("data thread {thread} has ended");
        }
    }

    /// Ends: nothing is accepted any more, responses say that the connection closes, connections that are idle after `grace` are
    /// closed, and all of them after `most`. Blocks until the threads have ended.
    pub fn drain(&self, grace: Duration, most: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        let end = Instant::now() + most;
        for hand in &*self.hands {
            // A thread that is gone has nothing to drain.
            hand.to
                .blocking_send(Command::Drain(grace.min(most), end))
                .unwrap_or(());
        }
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a data thread ended with a panic");
            }
        }
    }
}

/// Returns the number of the thread with the fewest connections.
fn least(hands: &[Hand]) -> Option<usize> {
    let load = |at: &usize| hands[*at].load.load(Ordering::Relaxed);
    (0..hands.len()).min_by_key(load)
}

/// Connections that a thread may have more than another before it hands new ones over: that costs a wake-up.
const SLACK: usize = 4;

/// Returns the number of this thread, unless it has more to do than another.
fn nearest(hands: &[Hand], own: usize) -> Option<usize> {
    let least = least(hands)?;
    let load = |at: usize| hands[at].load.load(Ordering::Relaxed);
    Some(if load(own) <= load(least) + SLACK {
        own
    } else {
        least
    })
}

impl Hand {
    /// Sends what a busy thread need not take; returns whether it did.
    fn send(&self, command: Command) -> bool {
        self.to.try_send(command).is_ok()
    }
}

struct Worker {
    number: usize,
    crew: Arc<Crew>,
    hands: Arc<[Hand]>,
    listeners: JoinSet<()>,
    /// Listeners, by network namespace.
    homes: HashMap<u64, Vec<AbortHandle>>,
}

impl Worker {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut sweep = tokio::time::interval(Duration::from_secs(1));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut idle_end, mut end) = (None, None);
        loop {
            let now = Instant::now();
            // Those that are left end with their runtime.
            if end.is_some_and(|end| now >= end) || (end.is_some() && self.crew.is_empty()) {
                return;
            }
            if idle_end.is_some_and(|it| now >= it) {
                self.crew.close_idle();
            }
            let wake = end.into_iter().chain(idle_end.filter(|it| *it > now)).min();
            let wake = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Serve(stream, client)) => self.crew.serve(stream, *client),
                    Some(Command::Listen(listener, who)) => self.listen(listener, who),
                    Some(Command::Close(netns)) => self.close(netns),
                    Some(Command::Drain(grace, at)) => {
                        self.listeners.abort_all();
                        self.crew.drain();
                        (idle_end, end) = (Some(now + grace), Some(at));
                    }
                    None => return,
                },
                () = self.crew.emptied() => {}
                Some(_) = self.listeners.join_next() => {}
                _ = sweep.tick() => self.crew.serving.room.pool.sweep(Instant::now()),
                () = wake => {}
            }
        }
    }

    fn close(&mut self, netns: u64) {
        for listener in self.homes.remove(&netns).unwrap_or_default() {
            listener.abort();
        }
        self.crew.close_of(netns);
        self.crew.serving.room.pool.forget(netns);
    }

    fn listen(&mut self, listener: TcpListener, who: Arc<dyn Introduce>) {
        let netns = who.netns();
        let reception = Reception {
            who,
            crew: Arc::clone(&self.crew),
            hands: Arc::clone(&self.hands),
            own: self.number,
        };
        let task = self.listeners.spawn(async move {
            match Door::new(listener) {
                Ok(door) => reception.accept(&door).await,
                Err(error) => tracing::warn!("failed to listen: {error}"),
            }
        });
        self.homes.entry(netns).or_default().push(task);
    }
}

/// A listener. The runtime's own makes known to the runtime whatever it accepts; here it knows of the listener alone, which it takes
/// for one more thing to be waited for.
struct Door(tokio::net::TcpStream);

impl Door {
    fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        tokio::net::TcpStream::from_std(OwnedFd::from(listener).into()).map(Self)
    }

    /// Waits until somebody may be there.
    async fn opens(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Lets one in; `None`: nobody is there.
    fn next(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = || Ok(acceptfrom_with(&self.0, flags)?);
        match self.0.try_io(Interest::READABLE, accept) {
            Ok((stream, peer)) => {
                let peer = peer.and_then(|peer| peer.try_into().ok());
                let peer: SocketAddr = peer.ok_or(io::ErrorKind::AddrNotAvailable)?;
                Ok(Some((stream.into(), peer)))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Where connections come in.
struct Reception {
    who: Arc<dyn Introduce>,
    crew: Arc<Crew>,
    hands: Arc<[Hand]>,
    own: usize,
}

impl Reception {
    /// Takes connections. Most stay on this thread.
    async fn accept(&self, door: &Door) {
        loop {
            if let Err(error) = self.take_some(door).await {
                tracing::warn!("failed to accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    async fn take_some(&self, door: &Door) -> io::Result<()> {
        door.opens().await?;
        for _ in 0..BURST {
            let Some((stream, peer)) = door.next()? else {
                return Ok(());
            };
            self.take(stream, peer);
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    fn take(&self, stream: TcpStream, peer: SocketAddr) {
        let (Some(client), Some(nearest)) = (self.who.client(peer), nearest(&self.hands, self.own))
        else {
            return;
        };
        if nearest == self.own {
            return self.crew.serve(stream, client);
        }
        // A thread that cannot keep up closes what it cannot take: the client sees a reset instead of silence.
        self.hands[nearest].send(Command::Serve(stream, Box::new(client)));
    }
}

/// Makes a connection from elsewhere as those are that listeners accept.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    // Responses leave as they are written, and are written whole where they can be.
    stream.set_nodelay(true)
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
