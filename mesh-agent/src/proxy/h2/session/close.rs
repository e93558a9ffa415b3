//! How streams and the connection end before their time.

use super::streams::{Failure, Receiving, Sending};
use super::{Role, Session};
use crate::proxy::h2::frame::{self, Code, Fault, HEAD};

/// Streams of ours that are remembered as reset: more than may be open, so that none is forgotten before its frames have come.
const REMEMBERED: usize = 1024;

/// Gaps between a client's streams that are remembered. No library leaves any; a stream of a gap that is forgotten counts as one
/// that has ended, so that the connection ends with another code.
const GAPS: usize = 16;

impl Session {
    /// Ends a stream from our side.
    pub(in crate::proxy::h2) fn reset(&mut self, slot: usize, code: Code, why: Failure) {
        let stream = &self.streams[slot];
        if stream.is_live {
            let id = stream.id;
            frame::write_reset(self.out.text(), id, code);
            self.forget(id);
        }
        self.broke(slot, why);
        self.wake();
    }

    /// Ends a stream for something that the other end did.
    pub(in crate::proxy::h2) fn fault(&mut self, id: u32, code: Code) -> Result<(), Code> {
        frame::write_reset(self.out.reply(HEAD + 4), id, code);
        self.forget(id);
        if let Some(slot) = self.streams.find(id) {
            self.drop_job(slot);
            self.broke(slot, Failure::Protocol);
        }
        let now = self.now();
        match self.faults.add(now) {
            true => Err(Code::ENHANCE_YOUR_CALM),
            false => Ok(()),
        }
    }

    /// The other end reset a stream.
    pub(super) fn was_reset(&mut self, id: u32, code: Code) -> Result<(), Fault> {
        let Some(slot) = self.streams.find(id) else {
            return self.check_known(id);
        };
        let is_given_up = !matches!(self.streams[slot].sending, Sending::Ended);
        self.drop_job(slot);
        self.broke(slot, Failure::Reset(code));
        let now = self.now();
        if self.role == Role::Server && is_given_up && self.resets.add(now) {
            self.too_many_resets = true;
            return Err(Fault::Connection(Code::ENHANCE_YOUR_CALM));
        }
        Ok(())
    }

    /// Both halves of a stream come to no end, unless they have.
    pub(super) fn broke(&mut self, slot: usize, why: Failure) {
        let stream = &mut self.streams[slot];
        if stream.receiving == Receiving::Open {
            stream.receiving = Receiving::Failed(why);
        }
        if matches!(stream.sending, Sending::Open | Sending::Ending) {
            stream.sending = Sending::Failed(why);
        }
        stream.queue.clear();
        stream.queued = 0;
        stream.last_words = None;
        if std::mem::take(&mut stream.is_ready) {
            self.ready.retain(|it| *it != slot);
        }
        self.streams[slot].wake_all();
        self.settle(slot);
    }

    /// Takes away a request that nobody serves yet.
    fn drop_job(&mut self, slot: usize) {
        let Some(at) = self.jobs.iter().position(|job| job.slot == slot) else {
            return;
        };
        if let Some(job) = self.jobs.remove(at) {
            self.give_back_request(job.head);
        }
        self.put_down(slot);
    }

    /// Nobody uses a stream any more: what was not read is granted anew.
    fn put_down(&mut self, slot: usize) {
        let stream = &mut self.streams[slot];
        stream.is_held = false;
        let unread = std::mem::take(&mut stream.unread) + std::mem::take(&mut stream.lent);
        let mut waste = 0;
        for data in stream.inbox.drain(..) {
            waste += Self::waste_of(data.len());
        }
        let mut heads = std::mem::take(&mut stream.heads);
        for head in heads.drain(..) {
            self.give_back_response(head);
        }
        // For its memory.
        self.streams[slot].heads = heads;
        self.waste -= waste;
        self.grant(unread);
    }

    /// Whoever served a stream is done with it.
    pub(in crate::proxy::h2) fn served(&mut self, slot: usize) {
        self.put_down(slot);
        let stream = &self.streams[slot];
        match (stream.sending, stream.receiving) {
            (Sending::Open, _) => self.reset(slot, Code::INTERNAL_ERROR, Failure::Ours),
            // Whatever is still sent of the request is not needed.
            (Sending::Ended, Receiving::Open) => self.reset(slot, Code::NO_ERROR, Failure::Ours),
            // What waits goes first.
            (Sending::Ending, _) | (Sending::Ended | Sending::Failed(_), _) => self.settle(slot),
        }
    }

    /// Whoever asked is done with the response.
    pub(in crate::proxy::h2) fn asked(&mut self, slot: usize) {
        self.put_down(slot);
        match self.streams[slot].is_live {
            true => self.reset(slot, Code::CANCEL, Failure::Ours),
            false => self.settle(slot),
        }
    }

    /// Nothing goes on.
    pub(in crate::proxy::h2) fn fail(&mut self, why: Failure) {
        self.over = Some(self.over.unwrap_or(why));
        self.closing = true;
        for job in std::mem::take(&mut self.jobs) {
            self.put_down(job.slot);
            self.give_back_request(job.head);
        }
        for slot in self.streams.all() {
            self.broke(slot, why);
        }
        self.send_home();
    }

    /// The other end opens nothing more, and looks at no stream above `last`.
    pub(super) fn left(&mut self, last: u32, code: Code) {
        if self.role == Role::Server {
            // It never could.
            return;
        }
        self.closing = true;
        // One that took nothing is no better than one that refuses each stream.
        self.is_left |= last > 0 && code == Code::NO_ERROR;
        let why = match self.is_left {
            true => Failure::Unseen,
            false => Failure::Reset(Code::REFUSED_STREAM),
        };
        for slot in self.streams.all() {
            if self.streams[slot].id > last {
                self.broke(slot, why);
            }
        }
    }

    /// The client opens this stream, above all others; those between will never be opened.
    pub(super) fn opens(&mut self, id: u32) {
        let next = (self.last + 1) | 1;
        if id > next {
            if self.skipped.len() == GAPS {
                self.skipped.pop_front();
            }
            self.skipped.push_back((next, id - 2));
        }
        self.last = id;
    }

    /// Returns whether this stream was passed over.
    pub(super) fn is_skipped(&self, id: u32) -> bool {
        let mut gaps = self.skipped.iter();
        id % 2 == 1 && gaps.any(|(from, to)| (*from..=*to).contains(&id))
    }

    pub(super) fn forget(&mut self, id: u32) {
        if self.forgotten.len() == REMEMBERED {
            self.forgotten.pop_front();
        }
        self.forgotten.push_back(id);
    }

    pub(super) fn is_forgotten(&self, id: u32) -> bool {
        self.forgotten.contains(&id)
    }

    /// Fails for a stream that was never opened (RFC 9113, section 5.1).
    pub(super) fn check_known(&self, id: u32) -> Result<(), Fault> {
        match id % 2 == 1 && id <= self.last {
            true => Ok(()),
            false => Err(Fault::Connection(Code::PROTOCOL_ERROR)),
        }
    }

    /// Fails for a stream that has ended, unless we did that and the other end may not know. An upstream that is slow to hear of it
    /// costs all requests on its connection, and so it may send what it likes to streams that were.
    pub(super) fn check_forgotten(&self, id: u32) -> Result<(), Fault> {
        self.check_known(id)?;
        match self.role == Role::Client || self.is_forgotten(id) {
            true => Ok(()),
            false => Err(Fault::Connection(Code::STREAM_CLOSED)),
        }
    }
}
