//! Both listeners: bound first, then run, with limits on everything a peer can hold.

#![forbid(unsafe_code)]

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::admin::losses::SAMPLE_EVERY;
use crate::admin::socket::{AdminSocket, SocketError, trusted};
use crate::admin::types::LossCounts;
use crate::admin::{Admin, api};

/// Connections to one listener at once. The readers are a few tools; the next one waits in the kernel's queue.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// Time for a peer to send its request's head: local tools need microseconds, a scrape over a bad link a few seconds.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a whole request and answer on the metrics listener, where anybody who can dial may hold a connection. Above
/// Prometheus' default scrape time-out of 10 s.
const METRICS_TIMEOUT: Duration = Duration::from_secs(30);

/// Header lines of a request at most; curl sends 3, Prometheus 6.
const HEADERS_MAX: usize = 32;

/// Bytes of a request's head at most, and of an answer that wait for a slow reader.
const BUFFER_MAX: usize = 16 * 1024;

/// Pause after a failed `accept`, which mostly means that descriptors ran out: long enough for some to come free.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Time for answers in progress after shutdown begins; a stream of flows needs one more line.
const DRAIN: Duration = Duration::from_secs(2);

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// The admin socket.
    pub socket: PathBuf,
    /// Where metrics are served; `None` is nowhere.
    pub metrics: Option<SocketAddr>,
}

/// A listener that could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The admin socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The metrics listener.
    #[error("failed to listen for metrics on `{address}` (--metrics-address, `off` for none)")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// Both listeners, bound; nobody is served yet.
#[derive(Debug)]
pub struct Bound {
    socket: AdminSocket,
    metrics: Option<TcpListener>,
}

/// Binds both listeners.
///
/// # Errors
///
/// When an address is taken, or not ours to bind.
pub fn bind(addresses: &Addresses) -> Result<Bound, BindError> {
    let metrics = |address| {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let metrics = addresses
        .metrics
        .map(|address| metrics(address).map_err(|source| BindError::Metrics { address, source }));
    Ok(Bound {
        metrics: metrics.transpose()?,
        socket: AdminSocket::bind(&addresses.socket)?,
    })
}

impl Bound {
    /// Returns where metrics will be served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// Serves both listeners until `shutdown` is true (or its sender gone), then ends streams with a clean last line.
    ///
    /// # Errors
    ///
    /// When called outside of a tokio runtime with I/O.
    pub async fn run(self, admin: Arc<Admin>, shutdown: watch::Receiver<bool>) -> io::Result<()> {
        let is_loopback = self
            .metrics_address()
            .is_some_and(|address| address.ip().is_loopback());
        let unix = self.socket.listener.try_clone()?;
        let unix = tokio::net::UnixListener::from_std(unix)?;
        let tcp = self.metrics.map(tokio::net::TcpListener::from_std);
        let tcp = tcp.transpose()?;

        let routes = api::admin(admin.clone(), shutdown.clone());
        let admin_loop = serve(unix, routes, None, shutdown.clone());
        let routes = api::metrics(admin.clone(), is_loopback, shutdown.clone());
        let metrics_loop = async {
            if let Some(tcp) = tcp {
                serve(tcp, routes, Some(METRICS_TIMEOUT), shutdown.clone()).await;
            }
        };
        tokio::join!(admin_loop, metrics_loop, sample(admin, shutdown.clone()));
        Ok(())
    }
}

/// Serves anybody who connects, with limits, until `shutdown` is true.
pub(super) async fn serve_anybody(
    listener: tokio::net::TcpListener,
    routes: Router,
    shutdown: watch::Receiver<bool>,
) {
    serve(listener, routes, Some(METRICS_TIMEOUT), shutdown).await;
}

/// What connections come from.
trait Accept: Send {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for the next connection; `None` is one that was refused.
    fn next(&self) -> impl Future<Output = io::Result<Option<Self::Stream>>> + Send;
}

impl Accept for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<Option<Self::Stream>> {
        let (stream, _) = self.accept().await?;
        let peer = stream.peer_cred()?;
        if trusted(peer.uid()) {
            return Ok(Some(stream));
        }
        tracing::warn!(uid = peer.uid(), "refused a connection to the admin socket");
        Ok(None)
    }
}

impl Accept for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Option<Self::Stream>> {
        Ok(Some(self.accept().await?.0))
    }
}

/// Accepts and serves until shutdown, then waits for what is in progress.
async fn serve<L: Accept>(
    listener: L,
    routes: Router,
    deadline: Option<Duration>,
    mut shutdown: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut tasks = JoinSet::new();
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.next().await)
        };
        let (slot, accepted) = tokio::select! {
            biased;
            _ = shutdown.wait_for(|down| *down) => break,
            next = next => next,
        };
        while tasks.try_join_next().is_some() {}
        match accepted {
            Ok(Some(stream)) => {
                let connection = connection(stream, routes.clone(), deadline, shutdown.clone());
                tasks.spawn(async {
                    let _slot = slot;
                    connection.await;
                });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!("failed to accept a connection: {error}");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    let drained = async { while tasks.join_next().await.is_some() {} };
    if timeout(DRAIN, drained).await.is_err() {
        tracing::debug!("closed connections that did not end in time");
    }
}

async fn connection<S>(
    stream: S,
    routes: Router,
    deadline: Option<Duration>,
    mut shutdown: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_MAX)
        // One request each: idle connections need no limit of their own, and a new one costs nothing here.
        .keep_alive(false);
    let service = TowerToHyperService::new(routes);
    let mut http = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = async {
        tokio::select! {
            served = http.as_mut() => return served,
            _ = shutdown.wait_for(|down| *down) => http.as_mut().graceful_shutdown(),
        }
        http.await
    };
    let ended = match deadline {
        Some(deadline) => timeout(deadline, served).await,
        None => Ok(served.await),
    };
    match ended {
        Ok(Ok(())) => {}
        // A peer that closed early, or sent what is no HTTP.
        Ok(Err(error)) => tracing::debug!("connection ended: {error}"),
        Err(_) => tracing::debug!("connection took too long"),
    }
}

/// Samples what was lost, so that `status` can tell lately from ever.
async fn sample(admin: Arc<Admin>, mut shutdown: watch::Receiver<bool>) {
    let mut ticks = interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|down| *down) => return,
            _ = ticks.tick() => {}
        }
        let read = admin.read(|admin| admin.sources.kernel.counters());
        if let Ok(Ok(counters)) = read.await {
            let mut losses = admin.losses.lock().unwrap_or_else(PoisonError::into_inner);
            losses.sample(Instant::now(), LossCounts::from(&counters));
        }
    }
}
