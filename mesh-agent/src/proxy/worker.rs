//! Data threads: each has a runtime, a pool of upstream connections and the clients' connections that were given to it, which
//! live and end on it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::chance::Chance;
use crate::l7::limit::shed::Shedder;
use crate::l7::session::SessionKey;
use crate::proxy::connection::{self, Serving};
use crate::proxy::exchange::{Config, Limits, Room};
use crate::proxy::life::Life;
use crate::proxy::pool::Pool;
use crate::proxy::record::{Client, Observer};
use crate::proxy::socket::Sockets;
use crate::proxy::tcp::Spares;
use crate::proxy::{h1, h2, pool::Limits as PoolLimits};

/// Connections that wait to be taken by a thread: more than the backlog of a listener would be refused there.
const QUEUE: usize = 1024;

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
    /// The same of one that this thread has accepted, and knows already.
    Keep(tokio::net::TcpStream, Box<Client>),
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
            };
            let worker = Worker {
                number,
                serving: Arc::new(Serving {
                    room: Arc::new(room),
                    h1: settings.h1.clone(),
                    h2: settings.h2.clone(),
                    spares: Spares::default(),
                }),
                hands: Arc::clone(&hands),
                draining: Arc::clone(&draining),
                drain: watch::Sender::new(false),
                most: settings.threads.connections,
                most_of_workload: settings.threads.of_workload,
                chance: Chance::random(),
                tasks: JoinSet::new(),
                lives: HashMap::new(),
                counts: HashMap::new(),
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
    serving: Arc<Serving>,
    hands: Arc<[Hand]>,
    draining: Arc<AtomicBool>,
    /// Tells connections that have to say something to that.
    drain: watch::Sender<bool>,
    most: usize,
    most_of_workload: usize,
    chance: Chance,
    tasks: JoinSet<()>,
    lives: HashMap<Id, Living>,
    /// How many of them there are, by network namespace.
    counts: HashMap<u64, usize>,
    listeners: JoinSet<()>,
    /// Listeners, by network namespace.
    homes: HashMap<u64, Vec<AbortHandle>>,
}

/// A connection that is served.
struct Living {
    task: AbortHandle,
    life: Arc<Life>,
    netns: u64,
}

impl Worker {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut sweep = tokio::time::interval(Duration::from_secs(1));
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut idle_end, mut end) = (None, None);
        loop {
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) || (end.is_some() && self.tasks.is_empty()) {
                self.tasks.shutdown().await;
                return;
            }
            if idle_end.is_some_and(|it| now >= it) {
                for one in self.lives.values().filter(|one| one.life.is_idle()) {
                    one.task.abort();
                }
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
                    Some(Command::Serve(stream, client)) => {
                        if let Ok(stream) = tokio::net::TcpStream::from_std(stream) {
                            self.serve(stream, *client);
                        }
                    }
                    Some(Command::Keep(stream, client)) => self.serve(stream, *client),
                    Some(Command::Listen(listener, who)) => self.listen(listener, who),
                    Some(Command::Close(netns)) => self.close(netns),
                    Some(Command::Drain(grace, at)) => {
                        self.listeners.abort_all();
                        self.drain.send_replace(true);
                        (idle_end, end) = (Some(now + grace), Some(at));
                    }
                    None => return,
                },
                Some(ended) = self.tasks.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(error) => error.id(),
                    };
                    self.ended(id);
                }
                Some(_) = self.listeners.join_next() => {}
                _ = sweep.tick() => self.serving.room.pool.sweep(Instant::now()),
                () = wake => {}
            }
        }
    }

    fn serve(&mut self, stream: tokio::net::TcpStream, client: Client) {
        let of_workload = self.counts.get(&client.netns).copied().unwrap_or(0);
        if self.tasks.len() >= self.most
            || of_workload >= self.most_of_workload
            || self.draining.load(Ordering::Relaxed)
        {
            return;
        }
        let max_age = self.serving.h1.max_age;
        let age = max_age.mul_f64(0.9 + 0.2 * self.chance.unit());
        let life = Arc::new(Life::new(Arc::clone(&self.draining), Instant::now() + age));
        let netns = client.netns;
        let task = connection::serve(
            stream,
            client,
            Arc::clone(&self.serving),
            Arc::clone(&life),
            self.drain.subscribe(),
        );
        let task = self.tasks.spawn(task);
        self.lives.insert(task.id(), Living { task, life, netns });
        self.counts.insert(netns, of_workload + 1);
        self.hands[self.number].load.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&mut self, id: Id) {
        self.hands[self.number].load.fetch_sub(1, Ordering::Relaxed);
        let Some(living) = self.lives.remove(&id) else {
            return;
        };
        if let Entry::Occupied(mut count) = self.counts.entry(living.netns) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn close(&mut self, netns: u64) {
        for listener in self.homes.remove(&netns).unwrap_or_default() {
            listener.abort();
        }
        for one in self.lives.values().filter(|one| one.netns == netns) {
            one.task.abort();
        }
        self.serving.room.pool.forget(netns);
    }

    fn listen(&mut self, listener: TcpListener, who: Arc<dyn Introduce>) {
        let hands = Arc::clone(&self.hands);
        let (number, netns) = (self.number, who.netns());
        let task = self.listeners.spawn(async move {
            let listener = listener
                .set_nonblocking(true)
                .and_then(|()| tokio::net::TcpListener::from_std(listener));
            match listener {
                Ok(listener) => accept(&listener, &*who, &hands, number).await,
                Err(error) => tracing::warn!("failed to listen: {error}"),
            }
        });
        self.homes.entry(netns).or_default().push(task);
    }
}

/// Takes connections. Most stay on this thread, which knows them already: to make them another's takes four more calls.
async fn accept(
    listener: &tokio::net::TcpListener,
    who: &dyn Introduce,
    hands: &[Hand],
    own: usize,
) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (Some(client), Some(nearest)) = (who.client(peer), nearest(hands, own)) else {
                    continue;
                };
                let client = Box::new(client);
                // A thread that cannot keep up closes what it cannot take: the client sees a reset instead of silence.
                if nearest == own {
                    hands[own].send(Command::Keep(stream, client));
                } else if let Ok(stream) = stream.into_std() {
                    hands[nearest].send(Command::Serve(stream, client));
                }
            }
            Err(error) => {
                tracing::warn!("failed to accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
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
