//! The sliding window: as many requests as the limit in any window, by the estimate that those of the window before came evenly.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Limit, Limited, Now};

/// The greatest limit: what a counter holds. Four million requests in a window are more than one agent answers in most windows; a
/// limit above it is the same as this one.
pub const COUNT_MAX: u32 = (1 << COUNT_BITS) - 1;

/// Bits of a counter.
const COUNT_BITS: u32 = 22;

/// A sliding window without a lock.
#[derive(Debug)]
pub struct Window {
    limit: u64,
    length_ns: u64,
    /// The window's number in the upper 20 bits, then the requests of the window before, and of this one. Twenty bits of seconds are
    /// twelve days: somebody who was away for exactly that long finds what was then.
    state: AtomicU64,
}

/// [`Window::state`], unpacked.
#[derive(Clone, Copy)]
struct State {
    number: u64,
    before: u64,
    current: u64,
}

const COUNT: u64 = (1 << COUNT_BITS) - 1;
const NUMBER: u64 = (1 << (64 - 2 * COUNT_BITS)) - 1;

impl State {
    fn unpack(packed: u64) -> Self {
        Self {
            number: packed >> (2 * COUNT_BITS),
            before: (packed >> COUNT_BITS) & COUNT,
            current: packed & COUNT,
        }
    }

    fn pack(self) -> u64 {
        self.number << (2 * COUNT_BITS) | self.before << COUNT_BITS | self.current
    }

    /// Returns it as it is in the window of this number.
    fn at(self, number: u64) -> Self {
        let (before, current) = match number.wrapping_sub(self.number) & NUMBER {
            0 => return self,
            1 => (self.current, 0),
            // A caller whose clock is a little behind counts in the window that has begun.
            NUMBER => return self,
            _ => (0, 0),
        };
        Self {
            number,
            before,
            current,
        }
    }
}

impl Window {
    /// Returns an empty window of this length with this limit. Both count as 1 where they are 0.
    pub fn new(limit: u32, length_ns: u64) -> Self {
        Self {
            limit: u64::from(limit.clamp(1, COUNT_MAX)),
            length_ns: length_ns.max(1),
            state: AtomicU64::default(),
        }
    }

    /// Returns the state with one more request; `estimate = before * (1 - f) + current`, `f` the part of this window that is over.
    fn next(&self, packed: u64, now: Now) -> Result<u64, Limited> {
        let number = (now / self.length_ns) & NUMBER;
        let state = State::unpack(packed).at(number);
        let over_ns = if state.number == number {
            now % self.length_ns
        } else {
            0
        };
        let rest = u128::from(self.length_ns - over_ns);
        let length = u128::from(self.length_ns);
        let (before, limit) = (u128::from(state.before), u128::from(self.limit));
        let one_more = u128::from(state.current) + 1;
        // In units of 1/length: nothing is rounded.
        if before * rest + one_more * length <= limit * length {
            let current = state.current + 1;
            return Ok(State { current, ..state }.pack());
        }
        let wait = if one_more <= limit {
            // Until those of before weigh little enough: there are some, or it had been allowed.
            rest - (limit - one_more) * length / before.max(1)
        } else {
            // Until those of now are those of before, and weigh little enough.
            rest + ((one_more - limit) * length).div_ceil(one_more - 1)
        };
        Err(Limited {
            wait_ns: u64::try_from(wait).unwrap_or(u64::MAX).max(1),
        })
    }
}

impl Limit for Window {
    fn take(&self, now: Now) -> Result<(), Limited> {
        let mut packed = self.state.load(Ordering::Relaxed);
        loop {
            let next = self.next(packed, now)?;
            match self.state.compare_exchange_weak(
                packed,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(other) => packed = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000_000;

    fn take(window: &Window, now: Now) -> usize {
        (0..10_000).take_while(|_| window.take(now).is_ok()).count()
    }

    #[test]
    fn requests_of_the_window_before_weigh_less_and_less() {
        let window = Window::new(100, S);
        assert_eq!(take(&window, 10 * S), 100);
        assert_eq!(take(&window, 11 * S - 1), 0);
        assert_eq!(take(&window, 11 * S), 0);
        assert_eq!(take(&window, 11 * S + S / 4), 25);
        assert_eq!(take(&window, 11 * S + S / 2), 25);
        assert_eq!(take(&window, 12 * S), 50);
        // Nothing is left of long ago.
        assert_eq!(take(&window, 20 * S), 100);
    }

    #[test]
    fn says_when_one_is_allowed_again() {
        let window = Window::new(100, S);
        take(&window, 10 * S);
        let Limited { wait_ns } = window.take(11 * S).unwrap_err();
        assert_eq!(wait_ns, S / 100);
        assert_eq!(
            window.take(11 * S + wait_ns - 1),
            Err(Limited { wait_ns: 1 })
        );
        assert_eq!(window.take(11 * S + wait_ns), Ok(()));
    }

    #[test]
    fn a_clock_that_is_a_little_behind_counts_in_the_window_that_has_begun() {
        let window = Window::new(10, S);
        assert_eq!(take(&window, 10 * S), 10);
        assert!(window.take(10 * S - 1).is_err());
    }

    #[test]
    fn limits_are_clamped() {
        assert_eq!(take(&Window::new(0, 0), S), 1);
        assert_eq!(Window::new(u32::MAX, S).limit, u64::from(COUNT_MAX));
    }

    #[test]
    fn threads_take_no_more_than_the_limit() {
        let window = Window::new(500, S);
        let taken: usize = std::thread::scope(|scope| {
            let work = || (0..1000).filter(|_| window.take(S).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!(taken, 500);
    }

    proptest! {
        /// Against a list of all requests.
        #[test]
        fn equals_the_formula_over_a_list(
            limit in 1..30u32,
            pauses in prop::collection::vec(0..400_000_000u64, 1..400),
        ) {
            let window = Window::new(limit, S);
            let (mut list, mut now) = (Vec::<u64>::new(), 5 * S);
            for pause in pauses {
                now += pause;
                let of = |number| list.iter().filter(|at| **at / S == number).count() as f64;
                let rest = 1.0 - (now % S) as f64 / S as f64;
                let estimate = of(now / S - 1) * rest + of(now / S);
                let room = f64::from(limit) - estimate - 1.0;
                let taken = window.take(now).is_ok();
                // Fractions of the model are not exact.
                prop_assert!(taken == (room >= 0.0) || room.abs() < 1e-6);
                if taken {
                    list.push(now);
                    continue;
                }
                let next = |now| window.next(window.state.load(Ordering::Relaxed), now);
                let wait = next(now).unwrap_err().wait_ns;
                prop_assert!(next(now + wait).is_ok());
                prop_assert!(wait == 1 || next(now + wait - 1).is_err());
            }
        }
    }
}
