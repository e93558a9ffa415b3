//! A client's body that can be sent more than once, as long as it is short.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::l7::limit::shed::Load;
use crate::proxy::exchange::mirror::Tee;
use crate::proxy::exchange::{BodyError, Incoming, Piece};

/// What is known of a body while somebody else has it. One task has both: the atomics are for the compiler.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// No other attempt follows: nothing has to be kept any more.
    last: AtomicBool,
    /// There can be no other attempt: it was too long to be kept.
    lost: AtomicBool,
    /// Bytes that came from the client.
    received: AtomicU64,
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

/// A client's body. What was read of it is kept until an attempt is the last or it is too long; then it is gone as it is read.
pub(super) struct Replay<'b, I> {
    body: &'b mut I,
    kept: &'b mut Vec<Piece>,
    /// Pieces of `kept` that this attempt has had.
    at: usize,
    /// Bytes that may still be kept; `None`: it is not kept any more.
    room: Option<usize>,
    /// Told how many bytes are kept.
    load: &'b Load<'b>,
    held: usize,
    ended: bool,
    failed: Option<BodyError>,
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
            at: 0,
            room: Some(room),
            load,
            held: 0,
            ended: false,
            failed: None,
            tees: Vec::new(),
            progress,
        }
    }

    /// Sends a copy of what is read from now on to a mirror, too.
    pub(super) fn tee(&mut self, tee: Tee) {
        self.tees.push(tee);
    }

    /// Begins it again, for another attempt.
    pub(super) fn rewind(&mut self) {
        self.at = 0;
    }

    /// Returns the next piece as [`Incoming::next`] does, again from the beginning after [`rewind`](Self::rewind).
    pub(super) async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        if self.room.is_some() && self.progress.last.load(Ordering::Relaxed) {
            self.room = None;
            self.kept.drain(..self.at);
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
        if matches!(piece, Piece::Data(_)) {
            let received = self.progress.received() + bytes as u64;
            self.progress.received.store(received, Ordering::Relaxed);
        }
        let Some(room) = self.room else { return };
        match room.checked_sub(bytes) {
            Some(left) => {
                self.room = Some(left);
                self.kept.push(piece.clone());
                self.at += 1;
                self.hold(self.held + bytes);
            }
            None => {
                self.progress.lost.store(true, Ordering::Relaxed);
                self.room = None;
                self.kept.clear();
                self.at = 0;
                self.hold(0);
            }
        }
    }

    fn hold(&mut self, bytes: usize) {
        if bytes != self.held {
            self.held = bytes;
            self.load.set_bytes(bytes as u64);
        }
    }
}

fn size(piece: &Piece) -> usize {
    match piece {
        Piece::Data(data) => data.len(),
        Piece::Trailers(fields) => fields.size(),
    }
}
