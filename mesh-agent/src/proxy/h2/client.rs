//! A connection to an upstream, shared by the requests that go to it.

use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::frame::Code;
use super::limits::{ClientLimits, TICK, TRIM};
use super::link::{Link, PREFACE, Wrong};
use super::session::{Failure, Role, Session, Shared, THERE};
use super::upstream::Upstream;
use crate::l7::cluster::InFlight;
use crate::proxy::exchange::UpstreamError;
use crate::proxy::stream::Stream;
use crate::proxy::timer::Timer;

/// A connection that streams can be opened on. Copies are the same connection; it closes once the last one and the last stream are
/// gone, or by itself when it was idle for its time.
#[derive(Clone, Debug)]
pub struct Connection {
    owner: Arc<Owner>,
}

/// What all copies have in common.
#[derive(Debug)]
struct Owner {
    wire: Arc<Wire>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.wire.retire();
    }
}

/// What streams and the driver share.
#[derive(Debug)]
pub(super) struct Wire {
    shared: Shared,
    /// Streams that are open or about to be, and how many there may be.
    active: AtomicUsize,
    most: AtomicUsize,
    /// Whether streams are still opened.
    is_open: AtomicBool,
    /// Told when the upstream's settings are known, or never will be.
    greeting: Notify,
    /// Told when a stream ended, or no more can be opened: whoever waits for room.
    freed: OnceLock<Arc<Notify>>,
    /// Its place among the connections of its service.
    held: Mutex<Held>,
    limits: ClientLimits,
}

/// The place of a connection, which is another's as soon as it has ended, whoever still knows it.
#[derive(Debug, Default)]
struct Held {
    place: Option<InFlight>,
    is_over: bool,
}

/// Opens a connection on a stream whose other end speaks HTTP/2. A task of its own drives it.
///
/// # Errors
/// Returns `Timeout` or `Reset` if the preface could not be written.
pub async fn connect(
    mut stream: Stream,
    limits: &ClientLimits,
) -> Result<Connection, UpstreamError> {
    let sent = async {
        let (_, mut writer) = stream.split();
        writer.send(&mut [IoSlice::new(PREFACE)], &mut 0).await
    };
    let sent = tokio::time::timeout(limits.handshake, sent).await;
    let sent = sent.map_err(|_| UpstreamError::Timeout)?;
    sent.map_err(|_| UpstreamError::Reset)?;
    let mut session = Session::new(Role::Client, limits.bounds());
    session.greet();
    let wire = Arc::new(Wire {
        active: AtomicUsize::new(0),
        most: AtomicUsize::new(limits.streams.min(session.peer.streams)),
        shared: Shared::new(session),
        is_open: AtomicBool::new(true),
        greeting: Notify::new(),
        freed: OnceLock::new(),
        held: Mutex::default(),
        limits: limits.clone(),
    });
    let link = Link::new(stream, BytesMut::new(), Role::Client, limits.header_list);
    let mut driver = Driver::new(link, Arc::clone(&wire));
    tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll(cx)).await });
    let owner = Arc::new(Owner { wire });
    Ok(Connection { owner })
}

impl Connection {
    /// Returns a stream if there is room for one more.
    pub fn stream(&self) -> Option<Upstream> {
        let wire = &self.owner.wire;
        if !self.is_open() {
            return None;
        }
        let most = wire.most.load(Relaxed);
        let more = |active: usize| (active < most).then_some(active + 1);
        wire.active.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Upstream::new(Ticket(Arc::clone(wire))))
    }

    /// Returns whether streams may be opened, now or when others have ended.
    pub fn is_open(&self) -> bool {
        self.owner.wire.is_open.load(Relaxed)
    }

    /// Returns the number of streams.
    pub fn active(&self) -> usize {
        self.owner.wire.active.load(Relaxed)
    }

    /// Opens no more streams; the connection closes when those that are open have ended.
    pub fn retire(&self) {
        self.owner.wire.retire();
    }

    /// Keeps this for as long as the connection is there.
    pub(in crate::proxy) fn hold(&self, admitted: InFlight) {
        let mut held = self.owner.wire.held();
        if !held.is_over {
            held.place = Some(admitted);
        }
    }

    /// Returns whether it keeps one that `is_such`.
    pub(super) fn holds(&self, is_such: impl Fn(&InFlight) -> bool) -> bool {
        self.owner.wire.held().place.as_ref().is_some_and(is_such)
    }

    /// Sets who is told when there is room again; the first one stays.
    pub(super) fn tell(&self, freed: &Arc<Notify>) {
        self.owner.wire.freed.get_or_init(|| Arc::clone(freed));
    }
}

impl Wire {
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        self.shared.lock()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retire(&self) {
        self.is_open.store(false, Relaxed);
        self.lock().wake();
        self.tell_all();
    }

    /// Nothing goes on: what the connection had is free.
    fn end(&self) {
        self.is_open.store(false, Relaxed);
        let place = {
            let mut held = self.held();
            held.is_over = true;
            held.place.take()
        };
        // Not under the lock: whoever waits for it is told.
        drop(place);
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
        let is_greeted = self.lock().peer.greeted;
        if !is_greeted && self.is_open.load(Relaxed) {
            // Whether it came shows.
            drop(tokio::time::timeout(self.limits.answer, greeting).await);
        }
        self.lock().peer.connect
    }
}

