//! A client's body that can be sent more than once, as long as it is short.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::BytesMut;

use crate::l7::limit::shed::Load;
use crate::proxy::exchange::messages::Messages;
use crate::proxy::exchange::mirror::Tee;
use crate::proxy::exchange::{BodyError, Incoming, Piece};

/// Pieces below this are copied to be kept: as it is, each holds the memory of a whole read (64 KiB) for a few bytes, and one of a
/// byte takes many times that in a list. To copy more would cost more than to read it.
pub(super) const COPY_BELOW: usize = 16 * 1024;

/// What is known of a body while somebody else has it. One task has both: the atomics are for the compiler.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// No other attempt follows: nothing has to be kept any more.
    last: AtomicBool,
    /// There can be no other attempt: it was too long to be kept, or all of them together were.
    lost: AtomicBool,
    /// Bytes that came from the client.
    received: AtomicU64,
    /// Messages of gRPC among them, where they are counted.
    messages: AtomicU64,
    /// Pieces that the upstream took.
    moved: AtomicU64,
    /// It is the client that is waited for.
    waiting: AtomicBool,
}

impl Progress {
    pub(super) fn keep_no_more(&self) {
        self.last.store(true, Ordering::Relaxed);
    }

    pub(super) fn may_replay(&self) -> bool {
        !self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(super) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    pub(super) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn step(&self) {
        self.moved.store(self.moved() + 1, Ordering::Relaxed);
    }
}

/// A client's body. What was read of it is kept until an attempt is the last, or it is too long, or that of all
/// requests together is; then it is gone as it is read.
pub(super) struct Replay<'b, I> {
    body: &'b mut I,
    kept: &'b mut Vec<Piece>,
    /// Small pieces behind those, copied into one. Only while this attempt has had all of them.
    tail: BytesMut,
    /// Pieces of `kept` that this attempt has had.
    at: usize,
    /// Bytes that may still be kept; `None`: it is not kept any more.
    room: Option<usize>,
    /// Told how many bytes are kept.
    load: &'b Load<'b>,
    held: usize,
    ended: bool,
    failed: Option<BodyError>,
    /// Counts its messages.
    messages: Option<Messages>,
    /// Copies of it, for mirrors.
    tees: Vec<Tee>,
    progress: &'b Progress,
}

impl<'b, I: Incoming> Replay<'b, I> {
    /// Wraps a body. `kept` is for its memory.
    pub(super) fn new(
        body: &'b mut I,
        kept: &'b mut Vec<Piece>,
        room: usize,
        load: &'b Load<'b>,
        progress: &'b Progress,
    ) -> Self {
        kept.clear();
        Self {
            body,
            kept,
            tail: BytesMut::new(),
            at: 0,
            room: Some(room),
            load,
            held: 0,
            ended: false,
            failed: None,
            messages: None,
            tees: Vec::new(),
            progress,
        }
    }

    /// Counts the messages of what is read from now on: it is a call of gRPC.
    pub(super) fn count_messages(&mut self) {
        self.messages = Some(Messages::default());
    }

    /// Sends a copy of what is read from now on to a mirror, too.
    pub(super) fn tee(&mut self, tee: Tee) {
        self.tees.push(tee);
    }

    /// Begins it again, for another attempt.
    pub(super) fn rewind(&mut self) {
        self.end_tail();
        self.at = 0;
    }

