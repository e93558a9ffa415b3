//! A client's connection as it was accepted: the runtime is told of it only once it has to be waited for.
//!
//! A client's first bytes are mostly there when its connection is accepted. Where the response takes no time to speak of and ends the
//! connection, nothing is ever waited for: that spares two system calls, and what the kernel and the runtime keep for who waits.

use std::io::{self, IoSlice};
use std::mem::replace;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_linger, set_tcp_quickack};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

/// Such a connection.
#[derive(Debug)]
pub enum Arrival {
    /// The runtime does not know of it. Does not block.
    New(std::net::TcpStream),
    /// The runtime knows of it.
    Known(TcpStream),
    /// The runtime has no room for it; of no more use.
    Lost,
}

impl Arrival {
    /// Makes it known to the runtime, and returns it.
    ///
    /// # Errors
    /// The kernel's, where it cannot be waited for.
    pub fn known(&mut self) -> io::Result<&mut TcpStream> {
        if let Self::New(_) = self {
            *self = Self::Known(replace(self, Self::Lost).into_known()?);
        }
        match self {
            Self::Known(stream) => Ok(stream),
            Self::New(_) | Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// As [`known`](Self::known), for good.
    ///
    /// # Errors
    /// As there.
    pub fn into_known(self) -> io::Result<TcpStream> {
        match self {
            Self::New(stream) => {
                // The listener has it off. Whoever is waited for may itself wait for an acknowledgement (RFC 896) before it says more.
                set_tcp_quickack(&stream, true)?;
                TcpStream::from_std(stream)
            }
            Self::Known(stream) => Ok(stream),
            Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Returns whether the runtime does not know of it.
    pub fn is_new(&self) -> bool {
        matches!(self, Self::New(_))
    }

    /// Returns whether there is something to read, be it only the end, where the runtime does not know.
    pub(super) fn peeked(stream: &std::net::TcpStream) -> bool {
        let mut byte = [0];
        let peeked = recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        peeked.map(|_| ()) != Err(Errno::AGAIN)
    }

    /// Sends some of `parts`. Where they are the last, they wait for the end of the connection, to go with it.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
        is_last: bool,
    ) -> Poll<io::Result<usize>> {
        if let Self::New(stream) = self {
            let flags = match is_last {
                true => SendFlags::NOSIGNAL | SendFlags::MORE,
                false => SendFlags::NOSIGNAL,
            };
            match sendmsg(&*stream, parts, &mut SendAncillaryBuffer::default(), flags) {
                Err(Errno::AGAIN) => {}
                sent => return Poll::Ready(sent.map_err(io::Error::from)),
            }
        }
        Pin::new(self.known()?).poll_write_vectored(cx, parts)
    }

    /// Closes the direction to the client.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::New(stream) => Poll::Ready(stream.shutdown(Shutdown::Write)),
            Self::Known(_) | Self::Lost => Pin::new(self.known()?).poll_shutdown(cx),
        }
    }

    /// Makes closing it a reset.
    pub(super) fn abort(&self) {
        let zero = Some(std::time::Duration::ZERO);
        // Where this fails the peer is gone already.
        match self {
            Self::New(stream) => set_socket_linger(stream, zero).unwrap_or(()),
            Self::Known(stream) => set_socket_linger(stream, zero).unwrap_or(()),
            Self::Lost => {}
        }
    }
}

/// Bytes that a first read takes at most: more than nearly all requests have.
const FIRST: usize = 16 * 1024;

/// Where first bytes are read to, one for each data thread: what a connection keeps of them is as long as they are.
#[derive(Debug)]
pub struct FirstRead(Mutex<Vec<u8>>);

impl Default for FirstRead {
    fn default() -> Self {
        Self(Mutex::new(Vec::with_capacity(FIRST)))
    }
}

impl FirstRead {
    /// Reads what a client has sent already. That there is nothing, or the end, is for whoever waits to find.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self, arrival: &Arrival) -> io::Result<BytesMut> {
        let Arrival::New(stream) = arrival else {
            return Ok(BytesMut::new());
        };
        let mut room = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        room.clear();
        match recv(stream, spare_capacity(&mut *room), RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(Errno::AGAIN | Errno::INTR) => Ok(BytesMut::new()),
            Ok(_) => Ok(BytesMut::from(&room[..])),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener};