/// A place among a connection's streams, given back when dropped.
#[derive(Debug)]
pub(super) struct Ticket(Arc<Wire>);

impl Ticket {
    pub(super) fn wire(&self) -> &Wire {
        &self.0
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let wire = &self.0;
        if wire.active.fetch_sub(1, Relaxed) == 1 {
            let is_wanted = wire.held().place.as_ref().is_some_and(InFlight::is_wanted);
            match wire.is_open.load(Relaxed) {
                true if is_wanted => wire.retire(),
                true => {}
                false => wire.lock().wake(),
            }
        }
        if let Some(freed) = wire.freed.get() {
            freed.notify_one();
        }
    }
}

/// Who has the socket.
struct Driver {
    link: Link,
    wire: Arc<Wire>,
    timer: Timer,
    since: Instant,
    /// When the clock is looked at.
    at: Instant,
    idle_since: Instant,
    pinged: Instant,
    asked: bool,
    /// The end was said, and is to be sent.
    is_leaving: bool,
}

impl Driver {
    fn new(link: Link, wire: Arc<Wire>) -> Self {
        let now = Instant::now();
        Self {
            link,
            timer: Timer::default(),
            since: now,
            at: now + wire.limits.answer,
            wire,
            idle_since: now,
            pinged: now,
            asked: false,
            is_leaving: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wire = Arc::clone(&self.wire);
        let session = &mut *wire.lock();
        session.attend(cx);
        let polled = self.poll_all(cx, session);
        match polled {
            Poll::Pending => session.rest(),
            Poll::Ready(()) => {
                session.fail(Failure::Lost);
                wire.end();
            }
        }
        polled
    }

    fn poll_all(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<()> {
        // What waits of requests is bounded by the streams that there may be.
        if let Err(wrong) = self.link.read(cx, session, usize::MAX) {
            if let Wrong::Fault(code) = wrong {
                session.fail(Failure::Protocol);
                session.goaway(0, code);
                // As far as the socket takes it: the upstream is at fault.
                drop(self.link.poll_write(cx, session));
            }
            tracing::debug!("a connection to an upstream ended: {wrong:?}");
            return Poll::Ready(());
        }
        self.look(session);
        loop {
            match self.link.poll_write(cx, session) {
                Poll::Ready(Ok(())) if self.is_leaving => return self.poll_shut(cx),
                Poll::Ready(Ok(())) | Poll::Pending => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
            }
            if self.timer.poll_at(cx, self.at).is_pending() {
                return Poll::Pending;
            }
            if !self.tick(session) {
                return Poll::Ready(());
            }
        }
    }

    fn poll_shut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // However that goes, nobody waits for anything.
        self.link.poll_shutdown(cx).map(drop)
    }

    /// Looks at what the upstream said, and at whether anybody needs the connection.
    fn look(&mut self, session: &mut Session) {
        let wire = &self.wire;
        if session.answered.take().is_some() {
            self.asked = false;
        }
        let most = wire.limits.streams.min(session.peer.streams);
        if most != wire.most.load(Relaxed) || session.told {
            session.told = false;
            wire.most.store(most, Relaxed);
            wire.tell_all();
        }
        if session.closing && wire.is_open.swap(false, Relaxed) {
            wire.tell_all();
        }
        let is_needed = wire.is_open.load(Relaxed)
            || wire.active.load(Relaxed) > 0
            || session.streams.used() > 0;
        if !is_needed && !self.is_leaving {
            self.is_leaving = true;
            session.closing = true;
            session.goaway(0, Code::NO_ERROR);
        }
    }

    /// Looks at the clock; returns whether the connection is to go on.
    fn tick(&mut self, session: &mut Session) -> bool {
        let now = Instant::now();
        let wire = Arc::clone(&self.wire);
        let limits = &wire.limits;
        if self.asked && self.pinged + limits.answer <= now {
            return false;
        }
        let is_deaf = !session.peer.greeted || !session.peer.follows;
        if is_deaf && self.since + limits.answer <= now {
            return false;
        }
        if self.is_leaving {
            return false;
        }
        let open = self.wire.active.load(Relaxed) > 0;
        if std::mem::take(&mut session.touched) || open {
            self.idle_since = now;
        }
        if !open && self.idle_since + TRIM <= now {
            session.trim();
        }
        let old = self.since + limits.age;
        if (!open && self.idle_since + limits.idle <= now) || old <= now {
            self.wire.is_open.store(false, Relaxed);
            self.wire.tell_all();
            self.look(session);
        }
        if open && !self.asked && self.pinged + limits.keep_alive <= now {
            session.ping(THERE);
            (self.asked, self.pinged) = (true, now);
        }
        let mut at = self.idle_since + limits.idle;
        if self.is_leaving || is_deaf {
            at = at.min(now + limits.answer);
        }
        if self.asked {
            at = at.min(self.pinged + limits.answer);
        } else if open {
            at = at.min(self.pinged + limits.keep_alive);
        } else if now < self.idle_since + TRIM {
            at = at.min(self.idle_since + TRIM);
        }
        if now < old {
            at = at.min(old);
        }
        self.at = at.max(now + TICK);
        true
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.wire.lock().fail(Failure::Lost);
        self.wire.end();
    }
}
