//! One request on a connection to an upstream, and its response.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Response as HttpResponse, StatusCode};

use super::body::Body;
use super::client::Ticket;
use super::head;
use super::send::{self, Broken};
use crate::l7::message::{Fields, RequestHead, ResponseHead};
use crate::proxy::exchange::{
    BodyError, BodySize, Incoming, Outgoing, Piece, RequestSink, ResponseSource, UpstreamError,
};

/// A stream to an upstream. Dropped before both halves have ended, it resets the stream (`CANCEL`).
#[derive(Debug)]
pub struct Upstream {
    sending: Option<SendStream<Bytes>>,
    body: Option<Body>,
    common: Mutex<Common>,
    ticket: Ticket,
}

/// What both halves know.
#[derive(Debug, Default)]
struct Common {
    /// The response to come. None before the request is sent, and after it has come.
    response: Option<ResponseFuture>,
    /// It has come, and the half that receives has not seen it.
    answered: Option<HttpResponse<RecvStream>>,
    /// Why there will be none.
    failed: Option<UpstreamError>,
    /// The half that receives, where it waits for the request.
    waker: Option<Waker>,
    /// Whether interim responses have come.
    interim: bool,
    /// Whether the request asks for a tunnel.
    tunnel: bool,
    /// Whether it is `HEAD`.
    to_head: bool,
}

/// The half that sends.
#[derive(Debug)]
pub struct Request<'u> {
    stream: &'u mut Option<SendStream<Bytes>>,
    common: &'u Mutex<Common>,
    ticket: &'u Ticket,
}

/// The half that receives.
#[derive(Debug)]
pub struct Response<'u> {
    body: &'u mut Option<Body>,
    common: &'u Mutex<Common>,
    ticket: &'u Ticket,
}

impl Upstream {
    pub(super) fn new(ticket: Ticket) -> Self {
        Self {
            sending: None,
            body: None,
            common: Mutex::default(),
            ticket,
        }
    }

    /// Returns whether the upstream takes WebSockets (RFC 8441). On a new connection, waits for its settings.
    pub async fn takes_websocket(&self) -> bool {
        self.ticket.connection().takes_connect().await
    }
}

impl Outgoing for Upstream {
    type Request<'u> = Request<'u>;
    type Response<'u> = Response<'u>;

    fn halves(&mut self) -> (Request<'_>, Response<'_>) {
        let request = Request {
            stream: &mut self.sending,
            common: &self.common,
            ticket: &self.ticket,
        };
        let response = Response {
            body: &mut self.body,
            common: &self.common,
            ticket: &self.ticket,
        };
        (request, response)
    }
}

fn lock(common: &Mutex<Common>) -> MutexGuard<'_, Common> {
    common.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Common {
    /// Waits for the final head, once the request is sent.
    fn poll_answer(&mut self, cx: &mut Context<'_>, ticket: &Ticket) -> Poll<()> {
        if self.answered.is_some() || self.failed.is_some() {
            return Poll::Ready(());
        }
        let Some(response) = &mut self.response else {
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let answered = ready!(Pin::new(response).poll(cx));
        self.response = None;
        match answered {
            Ok(answered) => {
                ticket.connection().prove();
                self.answered = Some(answered);
            }
            Err(why) => self.failed = Some(error(&why, ticket, !self.interim)),
        }
        Poll::Ready(())
    }
}

impl Request<'_> {
    fn start(&mut self, head: &RequestHead, body: BodySize) -> Result<(), UpstreamError> {
        let request = head::to_request(head, body).ok_or(UpstreamError::Unsayable)?;
        let opener = self.ticket.connection().opener();
        let mut opener = opener.ok_or(UpstreamError::Unsent)?;
        let tunnel = head.protocol.is_some();
        if tunnel && !opener.is_extended_connect_protocol_enabled() {
            return Err(UpstreamError::NoTunnel);
        }
        let end = body == BodySize::Empty && !tunnel;
        // Nothing has left if this fails.
        let opened = opener.send_request(request, end);
        let (response, stream) = opened.map_err(|_| UpstreamError::Unsent)?;
        *self.stream = Some(stream);
        let mut common = lock(self.common);
        common.response = Some(response);
        common.tunnel = tunnel;
        common.to_head = head.method == Method::HEAD;
        Ok(())
    }

    /// Returns what it means that nothing more can be sent: what the response says, since that knows why. An upstream may have
    /// answered early, and take no more of the request.
    fn failure(&self) -> UpstreamError {
        let mut common = lock(self.common);
        // Whoever waits for it has been woken by what broke the stream.
        let answered = common.poll_answer(&mut Context::from_waker(Waker::noop()), self.ticket);
        let failed = common.failed.filter(|_| answered.is_ready());
        failed.unwrap_or(UpstreamError::Reset)
    }
}

