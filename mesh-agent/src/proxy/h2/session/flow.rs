//! Windows (RFC 9113, section 5.2): the sender may send on as content is read, not as it comes.

use super::Session;
use super::streams::Receiving;
use crate::proxy::h2::frame::{self, Code, Fault, MAX_WINDOW};

/// A DATA frame shorter than this wastes what is missing: it takes as much memory until it is read.
pub(super) const SMALL: usize = 256;

impl Session {
    /// Takes so much of the connection's window.
    pub(super) fn take_window(&mut self, bytes: usize) -> Result<(), Fault> {
        self.window_in -= i64::try_from(bytes).unwrap_or(i64::MAX);
        match self.window_in < 0 {
            true => Err(Fault::Connection(Code::FLOW_CONTROL_ERROR)),
            false => Ok(()),
        }
    }

    /// Grants so much of the connection's window anew; says so when it is half of it.
    pub(super) fn grant(&mut self, bytes: usize) {
        self.released += u32::try_from(bytes).unwrap_or(0);
        if self.released >= self.bounds.connection_window / 2 {
            frame::write_window(self.out.text(), 0, self.released);
            self.window_in += i64::from(self.released);
            self.released = 0;
            self.wake();
        }
    }

    /// Grants so much of a stream's window and of the connection's anew.
    pub(super) fn release(&mut self, slot: usize, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let stream = &mut self.streams[slot];
        if stream.receiving == Receiving::Open && stream.is_live {
            stream.released += u32::try_from(bytes).unwrap_or(0);
            if stream.released >= self.bounds.stream_window / 2 {
                frame::write_window(self.out.text(), stream.id, stream.released);
                stream.window_in += i64::from(stream.released);
                stream.released = 0;
                self.wake();
            }
        }
        self.grant(bytes);
    }

    /// A window of ours grows.
    pub(super) fn widen(&mut self, id: u32, by: i64) -> Result<(), Fault> {
        if id == 0 {
            self.window_out += by;
            return match self.window_out > MAX_WINDOW {
                true => Err(Fault::Connection(Code::FLOW_CONTROL_ERROR)),
                false => Ok(()),
            };
        }
        let Some(slot) = self.streams.find(id) else {
            // It ended, which the other end did not know yet.
            return self.check_known(id);
        };
        let stream = &mut self.streams[slot];
        stream.window_out += by;
        if stream.window_out > MAX_WINDOW {
            return Err(Fault::Stream(id, Code::FLOW_CONTROL_ERROR));
        }
        stream.wake_writer();
        self.enlist(slot);
        Ok(())
    }

    /// The first window of all streams changes, those that are open included (section 6.9.2).
    pub(super) fn set_first_window(&mut self, window: i64) -> Result<(), Fault> {
        let by = window - self.peer.window;
        self.peer.window = window;
        for slot in self.streams.all() {
            let stream = &mut self.streams[slot];
            stream.window_out += by;
            if stream.window_out > MAX_WINDOW {
                return Err(Fault::Connection(Code::FLOW_CONTROL_ERROR));
            }
            stream.wake_writer();
            self.enlist(slot);
        }
        Ok(())
    }

    /// Returns what small frames waste in all that nobody has read.
    pub(super) fn waste_of(length: usize) -> usize {
        SMALL.saturating_sub(length)
    }
}
