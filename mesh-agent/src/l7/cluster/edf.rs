//! Earliest deadline first: turns in proportion to weights, spread evenly, for weights that may change from turn to turn.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::{Mutex, PoisonError};

use crate::chance::Chance;

/// Who has the next turn. Under a lock: turns are an order.
#[derive(Debug)]
pub(super) struct Edf(Mutex<Queue>);

#[derive(Debug)]
struct Queue {
    heap: BinaryHeap<Entry>,
    /// Turns so far.
    turn: u64,
}

/// One of those that take turns.
#[derive(Debug)]
struct Entry {
    /// In virtual time, which goes on by about 1 while all have a turn on average. After 2^40 such rounds, deadlines would still be
    /// exact to a four-thousandth of one.
    deadline: f64,
    /// The turn in which it was put here: first in, first out.
    since: u64,
    index: usize,
}

impl Edf {
    /// Begins somewhere in the row, so that many agents do not begin at the same endpoint. A step is the mean weight by the own.
    pub(super) fn new(steps: impl Iterator<Item = f64>, chance: &mut Chance) -> Self {
        let entry = |(index, step)| Entry {
            deadline: chance.unit() * step,
            since: 0,
            index,
        };
        Self(Mutex::new(Queue {
            heap: steps.enumerate().map(entry).collect(),
            turn: 0,
        }))
    }

    /// Returns who has the next turn and `may` have it, of `tries` in a row; those that may not lose theirs. `step` is how far
    /// off the next turn is.
    pub(super) fn next(
        &self,
        tries: usize,
        step: impl Fn(usize) -> f64,
        may: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        // Whoever panicked here left a queue with everybody in it.
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..tries {
            queue.turn += 1;
            let turn = queue.turn;
            let mut first = queue.heap.peek_mut()?;
            let index = first.index;
            first.deadline += step(index);
            first.since = turn;
            // Puts it where it belongs now.
            drop::<PeekMut<'_, Entry>>(first);
            if may(index) {
                return Some(index);
            }
        }
        None
    }
}

/// The heap's greatest is the one with the earliest deadline.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        let deadlines = other.deadline.total_cmp(&self.deadline);
        deadlines.then(other.since.cmp(&self.since))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(weights: &[f64], turns: usize) -> Vec<usize> {
        let step = |index: usize| 1.0 / weights[index];
        let edf = Edf::new((0..weights.len()).map(step), &mut Chance::seeded(1));
        (0..turns)
            .map(|_| edf.next(1, step, |_| true).unwrap())
            .collect()
    }

    #[test]
    fn turns_are_in_proportion_to_weights_at_any_time() {
        let weights = [1.0, 2.0, 4.0, 9.0];
        let row = run(&weights, 16_000);
        for length in [16, 160, 1_600, 16_000] {
            for (index, weight) in weights.iter().enumerate() {
                let turns = row[..length].iter().filter(|at| **at == index).count() as f64;
                let expected = length as f64 * weight / 16.0;
                assert!(
                    (turns - expected).abs() <= 1.5,
                    "{index}: {turns} of {length}"
                );
            }
        }
    }

    #[test]
    fn equal_weights_take_turns() {
        let row = run(&[1.0; 5], 50);
        for five in row.chunks(5) {
            let mut five = five.to_vec();
            five.sort_unstable();
            assert_eq!(five, [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn those_that_may_not_are_passed_over() {
        let edf = Edf::new([1.0, 1.0, 1.0].into_iter(), &mut Chance::seeded(1));
        for _ in 0..20 {
            assert_eq!(edf.next(3, |_| 1.0, |index| index == 2), Some(2));
        }
        assert_eq!(edf.next(3, |_| 1.0, |_| false), None);
    }
}
