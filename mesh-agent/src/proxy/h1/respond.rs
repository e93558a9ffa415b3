//! The response on a client's connection.

use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::time::Instant;

use crate::l7::message::{Fields, ResponseHead};
use crate::proxy::exchange::{BodySize, Gone, Responder};
use crate::proxy::h1::body::Shared;
use crate::proxy::h1::sink::Sink;
use crate::proxy::h1::websocket;
use crate::proxy::h1::write::{self, Closing, Date, Frame};
use crate::proxy::life::Life;
use crate::proxy::timer::Timer;

/// How long nobody looks whether the client of a new connection has gone: most have their response by then.
const UNWATCHED: Duration = Duration::from_millis(20);

/// What the request says about its response.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) is_head: bool,
    pub(super) is_10: bool,
    /// Whether client and agent want another request on the connection.
    pub(super) keep_alive: bool,
    /// Whether the client may hold back its body.
    pub(super) expects: bool,
    /// Whether the client takes trailers.
    pub(super) trailers: bool,
    /// `Sec-WebSocket-Key`.
    pub(super) key: Option<Vec<u8>>,
}

/// How far the response is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// There is no head yet.
    Nothing,
    /// The head was given, and this body follows.
    Body(Frame),
    /// All of it was sent.
    All,
    /// It broke off, or a write did not end.
    Broken,
}

/// The client's end of HTTP/1.
#[expect(missing_debug_implementations, reason = "as `Stream`")]
pub struct Respond<'c> {
    pub(super) sink: Sink<'c>,
    pub(super) date: &'c mut Date,
    pub(super) shared: &'c Shared,
    pub(super) life: &'c Life,
    pub(super) timer: &'c mut Timer,
    pub(super) asked: Asked,
    pub(super) state: Sent,
    /// Whether the head declares trailers.
    pub(super) declared: bool,
    /// Bytes behind this request hide the end of the connection.
    pub(super) hidden: bool,
}

impl Respond<'_> {
    /// Returns whether the response did not come to its end, and makes sure that the client sees that.
    pub(super) fn is_unfinished(&mut self) -> bool {
        if self.state != Sent::All {
            self.reset();
        }
        self.state != Sent::All
    }

    fn frame(&self, head: &ResponseHead, body: BodySize) -> Frame {
        let never = matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
        match body {
            _ if head.status == StatusCode::SWITCHING_PROTOCOLS => Frame::Tunnel,
            BodySize::Exact(length) if self.asked.is_head => Frame::Length(length),
            _ if self.asked.is_head || never => Frame::None,
            BodySize::Empty => Frame::Length(0),
            BodySize::Exact(length) => Frame::Length(length),
            BodySize::Unknown if self.asked.is_10 => Frame::Close,
            BodySize::Unknown => Frame::Chunked,
        }
    }

    /// Runs `write` such that it is broken if that fails or is dropped midway.
    async fn flushed(&mut self, then: Sent) -> Result<(), Gone> {
        self.state = Sent::Broken;
        let sent = match then {
            Sent::All if !self.asked.keep_alive => self.sink.flush_last().await,
            Sent::Nothing | Sent::Body(_) | Sent::All | Sent::Broken => self.sink.flush().await,
        };
        sent.map_err(|_| Gone)?;
        self.state = then;
        Ok(())
    }
}

impl Responder for Respond<'_> {
    async fn informational(&mut self, head: &ResponseHead) -> Result<(), Gone> {
        if self.asked.is_10 || self.state != Sent::Nothing {
            return Ok(());
        }
        self.asked.expects &= head.status != StatusCode::CONTINUE;
        write::informational(self.sink.out, head);
        self.flushed(Sent::Nothing).await
    }

    async fn head(&mut self, head: &ResponseHead, body: BodySize) -> Result<(), Gone> {
        let frame = self.frame(head, body);
        // A client that was never told to go on may send its body or not: what comes next would be anybody's guess.
        self.asked.keep_alive &= !self.asked.expects || self.shared.is_read();
        self.asked.keep_alive &= !matches!(frame, Frame::Close | Frame::Tunnel);
        self.asked.keep_alive &= !self.life.is_draining();
        let closing = Closing {
            frame,
            is_10: self.asked.is_10,
            keep_alive: self.asked.keep_alive,
        };
        if frame == Frame::Tunnel {
            self.shared.tunnel.store(true, Ordering::Relaxed);
            self.shared.read.store(false, Ordering::Relaxed);
            let accept = self.asked.key.as_deref().map(websocket::accept);
            write::switching(self.sink.out, head, accept.as_deref(), self.date);
        } else {
            write::response(self.sink.out, head, closing, self.date);
        }
        self.declared = frame == Frame::Chunked && head.fields.contains("trailer");
        if body == BodySize::Empty && frame != Frame::Tunnel {
            return self.flushed(Sent::All).await;
        }
        let is_silent = self.asked.is_head && frame != Frame::Tunnel;
        self.state = Sent::Body(if is_silent { Frame::None } else { frame });
        Ok(())
    }

    async fn data(&mut self, data: Bytes) -> Result<(), Gone> {
        let Sent::Body(frame) = self.state else {
            return Err(Gone);
        };
        self.state = Sent::Broken;
        let left = match frame {
            Frame::None => {
                self.state = Sent::Body(frame);
                return Ok(());
            }
            Frame::Length(left) => match left.checked_sub(data.len() as u64) {
                Some(left) => Frame::Length(left),
                // More than was announced would be taken for the next response.
                None => {
                    self.sink.writer.abort();
                    return Err(Gone);
                }
            },
            Frame::Chunked | Frame::Close | Frame::Tunnel => frame,
        };
        self.sink.data(frame, &data).await.map_err(|_| Gone)?;
        self.state = Sent::Body(left);
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        let state = self.state;
        self.flushed(state).await
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), Gone> {
        let Sent::Body(frame) = self.state else {
            return Err(Gone);
        };
        match frame {
            Frame::Chunked => {
                let welcome = self.asked.trailers && self.declared;
                write::last_chunk(self.sink.out, trailers.filter(|_| welcome));
            }
            Frame::Length(1..) => {
                self.reset();
                return Err(Gone);
            }
            Frame::None | Frame::Length(0) | Frame::Close => {}
            Frame::Tunnel => {
                self.flushed(Sent::Broken).await?;
                self.sink.writer.shutdown().await.map_err(|_| Gone)?;
            }
        }
        self.flushed(Sent::All).await
    }

    fn reset(&mut self) {
        // Only here could the end of the connection pass for the body's.
        if matches!(self.state, Sent::Body(Frame::Close | Frame::Tunnel)) {
            self.sink.writer.abort();
        }
        self.sink.out.clear();
        self.state = Sent::Broken;
    }

    async fn gone(&mut self) {
        if self.sink.writer.is_new() {
            self.timer.until(Instant::now() + UNWATCHED).await;
        }
        std::future::poll_fn(|cx| {
            // In a tunnel the end of what the client sends is nothing but that.
            if self.hidden || !self.shared.is_read() || self.shared.is_tunnel() {
                return Poll::Pending;
            }
            match self.sink.writer.poll_peer_gone(cx) {
                Poll::Ready(false) => {
                    self.hidden = true;
                    Poll::Pending
                }
                Poll::Ready(true) => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
    }
}
