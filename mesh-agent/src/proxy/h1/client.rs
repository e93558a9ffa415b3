//! A connection to an upstream: one request at a time, and its response.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode};

use crate::l7::message::{Fields, RequestHead, ResponseHead};
use crate::proxy::exchange::{
    BodyError, BodySize, Incoming, Outgoing, Piece, RequestSink, ResponseSource, UpstreamError,
};
use crate::proxy::h1::body::{Body, Shared};
use crate::proxy::h1::decode::Decoder;
use crate::proxy::h1::limits::READ_FIRST;
use crate::proxy::h1::response::{self, Delimiter};
use crate::proxy::h1::scan::{Scan, Scanner};
use crate::proxy::h1::sink::Sink;
use crate::proxy::h1::websocket;
use crate::proxy::h1::write::{self, Frame};
use crate::proxy::stream::Stream;

/// Bytes of a response's head.
const HEAD_MOST: usize = 64 * 1024;

/// A connection to an upstream.
#[expect(missing_debug_implementations, reason = "as `Stream`")]
pub struct Connection {
    stream: Stream,
    buffer: BytesMut,
    out: Vec<u8>,
    /// Bytes sent on it, and how many of them before this request.
    sent: u64,
    sent_before: u64,
    /// Whether it has served a request before this one.
    is_reused: bool,
    sending: Sending,
    decoder: Decoder,
    size: BodySize,
    /// Whether the final head came, and allows another request.
    answered: bool,
    keep_alive: bool,
    between: Between,
}

/// What the half that sends tells the one that reads.
#[derive(Debug, Default)]
struct Between {
    body: Shared,
    /// The request is `HEAD`.
    is_head: AtomicBool,
    /// The request asks for a tunnel.
    upgrades: AtomicBool,
    /// The answer to a key of ours.
    accept: OnceLock<String>,
}

/// How far the request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sending {
    Nothing,
    Body(Frame),
    All,
    /// A write failed, or was dropped midway.
    Broken,
}

impl Connection {
    /// Begins with a connected stream.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            out: Vec::new(),
            sent: 0,
            sent_before: 0,
            is_reused: false,
            sending: Sending::Nothing,
            decoder: Decoder::Done,
            size: BodySize::Empty,
            answered: false,
            keep_alive: false,
            between: Between::default(),
        }
    }

    /// Returns whether request and response came to a clean end, after which another request may follow.
    pub fn is_reusable(&self) -> bool {
        self.sending == Sending::All
            && self.answered
            && self.keep_alive
            && self.between.body.is_read()
            && !self.between.body.is_tunnel()
            && self.buffer.is_empty()
    }

    /// Prepares a connection that was reusable for the next request; false if the upstream has closed it meanwhile, or said
    /// something that nobody asked for.
    pub fn renew(&mut self) -> bool {
        self.sent_before = self.sent;
        self.is_reused = true;
        self.sending = Sending::Nothing;
        self.answered = false;
        self.between.upgrades.store(false, Ordering::Relaxed);
        !self.stream.is_readable()
    }

    /// Returns whether it is of no more use although nobody uses it.
    pub fn is_stale(&self) -> bool {
        self.stream.is_readable()
    }

    /// Gives back the memory that an idle connection needs not.
    pub fn trim(&mut self) {
        self.buffer = BytesMut::new();
        self.out = Vec::new();
    }
}

impl Outgoing for Connection {
    type Request<'u> = Request<'u>;
    type Response<'u> = Response<'u>;

    fn halves(&mut self) -> (Request<'_>, Response<'_>) {
        let (reader, writer) = self.stream.split();
        let request = Request {
            sink: Sink {
                writer,
                out: &mut self.out,
                sent: &mut self.sent,
            },
            before: self.sent_before,
            is_reused: self.is_reused,
            sending: &mut self.sending,
            between: &self.between,
        };
        let response = Response {
            body: Body {
                reader,
                buffer: &mut self.buffer,
                decoder: &mut self.decoder,
                size: self.size,
                shared: &self.between.body,
            },
            size: &mut self.size,
            answered: &mut self.answered,
            keep_alive: &mut self.keep_alive,
            is_reused: self.is_reused,
            between: &self.between,
        };
        (request, response)
    }
}

/// Takes a request.
#[expect(missing_debug_implementations, reason = "as `Stream`")]
pub struct Request<'u> {
    sink: Sink<'u>,
    before: u64,
    is_reused: bool,
    sending: &'u mut Sending,
    between: &'u Between,
}

impl Request<'_> {
    fn failed(&self, _: io::Error) -> UpstreamError {
        match *self.sink.sent == self.before {
            true => UpstreamError::Unsent,
            false if self.is_reused => UpstreamError::Stale,
            false => UpstreamError::Reset,
        }
    }

    async fn flushed(&mut self, then: Sending) -> Result<(), UpstreamError> {
        *self.sending = Sending::Broken;
        let sent = self.sink.flush().await;
        sent.map_err(|error| self.failed(error))?;
        *self.sending = then;
        Ok(())
    }
}

