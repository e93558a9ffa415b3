//! What is sent: small things wait for each other and leave together, large ones are sent from where they are.

use std::io::{self, IoSlice};

use bytes::Bytes;

use crate::proxy::h1::limits::{COPY_MOST, HOLD_MOST};
use crate::proxy::h1::write::{self, Frame};
use crate::proxy::stream::Writer;

/// A direction of a connection with what waits to be sent.
pub(super) struct Sink<'c> {
    pub(super) writer: Writer<'c>,
    pub(super) out: &'c mut Vec<u8>,
    /// Bytes that were sent on the connection.
    pub(super) sent: &'c mut u64,
}

impl Sink<'_> {
    /// Sends what waits.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let mut parts = [IoSlice::new(self.out)];
        let sent = self.writer.send(&mut parts, self.sent).await;
        self.out.clear();
        sent
    }

    /// Sends what waits, after which the connection ends.
    pub(super) async fn flush_last(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let mut parts = [IoSlice::new(self.out)];
        let sent = self.writer.send_last(&mut parts, self.sent).await;
        self.out.clear();
        sent
    }

    /// Sends bytes of a body that is framed so.
    pub(super) async fn data(&mut self, frame: Frame, data: &Bytes) -> io::Result<()> {
        let tail: &[u8] = match frame {
            Frame::Chunked => {
                write::chunk_size(self.out, data.len());
                b"\r\n"
            }
            Frame::None | Frame::Length(_) | Frame::Close | Frame::Tunnel => b"",
        };
        if data.len() > COPY_MOST || self.out.len() + data.len() > HOLD_MOST {
            let mut parts = [
                IoSlice::new(self.out),
                IoSlice::new(data),
                IoSlice::new(tail),
            ];
            // `writev` with empty parts at its end is as good, and one part alone is a plain `send`.
            let (from, to) = (
                usize::from(self.out.is_empty()),
                3 - usize::from(tail.is_empty()),
            );
            let sent = self.writer.send(&mut parts[from..to], self.sent).await;
            self.out.clear();
            return sent;
        }
        self.out.extend_from_slice(data);
        self.out.extend_from_slice(tail);
        Ok(())
    }
}
