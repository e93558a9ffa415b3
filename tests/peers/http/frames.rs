//! HTTP/2 below what clients offer: a stream as a tunnel (RFC 8441), and raw frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, Bytes, BytesMut};
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What a client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
}

/// Writes one frame (RFC 9113, section 4.1).
pub(crate) fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Returns the fields of `GET / http service`, without compression.
pub(crate) fn get() -> Vec<u8> {
    // From the static table (RFC 7541, appendix A): `:method: GET`, `:scheme: http`, `:path: /`; then `:authority`.
    let mut block = vec![0x82, 0x86, 0x84, 0x01, 7];
    block.extend_from_slice(b"service");
    block
}

/// A stream of HTTP/2 that is a tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
    left: Bytes,
}

impl Tunnel {
    /// Asks for a WebSocket at `url`.
    pub(crate) async fn open(stream: TcpStream, url: &str) -> Result<Self> {
        let (mut client, connection) = h2::client::handshake(stream).await.context("no HTTP/2")?;
        tokio::spawn(connection);
        // Settings come with the server's first frames, which any answer is behind.
        while !client.is_extended_connect_protocol_enabled() {
            client = client.ready().await.context("the connection ended")?;
            tokio::task::yield_now().await;
        }
        let mut request = Request::builder().method(Method::CONNECT).uri(url);
        request = request.header("sec-websocket-version", "13");
        let mut request = request.body(()).context("no request")?;
        request
            .extensions_mut()
            .insert(Protocol::from_static("websocket"));
        let (response, send) = client.send_request(request, false).context("not sent")?;
        let response = response.await.context("no response")?;
        if response.status() != StatusCode::OK {
            bail!("refused with {}", response.status());
        }
        Ok(Self {
            send,
            receive: response.into_body(),
            left: Bytes::new(),
        })
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left.is_empty() {
            let Some(data) = ready!(self.receive.poll_data(cx)) else {
                return Poll::Ready(Ok(()));
            };
            self.left = data.map_err(io::Error::other)?;
            let count = self.left.len();
            let given = self.receive.flow_control().release_capacity(count);
            given.map_err(io::Error::other)?;
        }
        let count = self.left.len().min(to.remaining());
        to.put_slice(&self.left[..count]);
        self.left.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(bytes.len());
        let room = loop {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(0)) => {}
                Some(Ok(room)) => break room,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        };
        let count = room.min(bytes.len());
        let data = BytesMut::from(&bytes[..count]).freeze();
        self.send.send_data(data, false).map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.send.send_data(Bytes::new(), true);
        Poll::Ready(ended.map_err(io::Error::other))
    }
}
