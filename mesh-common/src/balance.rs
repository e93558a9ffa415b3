//! Which backend a connect gets: the layout of a table, and the one function that both sides pick with.
//!
//! A table is a header chunk `[algorithm, slots, 0, 0]` followed by its slots. Random, round robin and least connections use
//! **alias slots**, one for each backend (Vose's method): `[threshold, own, alias, weight]`. A number in `0..2^32` below the
//! threshold picks `own`, any other `alias`; over all slots each backend gets exactly its weight's share. Maglev uses a table of
//! backends, four to a chunk.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the low half of a number is what is wanted, or it is below a number of that width"
)]

use crate::enums::closed_enum;
use crate::service::Chunk;

closed_enum! {
    /// How a backend is picked.
    Algorithm {
        /// Weighted random.
        Random = 0, "random", "weighted random";
        /// Each in turn, more often the more weight it has.
        RoundRobin = 1, "round_robin", "round robin";
        /// The fewest open flows for its weight, as this node counts them, of [`LOOKED_AT`] slots in a row.
        LeastConnections = 2, "least_connections", "least connections";
        /// Maglev: one client always gets the same backend, and keeps it when others come or go (Eisenbud et al., NSDI 2016).
        Maglev = 3, "maglev", "Maglev (consistent)";
    }
}

/// Slots that least connections looks at: all of most services'; the best of 16 at random is close to the best of all.
pub const LOOKED_AT: u32 = 16;

/// What a pick depends on besides the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Draw {
    /// A random number.
    pub random: u32,
    /// Picks before this one.
    pub turn: u64,
    /// Hash of the client, for Maglev.
    pub client: u32,
}

/// Where tables lie.
pub trait Pool {
    /// Returns a chunk, or `None` beyond the end.
    fn chunk(&self, index: u32) -> Option<Chunk>;

    /// Returns the open flows of a backend.
    fn open(&self, backend: u32) -> u64;
}

/// Returns the backend that a connect gets from the table at chunk `set`, or `None` when the table is empty or broken.
///
/// Constant time in the number of backends.
#[inline(always)]
pub fn pick(pool: &impl Pool, set: u32, draw: Draw) -> Option<u32> {
    // No backend has the number 0; an unused chunk is full of it.
    number(pool, set, draw).filter(|backend| *backend != 0)
}

/// Returns the backend that slot `n` of the table at chunk `set`, counted round and round, is about: as many slots in a row as there
/// are backends are about all of them, save in a Maglev table, where they are about most.
#[inline(always)]
pub fn nth(pool: &impl Pool, set: u32, n: u32) -> Option<u32> {
    let Chunk([algorithm, slots, ..]) = pool.chunk(set)?;
    if slots == 0 {
        return None;
    }
    let first = set.wrapping_add(1);
    let slot = n % slots;
    if algorithm == Algorithm::Maglev as u32 {
        return maglev(pool, first, slot).filter(|backend| *backend != 0);
    }
    let Chunk([_, own, ..]) = pool.chunk(first.wrapping_add(slot))?;
    Some(own).filter(|backend| *backend != 0)
}

#[inline(always)]
fn number(pool: &impl Pool, set: u32, draw: Draw) -> Option<u32> {
    let Chunk([algorithm, slots, ..]) = pool.chunk(set)?;
    if slots != 0 && algorithm == Algorithm::LeastConnections as u32 {
        return least(pool, set.wrapping_add(1), slots, draw.random);
    }
    drawn(pool, set, draw)
}

/// As [`pick`], but of a table for least connections a backend by weight.
#[inline(always)]
pub fn by_draw(pool: &impl Pool, set: u32, draw: Draw) -> Option<u32> {
    drawn(pool, set, draw).filter(|backend| *backend != 0)
}

