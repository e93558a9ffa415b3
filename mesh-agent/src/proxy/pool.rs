//! Connections to upstreams that are kept for the next request, one pool for each data thread.
//!
//! A thread uses its own alone; only where a service has as many connections as it may, an idle one of any thread makes room. So
//! the lock is hardly ever waited for.

mod turn;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use crate::chance::Chance;
use crate::l7::cluster::{Cluster, InFlight, Outcome};
use crate::model::balanced::Upstream;
use crate::proxy::socket::Sockets;
use crate::proxy::stream::Stream;
use crate::proxy::{h1, h2};

pub use turn::Turn;

/// What connections are alike in: a request may go by any that has the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// Cookie of the client's network namespace: upstreams tell clients by their address.
    pub netns: u64,
    /// The endpoint.
    pub address: SocketAddr,
    /// [`Wrap::id`] of what is around the connection; 0: nothing.
    pub wrap: u64,
}

/// Puts something around a connection, such as TLS.
pub trait Wrap: Send + Sync + fmt::Debug {
    /// Returns what tells it from all others that are in use, never 0.
    fn id(&self) -> u64;

    /// Does so, within the pool's time to connect.
    fn wrap(
        &self,
        stream: TcpStream,
    ) -> Pin<Box<dyn Future<Output = io::Result<Stream>> + Send + '_>>;
}

/// Limits of a pool. How many connections there may be is the clusters' business: their breakers hold for all threads together.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Idle connections to an endpoint from one network namespace.
    pub idle: usize,
    /// How long one may be idle: less than what common servers wait (Node.js 5 s), so that seldom a request meets the close.
    pub idle_time: Duration,
    /// How old one may get, give or take a tenth: so that load moves to new endpoints of a name behind one address.
    pub max_age: Duration,
    /// How long it may take to connect, TLS included.
    pub connect_time: Duration,
    /// Of connections of HTTP/2.
    pub h2: h2::ClientLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: 256,
            idle_time: Duration::from_secs(3),
            max_age: Duration::from_secs(3600),
            connect_time: Duration::from_secs(5),
            h2: h2::ClientLimits::default(),
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// It took too long.
    #[error("connecting took too long")]
    Timeout,
    /// Policy does not let the workload connect there.
    #[error("policy denies the connection")]
    Denied,
    /// This machine has no socket, port or memory for it, or the workload is gone: the endpoint was not asked.
    #[error("failed to make a socket: {0}")]
    Local(Arc<io::Error>),
    /// The network or the endpoint refuses.
    #[error("failed to connect: {0}")]
    Refused(Arc<io::Error>),
    /// What should be around the connection could not be put there.
    #[error("failed to set up TLS: {0}")]
    Tls(Arc<io::Error>),
}

impl ConnectError {
    /// Returns how it counts for the endpoint: where it was not even asked, not at all.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Denied | Self::Local(_) => Outcome::Cancelled,
            Self::Timeout | Self::Refused(_) | Self::Tls(_) => Outcome::ConnectFailed,
        }
    }
}

/// A pool.
pub struct Pool {
    sockets: Arc<dyn Sockets>,
    limits: Limits,
    state: Mutex<State>,
    /// Those of all data threads.
    all: OnceLock<Vec<Weak<Pool>>>,
}

#[derive(Default)]
struct State {
    endpoints: HashMap<Key, Endpoint>,
    /// Connections of HTTP/2, which many requests share.
    streams: HashMap<Key, Arc<h2::Pool<ConnectError>>>,
    /// Endpoints that were made.
    made: u64,
    chance: Chance,
}

#[derive(Default)]
struct Endpoint {
    /// Tells it from one that was forgotten and had the same key.
    number: u64,
    /// The one that was used last is at the end.
    idle: Vec<Idle>,
    /// All that are open, used or idle.
    open: usize,
    /// Requests that wait for one of these, or for a place to make another.
    waiting: VecDeque<turn::Waiter>,
}

