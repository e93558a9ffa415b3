//! A body of any length that both ends know: a prime number of bytes over and over, so that whatever is lost, doubled or swapped
//! shows, at the price of a comparison of memory.

use std::sync::LazyLock;

use bytes::Bytes;
use harness::bytes::Stream;

/// No power of two divides it: no buffer's size brings it back to where it was.
const PERIOD: usize = 1_048_573;

static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    let mut bytes = vec![0; PERIOD];
    Stream(7).fill(0, &mut bytes);
    bytes.into()
});

/// A place in the body.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Payload {
    /// How much came before.
    pub(crate) at: u64,
}

impl Payload {
    /// Returns the next bytes, at most so many.
    pub(crate) fn next(&mut self, most: u64) -> Bytes {
        let from = self.place();
        let left = PATTERN.slice(from..(from + (64 << 10)).min(PERIOD));
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let piece = left.slice(..left.len().min(most));
        self.at += piece.len() as u64;
        piece
    }

    /// Checks that these bytes are the next ones.
    ///
    /// # Errors
    /// Says where they are not.
    pub(crate) fn check(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let from = self.place();
            let count = bytes.len().min(PERIOD - from);
            let (now, later) = bytes.split_at(count);
            if now != &PATTERN[from..from + count] {
                return Err(format!("other bytes within {count} from {}", self.at));
            }
            self.at += count as u64;
            bytes = later;
        }
        Ok(())
    }

    fn place(self) -> usize {
        usize::try_from(self.at % PERIOD as u64).unwrap_or(0)
    }
}
