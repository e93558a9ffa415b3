//! One client's connection: its requests, its times, its end.

mod bell;
mod work;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;

use super::frame::{Code, MAX_STREAM};
use super::limits::{Limits, TICK, TRIM};
use super::link::{Link, Wrong};
use super::session::{Failure, Role, Session, Shared, THERE};
use crate::proxy::exchange::Service;
use crate::proxy::life::Life;
use crate::proxy::stream::Stream;
use crate::proxy::timer::Timer;
use bell::Bell;

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
    /// The client answered no PING, or did not follow our settings.
    Silent,
}

/// Serves the requests of a connection until it ends, each in a task that stays for others. `start` has what was read of it already.
/// Once `drain` returns, or `life` has lasted long enough, the client is told to send no more requests, and the connection ends with
/// the last stream: whoever waits no longer drops the future. Then the requests end as for a client that is gone.
pub async fn serve<S: Service + 'static>(
    stream: Stream,
    start: BytesMut,
    service: &Arc<S>,
    limits: &Limits,
    life: &Life,
    drain: impl Future<Output = ()>,
) -> Ended {
    let mut drain = std::pin::pin!(drain);
    let mut session = Session::new(Role::Server, limits.bounds());
    session.greet();
    let now = Instant::now();
    let mut server = Server {
        link: Link::new(stream, start, Role::Server, limits.header_list),
        shared: Arc::new(Shared::new(session)),
        service,
        limits,
        life,
        timer: Timer::default(),
        clock: Clock::new(now, limits),
        stage: Stage::Open,
        is_new: true,
        drain: None,
        has_drained: false,
    };
    life.set_idle(true);
    std::future::poll_fn(|cx| server.poll(cx, drain.as_mut())).await
}

/// Bytes that wait for a client, beyond which it is read no further: many times what its requests in flight are answered with.
const UNSENT_MOST: usize = 256 * 1024;

/// How long, and how much, is read of a connection that we close: a close with bytes unread is a reset, which may overtake the reason.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 * 1024;

/// What a PING says whose answer means that the client has seen GOAWAY.
const LEAVING: [u8; 8] = *b"leaving!";

/// How far the connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Open,
    /// The client has been told, and may not know yet.
    Leaving(Ended),
    /// It knows, and the last streams end.
    Left(Ended),
    /// What is left is sent.
    Closing {
        why: Ended,
        shut: bool,
        left: usize,
        until: Instant,
    },
}

/// Times of a connection.
#[derive(Debug)]
struct Clock {
    since: Instant,
    /// When the clock is looked at.
    at: Instant,
    /// Since when no stream is open, as far as that was looked at.
    idle_since: Instant,
    /// When the last PING was sent, and whether it has no answer.
    pinged: Instant,
    asked: bool,
    /// When the client was told to go.
    told: Option<Instant>,
}

impl Clock {
    fn new(now: Instant, limits: &Limits) -> Self {
        Self {
            since: now,
            at: now + limits.handshake.min(limits.idle),
            idle_since: now,
            pinged: now,
            asked: false,
            told: None,
        }
    }
}

struct Server<'l, S> {
    link: Link,
    shared: Arc<Shared>,
    service: &'l Arc<S>,
    limits: &'l Limits,
    life: &'l Life,
    timer: Timer,
    clock: Clock,
    stage: Stage,
    /// Nothing was read yet but what came with the connection.
    is_new: bool,
    /// Rings when `drain` is to be asked again.
    drain: Option<Arc<Bell>>,
    has_drained: bool,
}

