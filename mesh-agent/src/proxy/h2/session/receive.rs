//! Frames that come, but those with heads.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::streams::{Failure, Receiving, wait};
use super::{Role, Session};
use crate::proxy::exchange::Piece;
use crate::proxy::h2::frame::{self, Code, Fault, HEAD, Head, Settings, kind};

impl Session {
    /// Takes a frame of any type without content or a head.
    pub(in crate::proxy::h2) fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        match head.kind {
            kind::PRIORITY => frame::check_priority(head),
            kind::RST_STREAM => {
                let code = frame::rst_stream(head, payload)?;
                self.was_reset(head.stream, code)
            }
            kind::SETTINGS => self.settings(head, payload),
            // Nobody may: clients never, and servers not after what we say first.
            kind::PUSH_PROMISE => Err(Fault::Connection(Code::PROTOCOL_ERROR)),
            kind::PING => {
                let payload_bytes = frame::check_ping(head, payload)?;
                match head.has(frame::flag::ACK) {
                    true => self.answered = Some(payload_bytes),
                    false => frame::ping(self.out.reply(HEAD + 8), true, payload_bytes),
                }
                Ok(())
            }
            kind::GOAWAY => {
                let (last, code) = frame::goaway(head, payload)?;
                if code != Code::NO_ERROR {
                    tracing::debug!("the other end of a connection leaves for error {}", code.0);
                }
                self.left(last, code);
                Ok(())
            }
            kind::WINDOW_UPDATE => {
                let by = frame::window_update(head, payload)?;
                self.widen(head.stream, by)
            }
            // What is unknown is ignored (section 4.1).
            _ => Ok(()),
        }
    }

    fn settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let Some(settings) = Settings::read(head, payload)? else {
            self.peer.follows = true;
            return Ok(());
        };
        let now = self.now();
        if self.noise.add(now) {
            return Err(Fault::Connection(Code::ENHANCE_YOUR_CALM));
        }
        if self.role == Role::Client && settings.push == Some(true) {
            return Err(Fault::Connection(Code::PROTOCOL_ERROR));
        }
        if let Some(limit) = settings.table_bytes {
            self.encoder
                .set_limit(usize::try_from(limit).unwrap_or(usize::MAX));
        }
        if let Some(streams) = settings.streams {
            self.peer.streams = usize::try_from(streams).unwrap_or(usize::MAX);
        } else if !self.peer.greeted {
            self.peer.streams = usize::MAX;
        }
        if let Some(connect) = settings.connect {
            self.peer.connect = connect;
        }
        if let Some(window) = settings.window {
            self.set_first_window(window)?;
        }
        self.peer.greeted = true;
        self.told = true;
        frame::settings_ack(self.out.reply(HEAD));
        Ok(())
    }

    /// Takes the content of a DATA frame, whose payload took `size` of the windows.
    pub(in crate::proxy::h2) fn content(
        &mut self,
        id: u32,
        size: usize,
        data: Bytes,
        end: bool,
    ) -> Result<(), Fault> {
        self.take_window(size)?;
        let Some(slot) = self.streams.find(id) else {
            self.grant(size);
            return self.check_forgotten(id);
        };
        let taken = self.take_content(slot, size, data, end);
        if taken.is_err() {
            self.grant(size);
        }
        taken.map_err(|code| Fault::Stream(id, code))?;
        if size == 0 && !end {
            let now = self.now();
            if self.noise.add(now) {
                return Err(Fault::Connection(Code::ENHANCE_YOUR_CALM));
            }
        }
        match self.waste > self.bounds.connection_window as usize / 2 {
            true => Err(Fault::Connection(Code::ENHANCE_YOUR_CALM)),
            false => Ok(()),
        }
    }

    fn take_content(
        &mut self,
        slot: usize,
        size: usize,
        data: Bytes,
        end: bool,
    ) -> Result<(), Code> {
        let stream = &mut self.streams[slot];
        if stream.receiving != Receiving::Open {
            return Err(Code::STREAM_CLOSED);
        }
        if !stream.has_head {
            return Err(Code::PROTOCOL_ERROR);
        }
        stream.window_in -= i64::try_from(size).unwrap_or(i64::MAX);
        if stream.window_in < 0 {
            return Err(Code::FLOW_CONTROL_ERROR);
        }
        let length = data.len();
        if let Some(left) = stream.length {
            // Section 8.1.1: what is said and what comes agree.
            let left = left.checked_sub(length as u64);
            let left = left.filter(|left| *left == 0 || !end);
            stream.length = Some(left.ok_or(Code::PROTOCOL_ERROR)?);
        }
        if length > 0 && stream.is_held {
            stream.unread += length;
            stream.inbox.push_back(data);
            self.waste += Self::waste_of(length);
            self.release(slot, size - length);
        } else {
            self.release(slot, size);
        }
        let stream = &mut self.streams[slot];
        if end {
            stream.receiving = Receiving::Ended;
        }
        if end || length > 0 {
            stream.wake_reader();
        }
        if end {
            self.settle(slot);
        }
        Ok(())
    }

    /// Returns the next piece of a body.
    pub(in crate::proxy::h2) fn poll_piece(
        &mut self,
        slot: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<Option<Piece>, Failure>> {
        let lent = std::mem::take(&mut self.streams[slot].lent);
        self.release(slot, lent);
        let stream = &mut self.streams[slot];
        if let Some(data) = stream.inbox.pop_front() {
            stream.unread -= data.len();
            stream.lent = data.len();
            self.waste -= Self::waste_of(data.len());
            return Poll::Ready(Ok(Some(Piece::Data(data))));
        }
        match stream.receiving {
            Receiving::Failed(why) => Poll::Ready(Err(why)),
            Receiving::Ended => Poll::Ready(Ok(stream.trailers.take().map(Piece::Trailers))),
            Receiving::Open => {
                wait(&mut stream.reader, cx);
                stream.reads = true;
                Poll::Pending
            }
        }
    }
}
