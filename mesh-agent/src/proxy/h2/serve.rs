//! One client's connection: its streams, its times, its end.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::{self, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::Request;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::body::Body;
use super::head;
use super::io::Io;
use super::limits::Limits;
use super::resets::Resets;
use super::respond::Respond;
use crate::proxy::exchange::Service;
use crate::proxy::life::Life;
use crate::proxy::stream::Stream;

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The client closed it, or went when it was told to.
    Closed,
    /// It was idle for its time.
    Idle,
    /// No preface came in time, or something else than one.
    Handshake,
    /// The client did not keep to the protocol, or reset the connection.
    Broken,
    /// The client gave up more requests than it may.
    TooManyResets,
    /// The client answered no PING.
    Silent,
}

/// Serves the requests of a connection until it ends, each in a task of its own. `start` has what was read of it already. Once
/// `drain` returns, or `life` has lasted long enough, the client is told to send no more requests, and the connection ends with the
/// last stream: whoever waits no longer drops the future. Then the requests end as for a client that is gone.
pub async fn serve<S: Service + 'static>(
    stream: Stream,
    start: BytesMut,
    service: &Arc<S>,
    limits: &Limits,
    life: &Life,
    drain: impl Future<Output = ()>,
) -> Ended {
    let handshake = builder(limits).handshake(Io::new(start, stream));
    let connection = match tokio::time::timeout(limits.handshake, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) | Err(_) => return Ended::Handshake,
    };
    let mut connection = Live::new(connection, limits, life);
    let mut drain = pin!(drain);
    let mut drained = false;
    loop {
        let step = tokio::select! {
            biased;
            () = &mut drain, if !drained => { drained = true; Step::Leave }
            step = connection.step() => step,
        };
        match step {
            Step::Request(request, stream) => connection.request(request, stream, service),
            Step::Leave => connection.leave(Ended::Closed),
            Step::Again => {}
            Step::Ended(ended) => return ended,
        }
    }
}

fn builder(limits: &Limits) -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(limits.streams)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.header_list)
        .max_send_buffer_size(limits.send_buffer)
        .enable_connect_protocol();
    builder
}

/// What came next.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and is moved once"
)]
enum Step {
    Request(Request<RecvStream>, SendResponse<Bytes>),
    /// The client is to be told to go.
    Leave,
    Again,
    Ended(Ended),
}

/// What a connection's streams tell it.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Streams whose responses are not done with.
    open: AtomicUsize,
    resets: Mutex<Resets>,
    too_many: AtomicBool,
    since: Instant,
    changed: Notify,
}

