//! What a version of HTTP has to offer, at the client's end and at the upstream's, for requests to go through the agent.
//!
//! Bodies are pulled piece by piece, and each is sent before the next is asked for: so a slow reader holds back the sender, and
//! a body of any size takes the memory of a piece. All futures are safe to drop at any await; a dropped end resets its stream or
//! closes its connection unless it was finished.
//!
//! An upgrade (`RequestHead::protocol`) that was accepted is a head of status 101 here whatever the versions: HTTP/2 ends turn 2xx
//! into it and back. From then on both bodies are the bytes of the tunnel, and the end of one closes that direction only.

use std::future::Future;

use bytes::Bytes;
use http::StatusCode;

use crate::l7::message::{Fields, RequestHead, ResponseHead};

/// A piece of a body.
#[derive(Clone, PartialEq, Debug)]
pub enum Piece {
    /// Some of its bytes; never none.
    Data(Bytes),
    /// Trailer fields; the last piece.
    Trailers(Fields),
}

/// How much body follows a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodySize {
    /// None, and nothing but the head says so.
    Empty,
    /// This many bytes, as `Content-Length` says.
    Exact(u64),
    /// Until it ends: chunks, or frames; with HTTP/1.0, the end of the connection.
    Unknown,
}

/// Why a body breaks off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BodyError {
    /// The sender closed or reset it before its end.
    #[error("the sender broke off")]
    Reset,
    /// It does not keep to the protocol.
    #[error("the framing of the body is wrong")]
    Protocol,
    /// Nothing came for too long.
    #[error("the sender was silent for too long")]
    Timeout,
}

/// The client is gone, or resets the stream: nothing that is sent will arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the client is gone")]
pub struct Gone;

/// Why an upstream gives no response, or no request can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Nothing of the request was handled for sure: not written, or refused before it was (`REFUSED_STREAM`). May be sent again
    /// whatever its method.
    #[error("the upstream refused it unseen")]
    Unsent,
    /// The same, for no other reason than that the connection has served its time (above the last stream of `GOAWAY`). Another one
    /// to the same endpoint is as good as this one was.
    #[error("the upstream takes no more requests on the connection")]
    Left,
    /// A kept connection was closed before a byte of the response came: what idempotent requests may be sent again for.
    #[error("the kept connection was closed meanwhile")]
    Stale,
    /// It reset the stream or closed the connection.
    #[error("the upstream reset it")]
    Reset,
    /// It does not keep to the protocol.
    #[error("the upstream does not keep to the protocol")]
    Protocol,
    /// Nothing came for too long.
    #[error("the upstream was silent for too long")]
    Timeout,
    /// No request of the upstream's version of HTTP says what the client's does, such as a target with characters that none has.
    #[error("the request cannot be said in the upstream's version of HTTP")]
    Unsayable,
    /// It is asked for a tunnel, and does not offer any (RFC 8441).
    #[error("the upstream takes no tunnel")]
    NoTunnel,
}

/// The body of a request that comes from a client, or of a response that comes from an upstream.
pub trait Incoming: Send {
    /// Returns how much there is.
    fn size(&self) -> BodySize;

    /// Returns the next piece, or `None` at a clean end; after trailers, an error or the end it is not called again.
    fn next(&mut self) -> impl Future<Output = Result<Option<Piece>, BodyError>> + Send;
}

/// The client's end: takes one response.
pub trait Responder: Send {
    /// Sends an interim response (1xx but 101). May do nothing where the client cannot take it (HTTP/1.0).
    fn informational(
        &mut self,
        head: &ResponseHead,
    ) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Sends the head; with [`BodySize::Empty`] that is all. May keep it back until the first piece or
    /// [`flush`](Self::flush), so that both leave by one call.
    fn head(
        &mut self,
        head: &ResponseHead,
        body: BodySize,
    ) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Sends bytes of the body; waits while the client does not take any.
    fn data(&mut self, data: Bytes) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Sends what was kept back; called when no next piece is there yet.
    fn flush(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Ends the body, with trailers where the client can take them.
    fn finish(
        &mut self,
        trailers: Option<&Fields>,
    ) -> impl Future<Output = Result<(), Gone>> + Send;

    /// Breaks off so that the client cannot take it for an end: `RST_STREAM`, or the connection closes.
    fn reset(&mut self);

    /// Returns once the client is gone. Pending for ever where that cannot be told yet.
    fn gone(&mut self) -> impl Future<Output = ()> + Send;

    /// Returns whether a client that is gone is so because the agent ended its connection. Where that ends the request, too, nobody
    /// asks.
    fn is_cut(&self) -> bool {
        false
    }
}

/// The upstream's end: one request on a connection of the pool, and its response. Both go on at the same time.
pub trait Outgoing: Send {
    /// Takes the request.
    type Request<'u>: RequestSink
    where
        Self: 'u;
    /// Gives the response.
    type Response<'u>: ResponseSource
    where
        Self: 'u;

    /// Returns both halves.
    fn halves(&mut self) -> (Self::Request<'_>, Self::Response<'_>);
}

/// Takes one request.
pub trait RequestSink: Send {
    /// Sends the head; with [`BodySize::Empty`] that is the whole request. Otherwise it may be kept back until the first piece or
    /// [`flush`](Self::flush), so that both leave by one call.
    fn head(
        &mut self,
        head: &RequestHead,
        body: BodySize,
    ) -> impl Future<Output = Result<(), UpstreamError>> + Send;

    /// Sends bytes of the body; waits while the upstream does not take any.
    fn data(&mut self, data: Bytes) -> impl Future<Output = Result<(), UpstreamError>> + Send;

    /// Sends what was kept back; called when no next piece is there yet.
    fn flush(&mut self) -> impl Future<Output = Result<(), UpstreamError>> + Send;

    /// Ends the body, with trailers where the upstream can take them.
    fn finish(
        &mut self,
        trailers: Option<&Fields>,
    ) -> impl Future<Output = Result<(), UpstreamError>> + Send;
}

/// Gives one response: heads first, then, as [`Incoming`], the body that follows the final one.
pub trait ResponseSource: Incoming {
    /// Reads the next head into `head`: any number of interim ones (1xx but 101), then the final one.
    fn head(
        &mut self,
        head: &mut ResponseHead,
    ) -> impl Future<Output = Result<(), UpstreamError>> + Send;
}

/// What a version hands its requests to: one for each connection of a client.
pub trait Service: Send + Sync {
    /// What a request needs of buffers and timers, kept from one request to the next: on the same thread (HTTP/1), or in the same task of a
    /// connection (HTTP/2).
    type Scratch: Send;

    /// Returns one.
    fn scratch(&self) -> Self::Scratch;

    /// Takes back one that has no request, for others.
    fn take_back(&self, _: Self::Scratch) {}

    /// Answers one request. Returns once the response is finished or reset; `body` may be left unread.
    fn call<I: Incoming, R: Responder>(
        &self,
        scratch: &mut Self::Scratch,
        request: &mut RequestHead,
        body: &mut I,
        to: &mut R,
    ) -> impl Future<Output = ()> + Send;

    /// Hears of a request that was refused before it could be called a request, with this status.
    fn refused(&self, status: StatusCode, why: &'static str);
}
