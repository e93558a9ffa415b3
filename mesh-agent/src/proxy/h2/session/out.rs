//! What waits for the socket: heads and small pieces one after the other, large pieces where they are.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};

use crate::proxy::stream::Writer;

/// Pieces up to this are copied, which is cheaper than a further part of a vectored write.
const COPY_MOST: usize = 4 * 1024;

/// Parts of one write: four frames of 16 KiB with their heads are as much as a socket takes at once.
const PARTS: usize = 16;

/// Memory that is kept for the next time.
const KEEP: usize = 64 * 1024;

/// A queue of bytes.
#[derive(Debug, Default)]
pub(in crate::proxy::h2) struct Out {
    text: Vec<u8>,
    /// How much of it is sent.
    sent: usize,
    /// Large pieces, each with the place in `text` that it stands before.
    large: VecDeque<(usize, Bytes)>,
    large_bytes: usize,
    /// Bytes of answers to what need not be answered but by us: PING, SETTINGS, faults.
    replies: usize,
}

impl Out {
    /// Returns what frames are appended to.
    pub(in crate::proxy::h2) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Returns the same for an answer that the other end makes us send.
    pub(super) fn reply(&mut self, bytes: usize) -> &mut Vec<u8> {
        self.replies += bytes;
        &mut self.text
    }

    /// Appends content.
    pub(super) fn data(&mut self, data: Bytes) {
        if data.len() <= COPY_MOST {
            self.text.extend_from_slice(&data);
            return;
        }
        self.large_bytes += data.len();
        self.large.push_back((self.text.len(), data));
    }

    /// Returns how many bytes wait.
    pub(in crate::proxy::h2) fn len(&self) -> usize {
        self.text.len() - self.sent + self.large_bytes
    }

    pub(in crate::proxy::h2) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many bytes of answers were made since all was sent.
    pub(in crate::proxy::h2) fn replies(&self) -> usize {
        self.replies
    }

    /// Sends until nothing waits or the socket is full.
    pub(in crate::proxy::h2) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut Writer<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let sent = if self.large.is_empty() {
                ready!(writer.poll_send(cx, &[IoSlice::new(&self.text[self.sent..])]))?
            } else {
                ready!(self.poll_send_parts(cx, writer))?
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send_parts(
        &self,
        cx: &mut Context<'_>,
        writer: &mut Writer<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut parts = [IoSlice::new(&[]); PARTS];
        let (mut count, mut at) = (0, self.sent);
        for (before, piece) in &self.large {
            if count + 2 > PARTS {
                return writer.poll_send(cx, &parts[..count]);
            }
            if *before > at {
                parts[count] = IoSlice::new(&self.text[at..*before]);
                count += 1;
                at = *before;
            }
            parts[count] = IoSlice::new(piece);
            count += 1;
        }
        if count < PARTS && at < self.text.len() {
            parts[count] = IoSlice::new(&self.text[at..]);
            count += 1;
        }
        writer.poll_send(cx, &parts[..count])
    }

    fn advance(&mut self, mut sent: usize) {
        while let Some((before, piece)) = self.large.front_mut() {
            let text = (*before - self.sent).min(sent);
            self.sent += text;
            sent -= text;
            if self.sent < *before {
                return;
            }
            let taken = piece.len().min(sent);
            piece.advance(taken);
            sent -= taken;
            self.large_bytes -= taken;
            if !piece.is_empty() {
                return self.compact();
            }
            self.large.pop_front();
        }
        self.sent += sent;
        self.compact();
    }

    fn compact(&mut self) {
        if self.is_empty() {
            self.text.clear();
            self.sent = 0;
            self.replies = 0;
            if self.text.capacity() > KEEP {
                self.text = Vec::new();
            }
        } else if self.sent > KEEP {
            // It is never empty where somebody always has something to say.
            self.text.drain(..self.sent);
            for (before, _) in &mut self.large {
                *before -= self.sent;
            }
            self.sent = 0;
        }
    }

    /// Gives back memory.
    pub(super) fn trim(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_leave_in_order_whatever_is_taken_at_a_time() {
        for step in [1, 3, 5000, 100_000] {
            let mut out = Out::default();
            let mut expected = Vec::new();
            let mut got = Vec::new();
            for round in 0..50_u8 {
                let large = vec![round; COPY_MOST + usize::from(round)];
                for piece in [&b"head"[..], &large, &large, b"", b"tail"] {
                    out.data(Bytes::copy_from_slice(piece));
                    expected.extend_from_slice(piece);
                }
                if round % 3 == 0 {
                    take(&mut out, step * 7, step, &mut got);
                }
            }
            take(&mut out, usize::MAX, step, &mut got);
            assert!(got == expected && out.is_empty());
            assert!(out.text.is_empty());
        }
    }

    /// Takes so many bytes, a step at a time, from where a write would begin.
    fn take(out: &mut Out, most: usize, step: usize, got: &mut Vec<u8>) {
        let mut taken = 0;
        while taken < most && !out.is_empty() {
            let mut all = Vec::new();
            let mut at = out.sent;
            for (before, piece) in &out.large {
                all.extend_from_slice(&out.text[at..*before]);
                all.extend_from_slice(piece);
                at = *before;
            }
            all.extend_from_slice(&out.text[at..]);
            assert_eq!(all.len(), out.len());
            let count = step.min(all.len());
            got.extend_from_slice(&all[..count]);
            out.advance(count);
            taken += count;
        }
    }
}