    use rustix::net::sockopt::tcp_quickack;

    use super::*;
    use crate::proxy::stream::Stream;

    /// Returns a client's end, and the other as it was accepted.
    fn pair() -> (std::net::TcpStream, Arrival) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        set_tcp_quickack(&listener, false).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // Or what it sends next waits for an acknowledgement of the first.
        client.set_nodelay(true).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        (client, Arrival::New(accepted))
    }

    #[tokio::test]
    async fn the_last_bytes_go_with_the_end() {
        let (mut client, arrival) = pair();
        let mut stream = Stream::accepted(arrival);
        let (_, mut writer) = stream.split();
        let mut sent = 0;
        let mut parts = [IoSlice::new(b"good"), IoSlice::new(b"bye")];
        writer.send_last(&mut parts, &mut sent).await.unwrap();
        assert_eq!(sent, 7);
        client.set_nonblocking(true).unwrap();
        let early = client.read(&mut [0]).unwrap_err();
        assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
        assert!(matches!(&stream, Stream::New(it) if it.lock().unwrap().is_new()));
        drop(stream);
        client.set_nonblocking(false).unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"goodbye");
    }

    #[tokio::test]
    async fn what_has_come_is_read_and_the_rest_is_waited_for() {
        let (mut client, mut arrival) = pair();
        let first = FirstRead::default();
        assert!(first.read(&arrival).unwrap().is_empty());
        client.write_all(b"one").unwrap();
        assert_eq!(first.read(&arrival).unwrap(), b"one"[..]);
        assert!(arrival.is_new());
        let mut stream = Stream::accepted(arrival);
        assert!(!stream.is_readable());
        client.write_all(b"two").unwrap();
        assert!(stream.is_readable());
        let mut buffer = BytesMut::new();
        for more in [b"two", b"six"] {
            let (mut reader, _) = stream.split();
            buffer.clear();
            reader.recv(&mut buffer, 16).await.unwrap();
            assert_eq!(buffer, more[..]);
            client.write_all(b"six").unwrap();
        }
        assert!(matches!(stream, Stream::Plain(_)));
        (client, arrival) = pair();
        drop(client);
        assert!(
            first.read(&arrival).unwrap().is_empty(),
            "the end is for others"
        );
        assert_eq!(
            tokio::io::AsyncReadExt::read(arrival.known().unwrap(), &mut [0])
                .await
                .unwrap(),
            0
        );
    }

    #[tokio::test]
    async fn what_has_come_is_acknowledged_at_once_only_where_more_is_waited_for() {
        let (mut client, mut arrival) = pair();
        client.write_all(b"half").unwrap();
        let Arrival::New(stream) = &arrival else {
            unreachable!("nobody has waited")
        };
        Arrival::peeked(stream);
        assert!(!tcp_quickack(stream).unwrap(), "inherited");
        assert!(tcp_quickack(arrival.known().unwrap()).unwrap());
    }

    #[tokio::test]
    async fn more_than_the_socket_takes_is_waited_for() {
        let (mut client, arrival) = pair();
        let reading = std::thread::spawn(move || {
            let mut got = Vec::new();
            client.read_to_end(&mut got).map(|_| got.len())
        });
        let mut stream = Stream::accepted(arrival);
        let large = vec![b'x'; 32 << 20];
        let (_, mut writer) = stream.split();
        let mut sent = 0;
        writer
            .send_last(&mut [IoSlice::new(&large)], &mut sent)
            .await
            .unwrap();
        assert!(!writer.is_new());
        drop(stream);
        assert_eq!(reading.join().unwrap().unwrap(), large.len());
    }
}