impl Ledger {
    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    pub(super) fn closed(&self, finished: bool, given_up: bool) {
        if self.open.fetch_sub(1, Relaxed) == 1 {
            self.changed.notify_one();
        }
        if !finished && !given_up {
            return;
        }
        let mut resets = self.resets.lock().unwrap_or_else(PoisonError::into_inner);
        if finished {
            resets.ended_well();
        } else if resets.reset(nanoseconds(self.since.elapsed())) {
            self.too_many.store(true, Relaxed);
            self.changed.notify_one();
        }
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A connection after its preface.
struct Live<'l> {
    connection: server::Connection<Io, Bytes>,
    ledger: Arc<Ledger>,
    limits: &'l Limits,
    life: &'l Life,
    ping: Option<PingPong>,
    /// When a PING was sent that has no answer.
    asked: Option<Instant>,
    /// When the last stream ended or the last PING was sent.
    quiet_since: Instant,
    /// Since when it has been told, and why.
    leaving: Option<(Instant, Ended)>,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl<'l> Live<'l> {
    fn new(
        mut connection: server::Connection<Io, Bytes>,
        limits: &'l Limits,
        life: &'l Life,
    ) -> Self {
        let now = Instant::now();
        life.set_idle(true);
        Self {
            ping: connection.ping_pong(),
            connection,
            ledger: Arc::new(Ledger {
                open: AtomicUsize::new(0),
                resets: Mutex::default(),
                too_many: AtomicBool::new(false),
                since: now,
                changed: Notify::new(),
            }),
            limits,
            life,
            asked: None,
            quiet_since: now,
            leaving: None,
            timer: Box::pin(sleep_until(now + limits.idle)),
        }
    }

    /// Returns what comes next. Safe to drop.
    async fn step(&mut self) -> Step {
        if self.ledger.too_many.swap(false, Relaxed) {
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.leaving = Some((Instant::now(), Ended::TooManyResets));
        }
        let ledger = Arc::clone(&self.ledger);
        let ended = self.leaving.map_or(Ended::Closed, |(_, why)| why);
        // A client may reset streams faster than what serves them ends; then they end before the next is looked at.
        let most = 2 * self.limits.streams as usize;
        let (connection, ping, asked) =
            (&mut self.connection, &mut self.ping, self.asked.is_some());
        tokio::select! {
            biased;
            accepted = std::future::poll_fn(|cx| poll_accept(connection, ledger.open.load(Relaxed) >= most, cx)) => match accepted {
                Some(Ok((request, stream))) => Step::Request(request, stream),
                Some(Err(_)) if ended == Ended::TooManyResets => Step::Ended(ended),
                Some(Err(_)) => Step::Ended(Ended::Broken),
                None => Step::Ended(ended),
            },
            answered = std::future::poll_fn(|cx| poll_pong(ping, cx)), if asked => {
                if answered {
                    self.asked = None;
                }
                Step::Again
            }
            () = ledger.changed.notified() => {
                self.quiet_since = Instant::now();
                self.life.set_idle(ledger.open.load(Relaxed) == 0);
                Step::Again
            }
            () = &mut self.timer => self.tick(),
        }
    }

    /// Has a request answered, if it is one.
    fn request<S: Service + 'static>(
        &mut self,
        request: Request<RecvStream>,
        stream: SendResponse<Bytes>,
        service: &Arc<S>,
    ) {
        let (parts, body) = request.into_parts();
        let size = head::body_size(&parts.headers, body.is_end_stream());
        self.life.set_idle(false);
        let mut respond = Respond::new(stream, &parts.method, Arc::clone(&self.ledger));
        let mut head = match head::request(parts, self.limits) {
            Ok(head) => head,
            Err(refusal) => {
                service.refused(refusal.status, refusal.why);
                return respond.refuse(refusal.status);
            }
        };
        let service = Arc::clone(service);
        tokio::spawn(async move {
            let mut scratch = service.scratch();
            let mut body = Body::new(body, size);
            service
                .call(&mut scratch, &mut head, &mut body, &mut respond)
                .await;
        });
    }

    /// Tells the client to open no more streams: GOAWAY with the highest number, and, a round trip later, with the last stream's.
    fn leave(&mut self, why: Ended) {
        if self.leaving.is_none() {
            self.connection.graceful_shutdown();
            self.leaving = Some((Instant::now(), why));
            self.wake_at(Instant::now() + self.limits.answer);
        }
    }

    /// Looks at the clock.
    fn tick(&mut self) -> Step {
        let now = Instant::now();
        let open = self.ledger.open.load(Relaxed);
        let limits = self.limits;
        if self.asked.is_some_and(|at| at + limits.answer <= now) {
            return Step::Ended(Ended::Silent);
        }
        if let Some((since, why)) = self.leaving
            && (open == 0 || why == Ended::TooManyResets)
            && since.max(self.quiet_since) + limits.answer <= now
        {
            return Step::Ended(why);
        }
        if self.leaving.is_none() && open == 0 && self.quiet_since + limits.idle <= now {
            self.leave(Ended::Idle);
            return Step::Again;
        }
        if self.leaving.is_none() && self.life.is_ending(now) {
            self.leave(Ended::Closed);
            return Step::Again;
        }
        if open > 0 && self.asked.is_none() && self.quiet_since + limits.keep_alive <= now {
            let ping = self.ping.as_mut();
            let sent = ping.is_some_and(|it| it.send_ping(Ping::opaque()).is_ok());
            self.asked = sent.then_some(now);
            self.quiet_since = now;
        }
        self.wake_at(self.next_look(now, open));
        Step::Again
    }

    fn next_look(&self, now: Instant, open: usize) -> Instant {
        let limits = self.limits;
        // An idle connection is looked at once in its idle time: a stream that opens meanwhile has its first PING after that.
        let quiet = if open > 0 {
            limits.keep_alive
        } else {
            limits.idle
        };
        let at = self.quiet_since + quiet;
        if self.asked.is_some() || self.leaving.is_some() {
            return now + limits.answer;
        }
        at.max(now + TICK)
    }

    fn wake_at(&mut self, at: Instant) {
        self.timer.as_mut().reset(at);
    }
}

/// The shortest time between two looks at the clock.
const TICK: Duration = Duration::from_millis(10);

type Accepted = Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>>;

fn poll_accept(
    connection: &mut server::Connection<Io, Bytes>,
    full: bool,
    cx: &mut Context<'_>,
) -> Poll<Accepted> {
    if full {
        return connection.poll_closed(cx).map(|ended| ended.err().map(Err));
    }
    connection.poll_accept(cx)
}

/// Returns whether the answer came; a connection that ended is noticed elsewhere.
fn poll_pong(ping: &mut Option<PingPong>, cx: &mut Context<'_>) -> Poll<bool> {
    let Some(ping) = ping else {
        return Poll::Pending;
    };
    match ping.poll_pong(cx) {
        Poll::Ready(Ok(_)) => Poll::Ready(true),
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
    }
}
