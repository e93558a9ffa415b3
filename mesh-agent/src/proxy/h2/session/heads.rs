//! Heads that come and go.

use std::task::{Context, Poll};

use http::StatusCode;

use super::streams::{Failure, Receiving, Sending, wait};
use super::{Job, Role, Session};
use crate::l7::message::{Fields, RequestHead, ResponseHead, Version};
use crate::proxy::exchange::BodySize;
use crate::proxy::h2::frame::{self, Code, Fault};
use crate::proxy::h2::head::{
    self, Asked, Bad, Malformed, Refusal, RequestReader, ResponseReader, TrailersReader,
};
use crate::proxy::h2::hpack::{Decoder, Error, Size};

/// Interim responses that wait for somebody to look at them: who sends more means no good.
const INTERIM_MOST: usize = 32;

fn broken(error: Error) -> Fault {
    Fault::Connection(match error {
        Error::Malformed => Code::COMPRESSION_ERROR,
        Error::TooMuch => Code::ENHANCE_YOUR_CALM,
    })
}

/// Reads a block for the table's sake.
fn skip(decoder: &mut Decoder, block: &[u8]) -> Result<(), Fault> {
    decoder.decode(block, |_| ()).map(drop).map_err(broken)
}

impl Session {
    /// Takes a whole block of fields.
    pub(in crate::proxy::h2) fn head(
        &mut self,
        decoder: &mut Decoder,
        id: u32,
        ended: bool,
        block: &[u8],
    ) -> Result<(), Fault> {
        let Some(slot) = self.streams.find(id) else {
            return match self.role {
                Role::Server if id % 2 == 1 && id > self.last => {
                    self.request(decoder, id, ended, block)
                }
                // It comes too late to be opened, which is another error than one that is closed (section 5.1.1).
                Role::Server if self.is_skipped(id) => Err(Fault::Connection(Code::PROTOCOL_ERROR)),
                Role::Server | Role::Client => {
                    skip(decoder, block)?;
                    self.check_forgotten(id)
                }
            };
        };
        let stream = &self.streams[slot];
        if stream.receiving != Receiving::Open {
            skip(decoder, block)?;
            return Err(Fault::Stream(id, Code::STREAM_CLOSED));
        }
        if stream.has_head {
            return self.trailers(decoder, slot, ended, block);
        }
        let malformed = |Malformed| Fault::Stream(id, Code::PROTOCOL_ERROR);
        let (to_head, is_full) = (stream.to_head, stream.heads.len() > INTERIM_MOST);
        let mut head = self.spare_responses.pop().unwrap_or_default();
        let mut reader = ResponseReader::new(&mut head);
        let size = decoder
            .decode(block, |line| reader.line(line))
            .map_err(broken)?;
        let mut answer = reader.end(to_head, ended).map_err(malformed)?;
        if size == Size::TooLarge || is_full {
            return Err(Fault::Stream(id, Code::PROTOCOL_ERROR));
        }
        let is_final = !head.status.is_informational();
        let stream = &mut self.streams[slot];
        stream.is_answered = true;
        self.proven = true;
        if is_final && stream.tunnel && head.status.is_success() {
            // Whatever its length would be.
            (answer.size, answer.length) = (BodySize::Unknown, None);
            head.status = StatusCode::SWITCHING_PROTOCOLS;
        }
        stream.heads.push_back(head);
        if is_final {
            stream.has_head = true;
            stream.size = answer.size;
            stream.length = answer.length;
        }
        if ended {
            stream.receiving = Receiving::Ended;
        }
        stream.wake_reader();
        self.settle(slot);
        Ok(())
    }

    fn trailers(
        &mut self,
        decoder: &mut Decoder,
        slot: usize,
        ended: bool,
        block: &[u8],
    ) -> Result<(), Fault> {
        let mut reader = TrailersReader::default();
        let size = decoder
            .decode(block, |line| reader.line(line))
            .map_err(broken)?;
        let stream = &mut self.streams[slot];
        let malformed = Fault::Stream(stream.id, Code::PROTOCOL_ERROR);
        let trailers = reader.end().map_err(|Malformed| malformed)?;
        let is_short = stream.length.is_some_and(|left| left > 0);
        if !ended || is_short || size == Size::TooLarge {
            return Err(malformed);
        }
        stream.receiving = Receiving::Ended;
        stream.trailers = Some(trailers).filter(|it| !it.is_empty());
        stream.wake_reader();
        self.settle(slot);
        Ok(())
    }