impl<S: Service + 'static> Server<'_, S> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        drain: Pin<&mut impl Future<Output = ()>>,
    ) -> Poll<Ended> {
        let shared = Arc::clone(&self.shared);
        let session = &mut *shared.lock();
        session.attend(cx);
        if self.poll_drain(cx, drain) {
            self.leave(session, Ended::Closed);
        }
        let polled = self.poll_all(cx, session);
        if polled.is_pending() {
            session.rest();
        }
        polled
    }

    /// Looks whether the client is to be told to go; asks only if somebody has said that the answer is another.
    fn poll_drain(&mut self, cx: &Context<'_>, drain: Pin<&mut impl Future<Output = ()>>) -> bool {
        if self.has_drained {
            return false;
        }
        let bell = match &self.drain {
            Some(bell) if !bell.rang() => return false,
            Some(bell) => bell,
            None => self.drain.insert(Arc::new(Bell::new(cx.waker().clone()))),
        };
        let waker = Waker::from(Arc::clone(bell));
        self.has_drained = drain.poll(&mut Context::from_waker(&waker)).is_ready();
        self.has_drained
    }

    fn poll_all(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<Ended> {
        if let Stage::Closing { .. } = self.stage {
            return self.poll_close(cx, session);
        }
        let read = self.read(cx, session);
        self.hand_out(session);
        if let Err(wrong) = read {
            return self.wrong(cx, session, &wrong);
        }
        self.told(session);
        match self.link.poll_write(cx, session) {
            Poll::Ready(Ok(())) if self.is_done(session) => {
                self.close(Self::why(self.stage));
                return self.poll_close(cx, session);
            }
            Poll::Ready(Ok(())) | Poll::Pending => {}
            Poll::Ready(Err(_)) => return Poll::Ready(self.end(session, Ended::Broken)),
        }
        let is_idle = session.serving == 0 && session.out.is_empty();
        self.life.set_idle(is_idle && session.streams.used() == 0);
        while self.timer.poll_at(cx, self.clock.at).is_ready() {
            if let Some(ended) = self.tick(session) {
                return Poll::Ready(self.end(session, ended));
            }
            if let Stage::Closing { .. } = self.stage {
                return self.poll_close(cx, session);
            }
            // A failure shows with the next.
            drop(self.link.poll_write(cx, session));
        }
        Poll::Pending
    }

    fn read(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Result<(), Wrong> {
        if std::mem::take(&mut self.is_new) {
            self.link.parse(session)?;
        }
        self.link.read(cx, session, UNSENT_MOST)
    }

    /// Has requests served. A client may reset streams faster than what serves them ends: then they end before the next is begun.
    fn hand_out(&self, session: &mut Session) {
        let most = self.most();
        while let Some(lane) = session.hand_out(most) {
            let (shared, service) = (Arc::clone(&self.shared), Arc::clone(self.service));
            tokio::spawn(work::work(shared, service, lane, most));
        }
        for (status, why) in session.refused.drain(..) {
            self.service.refused(status, why);
        }
    }

    fn most(&self) -> usize {
        2 * self.limits.streams as usize
    }

    /// Takes the answer to a PING.
    fn told(&mut self, session: &mut Session) {
        let Some(answer) = session.answered.take() else {
            return;
        };
        self.clock.asked = false;
        if let Stage::Leaving(why) = self.stage
            && answer == LEAVING
        {
            self.stage = Stage::Left(why);
            session.closing = true;
            session.goaway(session.last, Code::NO_ERROR);
        }
    }

    /// Tells the client to open no more streams: GOAWAY with the highest number, and, a round trip later, with the last stream's (RFC
    /// 9113, section 6.8).
    fn leave(&mut self, session: &mut Session, why: Ended) {
        if self.stage != Stage::Open {
            return;
        }
        self.stage = Stage::Leaving(why);
        session.goaway(MAX_STREAM, Code::NO_ERROR);
        session.ping(LEAVING);
        let now = Instant::now();
        self.clock.told = Some(now);
        self.clock.at = now + self.limits.answer;
    }

    fn why(stage: Stage) -> Ended {
        match stage {
            Stage::Open => Ended::Closed,
            Stage::Leaving(why) | Stage::Left(why) | Stage::Closing { why, .. } => why,
        }
    }

    fn is_done(&self, session: &Session) -> bool {
        matches!(self.stage, Stage::Left(_))
            && session.streams.used() == 0
            && session.serving == 0
            && session.out.is_empty()
    }

    /// Ends the connection for what came, or did not.
    fn wrong(&mut self, cx: &mut Context<'_>, session: &mut Session, wrong: &Wrong) -> Poll<Ended> {
        let ended = match wrong {
            Wrong::Preface => Ended::Handshake,
            Wrong::Closed => match self.link.has_begun() {
                true => Self::why(self.stage),
                false => Ended::Handshake,
            },
            Wrong::Failed => Ended::Broken,
            Wrong::Fault(code) => {
                let why = match session.too_many_resets {
                    true => Ended::TooManyResets,
                    false => Ended::Broken,
                };
                self.abort(session, *code, why);
                return self.poll_close(cx, session);
            }
        };
        Poll::Ready(self.end(session, ended))
    }

    /// Ends all streams, and then the connection, with a reason.
    fn abort(&mut self, session: &mut Session, code: Code, why: Ended) {
        session.fail(Failure::Protocol);
        session.goaway(session.last, code);
        self.close(why);
    }

    fn close(&mut self, why: Ended) {
        let until = Instant::now() + LINGER.min(self.limits.answer);
        self.stage = Stage::Closing {
            why,
            shut: false,
            left: LINGER_BYTES,
            until,
        };
    }

    /// Sends what is left, and waits for the client to close.
    fn poll_close(&mut self, cx: &mut Context<'_>, session: &mut Session) -> Poll<Ended> {
        let Stage::Closing {
            why,
            shut,
            left,
            until,
        } = &mut self.stage
        else {
            return Poll::Pending;
        };
        let why = *why;
        if self.timer.poll_at(cx, *until).is_ready() {
            return Poll::Ready(self.end(session, why));
        }
        if !*shut {
            match self.link.poll_write(cx, session) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(self.end(session, why)),
                Poll::Pending => return Poll::Pending,
            }
            match self.link.poll_shutdown(cx) {
                Poll::Ready(Ok(())) => *shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(self.end(session, why)),
                Poll::Pending => return Poll::Pending,
            }
        }
        match self.link.poll_discard(cx, left) {
            Poll::Ready(()) => Poll::Ready(self.end(session, why)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn end(&self, session: &mut Session, ended: Ended) -> Ended {
        session.fail(Failure::Lost);
        ended
    }

    /// Looks at the clock; returns how the connection ends, if it does.
    fn tick(&mut self, session: &mut Session) -> Option<Ended> {
        let now = Instant::now();
        let (limits, clock) = (self.limits, &mut self.clock);
        if !self.link.has_begun() {
            if clock.since + limits.handshake <= now {
                return Some(Ended::Handshake);
            }
            clock.at = clock.since + limits.handshake;
            return None;
        }
        if clock.asked && clock.pinged + limits.answer <= now {
            return Some(Ended::Silent);
        }
        let open = session.serving > 0 || session.streams.used() > 0;
        if std::mem::take(&mut session.touched) || open {
            clock.idle_since = now;
        }
        if let Some(told) = clock.told
            && !open
            && told + limits.answer <= now
        {
            return Some(Self::why(self.stage));
        }
        if open && !session.peer.follows && clock.since + limits.handshake <= now {
            self.abort(session, Code::SETTINGS_TIMEOUT, Ended::Silent);
            return None;
        }
        if !open && clock.idle_since + TRIM <= now {
            session.trim();
        }
        if open && !clock.asked && clock.pinged + limits.keep_alive <= now {
            session.ping(THERE);
            (clock.asked, clock.pinged) = (true, now);
        }
        let is_idle = !open && clock.idle_since + limits.idle <= now;
        if clock.told.is_none() && (is_idle || self.life.is_ending(now)) {
            let why = match is_idle {
                true => Ended::Idle,
                false => Ended::Closed,
            };
            self.leave(session, why);
            return None;
        }
        self.clock.at = self.next_look(now, open).max(now + TICK);
        None
    }

    fn next_look(&self, now: Instant, open: bool) -> Instant {
        let (limits, clock) = (self.limits, &self.clock);
        if clock.asked {
            return clock.pinged + limits.answer;
        }
        if clock.told.is_some() {
            return now + limits.answer;
        }
        // An idle connection is looked at twice in its idle time: a stream that opens meanwhile has its first PING after that.
        let at = match open {
            true => clock.pinged + limits.keep_alive,
            false if now < clock.idle_since + TRIM => clock.idle_since + TRIM,
            false => clock.idle_since + limits.idle,
        };
        at.min(clock.idle_since + limits.idle)
    }
}

impl<S> Drop for Server<'_, S> {
    fn drop(&mut self) {
        let mut session = self.shared.lock();
        // Nobody has waited for its end.
        session.is_cut = session.over.is_none();
        session.fail(Failure::Lost);
    }
}
