//! How load spreads over levels (priority, then nearness) as their endpoints fail: priority failover with overprovisioning, and
//! panic, as in Envoy. Connections and requests go by the same rule, and by what is known of endpoints to each.
#![forbid(unsafe_code)]

/// A level with fewer than 1/1.4 of its endpoints healthy gives load to the next one: the healthy ones are taken to have 40 % of
/// room (Envoy's overprovisioning factor).
const OVERPROVISIONING_PERCENT: u64 = 140;

/// Below this share of healthy endpoints their health is not believed, and all of the level get load: otherwise few would take
/// the load of many, and a broken check would take a service down (Envoy's default).
pub const PANIC_PERCENT: u64 = 50;

/// The endpoints of one level.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Level {
    /// All of them.
    pub total: u32,
    /// Those that are healthy.
    pub healthy: u32,
}

impl Level {
    /// Returns how much of all load it can take, in percent.
    fn health(self) -> u64 {
        percent(OVERPROVISIONING_PERCENT, self.healthy, self.total).min(100)
    }

    fn is_below(self, panic_percent: u64) -> bool {
        percent(100, self.healthy, self.total) < panic_percent
    }
}

fn percent(factor: u64, part: u32, total: u32) -> u64 {
    match total {
        0 => 0,
        total => factor * u64::from(part) / u64::from(total),
    }
}

/// What a level gets.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Load {
    /// Its share of all load, from 0 to 1.
    pub share: f64,
    /// Whether all of its endpoints get it, not only the healthy ones.
    pub panic: bool,
}

/// Returns what each level gets; the first is used first. `panic_percent`: below this share of healthy endpoints health does not
/// count, where all levels together are too weak.
pub fn loads(levels: &[Level], panic_percent: u64) -> Vec<Load> {
    let total: u64 = levels.iter().map(|level| level.health()).sum();
    if total >= 100 {
        return greedy(levels, 100).collect();
    }
    if levels.iter().all(|level| level.is_below(panic_percent)) {
        return by_size(levels);
    }
    let loads = greedy(levels, total).zip(levels);
    loads
        .map(|(load, level)| Load {
            panic: level.is_below(panic_percent),
            ..load
        })
        .collect()
}

/// Each level takes what it can of what the ones before it left; `total`, at most 100, is what all can take together.
fn greedy(levels: &[Level], total: u64) -> impl Iterator<Item = Load> {
    let mut left = total;
    levels.iter().map(move |level| {
        let taken = level.health().min(left);
        left -= taken;
        Load {
            share: ratio(taken, total),
            panic: false,
        }
    })
}

/// Too few are healthy anywhere: health does not count.
fn by_size(levels: &[Level]) -> Vec<Load> {
    let total = levels.iter().map(|level| u64::from(level.total)).sum();
    let load = |level: &Level| Load {
        share: ratio(u64::from(level.total), total),
        panic: true,
    };
    levels.iter().map(load).collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "both are far below 2^52: endpoints, or percents"
)]
fn ratio(part: u64, total: u64) -> f64 {
    match total {
        0 => 0.0,
        total => part as f64 / total as f64,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(levels: &[(u32, u32)]) -> Vec<(u32, bool)> {
        let level = |&(healthy, total): &(u32, u32)| Level { total, healthy };
        let levels: Vec<Level> = levels.iter().map(level).collect();
        let percent = |load: Load| {
            let percent = (load.share * 100.0).round();
            (0..=100).find(|n| f64::from(*n) == percent).unwrap()
        };
        let loads = loads(&levels, PANIC_PERCENT).into_iter();
        loads.map(|load| (percent(load), load.panic)).collect()
    }

    #[test]
    fn one_level_takes_everything() {
        assert_eq!(of(&[(10, 10)]), [(100, false)]);
        assert_eq!(of(&[(1, 2)]), [(100, false)]);
        assert_eq!(of(&[(1, 3)]), [(100, true)], "33 % is below 50 %");
        assert_eq!(of(&[(0, 3)]), [(100, true)]);
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn load_spills_over_as_a_level_fails() {
        // The table of Envoy's documentation on priority levels.
        assert_eq!(of(&[(100, 100), (100, 100)])[0].0, 100);
        assert_eq!(of(&[(72, 100), (72, 100)])[0].0, 100);
        assert_eq!(of(&[(71, 100), (71, 100)]), [(99, false), (1, false)]);
        assert_eq!(of(&[(50, 100), (50, 100)]), [(70, false), (30, false)]);
        assert_eq!(of(&[(25, 100), (100, 100)]), [(35, false), (65, false)]);
        assert_eq!(of(&[(0, 100), (100, 100)]), [(0, false), (100, false)]);
        assert_eq!(of(&[(0, 100), (72, 100)]), [(0, false), (100, false)]);
    }

    #[test]
    fn a_level_panics_only_when_all_together_are_too_weak() {
        // 25 % and 25 % healthy: 35 + 35 < 100, all below 50 %: by size.
        assert_eq!(of(&[(25, 100), (25, 100)]), [(50, true), (50, true)]);
        assert_eq!(of(&[(0, 30), (0, 10)]), [(75, true), (25, true)]);
        // 5 % and 60 %: 7 + 84 = 91 < 100; the first panics, the second does not.
        assert_eq!(of(&[(5, 100), (60, 100)]), [(8, true), (92, false)]);
    }

    proptest! {
        #[test]
        fn shares_add_up_and_order_holds(levels in prop::collection::vec((0u32..20, 0u32..20), 1..6)) {
            let levels: Vec<Level> = levels.into_iter().map(|(a, b)| Level { total: a.max(b), healthy: a.min(b) }).collect();
            let loads = loads(&levels, PANIC_PERCENT);
            let sum: f64 = loads.iter().map(|load| load.share).sum();
            let any = levels.iter().any(|level| level.total > 0);
            prop_assert!((sum - f64::from(u8::from(any))).abs() < 1e-9);
            for (level, load) in levels.iter().zip(&loads) {
                // Load goes only where somebody gets it.
                prop_assert!(load.share == 0.0 || level.healthy > 0 || (load.panic && level.total > 0));
            }
            // A level gets load only when those before it have all they can take.
            let panicking = loads.iter().all(|load| load.panic);
            for i in 1..levels.len() {
                if !panicking && loads[i].share > 0.0 {
                    let before: u64 = levels[..i].iter().map(|level| level.health()).sum();
                    prop_assert!(before < 100);
                }
            }
        }
    }
}
