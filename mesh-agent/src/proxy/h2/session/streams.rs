//! The streams of a connection.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::{Index, IndexMut};
use std::task::{Context, Waker};

use bytes::Bytes;

use crate::l7::message::{Fields, ResponseHead};
use crate::proxy::exchange::BodySize;
use crate::proxy::h2::frame::Code;

/// Why one half of a stream came to no end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::proxy::h2) enum Failure {
    /// The other end reset it.
    Reset(Code),
    /// The other end leaves, has not looked at it and never will (GOAWAY).
    Unseen,
    /// The other end does not keep to the protocol.
    Protocol,
    /// The connection is gone.
    Lost,
    /// We reset it.
    Ours,
}

/// How far what comes is (RFC 9113, section 5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::proxy::h2) enum Receiving {
    Open,
    Ended,
    Failed(Failure),
}

/// How far what is sent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::proxy::h2) enum Sending {
    Open,
    /// All of it is here, and some has not gone yet.
    Ending,
    Ended,
    Failed(Failure),
}

/// A stream. Its slot, with the memory of its queues, is used again once nobody holds it and both halves are over.
#[derive(Debug)]
pub(in crate::proxy::h2) struct Stream {
    pub(super) id: u32,
    /// Whether frames may still come for it.
    pub(super) is_live: bool,
    /// Whether somebody uses it.
    pub(super) is_held: bool,
    pub(in crate::proxy::h2) receiving: Receiving,
    pub(in crate::proxy::h2) sending: Sending,

    /// Heads of responses that nobody has looked at.
    pub(super) heads: VecDeque<Box<ResponseHead>>,
    /// Whether the final head came; of a client's request, from the beginning.
    pub(super) has_head: bool,
    /// Whether any head of a response came.
    pub(in crate::proxy::h2) is_answered: bool,
    /// How much body follows the final head.
    pub(in crate::proxy::h2) size: BodySize,
    /// The request is `HEAD`.
    pub(super) to_head: bool,
    /// The request asks for a tunnel.
    pub(super) tunnel: bool,
    /// Bytes of the body that have to come still, if that is said.
    pub(in crate::proxy::h2) length: Option<u64>,
    pub(super) inbox: VecDeque<Bytes>,
    pub(super) unread: usize,
    /// Bytes that were handed out, and are granted anew with the next ones.
    pub(super) lent: usize,
    pub(super) trailers: Option<Fields>,
    pub(super) window_in: i64,
    pub(super) released: u32,
    /// Who reads, and whether he waits.
    pub(super) reader: Option<Waker>,
    pub(super) reads: bool,

    pub(super) queue: VecDeque<Bytes>,
    pub(super) queued: usize,
    /// Trailers that go when the queue is empty.
    pub(super) last_words: Option<Fields>,
    pub(super) window_out: i64,
    pub(super) is_ready: bool,
    /// Who sends, and whether he waits for room, or for the stream's end.
    pub(super) writer: Option<Waker>,
    pub(super) wants_room: bool,
    pub(super) watches: bool,
}

impl Stream {
    fn new() -> Self {
        Self {
            id: 0,
            is_live: false,
            is_held: false,
            receiving: Receiving::Open,
            sending: Sending::Open,
            heads: VecDeque::new(),
            has_head: false,
            is_answered: false,
            size: BodySize::Unknown,
            to_head: false,
            tunnel: false,
            length: None,
            inbox: VecDeque::new(),
            unread: 0,
            lent: 0,
            trailers: None,
            window_in: 0,
            released: 0,
            reader: None,
            reads: false,
            queue: VecDeque::new(),
            queued: 0,
            last_words: None,
            window_out: 0,
            is_ready: false,
            writer: None,
            wants_room: false,
            watches: false,
        }
    }

    /// Makes it as new, and keeps the memory.
    fn clear(&mut self) {
        self.receiving = Receiving::Open;
        self.sending = Sending::Open;
        self.heads.clear();
        self.has_head = false;
        self.is_answered = false;
        self.size = BodySize::Unknown;
        self.to_head = false;
        self.tunnel = false;
        self.length = None;
        self.inbox.clear();
        self.unread = 0;
        self.lent = 0;
        self.trailers = None;
        self.released = 0;
        self.queue.clear();
        self.queued = 0;
        self.last_words = None;
        self.is_ready = false;
        (self.reads, self.wants_room, self.watches) = (false, false, false);
    }

    pub(super) fn is_over(&self) -> bool {
        self.receiving != Receiving::Open
            && matches!(self.sending, Sending::Ended | Sending::Failed(_))
    }

    pub(super) fn wake_reader(&mut self) {
        if std::mem::take(&mut self.reads)
            && let Some(reader) = &self.reader
        {
            reader.wake_by_ref();
        }
    }

    /// Wakes who waits for room.
    pub(super) fn wake_writer(&mut self) {
        if std::mem::take(&mut self.wants_room)
            && let Some(writer) = &self.writer
        {
            writer.wake_by_ref();
        }
    }

    /// Wakes all who wait for anything.
    pub(super) fn wake_all(&mut self) {
        self.wants_room |= std::mem::take(&mut self.watches);
        self.wake_writer();
        self.wake_reader();
    }
}

/// Notes who waits. It stays for the next time, since it mostly is the same.
pub(super) fn wait(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}

/// All streams of a connection.
#[derive(Debug, Default)]
pub(in crate::proxy::h2) struct Streams {
    slots: Vec<Stream>,
    free: Vec<usize>,
    /// Slots of those that are live.
    ids: HashMap<u32, usize, BuildHasherDefault<Spread>>,
}

impl Streams {
    /// Returns the slot of a new stream.
    pub(super) fn open(&mut self, id: u32) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Stream::new());
            self.slots.len() - 1
        });
        let stream = &mut self.slots[slot];
        stream.clear();
        stream.id = id;
        stream.is_live = true;
        self.ids.insert(id, slot);
        slot
    }

    pub(super) fn find(&self, id: u32) -> Option<usize> {
        self.ids.get(&id).copied()
    }

    /// Returns how many are live.
    pub(in crate::proxy::h2) fn live(&self) -> usize {
        self.ids.len()
    }

    /// Returns how many are live or held.
    pub(in crate::proxy::h2) fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Returns the slots that are live.
    pub(super) fn all(&self) -> Vec<usize> {
        self.ids.values().copied().collect()
    }

    /// Ends what is over; returns whether it was live until now.
    pub(super) fn settle(&mut self, slot: usize) -> bool {
        let stream = &mut self.slots[slot];
        let ends = stream.is_live && stream.is_over();
        if ends {
            stream.is_live = false;
            self.ids.remove(&stream.id);
        }
        if !stream.is_live && !stream.is_held && stream.id != 0 {
            stream.id = 0;
            // What is unread has been accounted for by whoever let go of it.
            stream.inbox.clear();
            stream.queue.clear();
            stream.trailers = None;
            stream.last_words = None;
            self.free.push(slot);
        }
        ends
    }

    pub(super) fn trim(&mut self) {
        if self.used() == 0 {
            *self = Self::default();
        }
    }
}

impl Index<usize> for Streams {
    type Output = Stream;

    fn index(&self, slot: usize) -> &Stream {
        &self.slots[slot]
    }
}

impl IndexMut<usize> for Streams {
    fn index_mut(&mut self, slot: usize) -> &mut Stream {
        &mut self.slots[slot]
    }
}

/// Spreads numbers of streams. Who picks them so that they collide has 200 of them.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        // Both ends of the word are looked at, and the lowest bits are as odd as the numbers are.
        self.0.rotate_left(32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
