//! The response to a client's stream.

use std::future::poll_fn;

use bytes::Bytes;
use http::StatusCode;

use super::frame::Code;
use super::session::{Failure, Shared};
use crate::l7::message::{Fields, ResponseHead};
use crate::proxy::exchange::{BodySize, Gone, Responder};

/// Takes the response to one request. Where it is let go of before its end, the stream is reset (`INTERNAL_ERROR`).
#[derive(Debug)]
pub struct Respond<'s> {
    shared: &'s Shared,
    slot: usize,
    /// The last piece, kept back so that the end of the stream can go with it.
    held: Bytes,
    stage: Stage,
    /// Whether the request was an extended CONNECT.
    tunnel: bool,
    /// Whether it was `HEAD`.
    to_head: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Before the final head.
    Head,
    Body,
    Finished,
    Reset,
}

impl<'s> Respond<'s> {
    pub(super) fn new(shared: &'s Shared, slot: usize, tunnel: bool, to_head: bool) -> Self {
        Self {
            shared,
            slot,
            held: Bytes::new(),
            stage: Stage::Head,
            tunnel,
            to_head,
        }
    }

    /// Sends what is held, and with `end` all that there is; waits until what is on its way is not too much.
    async fn push(&mut self, end: Option<Option<&Fields>>) -> Result<(), Gone> {
        if self.stage != Stage::Body {
            return Err(Gone);
        }
        let mut held = Some(std::mem::take(&mut self.held));
        let pushed = poll_fn(|cx| {
            let mut session = self.shared.lock();
            match (held.take(), end) {
                (Some(held), None) => session.data(self.slot, held),
                (Some(held), Some(trailers)) => session.end(self.slot, held, trailers),
                (None, _) => {}
            }
            session.poll_room(self.slot, cx)
        });
        pushed.await.map_err(|_| Gone)
    }
}

impl Responder for Respond<'_> {
    async fn informational(&mut self, head: &ResponseHead) -> Result<(), Gone> {
        let mut session = self.shared.lock();
        let sent = session.answer(self.slot, head, BodySize::Unknown, false, false);
        sent.map_err(|_| Gone)
    }

    async fn head(&mut self, head: &ResponseHead, body: BodySize) -> Result<(), Gone> {
        let is_switch = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if head.status.is_informational() && !(is_switch && self.tunnel) {
            // Only what asked for it may change to another protocol.
            self.reset();
            return Err(Gone);
        }
        let never = matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
        let end = !is_switch && (body == BodySize::Empty || self.to_head || never);
        let mut session = self.shared.lock();
        let sent = session.answer(self.slot, head, body, self.tunnel, end);
        sent.map_err(|_| Gone)?;
        self.stage = if end { Stage::Finished } else { Stage::Body };
        Ok(())
    }

    async fn data(&mut self, data: Bytes) -> Result<(), Gone> {
        if self.stage == Stage::Finished {
            // Of an answer that has no body, whatever it says.
            return Ok(());
        }
        if !self.held.is_empty() {
            self.push(None).await?;
        }
        self.held = data;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.push(None).await
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), Gone> {
        if self.stage == Stage::Finished {
            return Ok(());
        }
        self.push(Some(trailers.filter(|it| !it.is_empty())))
            .await?;
        self.stage = Stage::Finished;
        Ok(())
    }

    fn reset(&mut self) {
        if matches!(self.stage, Stage::Head | Stage::Body) {
            self.stage = Stage::Reset;
            let mut session = self.shared.lock();
            session.reset(self.slot, Code::INTERNAL_ERROR, Failure::Ours);
        }
    }

    async fn gone(&mut self) {
        poll_fn(|cx| self.shared.lock().poll_gone(self.slot, cx)).await;
    }

    fn is_cut(&self) -> bool {
        self.shared.lock().is_cut
    }
}