    fn request(
        &mut self,
        decoder: &mut Decoder,
        id: u32,
        ended: bool,
        block: &[u8],
    ) -> Result<(), Fault> {
        self.opens(id);
        if self.closing {
            // Above the last one that we said we would look at.
            self.forget(id);
            return skip(decoder, block);
        }
        if self.streams.live() >= self.bounds.streams {
            skip(decoder, block)?;
            return Err(Fault::Stream(id, Code::REFUSED_STREAM));
        }
        let mut head = self.spare_requests.pop().unwrap_or_default();
        let bounds = &self.bounds;
        let mut reader = RequestReader::new(&mut head, bounds.header_lines, bounds.target);
        let size = decoder
            .decode(block, |line| reader.line(line))
            .map_err(broken)?;
        let asked = match size {
            Size::Whole => reader.end(ended),
            Size::TooLarge => Err(Bad::Refused(Refusal {
                status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                why: "the fields are too long",
            })),
        };
        match asked {
            Ok(asked) => self.accept(id, asked, head),
            Err(Bad::Malformed) => return Err(Fault::Stream(id, Code::PROTOCOL_ERROR)),
            Err(Bad::Refused(refusal)) => {
                self.refuse(id, ended, refusal);
                self.give_back_request(head);
            }
        }
        Ok(())
    }

    fn accept(&mut self, id: u32, asked: Asked, head: Box<RequestHead>) {
        let slot = self.streams.open(id);
        let stream = &mut self.streams[slot];
        stream.is_held = true;
        stream.has_head = true;
        stream.length = asked.length;
        stream.window_in = i64::from(self.bounds.stream_window.max(frame::FIRST_WINDOW));
        stream.window_out = self.peer.window;
        if asked.size == BodySize::Empty {
            stream.receiving = Receiving::Ended;
        }
        self.touched = true;
        self.jobs.push_back(Job {
            slot,
            head,
            size: asked.size,
            to_head: asked.to_head,
        });
    }

    /// Answers what is no request.
    fn refuse(&mut self, id: u32, ended: bool, refusal: Refusal) {
        self.refused.push((refusal.status, refusal.why));
        let head = ResponseHead {
            status: refusal.status,
            version: Version::Http2,
            fields: Fields::default(),
        };
        let out = self.out.text();
        let at = frame::begin_headers(out, id, true);
        head::write_response(&mut self.encoder, out, &head, BodySize::Empty, false);
        frame::end_headers(out, at, id);
        if !ended {
            frame::write_reset(out, id, Code::NO_ERROR);
            self.forget(id);
        }
        self.wake();
    }

    /// Opens a stream for a request, and returns its slot; `None`: no more streams may be opened, and nothing has left.
    pub(in crate::proxy::h2) fn ask(
        &mut self,
        request: &RequestHead,
        body: BodySize,
        to_head: bool,
    ) -> Option<usize> {
        let id = match self.last {
            0 => 1,
            last => last + 2,
        };
        if self.closing || id > frame::MAX_STREAM {
            self.closing = true;
            return None;
        }
        self.last = id;
        let end = body == BodySize::Empty && request.protocol.is_none();
        let out = self.out.text();
        let at = frame::begin_headers(out, id, end);
        head::write_request(&mut self.encoder, out, request, body);
        frame::end_headers(out, at, id);
        let slot = self.streams.open(id);
        let stream = &mut self.streams[slot];
        stream.is_held = true;
        stream.to_head = to_head;
        stream.tunnel = request.protocol.is_some();
        stream.window_in = i64::from(self.bounds.stream_window.max(frame::FIRST_WINDOW));
        stream.window_out = self.peer.window;
        if end {
            stream.sending = Sending::Ended;
        }
        self.touched = true;
        self.wake();
        Some(slot)
    }

    /// Sends a response's head, an interim one or, with `end`, all of the response.
    pub(in crate::proxy::h2) fn answer(
        &mut self,
        slot: usize,
        head: &ResponseHead,
        body: BodySize,
        tunnel: bool,
        end: bool,
    ) -> Result<(), Failure> {
        let stream = &self.streams[slot];
        match stream.sending {
            Sending::Open => {}
            Sending::Failed(why) => return Err(why),
            Sending::Ending | Sending::Ended => return Err(Failure::Ours),
        }
        let id = stream.id;
        let out = self.out.text();
        let at = frame::begin_headers(out, id, end);
        head::write_response(&mut self.encoder, out, head, body, tunnel);
        frame::end_headers(out, at, id);
        if end {
            self.ended(slot);
        }
        self.wake();
        Ok(())
    }

    /// Waits for the next head of a response, which changes places with `head`; returns, of the final one, how much body follows.
    pub(in crate::proxy::h2) fn poll_head(
        &mut self,
        slot: usize,
        cx: &Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<BodySize, Failure>> {
        let stream = &mut self.streams[slot];
        if let Some(mut next) = stream.heads.pop_front() {
            let size = stream.size;
            std::mem::swap(&mut *next, head);
            self.give_back_response(next);
            return Poll::Ready(Ok(size));
        }
        match stream.receiving {
            Receiving::Failed(why) => Poll::Ready(Err(why)),
            // Asked for another than the final one, there is none.
            Receiving::Ended => Poll::Ready(Err(Failure::Ours)),
            Receiving::Open => {
                wait(&mut stream.reader, cx);
                stream.reads = true;
                Poll::Pending
            }
        }
    }
}
