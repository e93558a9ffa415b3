//! The decision of each message: from socket to socket, or by TCP.
//!
//! Order rests on the kernel's own sequence numbers. A receiver's queue of redirected messages is read before its TCP
//! queue, so redirect to TCP is always in order; TCP to redirect is in order once the receiver has read every byte that
//! the sender ever gave to TCP, that is when its `copied_seq` equals the sender's `write_seq`. That one rule covers the
//! first message (nothing sent yet: both stand at the initial sequence number), bytes sent before the other end joined,
//! partial sends and the way back after TCP took over.

use crate::reason::Reason;

/// Bytes that may lie unread by redirect in one direction before TCP takes over.
///
/// The receiver's `SO_RCVBUF` does not hold redirected bytes back, so this does.
pub const IN_FLIGHT_BYTES_MAX: u32 = 512 * 1024;

/// Messages that may lie unread by redirect in one direction before TCP takes over.
///
/// Each costs the kernel about 1 KiB of unaccounted memory, whatever its size.
pub const IN_FLIGHT_MESSAGES_MAX: u32 = 512;

/// The same, of bytes and of messages, while no agent runs that would wake the reader of what TCP brings behind them.
///
/// As much as a flow may send without an answer before it is a bulk stream for good, and as much unaccounted memory: a limit for the
/// seconds that an agent takes to start again.
pub const UNSERVED_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// As [`UNSERVED_BYTES_MAX`].
pub const UNSERVED_MESSAGES_MAX: u32 = 16 * 1024;

/// Smallest message that counts as part of a bulk stream.
///
/// Below it the cost of each message decides, which redirect lowers; above it the cost of each byte, which it does not: TCP
/// merges messages into large segments, while each redirected one takes the reader's lock and wakes it.
pub const BULK_MESSAGE_BYTES: u32 = 4096;

/// Bytes sent without an answer from which on large messages count as a bulk stream.
///
/// Above the usual answer to a request, below what a queue of redirected messages would grow to.
pub const BULK_UNANSWERED_BYTES: u64 = 128 * 1024;

/// Bytes sent without an answer, in messages of any size, from which on a flow is a bulk stream for good.
///
/// Being in the socket map costs each message that goes by TCP, so such a flow leaves it. 16 MiB are some 5 ms at full speed,
/// and more than answers that share a connection with small requests usually have.
pub const LEAVE_UNANSWERED_BYTES: u64 = 16 * 1024 * 1024;

/// Flows of a pair that must have ended before they tell how long the next one is.
pub const SHORT_FLOWS_MIN: u32 = 16;

/// Messages, both directions together, that a flow must carry on average to gain by redirect.
///
/// Both ends' places in the socket map cost 6 us; each message then saves some 1.5 us, or less where the reader's wake-up is most of
/// it. So four would be even, and twice that is a gain.
pub const SHORT_MESSAGES: u32 = 8;

/// Returns whether flows of a pair are too short to gain, given how many ended and the messages that these carried together.
#[inline(always)]
pub const fn is_short(closed: u32, messages: u32) -> bool {
    closed >= SHORT_FLOWS_MIN && messages / SHORT_MESSAGES < closed
}

/// Returns whether a message belongs to a bulk stream, which is left to TCP.
#[inline(always)]
pub const fn is_bulk(message_bytes: u32, unanswered_bytes: u64) -> bool {
    message_bytes >= BULK_MESSAGE_BYTES && unanswered_bytes > BULK_UNANSWERED_BYTES
}

/// What one end of a flow tells the other about its reading. Written by that end only, on a cache line of its own.
///
/// The words are single stores, so a reader never sees half of one.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Progress {
    /// `copied_seq` in the low half, the writer's initial sequence number as a tag in the high half.
    ///
    /// A value that a dying socket stores late, into a slot that another flow has by then, carries the wrong tag and
    /// counts as nothing read.
    pub tcp_read: u64,
    /// Redirected bytes read, modulo 2^32.
    pub redirect_read: u32,
    /// Redirected bytes sent, modulo 2^32.
    pub redirect_sent: u32,
    /// 1 once this end has closed.
    pub closed: u64,
    /// 1 once this end has found the flow to be a bulk stream for good: neither end redirects any more.
    pub leaving: u64,
    /// `Reason` of this end's first message that went by TCP.
    pub reason: u64,
    /// Sequence number after the last byte that this end gave to TCP while it took part; its first one before that.
    pub tcp_sent: u32,
    /// Redirected bytes read, modulo 2^32, by another count than [`Progress::redirect_read`]: calls that TCP's position did
    /// not move in. Reading that no call shows (`splice(2)`) leaves this one right and the other behind; several threads
    /// that read at once do the reverse.
    pub redirect_taken: u32,
    /// 1 where this end is the agent's: it does nothing that redirect breaks, and whether it may lies with the other end alone.
    pub agent: u64,
    /// Fills the cache line.
    pub _pad: u64,
}

const _: () = assert!(size_of::<Progress>() == 8 + 4 + 4 + 8 + 8 + 8 + 4 + 4 + 8 + 8);

/// Returns the value of [`Progress::tcp_read`] for a socket with initial sequence number `iss` that has read up to `copied_seq`.
#[inline(always)]
pub const fn tcp_read(iss: u32, copied_seq: u32) -> u64 {
    ((iss as u64) << 32) | copied_seq as u64
}

