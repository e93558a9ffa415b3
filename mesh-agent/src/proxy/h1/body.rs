//! The body of a request or a response, read from its connection piece by piece.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;

use crate::proxy::exchange::{BodyError, BodySize, Incoming, Piece};
use crate::proxy::h1::decode::{Decoded, Decoder};
use crate::proxy::stream::Reader;

/// What the two halves of a connection tell each other. They are driven by one task: the atomics are for the compiler, and plain
/// loads and stores to the processor.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The incoming body was read to its end.
    pub(super) read: AtomicBool,
    /// Both bodies are a tunnel's bytes by now.
    pub(super) tunnel: AtomicBool,
}

impl Shared {
    pub(super) fn is_read(&self) -> bool {
        self.read.load(Ordering::Relaxed)
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self, read: bool) {
        self.read.store(read, Ordering::Relaxed);
        self.tunnel.store(false, Ordering::Relaxed);
    }
}

/// A body that is read.
#[expect(missing_debug_implementations, reason = "as `Stream`")]
pub struct Body<'c> {
    pub(super) reader: Reader<'c>,
    pub(super) buffer: &'c mut BytesMut,
    pub(super) decoder: &'c mut Decoder,
    pub(super) size: BodySize,
    pub(super) shared: &'c Shared,
}

impl Body<'_> {
    /// Returns the next piece as [`Incoming::next`] does.
    pub(super) async fn piece(&mut self) -> Result<Option<Piece>, BodyError> {
        if self.decoder.is_done() && self.shared.is_tunnel() && !self.shared.is_read() {
            *self.decoder = Decoder::Rest;
        }
        loop {
            let decoded = self.decoder.decode(self.buffer)?;
            if self.decoder.is_done() {
                self.shared.read.store(true, Ordering::Relaxed);
            }
            match decoded {
                Decoded::Data(data) => return Ok(Some(Piece::Data(data))),
                Decoded::Trailers(fields) => return Ok(Some(Piece::Trailers(fields))),
                Decoded::End => return Ok(None),
                Decoded::More => {}
            }
            match self.reader.recv(self.buffer, self.decoder.room()).await {
                Ok(1..) => {}
                Ok(0) if matches!(self.decoder, Decoder::Rest) => {
                    *self.decoder = Decoder::Done;
                    self.shared.read.store(true, Ordering::Relaxed);
                    return Ok(None);
                }
                Ok(0) | Err(_) => return Err(BodyError::Reset),
            }
        }
    }
}

impl Incoming for Body<'_> {
    fn size(&self) -> BodySize {
        self.size
    }

    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        self.piece().await
    }
}
