//! What requests work with and connections without one have no use for: taken when there is a request, put back when it has ended.
//!
//! One for each data thread. What was put back last is taken first, while the processor's caches still have it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Things that are kept while nobody uses them: a thread seldom has more requests in progress.
const KEPT: usize = 256;

/// Bytes of a thing that is kept, at most: with these, a thread keeps 8 MiB.
const LARGEST: usize = 32 * 1024;

/// Something that holds memory from one use to the next.
pub trait Reused: Default {
    /// Returns how many bytes it holds, about.
    fn bytes(&self) -> usize;

    /// Forgets all that it was used for. Called before it is kept, however its use ended: whoever is next may be somebody else.
    fn reset(&mut self);
}

/// Where such things lie.
#[derive(Debug)]
pub struct Shelf<T>(Mutex<Vec<Box<T>>>);

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Reused> Shelf<T> {
    /// Takes one.
    pub fn take(&self) -> Box<T> {
        let one = self.lock().pop();
        one.unwrap_or_default()
    }

    /// Puts one back.
    pub fn put(&self, mut one: Box<T>) {
        if one.bytes() > LARGEST {
            return;
        }
        one.reset();
        let mut kept = self.lock();
        if kept.len() < KEPT {
            kept.push(one);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Box<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Room(Vec<u8>);

    impl Reused for Room {
        fn bytes(&self) -> usize {
            self.0.capacity()
        }

        fn reset(&mut self) {
            self.0.clear();
        }
    }

    #[test]
    fn what_was_put_back_is_taken_again_unless_it_is_too_large() {
        let shelf = Shelf::default();
        let mut small = Box::new(Room::default());
        small.0.reserve_exact(1000);
        small.0.push(7);
        let mut large = Box::new(Room::default());
        large.0.reserve_exact(LARGEST + 1);
        shelf.put(small);
        shelf.put(large);
        let again = shelf.take();
        assert_eq!((again.0.len(), again.0.capacity()), (0, 1000));
        assert_eq!(shelf.take().0.capacity(), 0);
        for _ in 0..=KEPT {
            shelf.put(Box::default());
        }
        assert_eq!(shelf.lock().len(), KEPT);
    }
}
