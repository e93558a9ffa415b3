//! Tables of backends, as `mesh_common::balance` picks from them. Pure: equal targets make equal tables, on every node.

use mesh_common::addr::{Addr, PortBe};
use mesh_common::balance::Algorithm;
use mesh_common::service::Chunk;

/// Sizes of Maglev tables, all prime, so that every step visits every slot. The largest is the paper's own small one.
const MAGLEV_SIZES: [u32; 5] = [251, 1021, 4093, 16381, 65521];

/// Slots for each backend that keep Maglev's shares within 1 % (section 5.3 of the paper).
const MAGLEV_SLOTS_EACH: usize = 100;

/// What a full slot holds: 2^32.
const FULL: u64 = 1 << 32;

/// Where an endpoint is.
pub(super) type Place = (Addr, PortBe);

/// One backend that a table is to name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Listed {
    /// Its number.
    pub(super) number: u32,
    /// Its weight, at least 1.
    pub(super) weight: u32,
    /// Where it is.
    pub(super) place: Place,
}

/// Returns how many chunks the table of `targets` backends takes.
pub(super) fn chunks(algorithm: Algorithm, targets: usize) -> usize {
    let slots = match algorithm {
        Algorithm::Maglev => (maglev_size(targets) as usize).div_ceil(4),
        Algorithm::Random | Algorithm::RoundRobin | Algorithm::LeastConnections => targets,
    };
    1 + slots
}

/// Returns how many chunks the table with this header takes, or `None` where it is no header.
pub(super) fn chunks_of(Chunk([algorithm, slots, ..]): Chunk) -> Option<u32> {
    let maglev = Algorithm::Maglev as u32;
    if algorithm > maglev || slots == 0 {
        return None;
    }
    let slots = if algorithm == maglev {
        slots.div_ceil(4)
    } else {
        slots
    };
    slots.checked_add(1)
}

/// Returns every backend's number in a table, header first.
#[cfg(test)]
pub(super) fn named(table: &[Chunk]) -> std::collections::BTreeSet<u32> {
    let Chunk([algorithm, ..]) = table[0];
    let slots = table[1..].iter().flat_map(|Chunk([a, b, c, d])| {
        if algorithm == Algorithm::Maglev as u32 {
            [*a, *b, *c, *d]
        } else {
            [*b, *c, 0, 0]
        }
    });
    slots.filter(|number| *number != 0).collect()
}

/// Returns the table of `targets`, of which there is at least one, in the order of their places.
pub(super) fn build(algorithm: Algorithm, targets: &[Listed]) -> Vec<Chunk> {
    let mut table = Vec::with_capacity(chunks(algorithm, targets.len()));
    match algorithm {
        Algorithm::Maglev => {
            let size = maglev_size(targets.len());
            table.push(Chunk([algorithm as u32, size, 0, 0]));
            let slots = maglev(size, targets);
            table.extend(slots.chunks(4).map(|four| {
                let mut chunk = [0; 4];
                chunk[..four.len()].copy_from_slice(four);
                Chunk(chunk)
            }));
        }
        Algorithm::Random | Algorithm::RoundRobin | Algorithm::LeastConnections => {
            let slots = u32::try_from(targets.len()).unwrap_or(u32::MAX);
            table.push(Chunk([algorithm as u32, slots, 0, 0]));
            table.extend(alias(targets));
        }
    }
    table
}

/// Vose's alias method in whole numbers: each target has its share of `targets * 2^32`, rounded so that all of them sum up to
/// exactly that, and nothing is lost when slots are filled.
fn alias(targets: &[Listed]) -> Vec<Chunk> {
    let weights: u128 = targets.iter().map(|target| u128::from(target.weight)).sum();
    let whole = targets.len() as u128 * u128::from(FULL);
    let (mut before, mut given) = (0u128, 0u128);
    let shares = targets.iter().map(|target| {
        before += u128::from(target.weight);
        let up_to = before * whole / weights;
        let share = up_to - given;
        given = up_to;
        u64::try_from(share).unwrap_or(u64::MAX)
    });
    let mut shares: Vec<u64> = shares.collect();
    let full = |target: &Listed| Chunk([u32::MAX, target.number, 0, target.weight]);
    let mut slots: Vec<Chunk> = targets.iter().map(full).collect();
    let (mut poor, mut rich) = (Vec::new(), Vec::new());
    for (at, share) in shares.iter().enumerate() {
        match share.cmp(&FULL) {
            std::cmp::Ordering::Less => poor.push(at),
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => rich.push(at),
        }
    }
    // What the poor lack is what the rich have too much: both run out together.
    while let (Some(poor_one), Some(rich_one)) = (poor.pop(), rich.last().copied()) {
        let Chunk([threshold, _, other, _]) = &mut slots[poor_one];
        *threshold = u32::try_from(shares[poor_one]).unwrap_or(u32::MAX);
        *other = targets[rich_one].number;
        shares[rich_one] -= FULL - shares[poor_one];
        if shares[rich_one] <= FULL {
            rich.pop();
        }
        if shares[rich_one] < FULL {
            poor.push(rich_one);
        }
    }
    slots
}

/// Returns the smallest size that is large enough, or the largest: then a table of 16,381 targets still has four slots for each,
/// and one of more than 65,521 leaves some out.
fn maglev_size(targets: usize) -> u32 {
    let enough = |size: &&u32| **size as usize >= targets.saturating_mul(MAGLEV_SLOTS_EACH);
    let [.., largest] = MAGLEV_SIZES;
    MAGLEV_SIZES.iter().find(enough).copied().unwrap_or(largest)
}

/// Fills the table as Eisenbud et al. do: in turn, each target takes the next free slot of its own permutation. A target of half
/// the largest weight takes one every other turn.
fn maglev(size: u32, targets: &[Listed]) -> Vec<u32> {
    struct Turn {
        slot: u32,
        step: u32,
        credit: u64,
    }
    let below = |hash: u64, limit: u32| u32::try_from(hash % u64::from(limit)).unwrap_or(0);
    let start = |target: &Listed| {
        let hash = hash(&target.place);
        Turn {
            slot: below(hash, size),
            step: below(mix(hash), size - 1) + 1,
            credit: 0,
        }
    };
    let mut turns: Vec<Turn> = targets.iter().map(start).collect();
    let heaviest = targets.iter().map(|target| target.weight).max();
    let heaviest = u64::from(heaviest.unwrap_or(1).max(1));
    let mut slots = vec![0; size as usize];
    let mut left = if targets.is_empty() { 0 } else { size };
    while left > 0 {
        for (turn, target) in turns.iter_mut().zip(targets) {
            turn.credit += u64::from(target.weight);
            if turn.credit < heaviest || left == 0 {
                continue;
            }
            turn.credit -= heaviest;
            while slots[turn.slot as usize] != 0 {
                turn.slot = (turn.slot + turn.step) % size;
            }
            slots[turn.slot as usize] = target.number;
            left -= 1;
        }
    }
    slots
}

/// FNV-1a of address and port, mixed. Not the standard library's hash, which another compiler may change: all nodes have to agree.
fn hash((address, port): &Place) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let bytes = address.0.into_iter().chain(port.0.to_ne_bytes());
    mix(bytes.fold(OFFSET, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(PRIME)
    }))
}

/// `MurmurHash3`'s finalizer: every bit of `hash` moves every bit of the result.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests;
