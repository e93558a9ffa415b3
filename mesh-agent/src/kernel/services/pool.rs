//! Which chunks of the pool are free. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// A run of chunks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Region {
    /// The first one's index.
    pub(super) start: u32,
    /// How many.
    pub(super) chunks: u32,
}

/// Free regions, found by place, to join neighbours, and by size, to take the smallest that fits.
#[derive(Debug)]
pub(super) struct Pool {
    by_start: BTreeMap<u32, u32>,
    by_size: BTreeSet<(u32, u32)>,
}

impl Pool {
    /// Returns a pool of the chunks below `limit`, all free but chunk 0, which stands for "no table".
    pub(super) fn new(limit: u32) -> Self {
        let mut pool = Self {
            by_start: BTreeMap::new(),
            by_size: BTreeSet::new(),
        };
        pool.insert(1, limit.saturating_sub(1));
        pool
    }

    /// Takes a region of `chunks`, or returns `None` when no free one is that long.
    pub(super) fn take(&mut self, chunks: u32) -> Option<Region> {
        let (size, start) = *self.by_size.range((chunks, 0)..).next()?;
        self.remove(start, size);
        self.insert(start + chunks, size - chunks);
        Some(Region { start, chunks })
    }

    /// Takes this very region; returns false, and takes nothing, where not all of it is free.
    pub(super) fn claim(&mut self, region: Region) -> bool {
        let Some(end) = region.start.checked_add(region.chunks) else {
            return false;
        };
        let before = self.by_start.range(..=region.start).next_back();
        let Some((start, size)) = before.map(|(start, size)| (*start, *size)) else {
            return false;
        };
        if start + size < end {
            return false;
        }
        self.remove(start, size);
        self.insert(start, region.start - start);
        self.insert(end, start + size - end);
        true
    }

    /// Gives a region back.
    pub(super) fn give(&mut self, region: Region) {
        let Region {
            mut start,
            mut chunks,
        } = region;
        if let Some((before, size)) = self.by_start.range(..start).next_back()
            && before + size == start
        {
            (start, chunks) = (*before, chunks + size);
            self.remove(start, chunks - region.chunks);
        }
        if let Some(size) = self.by_start.get(&(start + chunks)).copied() {
            self.remove(start + chunks, size);
            chunks += size;
        }
        self.insert(start, chunks);
    }

    /// Returns the number of free chunks.
    pub(super) fn free(&self) -> u64 {
        self.by_start.values().map(|size| u64::from(*size)).sum()
    }

    fn insert(&mut self, start: u32, size: u32) {
        if size > 0 {
            self.by_start.insert(start, size);
            self.by_size.insert((size, start));
        }
    }

    fn remove(&mut self, start: u32, size: u32) {
        self.by_start.remove(&start);
        self.by_size.remove(&(size, start));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunk_0_is_never_given_and_a_full_pool_says_so() {
        let mut pool = Pool::new(10);
        let all = Region {
            start: 1,
            chunks: 9,
        };
        assert_eq!(pool.take(10), None);
        assert_eq!(pool.take(9), Some(all));
        assert_eq!(pool.take(1), None);
        pool.give(all);
        assert_eq!(pool.take(9), Some(all));
    }

    proptest! {
        #[test]
        fn regions_never_overlap_and_all_join_again(
            steps in proptest::collection::vec((1..40u32, any::<bool>(), any::<prop::sample::Index>()), 1..200),
        ) {
            let mut pool = Pool::new(300);
            let mut taken: Vec<Region> = Vec::new();
            for (chunks, give, index) in steps {
                if give && !taken.is_empty() {
                    pool.give(taken.swap_remove(index.index(taken.len())));
                } else if let Some(region) = pool.take(chunks) {
                    prop_assert_eq!(region.chunks, chunks);
                    prop_assert!(region.start >= 1 && region.start + chunks <= 300);
                    let apart = |other: &Region| {
                        other.start + other.chunks <= region.start || region.start + chunks <= other.start
                    };
                    prop_assert!(taken.iter().all(apart));
                    taken.push(region);
                }
                let used: u64 = taken.iter().map(|region| u64::from(region.chunks)).sum();
                prop_assert_eq!(pool.free(), 299 - used);
            }
            // Another that takes over claims the same, and nothing twice.
            let mut heir = Pool::new(300);
            for region in &taken {
                prop_assert!(heir.claim(*region));
                prop_assert!(!heir.claim(*region));
            }
            prop_assert_eq!(&heir.by_start, &pool.by_start);
            taken.into_iter().for_each(|region| pool.give(region));
            prop_assert_eq!(pool.by_start.into_iter().collect::<Vec<_>>(), [(1, 299)]);
            prop_assert_eq!(pool.by_size.len(), 1);
        }
    }
}