#[inline(always)]
fn drawn(pool: &impl Pool, set: u32, draw: Draw) -> Option<u32> {
    let Chunk([algorithm, slots, ..]) = pool.chunk(set)?;
    if slots == 0 {
        return None;
    }
    let first = set.wrapping_add(1);
    if algorithm == Algorithm::Maglev as u32 {
        return maglev(pool, first, draw.client % slots);
    }
    if algorithm == Algorithm::RoundRobin as u32 {
        let slot = (draw.turn % u64::from(slots)) as u32;
        return alias(
            pool,
            first.wrapping_add(slot),
            coin(draw.turn / u64::from(slots), slot),
        );
    }
    // The upper half of the product chooses the slot, the lower half is uniform within it.
    let product = u64::from(draw.random) * u64::from(slots);
    alias(
        pool,
        first.wrapping_add((product >> 32) as u32),
        product as u32,
    )
}

/// The golden ratio's fraction of 2^32: its multiples spread evenly, whatever their number (a Weyl sequence).
pub const GOLDEN: u32 = 0x9E37_79B9;

/// Returns the number that decides a slot's alias in the round `round` of round robin: evenly spread over rounds.
#[inline(always)]
const fn coin(round: u64, slot: u32) -> u32 {
    (round as u32).wrapping_add(slot).wrapping_mul(GOLDEN)
}

#[inline(always)]
fn alias(pool: &impl Pool, at: u32, number: u32) -> Option<u32> {
    let Chunk([threshold, own, alias, _]) = pool.chunk(at)?;
    // A full slot has no alias: 2^32 itself is no threshold.
    Some(if number < threshold || alias == 0 {
        own
    } else {
        alias
    })
}

#[inline(always)]
fn maglev(pool: &impl Pool, first: u32, slot: u32) -> Option<u32> {
    let Chunk([a, b, c, d]) = pool.chunk(first.wrapping_add(slot / 4))?;
    Some(match slot % 4 {
        0 => a,
        1 => b,
        2 => c,
        _ => d,
    })
}

/// Returns whether a backend with these open flows and this weight has less load than another, both with the connection that is about
/// to be added: open / weight < other_open / other_weight.
#[inline(always)]
pub const fn is_less(open: u64, weight: u32, other_open: u64, other_weight: u32) -> bool {
    let load = open.wrapping_add(1).wrapping_mul(other_weight as u64);
    let other_load = other_open.wrapping_add(1).wrapping_mul(weight as u64);
    load < other_load
}

