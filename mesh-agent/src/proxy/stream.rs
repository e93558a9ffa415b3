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

use crate::proxy::arrival::Arrival;

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
    /// One that was accepted, as long as the runtime does not know of it. The lock is as in `Wrapped`.
    New(Mutex<Arrival>),
    /// One with something around it. The lock is never contended, since one task has both halves; it is what makes two of one.
    Wrapped(Box<Mutex<Box<dyn Duplex>>>),
}

impl Stream {
    /// Wraps one that is no plain TCP.
    pub fn wrapped(stream: impl Duplex + 'static) -> Self {
        Self::Wrapped(Box::new(Mutex::new(Box::new(stream))))
    }

    /// Returns one that was accepted.
    pub fn accepted(arrival: Arrival) -> Self {
        match arrival {
            Arrival::Known(stream) => Self::Plain(stream),
            Arrival::New(_) | Arrival::Lost => Self::New(Mutex::new(arrival)),
        }
    }

    /// Returns both directions.
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        if let Self::New(arrival) = self {
            let arrival = arrival.get_mut().unwrap_or_else(PoisonError::into_inner);
            if !arrival.is_new() {
                *self = Self::accepted(std::mem::replace(arrival, Arrival::Lost));
            }
        }
        match self {
            Self::Plain(stream) => {
                let (read, write) = stream.split();
                (Reader::Plain(read), Writer::Plain(write))
            }
            Self::New(arrival) => (Reader::New(arrival), Writer::New(arrival)),
            Self::Wrapped(stream) => (Reader::Wrapped(stream), Writer::Wrapped(stream)),
        }
    }

    /// Returns whether it was accepted, and the runtime does not know of it.
    pub fn is_new(&self) -> bool {
        matches!(self, Self::New(arrival) if lock(arrival).is_new())
    }

    /// Returns whether there is something to read, be it only the end: what makes a connection that should be silent useless.
    pub fn is_readable(&self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        match self {
            // The runtime's word alone is not enough: it may be of bytes that have been read since. Where it says no, this is no call.
            Self::Plain(stream) => stream.poll_peek(&mut cx, &mut byte).is_ready(),
            Self::New(arrival) => match &mut *lock(arrival) {
                Arrival::New(stream) => Arrival::peeked(stream),
                Arrival::Known(stream) => stream.poll_peek(&mut cx, &mut byte).is_ready(),
                Arrival::Lost => true,
            },
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
    /// Of one that was accepted.
    New(&'s Mutex<Arrival>),
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
            // What was there has been read: now it is waited for.
            Self::New(arrival) => pin!(lock(arrival).known()?.read_buf(buffer)).poll(cx),
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
            Self::New(arrival) => lock(arrival).known()?.poll_read_ready(cx),
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
    /// Of one that was accepted.
    New(&'s Mutex<Arrival>),
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
            Self::New(arrival) => lock(arrival).poll_send(cx, parts, false),
            Self::Wrapped(stream) => {
                let mut stream = lock(stream);
                let sent = ready!(send(&mut **stream, cx, parts));
                Poll::Ready(sent)
            }
        }
    }

    /// Sends all of `parts`. `sent` counts the bytes that the kernel took, also when it fails or is dropped midway.
    pub async fn send(&mut self, parts: &mut [IoSlice<'_>], sent: &mut u64) -> io::Result<()> {
        self.send_all(parts, sent, false).await
    }

    /// As [`send`](Self::send), of what the connection is about to end with: where it can, it goes in one segment with that end.
    pub async fn send_last(&mut self, parts: &mut [IoSlice<'_>], sent: &mut u64) -> io::Result<()> {
        self.send_all(parts, sent, true).await
    }

    async fn send_all(
        &mut self,
        mut parts: &mut [IoSlice<'_>],
        sent: &mut u64,
        is_last: bool,
    ) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let taken = std::future::poll_fn(|cx| match self {
                Self::New(arrival) => lock(arrival).poll_send(cx, parts, is_last),
                Self::Plain(_) | Self::Wrapped(_) => self.poll_send(cx, parts),
            });
            let taken = taken.await?;
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
        match self {
            Self::Plain(half) => {
                let stream: &TcpStream = half.as_ref();
                // Where this fails the peer is gone already.
                drop(stream.set_zero_linger());
            }
            Self::New(arrival) => lock(arrival).abort(),
            Self::Wrapped(_) => {}
        }
    }

    /// Sends on what is kept back by what is around a stream.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) | Self::New(_) => Poll::Ready(Ok(())),
            Self::Wrapped(stream) => Pin::new(&mut **lock(stream)).poll_flush(cx),
        }
    }

    /// Closes this direction.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(half) => Pin::new(half).poll_shutdown(cx),
            Self::New(arrival) => lock(arrival).poll_shutdown(cx),
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
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let peeked = match self {
            Self::Plain(half) => {
                let stream: &TcpStream = half.as_ref();
                ready!(stream.poll_peek(cx, &mut byte))
            }
            Self::New(arrival) => match lock(arrival).known() {
                Ok(stream) => ready!(stream.poll_peek(cx, &mut byte)),
                Err(_) => return Poll::Ready(true),
            },
            Self::Wrapped(_) => return Poll::Pending,
        };
        Poll::Ready(!matches!(peeked, Ok(1..)))
    }

    /// Returns whether the runtime does not know of the connection, so that to look for its end would cost what is yet spared.
    pub fn is_new(&self) -> bool {
        matches!(self, Self::New(arrival) if lock(arrival).is_new())
    }
}

fn lock<T: ?Sized>(stream: &Mutex<T>) -> MutexGuard<'_, T> {
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
