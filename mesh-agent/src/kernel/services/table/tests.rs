//! Tables against the function that picks from them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use mesh_common::balance::{Draw, LOOKED_AT, Pool, pick};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Where the tests put their table.
const SET: u32 = 3;

/// A table in plain memory, and what is open at each backend.
struct Memory {
    chunks: Vec<Chunk>,
    open: BTreeMap<u32, u64>,
}

impl Memory {
    fn of(algorithm: Algorithm, targets: &[Listed]) -> Self {
        let table = build(algorithm, targets);
        assert_eq!(table.len(), chunks(algorithm, targets.len()));
        let length = chunks_of(table[0]).unwrap();
        assert_eq!(length as usize, table.len());
        let mut chunks = vec![Chunk([u32::MAX; 4]); SET as usize];
        chunks.extend(table);
        Self {
            chunks,
            open: BTreeMap::new(),
        }
    }

    fn shares(&self, draws: u32, draw: impl Fn(u32) -> Draw) -> BTreeMap<u32, u32> {
        let mut shares = BTreeMap::new();
        for i in 0..draws {
            let backend = pick(self, SET, draw(i)).expect("a backend");
            *shares.entry(backend).or_default() += 1;
        }
        shares
    }
}

impl Pool for Memory {
    fn chunk(&self, index: u32) -> Option<Chunk> {
        self.chunks.get(index as usize).copied()
    }

    fn open(&self, backend: u32) -> u64 {
        self.open.get(&backend).copied().unwrap_or(0)
    }
}

fn targets(weights: &[u32]) -> Vec<Listed> {
    let listed = |(i, weight): (u32, &u32)| Listed {
        number: 100 + i,
        weight: *weight,
        place: place(i),
    };
    (0..).zip(weights).map(listed).collect()
}

fn place(i: u32) -> Place {
    let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 0).to_bits() + i);
    (IpAddr::V4(ip).into(), PortBe::new(8080))
}

/// Every number below 2^32 nearly once, spread evenly however many are taken.
fn spread(i: u32) -> u32 {
    i.wrapping_mul(0x9E37_79B9)
}

/// Returns what each backend gets of the whole `slots * 2^32`.
fn units(table: &[Chunk]) -> BTreeMap<u32, u64> {
    let mut units = BTreeMap::new();
    for Chunk([threshold, own, other, _]) in &table[1..] {
        let kept = if *other == 0 {
            FULL
        } else {
            u64::from(*threshold)
        };
        *units.entry(*own).or_default() += kept;
        *units.entry(*other).or_default() += FULL - kept;
    }
    units.remove(&0);
    units
}

fn assert_shares(shares: &BTreeMap<u32, u32>, targets: &[Listed], draws: u32, tolerance: f64) {
    let all: f64 = targets.iter().map(|target| f64::from(target.weight)).sum();
    for target in targets {
        let share = f64::from(shares.get(&target.number).copied().unwrap_or(0)) / f64::from(draws);
        let expected = f64::from(target.weight) / all;
        let off = (share - expected).abs();
        assert!(off <= tolerance, "{target:?}: {share} for {expected}");
    }
}

#[test]
fn maglev_keeps_nearly_all_clients_when_a_target_goes() {
    for count in [2, 10, 40, 100, 160] {
        let all = targets(&vec![1; count]);
        let before = build(Algorithm::Maglev, &all);
        for gone in [0, count / 2, count - 1] {
            let mut rest = all.clone();
            let gone = rest.remove(gone).number;
            let after = build(Algorithm::Maglev, &rest);
            if before.len() != after.len() {
                continue;
            }
            let slots = |table: &[Chunk]| table[1..].iter().flat_map(|c| c.0).collect::<Vec<_>>();
            let (before, after) = (slots(&before), slots(&after));
            let moved = before
                .iter()
                .zip(&after)
                .filter(|(old, new)| old != new && **old != gone);
            // A few in a hundred, as in the paper's figure 12.
            let (moved, whole) = (moved.count(), before.len());
            assert!(moved * 100 <= whole * 4, "{count}: {moved} of {whole}");
        }
    }
}

#[test]
fn maglev_tables_have_the_smallest_size_that_is_enough() {
    let sizes = [1, 2, 3, 10, 11, 40, 41, 163, 164, 655, 656, 70_000].map(maglev_size);
    let expected = [
        251, 251, 1021, 1021, 4093, 4093, 16381, 16381, 65521, 65521, 65521, 65521,
    ];
    assert_eq!(sizes, expected);
    for size in MAGLEV_SIZES {
        let divides = |n: &u32| size.is_multiple_of(*n);
        assert!((2..size).find(divides).is_none(), "{size}");
    }
}

#[test]
fn two_nodes_build_the_same_maglev_table_whatever_their_numbers() {
    let weights: Vec<u32> = (1..50).collect();
    let ours = targets(&weights);
    let mut theirs = ours.clone();
    theirs.iter_mut().for_each(|target| target.number += 5000);
    let [ours, theirs] = [ours, theirs].map(|targets| build(Algorithm::Maglev, &targets));
    for (Chunk(ours), Chunk(theirs)) in ours[1..].iter().zip(&theirs[1..]) {
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!(ours + 5000 == *theirs || (*ours == 0 && *theirs == 0));
        }
    }
}