    /// Returns the next piece as [`Incoming::next`] does, again from the beginning after [`rewind`](Self::rewind).
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        if self.room.is_some() && self.progress.last.load(Ordering::Relaxed) {
            self.room = None;
            self.kept.drain(..self.at);
            self.tail = BytesMut::new();
            self.at = 0;
            self.hold(self.kept.iter().map(size).sum());
        }
        if let Some(piece) = self.kept.get(self.at) {
            let piece = piece.clone();
            match self.room {
                Some(_) => self.at += 1,
                None => {
                    self.kept.remove(self.at);
                    self.hold(self.held - size(&piece));
                }
            }
            return Ok(Some(piece));
        }
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.ended {
            return Ok(None);
        }
        let piece = self.body.next().await;
        let piece = piece.inspect_err(|error| self.failed = Some(*error))?;
        self.ended = !matches!(piece, Some(Piece::Data(_)));
        for tee in &mut self.tees {
            tee.piece(piece.as_ref());
        }
        if let Some(piece) = &piece {
            self.keep(piece);
        }
        Ok(piece)
    }

    fn keep(&mut self, piece: &Piece) {
        let bytes = size(piece);
        if let Piece::Data(data) = piece {
            let received = self.progress.received() + bytes as u64;
            self.progress.received.store(received, Ordering::Relaxed);
            if let Some(messages) = &mut self.messages {
                messages.take(data);
                let count = messages.count();
                self.progress.messages.store(count, Ordering::Relaxed);
            }
        }
        let Some(room) = self.room else { return };
        let left = room.checked_sub(bytes);
        match left.filter(|_| self.hold(self.held + bytes)) {
            Some(left) => {
                self.room = Some(left);
                self.push(piece);
            }
            None => {
                self.progress.lost.store(true, Ordering::Relaxed);
                self.room = None;
                self.kept.clear();
                self.tail = BytesMut::new();
                self.at = 0;
                self.hold(0);
            }
        }
    }

    fn push(&mut self, piece: &Piece) {
        match piece {
            // A body that is one small piece, as most are, needs no copy.
            Piece::Data(data) if data.len() < COPY_BELOW && !self.kept.is_empty() => {
                self.tail.extend_from_slice(data);
            }
            Piece::Data(_) | Piece::Trailers(_) => {
                self.end_tail();
                self.kept.push(piece.clone());
                self.at += 1;
            }
        }
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            self.kept.push(Piece::Data(tail));
            self.at += 1;
        }
    }

    /// Tells how many bytes are kept; false where they may not be. Fewer than before always may.
    fn hold(&mut self, bytes: usize) -> bool {
        let may = bytes == self.held || self.load.set_bytes(bytes as u64);
        if may {
            self.held = bytes;
        }
        may
    }
}

fn size(piece: &Piece) -> usize {
    match piece {
        Piece::Data(data) => data.len(),
        Piece::Trailers(fields) => fields.size(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::l7::limit::shed::Shedder;
    use crate::proxy::exchange::BodySize;

    /// Memory that knows whether somebody has it.
    struct Page(Vec<u8>, #[expect(dead_code, reason = "counted")] Arc<()>);

    impl AsRef<[u8]> for Page {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    /// A body each of whose pieces is a part of a large read.
    struct Reads {
        pieces: Vec<usize>,
        next: u8,
        pages: Arc<()>,
    }

    impl Incoming for Reads {
        fn size(&self) -> BodySize {
            BodySize::Unknown
        }

        async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
            let Some(length) = self.pieces.pop() else {
                return Ok(None);
            };
            self.next = self.next.wrapping_add(1);
            let page = Page(vec![self.next; 64 * 1024], Arc::clone(&self.pages));
            Ok(Some(Piece::Data(Bytes::from_owner(page).slice(..length))))
        }
    }

    async fn read(body: &mut Replay<'_, Reads>) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = body.next().await.unwrap() {
            match piece {
                Piece::Data(data) => all.extend_from_slice(&data),
                Piece::Trailers(_) => unreachable!("there are none"),
            }
        }
        all
    }

    #[tokio::test]
    async fn what_is_kept_takes_about_the_memory_that_it_counts_for() {
        let large = 20 * 1024;
        for pieces in [
            vec![1; 5000],
            vec![100; 600],
            vec![3000; 20],
            vec![1, 1, large, 1, 1, large, 1, 1],
        ] {
            let count = pieces.len();
            let bytes = pieces.iter().sum::<usize>();
            let mut reads = Reads {
                pieces,
                next: 0,
                pages: Arc::default(),
            };
            let pages = Arc::clone(&reads.pages);
            let shedder = Shedder::new(1, 1 << 20);
            let load = shedder.enter().unwrap();
            let (mut kept, progress) = (Vec::new(), Progress::default());
            let mut body = Replay::new(&mut reads, &mut kept, 64 * 1024, &load, &progress);
            let first = read(&mut body).await;
            assert_eq!(first.len(), bytes);
            // Of the body, of this test, and of the first piece and the large ones.
            let held = Arc::strong_count(&pages) - 2;
            assert!(held <= 3, "{count} pieces hold {held} reads");
            for _ in 0..2 {
                body.rewind();
                assert!(progress.may_replay());
                assert_eq!(read(&mut body).await, first);
            }
            drop(body);
            assert!(kept.len() <= 8, "{count} pieces are {} to keep", kept.len());
        }
    }
}
