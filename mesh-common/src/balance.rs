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
    let Chunk([algorithm, slots, ..]) = pool.chunk(set)?;
    if slots == 0 {
        return None;
    }
    let first = set.wrapping_add(1);
    if algorithm == Algorithm::Maglev as u32 {
        return maglev(pool, first, draw.client % slots);
    }
    if algorithm == Algorithm::LeastConnections as u32 {
        return least(pool, first, slots, draw.random);
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
const GOLDEN: u32 = 0x9E37_79B9;

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

#[inline(always)]
fn least(pool: &impl Pool, first: u32, slots: u32, random: u32) -> Option<u32> {
    let start = random % slots;
    let mut best = None;
    let mut best_open = 0;
    let mut best_weight = 1;
    let mut i = 0;
    while i < LOOKED_AT {
        if i >= slots {
            break;
        }
        let slot = (start + i) % slots;
        let Chunk([_, own, _, weight]) = pool.chunk(first.wrapping_add(slot))?;
        let open = pool.open(own);
        // open / weight < best_open / best_weight, with the connection that is about to be added.
        let less = (open + 1) * best_weight < (best_open + 1) * u64::from(weight);
        if weight != 0 && (best.is_none() || less) {
            best = Some(own);
            best_open = open;
            best_weight = u64::from(weight);
        }
        i += 1;
    }
    best
}
