//! The body of a request that comes by a stream.

use std::future::poll_fn;
use std::task::{Context, Poll};

use super::session::{Failure, Shared};
use crate::proxy::exchange::{BodyError, BodySize, Incoming, Piece};

/// A body that is received. The sender may send on as pieces are asked for, not as they come.
#[derive(Debug)]
pub struct Body<'s> {
    shared: &'s Shared,
    slot: usize,
    size: BodySize,
}

impl<'s> Body<'s> {
    pub(super) fn new(shared: &'s Shared, slot: usize, size: BodySize) -> Self {
        Self { shared, slot, size }
    }
}

impl Incoming for Body<'_> {
    fn size(&self) -> BodySize {
        self.size
    }

    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        if self.size == BodySize::Empty {
            return Ok(None);
        }
        poll_fn(|cx| poll_piece(self.shared, self.slot, cx)).await
    }
}

/// Waits for the next piece of a stream.
pub(super) fn poll_piece(
    shared: &Shared,
    slot: usize,
    cx: &Context<'_>,
) -> Poll<Result<Option<Piece>, BodyError>> {
    let piece = shared.lock().poll_piece(slot, cx);
    piece.map_err(|why| match why {
        Failure::Protocol => BodyError::Protocol,
        Failure::Reset(_) | Failure::Unseen | Failure::Lost | Failure::Ours => BodyError::Reset,
    })
}
