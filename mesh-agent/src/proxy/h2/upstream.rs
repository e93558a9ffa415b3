//! One request on a connection to an upstream, and its response.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::Method;

use super::body::poll_piece;
use super::client::Ticket;
use super::frame::Code;
use super::session::{Failure, Session};
use crate::l7::message::{Fields, RequestHead, ResponseHead};
use crate::proxy::exchange::{
    BodyError, BodySize, Incoming, Outgoing, Piece, RequestSink, ResponseSource, UpstreamError,
};

/// A stream to an upstream. Dropped before both halves have ended, it resets the stream (`CANCEL`).
#[derive(Debug)]
pub struct Upstream {
    /// The last piece of the request, kept back so that the end of the stream can go with it.
    held: Bytes,
    size: BodySize,
    common: Common,
}

/// What both halves know.
#[derive(Debug)]
struct Common {
    ticket: Ticket,
    /// The stream, once the request is sent.
    slot: AtomicUsize,
    /// Why it was not.
    failed: OnceLock<UpstreamError>,
    /// The half that receives, where it waits for the request.
    waker: Mutex<Option<Waker>>,
}

/// Bytes that are kept back so that the end can go with them: behind more, a frame of its own is nothing.
const HOLD_MOST: usize = 4 * 1024;

/// What stands for no stream.
const NONE: usize = usize::MAX;

/// The half that sends.
#[derive(Debug)]
pub struct Request<'u> {
    held: &'u mut Bytes,
    common: &'u Common,
}

/// The half that receives.
#[derive(Debug)]
pub struct Response<'u> {
    size: &'u mut BodySize,
    common: &'u Common,
}

impl Upstream {
    pub(super) fn new(ticket: Ticket) -> Self {
        Self {
            held: Bytes::new(),
            size: BodySize::Unknown,
            common: Common {
                ticket,
                slot: AtomicUsize::new(NONE),
                failed: OnceLock::new(),
                waker: Mutex::new(None),
            },
        }
    }

    /// Returns whether the upstream takes WebSockets (RFC 8441). On a new connection, waits for its settings.
    pub async fn takes_websocket(&self) -> bool {
        self.common.ticket.wire().takes_connect().await
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(slot) = self.common.slot() {
            self.common.session().asked(slot);
        }
    }
}

impl Outgoing for Upstream {
    type Request<'u> = Request<'u>;
    type Response<'u> = Response<'u>;

    fn halves(&mut self) -> (Request<'_>, Response<'_>) {
        let request = Request {
            held: &mut self.held,
            common: &self.common,
        };
        let response = Response {
            size: &mut self.size,
            common: &self.common,
        };
        (request, response)
    }
}

impl Common {
    fn slot(&self) -> Option<usize> {
        Some(self.slot.load(Relaxed)).filter(|slot| *slot != NONE)
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.ticket.wire().shared().lock()
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the stream.
    fn start(&self, head: &RequestHead, body: BodySize) -> Result<(), UpstreamError> {
        // Never in a target (RFC 3986, section 3.3), and what implementations of HTTP/2 take for a broken one.
        let never = |byte: u8| matches!(byte, b'<' | b'>' | b'`');
        if head.target.as_str().bytes().any(never) {
            return Err(UpstreamError::Unsayable);
        }
        let mut session = self.session();
        if head.method == Method::CONNECT {
            return Err(UpstreamError::Protocol);
        }
        if head.protocol.is_some() && !session.peer.connect {
            return Err(UpstreamError::NoTunnel);
        }
        let to_head = head.method == Method::HEAD;
        // Nothing has left if this fails.
        let slot = session.ask(head, body, to_head);
        let failed = match session.is_left {
            true => UpstreamError::Left,
            false => UpstreamError::Unsent,
        };
        self.slot.store(slot.ok_or(failed)?, Relaxed);
        Ok(())
    }

    /// Returns what it means that a stream came to no end.
    fn error(session: &Session, slot: usize, why: Failure) -> UpstreamError {
        let is_fresh = !session.streams[slot].is_answered;
        match why {
            Failure::Reset(Code::REFUSED_STREAM) if is_fresh => UpstreamError::Unsent,
            Failure::Unseen if is_fresh => UpstreamError::Left,
            Failure::Protocol => UpstreamError::Protocol,
            Failure::Lost if is_fresh && session.proven => UpstreamError::Stale,
            Failure::Reset(_) | Failure::Unseen | Failure::Lost | Failure::Ours => {
                UpstreamError::Reset
            }
        }
    }

    fn poll_head(
        &self,
        cx: &Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<BodySize, UpstreamError>> {
        let Some(slot) = self.slot() else {
            if let Some(failed) = self.failed.get() {
                return Poll::Ready(Err(*failed));
            }
            *self.waker() = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let mut session = self.session();
        let polled = session.poll_head(slot, cx, head);
        polled.map_err(|why| Self::error(&session, slot, why))
    }
}

impl Request<'_> {
    /// Sends what is held, and with `end` all that there is; waits until what is on its way is not too much.
    async fn push(&mut self, end: Option<Option<&Fields>>) -> Result<(), UpstreamError> {
        let Some(slot) = self.common.slot() else {
            return Err(UpstreamError::Unsent);
        };
        let mut held = Some(std::mem::take(self.held));
        poll_fn(|cx| {
            let mut session = self.common.session();
            match (held.take(), end) {
                (Some(held), None) => session.data(slot, held),
                (Some(held), Some(trailers)) => session.end(slot, held, trailers),
                (None, _) => {}
            }
            let polled = session.poll_room(slot, cx);
            polled.map_err(|why| Common::error(&session, slot, why))
        })
        .await
    }
}

impl RequestSink for Request<'_> {
    async fn head(&mut self, head: &RequestHead, body: BodySize) -> Result<(), UpstreamError> {
        let started = self.common.start(head, body);
        if let Err(failed) = started {
            self.common.failed.get_or_init(|| failed);
        }
        if let Some(waker) = self.common.waker().take() {
            waker.wake();
        }
        started
    }

    async fn data(&mut self, data: Bytes) -> Result<(), UpstreamError> {
        if !self.held.is_empty() {
            self.push(None).await?;
        }
        *self.held = data;
        match self.held.len() > HOLD_MOST {
            true => self.push(None).await,
            false => Ok(()),
        }
    }

    async fn flush(&mut self) -> Result<(), UpstreamError> {
        match self.held.is_empty() {
            true => Ok(()),
            false => self.push(None).await,
        }
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), UpstreamError> {
        self.push(Some(trailers.filter(|it| !it.is_empty()))).await
    }
}

impl ResponseSource for Response<'_> {
    async fn head(&mut self, head: &mut ResponseHead) -> Result<(), UpstreamError> {
        *self.size = poll_fn(|cx| self.common.poll_head(cx, head)).await?;
        Ok(())
    }
}

impl Incoming for Response<'_> {
    fn size(&self) -> BodySize {
        *self.size
    }

    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        let Some(slot) = self.common.slot() else {
            return Err(BodyError::Protocol);
        };
        poll_fn(|cx| poll_piece(self.common.ticket.wire().shared(), slot, cx)).await
    }
}
