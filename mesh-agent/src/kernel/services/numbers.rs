//! Which numbers of an array are given. Pure.

/// Numbers from 1 on. One that comes back rests until all others were given: what still bears it has long gone by then.
#[derive(Debug)]
pub(super) struct Numbers {
    given: Vec<u64>,
    limit: u32,
    /// Where the search for a free one goes on.
    next: u32,
    free: u32,
}

impl Numbers {
    /// Returns the numbers below `limit`, all free but 0, which stands for "none".
    pub(super) fn new(limit: u32) -> Self {
        let words = usize::try_from(limit.div_ceil(64)).unwrap_or(0);
        Self {
            given: vec![0; words],
            limit,
            next: 1,
            free: limit.saturating_sub(1),
        }
    }

    /// Returns how many are free.
    pub(super) fn free(&self) -> usize {
        usize::try_from(self.free).unwrap_or(usize::MAX)
    }

    /// Gives one.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.free == 0 {
            return None;
        }
        let mut number = self.next;
        loop {
            number = if number >= self.limit { 1 } else { number };
            if self.claim(number) {
                self.next = number + 1;
                return Some(number);
            }
            number += 1;
        }
    }

    /// Gives this very one; returns false where it is given already, or none of these.
    pub(super) fn claim(&mut self, number: u32) -> bool {
        if number == 0 || number >= self.limit {
            return false;
        }
        let (word, bit) = place(number);
        let Some(word) = self.given.get_mut(word) else {
            return false;
        };
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        self.free -= 1;
        self.next = self.next.max(number + 1);
        true
    }

    /// Takes one back.
    pub(super) fn give(&mut self, number: u32) {
        let (word, bit) = place(number);
        if let Some(word) = self.given.get_mut(word)
            && *word & bit != 0
        {
            *word &= !bit;
            self.free += 1;
        }
    }
}

fn place(number: u32) -> (usize, u64) {
    let word = usize::try_from(number / 64).unwrap_or(usize::MAX);
    (word, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_given_once_and_rests_when_it_comes_back() {
        let mut numbers = Numbers::new(100);
        let first: Vec<u32> = (0..50).filter_map(|_| numbers.take()).collect();
        assert_eq!(first, (1..=50).collect::<Vec<_>>());
        numbers.give(7);
        numbers.give(8);
        let rest: Vec<u32> = std::iter::from_fn(|| numbers.take()).collect();
        assert_eq!(rest, (51..100).chain([7, 8]).collect::<Vec<_>>());
        assert_eq!((numbers.take(), numbers.free()), (None, 0));
        numbers.give(7);
        numbers.give(7);
        assert_eq!((numbers.take(), numbers.take()), (Some(7), None));
    }

    #[test]
    fn those_that_an_earlier_agent_gave_are_not_given_again() {
        let mut numbers = Numbers::new(10);
        assert!([2, 5].iter().all(|number| numbers.claim(*number)));
        for wrong in [0, 2, 5, 10, u32::MAX] {
            assert!(!numbers.claim(wrong), "{wrong}");
        }
        let rest: Vec<u32> = std::iter::from_fn(|| numbers.take()).collect();
        assert_eq!(rest, [6, 7, 8, 9, 1, 3, 4]);
    }
}
