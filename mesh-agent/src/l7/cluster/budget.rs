//! The retry budget: retries in proportion to the requests of the last while. Finagle's and Linkerd's window, by the names of Gateway
//! API's `XBackendTrafficPolicy`.
//!
//! Each request deposits `percent` hundredths of a retry, each retry withdraws a whole one; both are forgotten once the interval
//! is over. Beside that, as many retries are always allowed as the least rate makes in an interval.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Now;
use super::policy::BudgetPolicy;

/// Parts of the interval that are forgotten at a time.
const PARTS: u32 = 10;

/// Places for parts: those of the interval, and one for that which has begun.
const SLOTS: usize = PARTS as usize + 1;

/// What a retry withdraws; a request deposits the policy's percent.
const RETRY: i32 = 100;

/// Deposits and withdrawals of the last interval.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) policy: BudgetPolicy,
    part_ns: u64,
    /// What the least rate allows.
    reserve: i64,
    /// Of each: which part, modulo 2^32, and the balance of its deposits and withdrawals.
    parts: [AtomicU64; SLOTS],
    /// Held by a withdrawal, so that two do not take the same deposit.
    withdrawing: Mutex<()>,
}

impl Budget {
    pub(super) fn new(policy: BudgetPolicy) -> Self {
        let per_interval = u128::from(policy.min_count) * u128::from(policy.interval_ns)
            / u128::from(policy.min_interval_ns.max(1));
        let reserve = per_interval.saturating_mul(u128::from(RETRY.unsigned_abs()));
        Self {
            policy,
            part_ns: (policy.interval_ns / u64::from(PARTS)).max(1),
            reserve: i64::try_from(reserve).unwrap_or(i64::MAX >> 1),
            parts: Default::default(),
            withdrawing: Mutex::default(),
        }
    }

    /// Counts a request.
    pub(super) fn deposit(&self, now: Now) {
        self.add(now, i32::try_from(self.policy.percent).unwrap_or(i32::MAX));
    }

    /// Counts a retry if there may be one.
    pub(super) fn withdraw(&self, now: Now) -> bool {
        let _withdrawing = self
            .withdrawing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.balance(now) < i64::from(RETRY) {
            return false;
        }
        self.add(now, -RETRY);
        true
    }

    fn balance(&self, now: Now) -> i64 {
        let current = self.part(now);
        let parts = self.parts.iter().map(|part| {
            let (number, balance) = unpack(part.load(Ordering::Acquire));
            let age = current.wrapping_sub(number);
            if age <= PARTS { i64::from(balance) } else { 0 }
        });
        parts.sum::<i64>() + self.reserve
    }

    fn add(&self, now: Now, amount: i32) {
        let current = self.part(now);
        let at = (now / self.part_ns) % SLOTS as u64;
        let part = &self.parts[usize::try_from(at).unwrap_or(0)];
        let next = |packed| {
            let (number, balance) = unpack(packed);
            // A caller whose clock is a little behind adds to the part that has taken the place of its own.
            let is_behind = number.wrapping_sub(current) < u32::MAX / 2;
            Some(if is_behind {
                pack(number, balance.saturating_add(amount))
            } else {
                pack(current, amount)
            })
        };
        // Always `Some`, so this always succeeds.
        part.fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
            .ok();
    }

    /// The number of the part of this time.
    fn part(&self, now: Now) -> u32 {
        let number = now / self.part_ns;
        u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0)
    }
}

fn pack(number: u32, balance: i32) -> u64 {
    u64::from(number) << 32 | u64::from(balance.cast_unsigned())
}

fn unpack(packed: u64) -> (u32, i32) {
    let number = u32::try_from(packed >> 32).unwrap_or(0);
    let balance = u32::try_from(packed & u64::from(u32::MAX)).unwrap_or(0);
    (number, balance.cast_signed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000_000;

    /// Twenty percent, and no least rate.
    fn bare() -> BudgetPolicy {
        BudgetPolicy {
            min_count: 0,
            ..BudgetPolicy::default()
        }
    }

    fn retries(budget: &Budget, now: Now) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_retried() {
        let budget = Budget::new(bare());
        assert!(!budget.withdraw(S));
        (0..1000).for_each(|_| budget.deposit(S));
        assert_eq!(retries(&budget, S), 200);
        assert_eq!(retries(&budget, 10 * S), 0);
    }

    #[test]
    fn the_least_rate_is_allowed_without_requests_for_each_interval() {
        let budget = Budget::new(BudgetPolicy::default());
        assert_eq!(retries(&budget, S), 100);
        assert_eq!(retries(&budget, 11 * S), 0);
        // Withdrawals of the first second are forgotten.
        assert_eq!(retries(&budget, 12 * S), 100);
    }

    #[test]
    fn requests_are_forgotten_part_by_part_after_the_interval() {
        let budget = Budget::new(bare());
        for second in 1..=10 {
            (0..50).for_each(|_| budget.deposit(second * S));
        }
        // A second of 50 requests is 10 retries.
        for (second, left) in [(11, 100), (12, 90), (15, 60), (20, 10), (21, 0), (100, 0)] {
            assert_eq!(budget.balance(second * S) / 100, left, "{second}");
        }
    }

    #[test]
    fn threads_never_withdraw_more_than_was_deposited() {
        let budget = Budget::new(bare());
        let withdrawn = std::thread::scope(|scope| {
            let work = || {
                let mut withdrawn = 0;
                for _ in 0..10_000 {
                    budget.deposit(S);
                    withdrawn += u32::from(budget.withdraw(S));
                }
                withdrawn
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum::<u32>()
        });
        assert_eq!(
            withdrawn + u32::try_from(retries(&budget, S)).unwrap(),
            8_000
        );
    }

    proptest! {
        /// Against all deposits and withdrawals, kept one by one.
        #[test]
        fn equals_a_list_of_everything(steps in prop::collection::vec((0..3 * S, any::<bool>()), 1..300)) {
            let policy = BudgetPolicy { percent: 37, interval_ns: 10 * S, min_count: 1, min_interval_ns: 5 * S };
            let budget = Budget::new(policy);
            let mut list: Vec<(u64, i64)> = Vec::new();
            let mut now = 0;
            for (pause, is_retry) in steps {
                now += pause;
                if is_retry {
                    let recent = list.iter().filter(|(part, _)| now / S - part <= 10);
                    let balance = 200 + recent.map(|(_, amount)| amount).sum::<i64>();
                    prop_assert_eq!(budget.withdraw(now), balance >= 100);
                    if balance >= 100 {
                        list.push((now / S, -100));
                    }
                } else {
                    budget.deposit(now);
                    list.push((now / S, 37));
                }
            }
        }
    }
}