struct Idle {
    connection: Box<h1::Connection>,
    admitted: InFlight,
    since: Instant,
    dies: Instant,
    is_trimmed: bool,
}

/// A connection in use. Closes when it is dropped, unless it is [given back](Self::give_back).
pub struct Leased {
    /// The connection.
    pub connection: Box<h1::Connection>,
    dies: Instant,
    place: Place,
    /// Its place among the connections of its service.
    admitted: InFlight,
}

/// A place among an endpoint's connections. Free again when it is dropped.
struct Place {
    pool: Arc<Pool>,
    key: Key,
    /// The endpoint's.
    number: u64,
    /// The connection has gone back, and its place with it.
    kept: bool,
}

impl Pool {
    /// Returns an empty one.
    pub fn new(sockets: Arc<dyn Sockets>, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            sockets,
            limits,
            state: Mutex::new(State {
                chance: Chance::random(),
                ..State::default()
            }),
            all: OnceLock::new(),
        })
    }

    /// Makes these known to each other; the first time counts.
    pub fn join(all: &[Arc<Self>]) {
        for pool in all {
            pool.all
                .get_or_init(|| all.iter().map(Arc::downgrade).collect());
        }
    }

    /// Returns an idle connection, the one used last, if there is one that is still good.
    pub fn idle(self: &Arc<Self>, key: Key, now: Instant) -> Option<Leased> {
        let mut state = self.state();
        let endpoint = state.endpoints.get_mut(&key)?;
        while let Some(mut idle) = endpoint.idle.pop() {
            if now < idle.dies
                && now < idle.since + self.limits.idle_time
                && idle.connection.renew()
            {
                return Some(Leased {
                    connection: idle.connection,
                    dies: idle.dies,
                    place: self.place(key, endpoint.number),
                    admitted: idle.admitted,
                });
            }
            endpoint.open -= 1;
        }
        None
    }

    /// Makes a new connection, which was admitted.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(
        self: &Arc<Self>,
        key: Key,
        admitted: InFlight,
        upstream: &Upstream<'_>,
        wrap: Option<&Arc<dyn Wrap>>,
    ) -> Result<Leased, ConnectError> {
        let (place, dies) = {
            let mut state = self.state();
            let age = state.chance.about(self.limits.max_age);
            let endpoint = state.endpoint(key);
            endpoint.open += 1;
            (self.place(key, endpoint.number), Instant::now() + age)
        };
        let stream = tokio::time::timeout(
            self.limits.connect_time,
            self.open(key.netns, upstream, wrap),
        );
        let stream = stream.await.map_err(|_| ConnectError::Timeout)??;
        Ok(Leased {
            connection: Box::new(h1::Connection::new(stream)),
            dies,
            place,
            admitted,
        })
    }

    /// Returns a stream of HTTP/2 on a connection that is there, if one has room.
    pub fn shared(&self, key: &Key) -> Option<h2::Upstream> {
        self.state().streams.get(key)?.existing()
    }

    /// Returns a stream of HTTP/2, on a connection that may be shared or new.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn stream(
        &self,
        key: Key,
        cluster: &Cluster,
        upstream: &Upstream<'_>,
        wrap: Option<&Arc<dyn Wrap>>,
    ) -> Result<h2::Upstream, ConnectError> {
        let pool = Arc::clone(self.state().streams.entry(key).or_default());
        // The first connection is made whatever the limit: streams of others that keep it reached may never end. More than that
        // are made below the limit; else a stream is waited for.
        let admit = |is_first: bool| match is_first {
            true => Some(cluster.count_connection()),
            false => cluster.admit_connection().ok(),
        };
        let connect = |admitted| async {
            let limit = self.limits.connect_time;
            let stream = tokio::time::timeout(limit, self.open(key.netns, upstream, wrap)).await;
            let stream = stream.map_err(|_| ConnectError::Timeout)??;
            let mut limits = self.limits.h2.clone();
            limits.age = self.state().chance.about(limits.age);
            let connected = h2::connect(stream, &limits).await;
            let refused = |error| ConnectError::Refused(Arc::new(io::Error::other(error)));
            let connection = connected.map_err(refused)?;
            connection.hold(admitted);
            Ok(connection)
        };
        pool.stream(admit, || cluster.room(), connect).await
    }

    /// Makes a connection that no other request is to use.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn single(
        &self,
        netns: u64,
        upstream: &Upstream<'_>,
    ) -> Result<TcpStream, ConnectError> {
        let stream = tokio::time::timeout(self.limits.connect_time, self.plain(netns, upstream));
        stream.await.map_err(|_| ConnectError::Timeout)?
    }

    async fn plain(&self, netns: u64, upstream: &Upstream<'_>) -> Result<TcpStream, ConnectError> {
        let local = |error| ConnectError::Local(Arc::new(error));
        let socket = self.sockets.stream(netns, upstream.address.is_ipv6());
        let socket = socket.await.map_err(local)?;
        self.sockets.mark(socket.as_fd(), upstream).map_err(local)?;
        let socket = TcpSocket::from_std_stream(socket.into());
        let connected = socket.connect(upstream.address).await;
        connected.map_err(refusal)
    }

    async fn open(
        &self,
        netns: u64,
        upstream: &Upstream<'_>,
        wrap: Option<&Arc<dyn Wrap>>,
    ) -> Result<Stream, ConnectError> {
        let stream = self.plain(netns, upstream).await?;
        match wrap {
            None => Ok(Stream::Plain(stream)),
            Some(wrap) => {
                let wrapped = wrap.wrap(stream).await;
                wrapped.map_err(|error| ConnectError::Tls(Arc::new(error)))
            }
        }
    }

    /// Closes what is idle for too long, too old or closed by its other end, and gives back memory. To be called about once a
    /// second.
    pub fn sweep(&self, now: Instant) {
        let mut state = self.state();
        // Whoever has it in hand is about to connect, or has a stream.
        state
            .streams
            .retain(|_, pool| Arc::strong_count(pool) > 1 || pool.connections() > 0);
        state.endpoints.retain(|_, endpoint| {
            let before = endpoint.idle.len();
            endpoint.idle.retain_mut(|idle| {
                let is_good = now < idle.dies
                    && now < idle.since + self.limits.idle_time
                    && !idle.connection.is_stale();
                if is_good && !idle.is_trimmed && now > idle.since + self.limits.idle_time / 2 {
                    idle.connection.trim();
                    idle.is_trimmed = true;
                }
                is_good
            });
            endpoint.open -= before - endpoint.idle.len();
            endpoint.open > 0 || !endpoint.waiting.is_empty()
        });
    }

    /// The workload with this network namespace is gone: closes what is idle, and lets go of the rest as it ends.
    pub fn forget(&self, netns: u64) {
        let mut state = self.state();
        state.endpoints.retain(|key, _| key.netns != netns);
        state.streams.retain(|key, _| key.netns != netns);
    }

    /// Returns how many connections are open, and how many of them are idle.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        let endpoints = state.endpoints.values();
        endpoints.fold((0, 0), |(open, idle), it| {
            (open + it.open, idle + it.idle.len())
        })
    }

    fn place(self: &Arc<Self>, key: Key, number: u64) -> Place {
        Place {
            pool: Arc::clone(self),
            key,
            number,
            kept: false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn endpoint(&mut self, key: Key) -> &mut Endpoint {
        let made = &mut self.made;
        self.endpoints.entry(key).or_insert_with(|| {
            *made += 1;
            Endpoint {
                number: *made,
                ..Endpoint::default()
            }
        })
    }
}

/// Returns what an error of `connect` means.
fn refusal(error: io::Error) -> ConnectError {
    let errno = Errno::from_io_error(&error);
    match errno {
        // No network answers so: it is what the kernel says for policies, ours or another's.
        Some(Errno::PERM | Errno::ACCESS) => ConnectError::Denied,
        // No port is left towards this endpoint; no descriptor, buffer or memory.
        Some(
            Errno::ADDRNOTAVAIL
            | Errno::AGAIN
            | Errno::MFILE
            | Errno::NFILE
            | Errno::NOBUFS
            | Errno::NOMEM
            | Errno::NOSPC,
        ) => ConnectError::Local(Arc::new(error)),
        _ => ConnectError::Refused(Arc::new(error)),
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, idle) = self.counts();
        f.debug_struct("Pool")
            .field("open", &open)
            .field("idle", &idle)
            .finish_non_exhaustive()
    }
}