#[inline(always)]
fn least(pool: &impl Pool, first: u32, slots: u32, random: u32) -> Option<u32> {
    let start = random % slots;
    let mut best = None;
    let mut best_open = 0u64;
    let mut best_weight = 1;
    let mut i = 0;
    while i < LOOKED_AT {
        if i >= slots {
            break;
        }
        let slot = start.wrapping_add(i) % slots;
        let Chunk([_, own, _, weight]) = pool.chunk(first.wrapping_add(slot))?;
        let open = pool.open(own);
        let less = is_less(open, weight, best_open, best_weight);
        if weight != 0 && (best.is_none() || less) {
            best = Some(own);
            best_open = open;
            best_weight = weight;
        }
        i += 1;
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tables in plain memory.
    struct Memory {
        chunks: Vec<Chunk>,
        open: Vec<u64>,
    }

    impl Pool for Memory {
        fn chunk(&self, index: u32) -> Option<Chunk> {
            self.chunks.get(usize::try_from(index).ok()?).copied()
        }

        fn open(&self, backend: u32) -> u64 {
            let backend = usize::try_from(backend).unwrap();
            self.open.get(backend).copied().unwrap_or(u64::MAX)
        }
    }

    /// A table with a full slot for each backend, at chunk 1.
    fn full(algorithm: Algorithm, weights: &[u32]) -> Memory {
        let slots = u32::try_from(weights.len()).unwrap();
        let mut chunks = vec![Chunk::default(), Chunk([algorithm as u32, slots, 0, 0])];
        let slot = |(backend, weight): (u32, &u32)| Chunk([u32::MAX, backend, 0, *weight]);
        chunks.extend((1..).zip(weights).map(slot));
        Memory {
            chunks,
            open: vec![0; weights.len() + 1],
        }
    }

    #[test]
    fn slots_counted_round_and_round_are_about_every_backend() {
        for algorithm in [Algorithm::Random, Algorithm::LeastConnections] {
            let memory = full(algorithm, &[1; 5]);
            for n in 0..20 {
                assert_eq!(nth(&memory, 1, n), Some(n % 5 + 1));
            }
        }
        let mut memory = full(Algorithm::Maglev, &[]);
        memory.chunks[1] = Chunk([Algorithm::Maglev as u32, 3, 0, 0]);
        memory.chunks.push(Chunk([7, 8, 9, 0]));
        for n in 0..20 {
            assert_eq!(nth(&memory, 1, n), Some(n % 3 + 7));
        }
        assert_eq!(nth(&memory, 0, 0), None);
    }

    #[test]
    fn round_robin_takes_each_slot_in_turn() {
        let memory = full(Algorithm::RoundRobin, &[1; 5]);
        for turn in 0..1000 {
            let draw = Draw {
                turn,
                random: 7,
                client: 3,
            };
            assert_eq!(pick(&memory, 1, draw), Some((turn % 5) as u32 + 1));
        }
    }

    #[test]
    fn one_client_always_gets_the_same_backend_from_maglev() {
        let mut memory = full(Algorithm::Maglev, &[]);
        memory.chunks[1] = Chunk([Algorithm::Maglev as u32, 7, 0, 0]);
        memory
            .chunks
            .extend([Chunk([1, 2, 3, 4]), Chunk([5, 6, 7, 0])]);
        for client in 0..100 {
            let draw = |random| Draw {
                random,
                turn: u64::from(random),
                client,
            };
            assert_eq!(pick(&memory, 1, draw(1)), Some(client % 7 + 1));
            assert_eq!(pick(&memory, 1, draw(2)), Some(client % 7 + 1));
        }
    }

    proptest! {
        #[test]
        fn least_connections_takes_the_least_loaded_of_those_looked_at(
            backends in proptest::collection::vec((1..10u32, 0..50u64), 1..40),
            random in any::<u32>(),
        ) {
            let weights: Vec<u32> = backends.iter().map(|(weight, _)| *weight).collect();
            let mut memory = full(Algorithm::LeastConnections, &weights);
            memory.open = std::iter::once(0).chain(backends.iter().map(|(_, open)| *open)).collect();
            let draw = Draw { random, ..Draw::default() };
            let picked = pick(&memory, 1, draw).unwrap() as usize - 1;
            let slots = backends.len();
            let start = random as usize % slots;
            let seen: Vec<usize> =
                (0..slots.min(LOOKED_AT as usize)).map(|i| (start + i) % slots).collect();
            prop_assert!(seen.contains(&picked));
            let (weight, open) = backends[picked];
            for (other_weight, other_open) in seen.iter().map(|slot| backends[*slot]) {
                prop_assert!((open + 1) * u64::from(other_weight) <= (other_open + 1) * u64::from(weight));
            }
        }

        #[test]
        fn a_broken_table_never_panics_nor_yields_number_0(
            words in proptest::collection::vec(prop_oneof![0..20u32, any::<u32>()], 0..64),
            set in prop_oneof![0..16u32, any::<u32>()],
            random in any::<u32>(),
            turn in any::<u64>(),
            client in any::<u32>(),
        ) {
            let chunks: Vec<Chunk> = words
                .chunks_exact(4)
                .map(|words| Chunk(words.try_into().unwrap()))
                .collect();
            let memory = Memory { chunks, open: vec![3; 8] };
            let picked = pick(&memory, set, Draw { random, turn, client });
            prop_assert!(picked.is_none_or(|backend| words.contains(&backend) && backend != 0));
        }
    }
}
