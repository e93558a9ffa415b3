//! A stream of bytes as the `h2` crate takes it: with what was read of it before in front.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::stream::{Duplex, Stream};

/// Both directions of a connection.
pub(super) struct Io {
    start: BytesMut,
    stream: Stream,
}

impl Io {
    pub(super) fn new(start: BytesMut, stream: Stream) -> Self {
        Self { start, stream }
    }

    fn stream(&mut self) -> Pin<&mut dyn Duplex> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream),
            Stream::Wrapped(stream) => {
                let stream = stream.get_mut().unwrap_or_else(PoisonError::into_inner);
                Pin::new(&mut **stream)
            }
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.start.is_empty() {
            return self.stream().poll_read(cx, buffer);
        }
        let length = self.start.len().min(buffer.remaining());
        buffer.put_slice(&self.start[..length]);
        self.start.advance(length);
        if self.start.is_empty() {
            // Its memory is needed no more.
            self.start = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            // What encrypts copies anyway.
            Stream::Wrapped(_) => false,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