impl RequestSink for Request<'_> {
    async fn head(&mut self, head: &RequestHead, body: BodySize) -> Result<(), UpstreamError> {
        let started = self.start(head, body);
        let mut common = lock(self.common);
        common.failed = started.err();
        if let Some(waker) = common.waker.take() {
            waker.wake();
        }
        started
    }

    async fn data(&mut self, data: Bytes) -> Result<(), UpstreamError> {
        let Some(stream) = self.stream else {
            return Err(UpstreamError::Unsent);
        };
        let sent = send::data(stream, data, false).await;
        sent.map_err(|Broken| self.failure())
    }

    async fn flush(&mut self) -> Result<(), UpstreamError> {
        Ok(())
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), UpstreamError> {
        let Some(stream) = self.stream else {
            return Err(UpstreamError::Unsent);
        };
        let sent = match trailers.filter(|it| !it.is_empty()) {
            Some(trailers) => send::trailers(stream, trailers),
            None => send::data(stream, Bytes::new(), true).await,
        };
        sent.map_err(|Broken| self.failure())
    }
}

impl Response<'_> {
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<(), UpstreamError>> {
        let mut common = lock(self.common);
        if let Some(response) = &mut common.response
            && let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx)
        {
            self.ticket.connection().prove();
            common.interim = true;
            let (parts, ()) = interim.into_parts();
            if parts.status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(UpstreamError::Protocol));
            }
            head::response(&parts, false, head);
            return Poll::Ready(Ok(()));
        }
        ready!(common.poll_answer(cx, self.ticket));
        if let Some(failed) = common.failed {
            return Poll::Ready(Err(failed));
        }
        let Some(answered) = common.answered.take() else {
            return Poll::Ready(Err(UpstreamError::Protocol));
        };
        // Asked for another, there is none.
        common.failed = Some(UpstreamError::Reset);
        let (parts, stream) = answered.into_parts();
        head::response(&parts, common.to_head, head);
        let mut size = head::body_size(&parts.headers, stream.is_end_stream());
        if common.tunnel && parts.status.is_success() {
            head.status = StatusCode::SWITCHING_PROTOCOLS;
            size = BodySize::Unknown;
        }
        *self.body = Some(Body::new(stream, size));
        Poll::Ready(Ok(()))
    }
}

impl ResponseSource for Response<'_> {
    async fn head(&mut self, head: &mut ResponseHead) -> Result<(), UpstreamError> {
        poll_fn(|cx| self.poll_head(cx, head)).await
    }
}

impl Incoming for Response<'_> {
    fn size(&self) -> BodySize {
        let body = self.body.as_ref();
        body.map_or(BodySize::Unknown, Incoming::size)
    }

    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        match self.body {
            Some(body) => body.next().await,
            None => Err(BodyError::Protocol),
        }
    }
}

/// Returns what an error of a stream means; `fresh` if nothing of a response has come.
fn error(why: &h2::Error, ticket: &Ticket, fresh: bool) -> UpstreamError {
    let refused = why.is_reset() && why.reason() == Some(Reason::REFUSED_STREAM);
    // Only streams above the last one of GOAWAY end with it.
    if fresh && why.is_remote() && (refused || why.is_go_away()) {
        return UpstreamError::Unsent;
    }
    if why.is_library() {
        return UpstreamError::Protocol;
    }
    if fresh && why.is_io() && ticket.connection().is_proven() {
        return UpstreamError::Stale;
    }
    UpstreamError::Reset
}
