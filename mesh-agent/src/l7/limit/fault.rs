//! Faults that are injected on purpose: a wait, an answer in place of the endpoint's, or both.

use crate::chance::Chance;

/// Which requests get which fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultPolicy {
    /// Who waits, and how long.
    pub delay: Option<(Fraction, u64)>,
    /// Who is answered, and how.
    pub abort: Option<(Fraction, Abort)>,
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

/// The fault of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// How long the request waits.
    pub delay_ns: Option<u64>,
    /// How it is answered then.
    pub abort: Option<Abort>,
}

impl FaultPolicy {
    /// Returns the fault of a request, if it gets one: first the wait, then the answer.
    pub fn draw(&self, chance: &mut Chance) -> Option<Fault> {
        let delay = self.delay.filter(|(part, _)| part.draw(chance));
        let abort = self.abort.filter(|(part, _)| part.draw(chance));
        let fault = Fault {
            delay_ns: delay.map(|it| it.1),
            abort: abort.map(|it| it.1),
        };
        (delay.is_some() || abort.is_some()).then_some(fault)
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
        let faults = FaultPolicy {
            delay: Some((part(1, 4), 500)),
            abort: Some((part(1, 10), Abort::Status(503))),
        };
        let mut chance = Chance::seeded(1);
        let (mut delays, mut aborts, mut both) = (0, 0, 0);
        for _ in 0..100_000 {
            let fault = faults.draw(&mut chance);
            let delay = fault.and_then(|it| it.delay_ns);
            let abort = fault.and_then(|it| it.abort);
            assert!(delay.is_none_or(|it| it == 500));
            assert!(abort.is_none_or(|it| it == Abort::Status(503)));
            delays += u32::from(delay.is_some());
            aborts += u32::from(abort.is_some());
            both += u32::from(delay.is_some() && abort.is_some());
        }
        assert!((24_500..25_500).contains(&delays), "{delays}");
        assert!((9_600..10_400).contains(&aborts), "{aborts}");
        assert!((2_300..2_700).contains(&both), "{both}");
    }
}
