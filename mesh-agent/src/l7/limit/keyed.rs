//! A limit for each key: for each client workload, for each value of a header. A bounded number of them.
//!
//! Keys come from clients, so there may be any number. Each limiter has [`KEYS_MAX`] at most; beyond them, a new key takes the place
//! of that which has not been used for longest, among those of its shard. The one that goes begins anew when it comes back: who
//! makes up keys can escape the limit of each key, and is to be limited by something that it does not choose as well.
//!
//! Keys are kept as hashes with a secret of the process, whatever their length: about 80 B for each, 1.4 MB for all. Two that
//! share a hash share a limit, of which there is one chance in 10^11 with all places taken.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

use super::{Limit, Limited, Now};

/// Keys of one limiter: more than a node has clients, in little memory.
pub const KEYS_MAX: usize = 16_384;

/// Locks, so that threads seldom wait for each other.
const SHARDS: usize = 16;

/// A limit for each key.
#[derive(Debug)]
pub struct Keyed<L> {
    secret: RandomState,
    shards: Box<[Mutex<Shard<L>>]>,
}

/// Some of the keys.
#[derive(Debug)]
struct Shard<L> {
    places: HashMap<u64, usize>,
    entries: Vec<Entry<L>>,
    max: usize,
    /// Ends of the list from the latest used to the one that goes next.
    latest: usize,
    oldest: usize,
}

#[derive(Debug)]
struct Entry<L> {
    key: u64,
    limit: L,
    newer: usize,
    older: usize,
}

/// No place.
const NONE: usize = usize::MAX;

impl<L: Limit> Keyed<L> {
    /// Returns a limiter for so many keys; [`KEYS_MAX`] at most, and a multiple of 16.
    pub fn new(keys: usize) -> Self {
        let max = keys.clamp(1, KEYS_MAX).div_ceil(SHARDS);
        let shard = |_| {
            Mutex::new(Shard {
                places: HashMap::new(),
                entries: Vec::new(),
                max,
                latest: NONE,
                oldest: NONE,
            })
        };
        Self {
            secret: RandomState::new(),
            shards: (0..SHARDS).map(shard).collect(),
        }
    }

    /// Takes one request of this key; `new` makes the limit of one that is not known.
    ///
    /// # Errors
    ///
    /// Where it is one too many for this key.
    pub fn take(
        &self,
        key: &(impl Hash + ?Sized),
        now: Now,
        new: impl FnOnce() -> L,
    ) -> Result<(), Limited> {
        let key = self.secret.hash_one(key);
        let shard = usize::try_from(key % SHARDS as u64).unwrap_or(0);
        // A panic leaves the list as it was, or a limit with one more taken.
        let mut shard = self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shard.entry(key, new).limit.take(now)
    }

    /// Returns how many keys it knows.
    pub fn len(&self) -> usize {
        let shards = self.shards.iter();
        let len = |shard: &Mutex<Shard<L>>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.entries.len()
        };
        shards.map(len).sum()
    }

    /// Returns whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<L> Shard<L> {
    /// Returns the key's entry, which is the latest now.
    fn entry(&mut self, key: u64, new: impl FnOnce() -> L) -> &Entry<L> {
        let at = match self.places.get(&key).copied() {
            Some(at) => {
                self.unlink(at);
                at
            }
            None if self.entries.len() < self.max => {
                self.entries.push(Entry {
                    key,
                    limit: new(),
                    newer: NONE,
                    older: NONE,
                });
                self.entries.len() - 1
            }
            None => {
                let at = self.oldest;
                self.unlink(at);
                self.places.remove(&self.entries[at].key);
                self.entries[at].key = key;
                self.entries[at].limit = new();
                at
            }
        };
        self.places.insert(key, at);
        self.link(at);
        &self.entries[at]
    }

    fn unlink(&mut self, at: usize) {
        let Entry { newer, older, .. } = self.entries[at];
        match self.entries.get_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.latest = older,
        }
        match self.entries.get_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link(&mut self, at: usize) {
        let before = self.latest;
        self.entries[at].newer = NONE;
        self.entries[at].older = before;
        match self.entries.get_mut(before) {
            Some(entry) => entry.newer = at,
            None => self.oldest = at,
        }
        self.latest = at;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::bucket::{Bucket, Rate};
    use super::*;

    const S: u64 = 1_000_000_000;

    fn bucket() -> Bucket {
        Bucket::new(Rate::new(1, S, 1))
    }

    #[test]
    fn each_key_has_its_own_limit() {
        let keyed = Keyed::new(100);
        assert!(keyed.take("a", S, bucket).is_ok());
        assert!(keyed.take("b", S, bucket).is_ok());
        assert!(keyed.take("a", S, bucket).is_err());
        assert!(keyed.take("a", 2 * S, bucket).is_ok());
        assert_eq!(keyed.len(), 2);
    }

    #[test]
    fn any_number_of_keys_takes_no_more_than_their_bound() {
        let keyed = Keyed::new(64);
        for key in 0..10_000u32 {
            assert!(keyed.take(&key, S, bucket).is_ok());
            assert!(keyed.take(&key, S, bucket).is_err());
        }
        assert_eq!(keyed.len(), 64);
        let shards = keyed.shards.iter();
        assert!(
            shards
                .into_iter()
                .all(|it| it.lock().unwrap().places.len() == 4)
        );
        assert_eq!(
            Keyed::<Bucket>::new(usize::MAX).shards[0]
                .lock()
                .unwrap()
                .max,
            KEYS_MAX / 16
        );
    }

    #[test]
    fn threads_take_no_more_than_each_key_has() {
        let keyed = Keyed::new(1000);
        let taken: usize = std::thread::scope(|scope| {
            let work = || {
                let taken = (0..4000u32).filter(|i| keyed.take(&(i % 100), S, bucket).is_ok());
                taken.count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!(taken, 100);
    }

    proptest! {
        /// Against a list in the order of use.
        #[test]
        fn the_least_recently_used_goes(keys in prop::collection::vec(0..12u64, 1..300)) {
            let mut shard = Shard { places: HashMap::new(), entries: Vec::new(), max: 5, latest: NONE, oldest: NONE };
            let mut list: Vec<(u64, usize)> = Vec::new();
            for (number, key) in keys.into_iter().enumerate() {
                let known = list.iter().position(|(it, _)| *it == key);
                let entry = match known {
                    Some(at) => list.remove(at),
                    None => (key, number),
                };
                list.push(entry);
                if list.len() > 5 {
                    list.remove(0);
                }
                let found = shard.entry(key, || number);
                prop_assert_eq!((found.key, found.limit), entry);
                prop_assert_eq!(shard.places.len(), list.len());
            }
        }
    }
}
