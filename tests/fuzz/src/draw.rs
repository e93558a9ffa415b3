//! Choices out of bytes, so that any bytes are an input: what has run out is 0.

/// Bytes that choices are drawn from.
#[derive(Debug)]
pub(crate) struct Draw<'d> {
    left: &'d [u8],
}

impl<'d> Draw<'d> {
    pub(crate) fn new(bytes: &'d [u8]) -> Self {
        Self { left: bytes }
    }

    /// Returns whether every choice from now on is 0.
    pub(crate) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.left.split_first() else {
            return 0;
        };
        self.left = rest;
        *first
    }

    /// Returns a number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    /// Returns one of `all`.
    pub(crate) fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub(crate) fn text(&mut self, all: &[&'static str]) -> &'static str {
        all[self.below(all.len())]
    }

    /// Returns whether something with a chance of one to `n` happens.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }
}
