//! Which part of the pool of port ranges is whose. Equal lists share theirs. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_common::limits;
use mesh_common::policy::{MAX_RANGES, RangeList};

/// What nobody names any more rests for this long where the kernel offers no grace period. A program runs for microseconds.
const REST: Duration = Duration::from_secs(1);

/// Ranges in the pool.
#[allow(clippy::cast_possible_truncation, reason = "far below 2^32")]
const RANGES: u32 = limits::RANGES as u32;

/// The pool.
#[derive(Debug)]
pub(super) struct Pool {
    /// First free range and how many follow.
    free: BTreeMap<u32, u32>,
    by_content: HashMap<Arc<[u64]>, u32>,
    held: HashMap<u32, Held>,
    /// Named by nobody, but perhaps by a program that runs.
    resting: Vec<(RangeList, Instant)>,
}

#[derive(Debug)]
struct Held {
    content: Arc<[u64]>,
    names: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            free: [(0, RANGES)].into(),
            by_content: HashMap::new(),
            held: HashMap::new(),
            resting: Vec::new(),
        }
    }
}

impl Pool {
    /// Takes over a list that an earlier agent made; `None` where it cannot be one, or overlaps another.
    pub(super) fn adopt(
        &mut self,
        list: RangeList,
        read: impl Fn(u32) -> Option<u64>,
    ) -> Option<()> {
        let RangeList { first, count } = list;
        if let Some(held) = self.held.get_mut(&first) {
            held.names += 1;
            return (held.content.len() == count as usize).then_some(());
        }
        let end = first.checked_add(count)?;
        let (start, length) = self.free.range(..=first).next_back()?;
        let (start, free_end) = (*start, start + length);
        if count == 0 || count > MAX_RANGES || end > free_end {
            return None;
        }
        let content: Arc<[u64]> = (first..end).map(read).collect::<Option<_>>()?;
        self.free.remove(&start);
        if start < first {
            self.free.insert(start, first - start);
        }
        if end < free_end {
            self.free.insert(end, free_end - end);
        }
        self.by_content.entry(Arc::clone(&content)).or_insert(first);
        self.held.insert(first, Held { content, names: 1 });
        Some(())
    }

    /// Returns how many ranges are free.
    pub(super) fn free_ranges(&self) -> u64 {
        self.free.values().map(|count| u64::from(*count)).sum()
    }

    /// Returns the list with this content, named once more, and whether it is to be written; `None` where there is no room.
    pub(super) fn name(&mut self, content: &Arc<[u64]>) -> Option<(RangeList, bool)> {
        let count = u32::try_from(content.len()).ok()?;
        if let Some(first) = self.by_content.get(content) {
            let first = *first;
            self.held.get_mut(&first)?.names += 1;
            return Some((RangeList { first, count }, false));
        }
        let fits = self.free.iter().find(|(_, length)| **length >= count);
        let (first, length) = fits.map(|(first, length)| (*first, *length))?;
        self.free.remove(&first);
        if length > count {
            self.free.insert(first + count, length - count);
        }
        self.by_content.insert(Arc::clone(content), first);
        let held = Held {
            content: Arc::clone(content),
            names: 1,
        };
        self.held.insert(first, held);
        Some((RangeList { first, count }, true))
    }

    /// Notes that a list is named once less.
    pub(super) fn unname(&mut self, list: RangeList, now: Instant) {
        let Some(held) = self.held.get_mut(&list.first) else {
            return;
        };
        held.names = held.names.saturating_sub(1);
        if held.names == 0
            && let Some(held) = self.held.remove(&list.first)
        {
            if self.by_content.get(&held.content) == Some(&list.first) {
                self.by_content.remove(&held.content);
            }
            self.resting.push((list, now));
        }
    }

    /// Returns whether anything waits to be freed.
    pub(super) fn rests(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Frees what rests: all of it after a grace period, else what has rested for long enough.
    pub(super) fn free(&mut self, grace: bool, now: Instant) {
        let rested = |at: &Instant| grace || now.saturating_duration_since(*at) >= REST;
        let (done, resting) = std::mem::take(&mut self.resting)
            .into_iter()
            .partition(|(_, at)| rested(at));
        self.resting = resting;
        for (list, _) in done {
            self.give_back(list);
        }
    }

    fn give_back(&mut self, list: RangeList) {
        let (mut first, mut length) = (list.first, list.count);
        if let Some(behind) = self.free.remove(&(first + length)) {
            length += behind;
        }
        let before = self.free.range(..first).next_back();
        if let Some((start, count)) = before.map(|(start, count)| (*start, *count))
            && start + count == first
        {
            (first, length) = (start, length + count);
        }
        self.free.insert(first, length);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is named is never overwritten, and all of the pool comes back.
        #[test]
        fn lists_never_overlap(steps in proptest::collection::vec((0..12u64, 1..40usize, any::<bool>()), 1..200)) {
            let mut pool = Pool::default();
            let now = Instant::now();
            let mut named: Vec<(RangeList, Arc<[u64]>)> = Vec::new();
            let mut memory: HashMap<u32, u64> = HashMap::new();
            for (seed, length, adds) in steps {
                if adds {
                    let content: Arc<[u64]> = (0..length as u64).map(|at| at ^ seed).collect();
                    let (list, is_new) = pool.name(&content).unwrap();
                    if is_new {
                        memory.extend((list.first..).zip(content.iter().copied()));
                    }
                    named.push((list, content));
                } else if !named.is_empty() {
                    let (list, _) = named.swap_remove(length % named.len());
                    pool.unname(list, now);
                    pool.free(seed % 2 == 0, now);
                }
                for (list, content) in &named {
                    let found: Vec<u64> = (list.first..list.first + list.count).map(|at| memory[&at]).collect();
                    prop_assert_eq!(&found[..], &content[..]);
                }
            }
            // Another agent takes over.
            let mut other = Pool::default();
            for (list, _) in &named {
                prop_assert_eq!(other.adopt(*list, |at| memory.get(&at).copied()), Some(()));
            }
            let held: usize = other.held.values().map(|held| held.content.len()).sum();
            prop_assert_eq!(other.free.values().map(|free| *free as usize).sum::<usize>() + held, limits::RANGES);
            for (list, _) in named {
                pool.unname(list, now);
                other.unname(list, now);
            }
            pool.free(false, now + REST);
            other.free(true, now);
            prop_assert_eq!(&pool.free, &Pool::default().free);
            prop_assert_eq!(&other.free, &Pool::default().free);
        }
    }

    #[test]
    fn a_full_pool_and_broken_lists_are_told() {
        let mut pool = Pool::default();
        for seed in 0..(RANGES / MAX_RANGES) {
            let content: Arc<[u64]> = (0..u64::from(MAX_RANGES))
                .map(|at| at << 8 | u64::from(seed))
                .collect();
            assert!(pool.name(&content).is_some());
        }
        assert_eq!(pool.name(&[1, 2, 3].into()), None);
        let mut pool = Pool::default();
        let list = |first, count| RangeList { first, count };
        assert_eq!(pool.adopt(list(10, 5), |_| Some(0)), Some(()));
        for broken in [
            list(8, 5),
            list(12, 2),
            list(20, 0),
            list(20, MAX_RANGES + 1),
            list(RANGES - 1, 2),
            list(u32::MAX, 2),
            list(10, 4),
        ] {
            assert_eq!(pool.adopt(broken, |_| Some(0)), None, "{broken:?}");
        }
    }
}
