//! The response to a client's stream.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{Method, StatusCode};

use super::head;
use super::send;
use super::serve::Ledger;
use crate::l7::message::{Fields, ResponseHead, Version};
use crate::proxy::exchange::{BodySize, Gone, Responder};

/// Takes the response to one request. Dropped before its end, it resets the stream (`INTERNAL_ERROR`).
#[derive(Debug)]
pub struct Respond {
    stream: SendResponse<Bytes>,
    body: Option<SendStream<Bytes>>,
    /// The last piece, kept back so that the end of the stream can go with it.
    held: Bytes,
    stage: Stage,
    /// Whether the request was an extended CONNECT.
    tunnel: bool,
    /// Whether it was `HEAD`.
    to_head: bool,
    ledger: Arc<Ledger>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Open,
    Finished,
    Reset,
}

impl Respond {
    pub(super) fn new(stream: SendResponse<Bytes>, method: &Method, ledger: Arc<Ledger>) -> Self {
        ledger.opened();
        Self {
            stream,
            body: None,
            held: Bytes::new(),
            stage: Stage::Open,
            tunnel: *method == Method::CONNECT,
            to_head: *method == Method::HEAD,
            ledger,
        }
    }

    /// Answers with this status and nothing else.
    pub(super) fn refuse(mut self, status: StatusCode) {
        let head = ResponseHead {
            status,
            version: Version::Http2,
            fields: Fields::default(),
        };
        // If the client is gone, it needs no answer.
        self.start(&head, BodySize::Empty).ok();
    }

    fn start(&mut self, head: &ResponseHead, body: BodySize) -> Result<(), Gone> {
        let response = head::to_response(head, body, self.tunnel);
        let status = response.status();
        if status.is_informational() {
            // Only what asked for it may change to another protocol.
            self.reset();
            return Err(Gone);
        }
        let is_tunnel = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let never = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let end = !is_tunnel && (body == BodySize::Empty || self.to_head || never);
        let sent = self.stream.send_response(response, end);
        self.body = Some(sent.map_err(|_| Gone)?);
        if end {
            self.stage = Stage::Finished;
        }
        Ok(())
    }

    /// Sends what is held, and with `end` the end of the stream.
    async fn push(&mut self, end: bool) -> Result<(), Gone> {
        let Some(body) = &mut self.body else {
            return Err(Gone);
        };
        let held = std::mem::take(&mut self.held);
        let sent = send::data(body, held, end).await;
        sent.map_err(|_| Gone)
    }

    fn give_up(&mut self, reason: Reason) {
        if self.stage == Stage::Open {
            self.stage = Stage::Reset;
            self.stream.send_reset(reason);
        }
    }

    /// Is ready once the client has reset the stream or its connection is gone.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.body {
            Some(body) => body.poll_reset(cx),
            None => self.stream.poll_reset(cx),
        };
        reset.map(|_| ())
    }
}

impl Responder for Respond {
    async fn informational(&mut self, head: &ResponseHead) -> Result<(), Gone> {
        let response = head::to_response(head, BodySize::Empty, false);
        self.stream.send_informational(response).map_err(|_| Gone)
    }

    async fn head(&mut self, head: &ResponseHead, body: BodySize) -> Result<(), Gone> {
        self.start(head, body)
    }

    async fn data(&mut self, data: Bytes) -> Result<(), Gone> {
        if self.stage == Stage::Finished {
            // Of an answer that has no body, whatever it says.
            return Ok(());
        }
        if !self.held.is_empty() {
            self.push(false).await?;
        }
        self.held = data;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Gone> {
        if self.held.is_empty() {
            return Ok(());
        }
        self.push(false).await
    }

    async fn finish(&mut self, trailers: Option<&Fields>) -> Result<(), Gone> {
        if self.stage == Stage::Finished {
            return Ok(());
        }
        let trailers = trailers.filter(|it| !it.is_empty());
        if trailers.is_none() || !self.held.is_empty() {
            self.push(trailers.is_none()).await?;
        }
        if let (Some(trailers), Some(body)) = (trailers, &mut self.body) {
            send::trailers(body, trailers).map_err(|_| Gone)?;
        }
        self.stage = Stage::Finished;
        Ok(())
    }

    fn reset(&mut self) {
        self.give_up(Reason::INTERNAL_ERROR);
    }

    async fn gone(&mut self) {
        poll_fn(|cx| self.poll_gone(cx)).await;
    }
}

impl Drop for Respond {
    fn drop(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let given_up = self.stage != Stage::Reset && self.poll_gone(&mut context).is_ready();
        let finished = self.stage == Stage::Finished;
        self.give_up(Reason::INTERNAL_ERROR);
        self.ledger.closed(finished, given_up);
    }
}