#[test]
fn a_table_of_every_endpoint_there_may_be_is_exact() {
    let weights: Vec<u32> = (0..131_071).map(|i| spread(i).max(1)).collect();
    let all = targets(&weights);
    let table = build(Algorithm::Random, &all);
    let sum: u64 = units(&table).values().sum();
    assert_eq!(sum, all.len() as u64 * FULL);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_gives_each_its_share(weights in vec(1..100u32, 1..20), seed in any::<u32>()) {
        let all = targets(&weights);
        let memory = Memory::of(Algorithm::Random, &all);
        let draws = 100_000;
        let draw = |i: u32| Draw { random: spread(i.wrapping_add(seed)), ..Draw::default() };
        assert_shares(&memory.shares(draws, draw), &all, draws, 0.002);
        // And with numbers that look random: at most 1 % off.
        let mixed = |i: u32| Draw {
            random: (mix(u64::from(i) << 32 | u64::from(seed)) >> 32) as u32,
            ..Draw::default()
        };
        assert_shares(&memory.shares(draws, mixed), &all, draws, 0.01);
    }

    #[test]
    fn round_robin_gives_each_its_share_in_every_window(
        weights in vec(1..100u32, 1..12),
        start in any::<u32>(),
    ) {
        let all = targets(&weights);
        let memory = Memory::of(Algorithm::RoundRobin, &all);
        let from = u64::from(start);
        let draw = |i: u32| Draw { turn: from + u64::from(i), ..Draw::default() };
        let draws = 100_000;
        assert_shares(&memory.shares(draws, draw), &all, draws, 0.01);
        let slots = all.len();
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for rounds in [1, 5, 20] {
            let window = u32::try_from(rounds * slots).unwrap();
            let shares = memory.shares(window, draw);
            for target in &all {
                let got = f64::from(shares.get(&target.number).copied().unwrap_or(0));
                let expected = f64::from(window) * f64::from(target.weight) / sum;
                // Each slot that names it is less than two turns off, whatever the window's length.
                let named = memory.chunks[SET as usize + 1..].iter();
                let named = named.filter(|Chunk([_, own, other, _])| [own, other].contains(&&target.number));
                let bound = 2.0 * named.count() as f64;
                prop_assert!((got - expected).abs() <= bound, "{target:?}: {got} for {expected}");
            }
        }
    }

    #[test]
    fn equal_weights_rotate_strictly(weight in 1..1000u32, count in 1..50usize, start in any::<u32>()) {
        let all = targets(&vec![weight; count]);
        let memory = Memory::of(Algorithm::RoundRobin, &all);
        for turn in u64::from(start)..u64::from(start) + 200 {
            let expected = all[usize::try_from(turn % count as u64).unwrap()].number;
            prop_assert_eq!(pick(&memory, SET, Draw { turn, ..Draw::default() }), Some(expected));
        }
    }

    #[test]
    fn shares_are_exact(weights in vec(prop_oneof![Just(1), 1..10u32, any::<u32>().prop_map(|w| w.max(1))], 1..200)) {
        let all = targets(&weights);
        for algorithm in [Algorithm::Random, Algorithm::RoundRobin, Algorithm::LeastConnections] {
            let units = units(&build(algorithm, &all));
            let whole = all.len() as u128 * u128::from(FULL);
            let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
            prop_assert_eq!(units.values().map(|n| u128::from(*n)).sum::<u128>(), whole);
            for target in &all {
                let exact = whole * u128::from(target.weight);
                let got = u128::from(units[&target.number]) * sum;
                prop_assert!(got.abs_diff(exact) < sum, "{target:?}");
            }
        }
    }

    #[test]
    fn maglev_gives_each_its_share(weights in vec(1..20u32, 1..60)) {
        let all = targets(&weights);
        let memory = Memory::of(Algorithm::Maglev, &all);
        let size = maglev_size(all.len());
        let shares = memory.shares(size, |client| Draw { client, ..Draw::default() });
        assert_shares(&shares, &all, size, 0.01);
        prop_assert_eq!(named(&memory.chunks[SET as usize..]).len(), all.len());
    }

    #[test]
    fn least_connections_takes_the_least_loaded_it_looks_at(
        backends in vec((1..10u32, 0..50u64), 1..40),
        random in any::<u32>(),
    ) {
        let weights: Vec<u32> = backends.iter().map(|(weight, _)| *weight).collect();
        let all = targets(&weights);
        let mut memory = Memory::of(Algorithm::LeastConnections, &all);
        memory.open = all.iter().zip(&backends).map(|(target, (_, open))| (target.number, *open)).collect();
        let picked = pick(&memory, SET, Draw { random, ..Draw::default() }).unwrap();
        let start = random as usize % all.len();
        let seen: Vec<&Listed> = all.iter().cycle().skip(start).take(all.len().min(LOOKED_AT as usize)).collect();
        let load = |target: &Listed| (memory.open[&target.number] + 1) as f64 / f64::from(target.weight);
        let least = seen.iter().map(|target| load(target)).fold(f64::MAX, f64::min);
        let picked = seen.iter().find(|target| target.number == picked).unwrap();
        prop_assert!(load(picked) - least < 1e-9);
    }

    #[test]
    fn a_truncated_table_yields_a_listed_backend_or_none(
        weights in vec(1..10u32, 1..40),
        algorithm in prop::sample::select(vec![
            Algorithm::Random, Algorithm::RoundRobin, Algorithm::LeastConnections, Algorithm::Maglev,
        ]),
        kept in any::<prop::sample::Index>(),
        (random, turn, client) in any::<(u32, u64, u32)>(),
    ) {
        let all = targets(&weights);
        let mut memory = Memory::of(algorithm, &all);
        let length = memory.chunks.len();
        memory.chunks.truncate(kept.index(length + 1));
        let picked = pick(&memory, SET, Draw { random, turn, client });
        prop_assert!(picked.is_none_or(|number| all.iter().any(|target| target.number == number)));
    }
}
