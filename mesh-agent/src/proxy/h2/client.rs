//! A connection to an upstream, shared by the requests that go to it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

use super::io::Io;
use super::limits::ClientLimits;
use super::upstream::Upstream;
use crate::l7::cluster::InFlight;
use crate::proxy::exchange::UpstreamError;
use crate::proxy::stream::Stream;

/// A connection that streams can be opened on. Copies are the same connection; it closes once the last one and the last stream are
/// gone, or by itself when it was idle for its time.
#[derive(Clone, Debug)]
pub struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    /// None once no more streams are to be opened.
    send: Mutex<Option<SendRequest<Bytes>>>,
    /// Streams that are open or about to be.
    active: AtomicUsize,
    /// Whether a response has come on it.
    proven: AtomicBool,
    /// Whether the upstream's settings are known.
    greeted: AtomicBool,
    greeting: Notify,
    /// Told when the last stream ended.
    quiet: Notify,
    /// Told when a stream ended, or no more can be opened: whoever waits for room.
    freed: OnceLock<Arc<Notify>>,
    /// Its place among the connections of its service.
    held: OnceLock<InFlight>,
    limits: ClientLimits,
}

/// Opens a connection on a stream whose other end speaks HTTP/2. A task of its own drives it.
///
/// # Errors
/// Returns `Timeout` or `Reset` if the preface could not be written.
pub async fn connect(stream: Stream, limits: &ClientLimits) -> Result<Connection, UpstreamError> {
    let mut builder = client::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.header_list)
        .max_send_buffer_size(limits.send_buffer)
        .enable_push(false);
    let io = Io::new(BytesMut::new(), stream);
    let handshake = tokio::time::timeout(limits.handshake, builder.handshake(io)).await;
    let handshake = handshake.map_err(|_| UpstreamError::Timeout)?;
    let (send, mut connection) = handshake.map_err(|_| UpstreamError::Reset)?;
    let shared = Arc::new(Shared {
        send: Mutex::new(Some(send)),
        active: AtomicUsize::new(0),
        proven: AtomicBool::new(false),
        greeted: AtomicBool::new(false),
        greeting: Notify::new(),
        quiet: Notify::new(),
        freed: OnceLock::new(),
        held: OnceLock::new(),
        limits: limits.clone(),
    });
    let ping = connection.ping_pong();
    tokio::spawn(drive(connection, Clock::new(Arc::clone(&shared), ping)));
    Ok(Connection { shared })
}

impl Connection {
    /// Returns a stream if there is room for one more.
    pub fn stream(&self) -> Option<Upstream> {
        let most = self.shared.max_streams()?;
        let active = &self.shared.active;
        let taken = active.fetch_update(SeqCst, SeqCst, |it| (it < most).then_some(it + 1));
        taken.ok()?;
        Some(Upstream::new(Ticket(Arc::clone(&self.shared))))
    }

    /// Returns whether streams may be opened, now or when others have ended.
    pub fn is_open(&self) -> bool {
        self.shared.max_streams().is_some()
    }

    /// Returns the number of streams.
    pub fn active(&self) -> usize {
        self.shared.active.load(SeqCst)
    }

    /// Opens no more streams; the connection closes when those that are open have ended.
    pub fn retire(&self) {
        self.shared.retire();
    }

    /// Keeps this for as long as the connection is there; the first one stays.
    pub(in crate::proxy) fn hold(&self, admitted: InFlight) {
        self.shared.held.get_or_init(|| admitted);
    }

    /// Sets who is told when there is room again; the first one stays.
    pub(super) fn tell(&self, freed: &Arc<Notify>) {
        self.shared.freed.get_or_init(|| Arc::clone(freed));
    }
}

impl Shared {
    fn send(&self) -> MutexGuard<'_, Option<SendRequest<Bytes>>> {
        self.send.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what to open a stream with, if that may be.
    pub(super) fn opener(&self) -> Option<SendRequest<Bytes>> {
        self.send().clone()
    }

    /// Returns how many streams there may be; `None` if the connection is over: closed, retired, or told to go by the upstream.
    fn max_streams(&self) -> Option<usize> {
        let mut send = self.send();
        let opener = send.as_mut()?;
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(Err(_)) = opener.poll_ready(&mut context) {
            *send = None;
            return None;
        }
        Some(self.limits.streams.min(opener.current_max_send_streams()))
    }

    fn retire(&self) {
        *self.send() = None;
        self.tell_all();
    }

