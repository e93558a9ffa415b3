//! What streams send: at once where windows and socket allow it, and else in turn, a frame each.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::streams::{Failure, Receiving, Sending, wait};
use super::{Role, Session};
use crate::l7::message::Fields;
use crate::proxy::h2::frame::{self, Code, MAX_PAYLOAD};
use crate::proxy::h2::head;

/// Content is given to the socket's queue while less than this waits there: what is in the queue has lost its turn.
const HIGH: usize = 64 * 1024;

impl Session {
    /// Waits until what a stream has to send is no more than may wait: what its windows allow, and no more than a few pieces.
    pub(in crate::proxy::h2) fn poll_room(
        &mut self,
        slot: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        let stream = &mut self.streams[slot];
        if let Sending::Failed(why) = stream.sending {
            return Poll::Ready(Err(why));
        }
        let window = stream.window_out.min(self.window_out);
        let most = usize::try_from(window).unwrap_or(0);
        if stream.queued <= most.min(self.bounds.send_buffer) {
            return Poll::Ready(Ok(()));
        }
        wait(&mut stream.writer, cx);
        stream.wants_room = true;
        Poll::Pending
    }

    /// Is ready once nothing that is sent on a stream would arrive.
    pub(in crate::proxy::h2) fn poll_gone(&mut self, slot: usize, cx: &Context<'_>) -> Poll<()> {
        let stream = &mut self.streams[slot];
        if matches!(stream.sending, Sending::Failed(_)) {
            return Poll::Ready(());
        }
        wait(&mut stream.writer, cx);
        stream.watches = true;
        Poll::Pending
    }

    /// Sends content, after which [room](Self::poll_room) has to be waited for.
    pub(in crate::proxy::h2) fn data(&mut self, slot: usize, data: Bytes) {
        self.push(slot, data);
        self.pump(slot);
    }

    /// Sends the last content, trailers if there are any, and the end.
    pub(in crate::proxy::h2) fn end(
        &mut self,
        slot: usize,
        data: Bytes,
        trailers: Option<&Fields>,
    ) {
        self.push(slot, data);
        let stream = &mut self.streams[slot];
        if stream.sending != Sending::Open {
            return;
        }
        let Some(trailers) = trailers else {
            stream.sending = Sending::Ending;
            return self.pump(slot);
        };
        self.pump(slot);
        let stream = &mut self.streams[slot];
        if stream.queue.is_empty() {
            return self.last_words(slot, trailers);
        }
        stream.sending = Sending::Ending;
        stream.last_words = Some(trailers.clone());
    }

    fn push(&mut self, slot: usize, data: Bytes) {
        let stream = &mut self.streams[slot];
        if !data.is_empty() && stream.sending == Sending::Open {
            stream.queued += data.len();
            stream.queue.push_back(data);
        }
    }

    fn pump(&mut self, slot: usize) {
        // Whoever waits already comes first.
        if self.ready.is_empty() {
            while self.has_room() && self.emit(slot) {}
        }
        self.enlist(slot);
        self.wake();
    }

    fn has_room(&self) -> bool {
        self.out.len() < HIGH
    }

    /// Gives a stream its turn if it has something to send that its window allows.
    pub(super) fn enlist(&mut self, slot: usize) {
        let stream = &mut self.streams[slot];
        let has_more = match stream.queue.is_empty() {
            true => stream.sending == Sending::Ending,
            false => stream.window_out > 0,
        };
        if has_more && !stream.is_ready {
            stream.is_ready = true;
            self.ready.push_back(slot);
        }
    }

    /// Fills the socket's queue.
    pub(in crate::proxy::h2) fn fill(&mut self) {
        while self.window_out > 0
            && self.has_room()
            && let Some(slot) = self.ready.pop_front()
        {
            self.streams[slot].is_ready = false;
            self.emit(slot);
            self.enlist(slot);
            self.streams[slot].wake_writer();
        }
    }

    /// Sends a frame of a stream, if it has one that windows allow; returns whether another may follow.
    fn emit(&mut self, slot: usize) -> bool {
        let stream = &mut self.streams[slot];
        if let Some(piece) = stream.queue.front_mut() {
            let window = stream.window_out.min(self.window_out);
            let Ok(window @ 1..) = usize::try_from(window) else {
                return false;
            };
            let length = piece.len().min(MAX_PAYLOAD).min(window);
            let data = piece.split_to(length);
            if piece.is_empty() {
                stream.queue.pop_front();
            }
            stream.queued -= length;
            let taken = i64::try_from(length).unwrap_or(i64::MAX);
            stream.window_out -= taken;
            self.window_out -= taken;
            let is_last = stream.queue.is_empty()
                && stream.sending == Sending::Ending
                && stream.last_words.is_none();
            frame::data_head(self.out.text(), stream.id, length, is_last);
            self.out.data(data);
            if is_last {
                self.ended(slot);
            }
            return !is_last;
        }
        if stream.sending == Sending::Ending {
            let id = stream.id;
            if let Some(trailers) = stream.last_words.take() {
                self.last_words(slot, &trailers);
            } else {
                frame::data_head(self.out.text(), id, 0, true);
                self.ended(slot);
            }
        }
        false
    }

    fn last_words(&mut self, slot: usize, trailers: &Fields) {
        let id = self.streams[slot].id;
        let out = self.out.text();
        let at = frame::begin_headers(out, id, true);
        head::write_trailers(&mut self.encoder, out, trailers);
        frame::end_headers(out, at, id);
        self.ended(slot);
    }

    pub(super) fn ended(&mut self, slot: usize) {
        let stream = &mut self.streams[slot];
        stream.sending = Sending::Ended;
        let is_left = !stream.is_held && stream.receiving == Receiving::Open;
        if self.role == Role::Server {
            self.resets.ended_well();
            if is_left {
                // Whoever served it has read what it wanted (RFC 9113, section 8.1).
                return self.reset(slot, Code::NO_ERROR, Failure::Ours);
            }
        }
        self.settle(slot);
    }

    pub(super) fn settle(&mut self, slot: usize) {
        if self.streams.settle(slot) {
            self.touched = true;
        }
    }
}
