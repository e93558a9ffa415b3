//! Faults that are injected on purpose: a wait, an answer in place of the endpoint's, or both.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::chance::Chance;

/// Which requests get which fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultPolicy {
    /// Who waits, and how long.
    pub delay: Option<(Fraction, u64)>,
    /// Who is answered, and how.
    pub abort: Option<(Fraction, Abort)>,
    /// How many requests may have a fault at a time; those above it get none. `None`: any number.
    pub max_active: Option<u32>,
}

/// A part of all requests: so many in a million.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fraction(u32);

/// All of a [`Fraction`].
const WHOLE: u32 = 1_000_000;

impl Fraction {
    /// Returns `numerator` of `denominator`, rounded down to whole millionths; `None` where that is more than all.
    pub fn new(numerator: u32, denominator: u32) -> Option<Self> {
        let millionths = u64::from(numerator) * u64::from(WHOLE);
        let millionths = millionths.checked_div(u64::from(denominator))?;
        let millionths = u32::try_from(millionths).ok()?;
        (millionths <= WHOLE).then_some(Self(millionths))
    }

    /// Returns whether this one is of the part.
    pub fn draw(self, chance: &mut Chance) -> bool {
        chance.below(WHOLE) < self.0
    }
}

/// The answer in place of the endpoint's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Abort {
    /// A response of this HTTP status.
    Status(u16),
    /// A gRPC response of this `grpc-status`.
    Grpc(u32),
}

/// Injects the faults of one rule.
#[derive(Debug)]
pub struct Faults {
    policy: FaultPolicy,
    active: AtomicU32,
}

/// The fault of one request, which counts for [`FaultPolicy::max_active`] until this is dropped.
#[derive(Debug)]
#[must_use = "the fault counts as over when it is dropped"]
pub struct Fault {
    faults: Arc<Faults>,
    delay_ns: Option<u64>,
    abort: Option<Abort>,
}

impl Faults {
    /// Begins with none active.
    pub fn new(policy: FaultPolicy) -> Self {
        Self {
            policy,
            active: AtomicU32::default(),
        }
    }

    /// Returns the fault of a request, if it gets one: first the wait, then the answer.
    pub fn draw(self: &Arc<Self>, chance: &mut Chance) -> Option<Fault> {
        let FaultPolicy {
            delay,
            abort,
            max_active,
        } = self.policy;
        let delay_ns = delay.filter(|(part, _)| part.draw(chance)).map(|it| it.1);
        let abort = abort.filter(|(part, _)| part.draw(chance)).map(|it| it.1);
        if delay_ns.is_none() && abort.is_none() {
            return None;
        }
        let active = self.active.fetch_add(1, Ordering::AcqRel);
        // Counts down again where it may not be.
        let fault = Fault {
            faults: self.clone(),
            delay_ns,
            abort,
        };
        max_active.is_none_or(|max| active < max).then_some(fault)
    }
}

impl Fault {
    /// Returns how long the request waits.
    pub fn delay_ns(&self) -> Option<u64> {
        self.delay_ns
    }

    /// Returns how it is answered then.
    pub fn abort(&self) -> Option<Abort> {
        self.abort
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.faults.active.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(numerator: u32, denominator: u32) -> Fraction {
        Fraction::new(numerator, denominator).unwrap()
    }

    #[test]
    fn fractions_are_of_the_whole() {
        assert_eq!(part(1, 100), Fraction(10_000));
        assert_eq!(part(1, 3), Fraction(333_333));
        assert_eq!(part(u32::MAX, u32::MAX), Fraction(WHOLE));
        assert_eq!(Fraction::new(101, 100), None);
        assert_eq!(Fraction::new(u32::MAX, 1), None);
        assert_eq!(Fraction::new(0, 0), None);
        let mut chance = Chance::seeded(1);
        assert!((0..10_000).all(|_| part(1, 1).draw(&mut chance)));
        assert!((0..10_000).all(|_| !part(0, 1).draw(&mut chance)));
    }

    #[test]
    fn waits_and_answers_are_drawn_apart_by_their_fractions() {
        let faults = Arc::new(Faults::new(FaultPolicy {
            delay: Some((part(1, 4), 500)),
            abort: Some((part(1, 10), Abort::Status(503))),
            max_active: None,
        }));
        let mut chance = Chance::seeded(1);
        let (mut delays, mut aborts, mut both) = (0, 0, 0);
        for _ in 0..100_000 {
            let fault = faults.draw(&mut chance);
            let delay = fault.as_ref().and_then(Fault::delay_ns);
            let abort = fault.as_ref().and_then(Fault::abort);
            assert!(delay.is_none_or(|it| it == 500));
            assert!(abort.is_none_or(|it| it == Abort::Status(503)));
            delays += u32::from(delay.is_some());
            aborts += u32::from(abort.is_some());
            both += u32::from(delay.is_some() && abort.is_some());
        }
        assert!((24_500..25_500).contains(&delays), "{delays}");
        assert!((9_600..10_400).contains(&aborts), "{aborts}");
        assert!((2_300..2_700).contains(&both), "{both}");
        assert_eq!(faults.active.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn no_more_than_the_most_are_active() {
        let faults = Arc::new(Faults::new(FaultPolicy {
            delay: Some((part(1, 1), 1)),
            abort: None,
            max_active: Some(2),
        }));
        let mut chance = Chance::seeded(1);
        let one = faults.draw(&mut chance);
        let two = faults.draw(&mut chance);
        assert!(one.is_some() && two.is_some());
        assert!(faults.draw(&mut chance).is_none());
        drop(one);
        assert!(faults.draw(&mut chance).is_some());
        drop(two);
        assert_eq!(faults.active.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn threads_leave_none_active() {
        let faults = Arc::new(Faults::new(FaultPolicy {
            delay: None,
            abort: Some((part(1, 2), Abort::Grpc(14))),
            max_active: Some(1),
        }));
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let faults = &faults;
                scope.spawn(move || {
                    let mut chance = Chance::seeded(seed);
                    (0..10_000).for_each(|_| drop(faults.draw(&mut chance)));
                });
            }
        });
        assert_eq!(faults.active.load(Ordering::Relaxed), 0);
    }
}