/// Returns the redirected bytes of one direction, modulo 2^32: all bytes that calls moved less those that TCP did.
///
/// Of a receiver: what its calls returned, its `copied_seq`, its `irs`. Of a sender: what its calls took, its `write_seq`, its
/// `iss`; not once its FIN is queued, which takes a number, too.
#[inline(always)]
pub const fn redirected(all_bytes: u32, tcp_seq: u32, initial_seq: u32) -> u32 {
    all_bytes.wrapping_sub(tcp_seq.wrapping_sub(initial_seq.wrapping_add(1)))
}

/// Redirected bytes that `writer` sent and `reader` has not read, by both of its counts: each alone falls behind for ever after
/// one or another way of reading.
#[inline(always)]
pub fn redirect_unread(reader: &Progress, writer: &Progress) -> u32 {
    let one = ahead(writer.redirect_sent, reader.redirect_read);
    let other = ahead(writer.redirect_sent, reader.redirect_taken);
    if one < other { one } else { other }
}

/// Bytes that `writer` gave to TCP and `reader`, which takes part too, has not read as far as it told.
#[inline(always)]
pub fn tcp_unread(reader: &Progress, writer: &Progress) -> u32 {
    if reader.tcp_read == 0 || writer.tcp_read == 0 {
        return 0;
    }
    let copied = ((reader.tcp_read << 32) >> 32) as u32;
    ahead(writer.tcp_sent, copied)
}

/// How far `sent` is ahead of `read`, modulo 2^32; 0 where it is behind, as it may be for a moment.
#[inline(always)]
fn ahead(sent: u32, read: u32) -> u32 {
    let ahead = sent.wrapping_sub(read);
    if ahead > u32::MAX / 2 { 0 } else { ahead }
}

/// Bound of what one direction has in flight by redirect; the sender's, kept under its socket lock.
///
/// Messages are not counted by the reader, only bytes, so marks tie the two: once the reader has passed a mark's bytes,
/// the mark's messages are read. The count is an upper bound, late by one mark at most.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Window {
    /// Redirected bytes sent, modulo 2^32.
    pub sent_bytes: u32,
    /// Redirected messages sent, modulo 2^32.
    pub sent_messages: u32,
    /// `sent_bytes` when the mark was set.
    pub mark_bytes: u32,
    /// `sent_messages` when the mark was set.
    pub mark_messages: u32,
    /// Messages known to be read.
    pub read_messages: u32,
    /// 1 once a send call has failed, maybe with a message that is counted here: the count is then put right after each call.
    pub unsure: u32,
}

const _: () = assert!(size_of::<Window>() == 6 * 4);

impl Window {
    /// Returns whether the reader has read all that was redirected, by one of its counts.
    #[inline(always)]
    pub fn is_read(&self, reader: &Progress) -> bool {
        reader.redirect_read == self.sent_bytes || reader.redirect_taken == self.sent_bytes
    }

    /// Returns whether another message fits, given the redirected bytes that the reader has read.
    #[inline(always)]
    pub fn admits(&mut self, redirect_read: u32) -> bool {
        self.has_room(redirect_read, (IN_FLIGHT_BYTES_MAX, IN_FLIGHT_MESSAGES_MAX))
    }

    /// As [`Window::admits`], while no agent runs.
    #[inline(always)]
    pub fn admits_unserved(&mut self, redirect_read: u32) -> bool {
        self.has_room(redirect_read, (UNSERVED_BYTES_MAX, UNSERVED_MESSAGES_MAX))
    }

    #[inline(always)]
    fn has_room(&mut self, redirect_read: u32, (bytes_max, messages_max): (u32, u32)) -> bool {
        let unread = self.sent_bytes.wrapping_sub(redirect_read);
        // The reader may be ahead for a moment: its count is stored before the sender's own.
        let unread = if unread > u32::MAX / 2 { 0 } else { unread };
        let unread_at_mark = self.mark_bytes.wrapping_sub(redirect_read);
        if unread_at_mark == 0 || unread_at_mark > u32::MAX / 2 {
            self.read_messages = self.mark_messages;
            self.mark_bytes = self.sent_bytes;
            self.mark_messages = self.sent_messages;
        }
        if unread == 0 {
            self.read_messages = self.sent_messages;
        }
        unread < bytes_max && self.sent_messages.wrapping_sub(self.read_messages) < messages_max
    }

    /// Counts a message that was redirected.
    #[inline(always)]
    pub fn sent(&mut self, bytes: u32) {
        self.sent_bytes = self.sent_bytes.wrapping_add(bytes);
        self.sent_messages = self.sent_messages.wrapping_add(1);
    }
}

/// Returns why the next message must go by TCP, or `None` when it may be redirected.
///
/// `write_seq` is the sender's (`tcp_sock.write_seq`), `irs` the receiver's initial sequence number as the sender knows it,
/// `reader` what the receiver tells. Cost: a few comparisons.
#[inline(always)]
pub fn refusal(write_seq: u32, irs: u32, reader: &Progress, window: &mut Window) -> Option<Reason> {
    if reader.tcp_read != tcp_read(irs, write_seq) {
        let joined = (reader.tcp_read >> 32) as u32 == irs && reader.tcp_read != 0;
        return Some(if joined {
            Reason::TcpOutstanding
        } else {
            Reason::PeerNotJoined
        });
    }
    if window.admits(reader.redirect_read) {
        None
    } else {
        Some(Reason::InFlightBound)
    }
}

#[cfg(test)]
#[path = "redirect/tests.rs"]
mod tests;