impl RequestSink for Request<'_> {
    async fn head(&mut self, head: &RequestHead, body: BodySize) -> Result<(), UpstreamError> {
        let between = self.between;
        between.body.begin(false);
        let upgrades = head.protocol.is_some();
        between
            .is_head
            .store(head.method == Method::HEAD, Ordering::Relaxed);
        between.upgrades.store(upgrades, Ordering::Relaxed);
        let own_key = upgrades && !head.fields.contains("sec-websocket-key");
        let key = own_key.then(websocket::key);
        if let Some(key) = &key {
            // A connection asks for one tunnel at most, after which it is no HTTP any more or was refused and not asked again.
            drop(between.accept.set(websocket::accept(key.as_bytes())));
        }
        write::request(self.sink.out, head, body, key.as_deref());
        if body == BodySize::Empty {
            return self.flushed(Sending::All).await;
        }
        *self.sending = Sending::Body(match body {
            BodySize::Empty => Frame::None,
            BodySize::Exact(length) => Frame::Length(length),
            BodySize::Unknown if upgrades => Frame::Tunnel,
            BodySize::Unknown => Frame::Chunked,
        });
        Ok(())
    }

    async fn data(&mut self, data: Bytes) -> Result<(), UpstreamError> {
        let Sending::Body(frame) = *self.sending else {
            return Err(UpstreamError::Reset);
        };
        *self.sending = Sending::Broken;
        let left = match frame {
            Frame::Length(left) => {
                // More than was announced would be the next request.
                let left = left.checked_sub(data.len() as u64);
                Frame::Length(left.ok_or(UpstreamError::Protocol)?)
            }
            Frame::None | Frame::Chunked | Frame::Close | Frame::Tunnel => frame,
        };
        let sent = self.sink.data(frame, &data).await;
        sent.map_err(|error| self.failed(error))?;
        *self.sending = Sending::Body(left);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), UpstreamError> {
        let sending = *self.sending;
        self.flushed(sending).await
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), UpstreamError> {
        let Sending::Body(frame) = *self.sending else {
            return Err(UpstreamError::Reset);
        };
        match frame {
            Frame::Chunked => write::last_chunk(self.sink.out, trailers),
            Frame::Length(1..) => {
                *self.sending = Sending::Broken;
                return Err(UpstreamError::Protocol);
            }
            Frame::None | Frame::Length(0) | Frame::Close => {}
            Frame::Tunnel => {
                self.flushed(Sending::Broken).await?;
                let closed = self.sink.writer.shutdown().await;
                closed.map_err(|error| self.failed(error))?;
            }
        }
        self.flushed(Sending::All).await
    }
}

/// Gives a response.
#[expect(missing_debug_implementations, reason = "as `Stream`")]
pub struct Response<'u> {
    body: Body<'u>,
    size: &'u mut BodySize,
    answered: &'u mut bool,
    keep_alive: &'u mut bool,
    is_reused: bool,
    between: &'u Between,
}

impl Incoming for Response<'_> {
    fn size(&self) -> BodySize {
        *self.size
    }

    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        self.body.piece().await
    }
}

impl ResponseSource for Response<'_> {
    async fn head(&mut self, head: &mut ResponseHead) -> Result<(), UpstreamError> {
        let mut scanner = Scanner::default();
        loop {
            match scanner.look(self.body.buffer) {
                Scan::Whole(end) if end <= HEAD_MOST => {
                    let to_head = self.between.is_head.load(Ordering::Relaxed);
                    let framing = response::parse(&self.body.buffer[..end], head, to_head);
                    self.body.buffer.advance(end);
                    let framing = framing.map_err(|_| UpstreamError::Protocol)?;
                    return self.begin(head, framing, to_head);
                }
                Scan::More if self.body.buffer.len() <= HEAD_MOST => {}
                Scan::Whole(_) | Scan::More | Scan::BareLf => return Err(UpstreamError::Protocol),
            }
            let is_first = self.body.buffer.is_empty();
            match self.body.reader.recv(self.body.buffer, READ_FIRST).await {
                Ok(1..) => {}
                Ok(0) | Err(_) if is_first && self.is_reused => return Err(UpstreamError::Stale),
                Ok(0) | Err(_) => return Err(UpstreamError::Reset),
            }
        }
    }
}

impl Response<'_> {
    /// Takes what the head says about what follows it.
    fn begin(
        &mut self,
        head: &ResponseHead,
        framing: response::Framing,
        to_head: bool,
    ) -> Result<(), UpstreamError> {
        let status = head.status;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(head, framing);
        }
        if status.is_informational() {
            // From here on the upstream has begun to answer.
            self.is_reused = false;
            return Ok(());
        }
        *self.answered = true;
        *self.keep_alive = framing.keep_alive;
        let never = to_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        // A body that may not be there and is announced may come yet: it would be the next response.
        *self.keep_alive &= status != StatusCode::NO_CONTENT
            || matches!(framing.delimiter, Delimiter::Length(0) | Delimiter::Close);
        *self.size = match framing.delimiter {
            _ if never => BodySize::Empty,
            Delimiter::Length(length) => BodySize::Exact(length),
            Delimiter::Chunked | Delimiter::Close => BodySize::Unknown,
        };
        *self.body.decoder = match framing.delimiter {
            Delimiter::Close if !never => Decoder::Rest,
            Delimiter::Close | Delimiter::Chunked | Delimiter::Length(_) => {
                Decoder::new(*self.size)
            }
        };
        *self.keep_alive &= !matches!(self.body.decoder, Decoder::Rest);
        self.between.body.begin(self.body.decoder.is_done());
        Ok(())
    }

    fn switch(
        &mut self,
        head: &ResponseHead,
        framing: response::Framing,
    ) -> Result<(), UpstreamError> {
        let asked = self.between.upgrades.load(Ordering::Relaxed);
        let expected = self.between.accept.get().map(String::as_bytes);
        let accepted = head.fields.get("sec-websocket-accept");
        if !asked || !framing.websocket || expected.is_some_and(|it| accepted != Some(it)) {
            return Err(UpstreamError::Protocol);
        }
        *self.answered = true;
        *self.keep_alive = false;
        *self.size = BodySize::Unknown;
        *self.body.decoder = Decoder::Rest;
        self.between.body.tunnel.store(true, Ordering::Relaxed);
        Ok(())
    }
}
