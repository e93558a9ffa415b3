//! Byte streams to and from peers: plain TCP, or something wrapped around it, such as TLS.
//!
//! Both directions are driven by one task. Reading goes on until a read comes back short, which says that the socket is empty:
//! there is no second call to hear `EAGAIN`.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// What a stream may be wrapped in.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream of bytes in both directions.
#[expect(
    missing_debug_implementations,
    reason = "what is wrapped has none to offer"
)]
pub enum Stream {
    /// A TCP connection as it is.
    Plain(TcpStream),
    /// One with something around it. The lock is never contended, since one task has both halves; it is what makes two of one.
    Wrapped(Box<Mutex<Box<dyn Duplex>>>),
}

impl Stream {
    /// Wraps one that is no plain TCP.
    pub fn wrapped(stream: impl Duplex + 'static) -> Self {
        Self::Wrapped(Box::new(Mutex::new(Box::new(stream))))
    }

    /// Returns both directions.
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        match self {
            Self::Plain(stream) => {
                let (read, write) = stream.split();
                (Reader::Plain(read), Writer::Plain(write))
            }
            Self::Wrapped(stream) => (Reader::Wrapped(stream), Writer::Wrapped(stream)),
        }
    }

    /// Returns the TCP connection if it is a plain one.
    pub fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Wrapped(_) => None,
        }
    }

    /// Returns whether there is something to read, be it only the end: what makes a connection that should be silent useless.
    pub fn is_readable(&self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        match self {
            // The runtime's word alone is not enough: it may be of bytes that have been read since. Where it says no, this is no call.
            Self::Plain(stream) => stream.poll_peek(&mut cx, &mut byte).is_ready(),
            Self::Wrapped(stream) => Pin::new(&mut **lock(stream))
                .poll_read(&mut cx, &mut byte)
                .is_ready(),
        }
    }
}

/// The direction towards us.
#[expect(missing_debug_implementations, reason = "as `Stream`")]
pub enum Reader<'s> {
    /// Of a plain one.
    Plain(ReadHalf<'s>),
    /// Of a wrapped one.
    Wrapped(&'s Mutex<Box<dyn Duplex>>),
}

impl Reader<'_> {
    /// Reads what is there into the spare room of `buffer`, which has some; 0 is the end.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(half) => pin!(half.read_buf(buffer)).poll(cx),
            Self::Wrapped(stream) => pin!(lock(stream).read_buf(buffer)).poll(cx),
        }
    }

    /// Waits until there is something to read, where that can be told without a buffer.
    pub async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// Is ready when there is something to read, where that can be told without a buffer.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(half) => {
                // Unlike `readable`, this has one place for who waits, and no list.
                let stream: &TcpStream = half.as_ref();
                stream.poll_read_ready(cx)
            }
            Self::Wrapped(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads at least a byte into `buffer`, with room for `room` more made before; 0 is the end.
    pub async fn recv(&mut self, buffer: &mut BytesMut, room: usize) -> io::Result<usize> {
        if buffer.capacity() - buffer.len() < room {
            buffer.reserve(room);
        }
        std::future::poll_fn(|cx| self.poll_recv(cx, buffer)).await
    }
}

/// The direction away from us.
#[expect(missing_debug_implementations, reason = "as `Stream`")]
pub enum Writer<'s> {
    /// Of a plain one.
    Plain(WriteHalf<'s>),
    /// Of a wrapped one.
    Wrapped(&'s Mutex<Box<dyn Duplex>>),
}

impl Writer<'_> {
    /// Sends some of `parts`.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        fn send<W: AsyncWrite + Unpin + ?Sized>(
            to: &mut W,
            cx: &mut Context<'_>,
            parts: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            match parts {
                [part] => Pin::new(to).poll_write(cx, part),
                parts => Pin::new(to).poll_write_vectored(cx, parts),
            }
        }
        match self {
            Self::Plain(half) => send(half, cx, parts),
            Self::Wrapped(stream) => {
                let mut stream = lock(stream);
                let sent = ready!(send(&mut **stream, cx, parts));
                Poll::Ready(sent)
            }
        }
    }

    /// Sends all of `parts`. `sent` counts the bytes that the kernel took, also when it fails or is dropped midway.
    pub async fn send(&mut self, mut parts: &mut [IoSlice<'_>], sent: &mut u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let taken = std::future::poll_fn(|cx| self.poll_send(cx, parts)).await?;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            *sent += taken as u64;
            IoSlice::advance_slices(&mut parts, taken);
        }
        if let Self::Wrapped(stream) = self {
            std::future::poll_fn(|cx| Pin::new(&mut **lock(stream)).poll_flush(cx)).await?;
        }
        Ok(())
    }

    /// Makes closing the stream a reset, so that the peer cannot take it for an end.
    pub fn abort(&self) {
        if let Self::Plain(half) = self {
            let stream: &TcpStream = half.as_ref();
            // Where this fails the peer is gone already.
            drop(stream.set_zero_linger());
        }
    }

    /// Sends on what is kept back by what is around a stream.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Wrapped(stream) => Pin::new(&mut **lock(stream)).poll_flush(cx),
        }
    }

    /// Closes this direction.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(half) => Pin::new(half).poll_shutdown(cx),
            Self::Wrapped(stream) => Pin::new(&mut **lock(stream)).poll_shutdown(cx),
        }
    }

    /// Closes this direction.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// Looks for the end of what the peer sends, without taking any of it: true once it is there, false where bytes come first,
    /// which hide it. Never ready on a wrapped stream.
    pub fn poll_peer_gone(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let Self::Plain(half) = self else {
            return Poll::Pending;
        };
        let stream: &TcpStream = half.as_ref();
        let mut byte = [0];
        let peeked = ready!(stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)));
        Poll::Ready(!matches!(peeked, Ok(1..)))
    }
}

fn lock<'l>(stream: &'l Mutex<Box<dyn Duplex>>) -> MutexGuard<'l, Box<dyn Duplex>> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_was_read_to_the_last_byte_is_not_readable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap());
        let mut stream = Stream::Plain(stream.await.unwrap());
        let (mut peer, _) = listener.accept().await.unwrap();
        assert!(!stream.is_readable());
        peer.write_all(b"whole").await.unwrap();
        let (mut reader, _) = stream.split();
        let mut buffer = [0; 5];
        // No more than there is: so nothing tells the runtime that this was all.
        let Reader::Plain(half) = &mut reader else {
            unreachable!("a plain stream")
        };
        half.read_exact(&mut buffer).await.unwrap();
        assert!(!stream.is_readable());
        drop(peer);
        let Stream::Plain(plain) = &stream else {
            unreachable!("a plain stream")
        };
        plain.readable().await.unwrap();
        assert!(stream.is_readable(), "its end is there to be read");
    }
}