impl Leased {
    /// Gives it back to the pool, or to who waits for it, if request and response came to a clean end; else it closes.
    pub fn give_back(mut self) {
        if !self.connection.is_reusable() {
            return;
        }
        let pool = Arc::clone(&self.place.pool);
        let next = {
            let mut state = pool.state();
            let place = &self.place;
            let endpoint = state.endpoints.get_mut(&place.key);
            let Some(endpoint) = endpoint.filter(|it| it.number == place.number) else {
                return;
            };
            // Under the lock: whoever comes to the queue after this finds what is idle here.
            match endpoint.next(self.admitted.wanted_since()) {
                turn::Next::Here(waiter) => waiter,
                turn::Next::Elsewhere => return,
                turn::Next::Nobody if endpoint.idle.len() < pool.limits.idle => {
                    endpoint.idle.push(Idle {
                        connection: self.connection,
                        admitted: self.admitted,
                        since: Instant::now(),
                        dies: self.dies,
                        is_trimmed: false,
                    });
                    self.place.kept = true;
                    return;
                }
                turn::Next::Nobody => return,
            }
        };
        if self.connection.renew() {
            // Who has just gone lets it close.
            next.send(self).unwrap_or_else(drop);
        }
    }
}

impl fmt::Debug for Leased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leased").field(&self.place.key).finish()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Some(endpoint) = self.pool.state().endpoints.get_mut(&self.key)
            && endpoint.number == self.number
        {
            endpoint.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::l7::cluster::ClusterPolicy;
    use crate::model::balanced::Carries;
    use crate::proxy::tests::{Plain, destination, port};

    #[tokio::test]
    async fn connections_of_http2_do_not_all_grow_old_at_the_same_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_, to) = destination("cart", ClusterPolicy::default(), &[address]);
        let mut limits = Limits::default();
        limits.h2.age = Duration::from_secs(1000);
        let pool = Pool::new(Arc::new(Plain), limits);
        let upstream = Upstream {
            service: &port("cart"),
            dialled: address,
            backend: &port("cart"),
            address,
            carries: Carries::Requests,
        };
        for netns in 0..8 {
            let (wrap, cluster) = (0, &to.cluster);
            let key = Key {
                netns,
                address,
                wrap,
            };
            drop(pool.stream(key, cluster, &upstream, None).await.unwrap());
        }
        // Nobody else has to know.
        let shown = format!("{:?}", pool.state().streams);
        let ages = shown.split(" age: ").skip(1);
        let ages = ages.map(|it| it.split('s').next().unwrap().parse::<f64>().unwrap());
        let ages: Vec<f64> = ages.collect();
        assert_eq!(ages.len(), 8, "{shown}");
        assert!(ages.iter().all(|age| (900.0..=1100.0).contains(age)));
        let all: BTreeSet<u64> = ages.iter().map(|age| age.to_bits()).collect();
        assert!(all.len() > 1, "{ages:?}");
    }

    #[test]
    fn what_is_missing_here_is_nothing_of_the_endpoints() {
        let outcome = |errno: Errno| refusal(errno.into()).outcome();
        for errno in [
            Errno::ADDRNOTAVAIL,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::PERM,
            Errno::ACCESS,
        ] {
            assert_eq!(outcome(errno), Outcome::Cancelled, "{errno}");
        }
        for errno in [
            Errno::CONNREFUSED,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::TIMEDOUT,
            Errno::CONNRESET,
        ] {
            assert_eq!(outcome(errno), Outcome::ConnectFailed, "{errno}");
        }
    }
}
