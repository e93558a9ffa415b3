//! The lines of a stream, however it is cut.
#![forbid(unsafe_code)]

use std::time::Duration;

use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::time::timeout;

use super::client::broken;
use super::limits;
use super::trouble::{Sort, Trouble};

/// Room that is kept between two lines. A rare long one is not to hold its memory for ever.
const ROOM: usize = 64 * 1024;

/// Reads a body line by line.
#[derive(Debug)]
pub(super) struct Lines {
    body: Body,
    buffer: Buffer,
}

/// What came of a wait for the next line.
#[derive(Debug)]
pub(super) enum Next<'l> {
    Line(&'l [u8]),
    /// The stream ended as it should. What follows the last end of a line is half a line, and does not count.
    End,
    /// Nothing came for as long as one was ready to wait.
    Silence,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            buffer: Buffer::default(),
        }
    }

    /// Returns the next line, without its end.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or a line is too long.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Next<'_>, Trouble> {
        while !self.buffer.has_line() {
            if self.buffer.len() > limits::EVENT_BYTES {
                let message = format!("an event is larger than {} MiB", limits::EVENT_BYTES >> 20);
                return Err(Trouble::new(Sort::Garbled, message));
            }
            let Ok(frame) = timeout(patience, self.body.frame()).await else {
                return Ok(Next::Silence);
            };
            match frame {
                None => return Ok(Next::End),
                Some(Err(error)) => return Err(broken(&error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.push(&data);
                    }
                }
            }
        }
        Ok(Next::Line(self.buffer.take()))
    }
}

/// Bytes, of which those before `start` were taken, and those before `searched` hold no end of a line.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    searched: usize,
}

impl Buffer {
    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn push(&mut self, data: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(ROOM);
            (self.start, self.searched) = (0, 0);
        } else if self.start > ROOM {
            self.bytes.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.bytes.extend_from_slice(data);
    }

    fn has_line(&mut self) -> bool {
        let unseen = &self.bytes[self.searched..];
        match unseen.iter().position(|byte| *byte == b'\n') {
            Some(at) => self.searched += at,
            None => self.searched = self.bytes.len(),
        }
        self.searched < self.bytes.len()
    }

    /// Returns the line that `has_line` found.
    fn take(&mut self) -> &[u8] {
        let (start, end) = (self.start, self.searched);
        self.start = end + 1;
        self.searched = end + 1;
        &self.bytes[start..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let text: String = (0..200).map(|n| "x".repeat(n * 7 % 900) + "\n").collect();
        let expected: Vec<&str> = text.lines().collect();
        for step in [1, 2, 3, 100, 4096, text.len()] {
            let mut buffer = Buffer::default();
            let mut found = Vec::new();
            for chunk in text.as_bytes().chunks(step) {
                buffer.push(chunk);
                while buffer.has_line() {
                    found.push(String::from_utf8(buffer.take().to_vec()).unwrap());
                }
            }
            assert_eq!(found, expected, "in steps of {step}");
            assert_eq!(buffer.len(), 0);
        }
    }

    #[test]
    fn half_a_line_is_none() {
        let mut buffer = Buffer::default();
        buffer.push(b"one\ntw");
        assert!(buffer.has_line());
        assert_eq!(buffer.take(), b"one");
        assert!(!buffer.has_line());
        buffer.push(b"o\n");
        assert!(buffer.has_line());
        assert_eq!(buffer.take(), b"two");
    }
}