    fn tell_all(&self) {
        self.greeting.notify_waiters();
        if let Some(freed) = self.freed.get() {
            freed.notify_waiters();
        }
    }

    /// Returns whether the upstream takes extended CONNECT; waits for its settings if need be, no longer than for a PING's answer.
    pub(super) async fn takes_connect(&self) -> bool {
        let greeting = self.greeting.notified();
        if !self.greeted.load(SeqCst) && self.send().is_some() {
            drop(tokio::time::timeout(self.limits.answer, greeting).await);
        }
        let send = self.send();
        send.as_ref()
            .is_some_and(SendRequest::is_extended_connect_protocol_enabled)
    }

    /// Returns whether a response has come on this connection.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(SeqCst)
    }

    pub(super) fn prove(&self) {
        self.proven.store(true, SeqCst);
    }
}

/// A place among a connection's streams, given back when dropped.
#[derive(Debug)]
pub(super) struct Ticket(Arc<Shared>);

impl Ticket {
    pub(super) fn connection(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, SeqCst) == 1 {
            self.0.quiet.notify_one();
        }
        if let Some(freed) = self.0.freed.get() {
            freed.notify_one();
        }
    }
}

async fn drive(mut connection: client::Connection<Io, Bytes>, mut clock: Clock) {
    clock.ask(Instant::now());
    loop {
        let tick = tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(why) = ended {
                    tracing::debug!("a connection to an upstream ended: {why}");
                }
                false
            }
            tick = clock.step() => tick,
        };
        if !tick {
            break;
        }
    }
    drop(connection);
    clock.shared.retire();
}

/// The times of a connection.
struct Clock {
    shared: Arc<Shared>,
    ping: Option<PingPong>,
    /// When a PING was sent that has no answer.
    asked: Option<Instant>,
    /// When the last stream ended or the last PING was sent.
    quiet_since: Instant,
    old_at: Instant,
    timer: Pin<Box<Sleep>>,
}

/// The shortest time between two looks at the clock.
const TICK: Duration = Duration::from_millis(10);

impl Clock {
    fn new(shared: Arc<Shared>, ping: Option<PingPong>) -> Self {
        let now = Instant::now();
        Self {
            ping,
            asked: None,
            quiet_since: now,
            old_at: now + shared.limits.age,
            timer: Box::pin(sleep_until(now + shared.limits.answer)),
            shared,
        }
    }

    /// Sends a PING. The first one's answer also says that the upstream's settings are here, since they come first.
    fn ask(&mut self, now: Instant) {
        let ping = self.ping.as_mut();
        let sent = ping.is_some_and(|it| it.send_ping(Ping::opaque()).is_ok());
        self.asked = sent.then_some(now);
    }

    /// Waits for the next event; returns whether the connection is to go on.
    async fn step(&mut self) -> bool {
        let ping = &mut self.ping;
        tokio::select! {
            biased;
            answered = std::future::poll_fn(|cx| poll_pong(ping, cx)), if self.asked.is_some() => {
                if answered {
                    self.asked = None;
                    self.shared.greeted.store(true, SeqCst);
                    self.shared.tell_all();
                }
                true
            }
            () = self.shared.quiet.notified() => {
                self.quiet_since = Instant::now();
                true
            }
            () = &mut self.timer => self.tick(),
        }
    }

    fn tick(&mut self) -> bool {
        let now = Instant::now();
        let shared = Arc::clone(&self.shared);
        let limits = &shared.limits;
        if self.asked.is_some_and(|at| at + limits.answer <= now) {
            return false;
        }
        let active = shared.active.load(SeqCst);
        let idle = active == 0 && self.quiet_since + limits.idle <= now;
        if idle || self.old_at <= now {
            shared.retire();
            self.old_at = now + limits.age;
        }
        if active > 0 && self.asked.is_none() && self.quiet_since + limits.keep_alive <= now {
            self.ask(now);
            self.quiet_since = now;
        }
        let quiet = if active > 0 {
            limits.keep_alive
        } else {
            limits.idle
        };
        let mut at = (self.quiet_since + quiet).min(self.old_at);
        if self.asked.is_some() {
            at = at.min(now + limits.answer);
        }
        self.timer.as_mut().reset(at.max(now + TICK));
        true
    }
}

fn poll_pong(ping: &mut Option<PingPong>, cx: &mut Context<'_>) -> Poll<bool> {
    let Some(ping) = ping else {
        return Poll::Pending;
    };
    match ping.poll_pong(cx) {
        Poll::Ready(Ok(_)) => Poll::Ready(true),
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
    }
}
