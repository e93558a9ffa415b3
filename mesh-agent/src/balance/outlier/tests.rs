//! Rows of failures, comparisons, and the length of ejections.

use proptest::prelude::*;

use super::*;

fn counters(picked: u64, failed: u32) -> BackendCounters {
    BackendCounters {
        picked,
        failed,
        ..BackendCounters::default()
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Looks once a second at what was picked and failed in each; returns the second in which it was found to be dead.
fn row(steps: &[(u64, u32)]) -> Option<usize> {
    let mut passive = Passive::new(seconds(0), counters(100, 10));
    let mut now = counters(100, 10);
    steps
        .iter()
        .zip(1..)
        .position(|((picked, failed), second)| {
            now.picked += picked;
            now.failed = now.failed.wrapping_add(*failed);
            passive.look(seconds(second), now)
        })
}

#[test]
fn five_failures_in_a_row_are_found() {
    assert_eq!(row(&[(1, 1); 5]), Some(4));
    assert_eq!(row(&[(5, 5)]), Some(0));
    assert_eq!(row(&[(4, 4)]), None);
    assert_eq!(
        row(&[(1000, 500), (1000, 1000)]),
        Some(1),
        "dead since the middle of a second"
    );
    // Two a second that take three seconds to fail, after some that were well.
    let slow = [&[(2, 0); 13][..], &[(2, 2); 10]].concat();
    assert!(row(&slow).is_some());
    // One now and then, that fails a second later.
    let rare: Vec<(u64, u32)> = (0..40)
        .map(|n| [(1, 0), (0, 1), (0, 0), (0, 0)][n % 4])
        .collect();
    assert_eq!(row(&rare), Some(17));
}

#[test]
fn a_success_in_between_ends_the_row() {
    assert_eq!(row(&[(4, 4), (1, 0), (1, 1), (0, 0), (0, 0)]), None);
    assert_eq!(row(&[(1000, 10); 100]), None, "one percent fails");
    assert_eq!(row(&[(2, 1); 100]), None, "one half fails");
    assert_eq!(row(&[(0, 0); 100]), None);
}

#[test]
fn counters_that_begin_again_are_no_failures() {
    let mut passive = Passive::new(seconds(0), counters(100, 4_000_000_000));
    assert!(!passive.look(seconds(1), counters(3, 2)));
    // They wrap around.
    let mut passive = Passive::new(seconds(0), counters(100, u32::MAX - 1));
    assert!(passive.look(seconds(1), counters(105, 3)));
}

#[test]
fn ejections_grow_and_are_forgotten() {
    let mut passive = Passive::new(seconds(0), counters(0, 0));
    for (times, length) in [(1, 30), (2, 60), (3, 90)] {
        passive.eject(seconds(1000 * times), Sign::Resets, 0.0);
        let until = seconds(1000 * times + length);
        assert_eq!(
            passive.ejected(seconds(1000 * times)),
            Some((Sign::Resets, until))
        );
        assert_eq!(passive.ejected(until), None);
    }
    passive.eject(seconds(5000), Sign::Resets, 1.0);
    assert_eq!(
        passive.ejected(seconds(5000)),
        Some((Sign::Resets, seconds(5132)))
    );
    passive.times = 50;
    passive.eject(seconds(6000), Sign::Resets, 1.0);
    assert_eq!(
        passive.ejected(seconds(6000)),
        Some((Sign::Resets, seconds(6300)))
    );
    // Failures while it is ejected do not count, and each interval without ejection forgets one.
    passive.look(seconds(6100), counters(9, 9));
    passive.look(seconds(6300), counters(20, 20));
    assert!(!passive.look(seconds(6301), counters(20, 20)));
    passive.look(seconds(6310), counters(20, 20));
    passive.look(seconds(6320), counters(20, 20));
    assert_eq!(passive.times, 49);
}

#[test]
fn only_those_that_are_worse_than_the_others_stand_out() {
    let interval = |picked, bad, retransmits| {
        Some(Interval {
            picked,
            bad,
            retransmits,
        })
    };
    let others = [interval(1000, 1, 5); 9];
    let with = |one| outliers(&[&others[..], &[one]].concat());
    assert_eq!(with(interval(1000, 300, 0)), [(9, Sign::Resets)]);
    assert_eq!(with(interval(1000, 2, 0)), []);
    assert_eq!(with(interval(99, 99, 0)), [], "too few to tell");
    assert_eq!(with(interval(1000, 0, 900)), [(9, Sign::Retransmits)]);
    assert_eq!(with(interval(1000, 0, 40)), []);
    assert_eq!(
        outliers(&[interval(1000, 900, 900); 10]),
        [],
        "all are alike"
    );
    assert_eq!(
        outliers(&[interval(1000, 0, 0), interval(1000, 1000, 0)]),
        []
    );
}

#[test]
fn a_tenth_may_be_ejected_but_one_always_and_never_the_last() {
    assert!(!may_eject(1, 1, 0));
    assert!(may_eject(2, 2, 0));
    assert!(!may_eject(2, 1, 1));
    assert!(
        !may_eject(3, 2, 0),
        "one is unhealthy already: a third would be panic"
    );
    assert!(!may_eject(19, 18, 1));
    assert!(may_eject(20, 19, 1));
    assert!(!may_eject(20, 18, 2));
}

proptest! {
    /// Whatever happens second by second, what is found has failed five times since the last second that proves a success.
    #[test]
    fn nobody_is_found_who_mostly_succeeds(steps in prop::collection::vec((0u64..6, 0u32..6), 1..60)) {
        let steps: Vec<(u64, u32)> = steps.into_iter().map(|(a, b)| (a.max(b.into()), a.min(b.into()).try_into().unwrap())).collect();
        if let Some(end) = row(&steps) {
            let tails = (0..=end).map(|from| &steps[from..=end]);
            let dead = |tail: &[(u64, u32)]| {
                let picked: u64 = tail.iter().map(|step| step.0).sum();
                let failed: u64 = tail.iter().map(|step| u64::from(step.1)).sum();
                failed >= 5 && failed * 6 >= picked * 5
            };
            prop_assert!(tails.into_iter().any(dead), "{steps:?}");
        }
    }
}
