//! How long the flows of a pair are, as those that ended lately tell.

use crate::redirect::{SHORT_FLOWS_MIN, is_short};

/// Most messages that one flow counts for, so that it is forgotten after some hundred short ones.
const MESSAGES_MAX: u64 = 0xFFFF;

/// The flows of a pair that ended: their number up to [`SHORT_FLOWS_MIN`], and the messages of about so many of the last.
///
/// Each further flow takes the place of one average flow, so old ones fade. Crosses as one word, which is stored at one stroke: where
/// two flows end at the same moment, one of them may go uncounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct History {
    flows: u32,
    messages: u32,
}

impl History {
    /// Returns the history that [`History::word`] made a word of.
    #[inline(always)]
    pub const fn of(word: u64) -> Self {
        Self {
            flows: (word >> 32) as u32,
            messages: (word & 0xFFFF_FFFF) as u32,
        }
    }

    /// Returns it as a word.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        ((self.flows as u64) << 32) | self.messages as u64
    }

    /// Returns the history with another flow, which carried so many messages, both directions together.
    #[inline(always)]
    pub const fn with(self, messages: u64) -> Self {
        let messages = if messages < MESSAGES_MAX {
            (messages & 0xFFFF_FFFF) as u32
        } else {
            (MESSAGES_MAX & 0xFFFF_FFFF) as u32
        };
        if self.flows < SHORT_FLOWS_MIN {
            Self {
                flows: self.flows + 1,
                messages: self.messages + messages,
            }
        } else {
            Self {
                flows: self.flows,
                messages: self.messages - self.messages / SHORT_FLOWS_MIN + messages,
            }
        }
    }

    /// Returns whether the next flow is too short to gain, to go by these.
    #[inline(always)]
    pub const fn is_short(self) -> bool {
        is_short(self.flows, self.messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redirect::SHORT_MESSAGES;

    fn after(history: History, flows: u32, messages: u64) -> History {
        (0..flows).fold(history, |history, _| history.with(messages))
    }

    #[test]
    fn the_first_flows_are_never_short() {
        for flows in 0..SHORT_FLOWS_MIN {
            assert!(!after(History::default(), flows, 0).is_short());
        }
        assert!(after(History::default(), SHORT_FLOWS_MIN, 0).is_short());
    }

    #[test]
    fn the_bound_is_the_same_from_below_and_from_above() {
        let messages = u64::from(SHORT_MESSAGES);
        let short = after(History::default(), 1000, 0);
        assert!(after(short, 1000, messages - 1).is_short());
        assert!(!after(short, 1000, messages).is_short());
        let long = after(History::default(), 1000, 100);
        assert!(after(long, 1000, messages - 1).is_short());
        assert!(!after(long, 1000, messages).is_short());
    }

    #[test]
    fn a_pair_that_changes_is_judged_anew_soon() {
        let short = after(History::default(), 1000, 2);
        assert!(!after(short, SHORT_FLOWS_MIN, 20).is_short());
        let long = after(History::default(), 1000, 20);
        assert!(after(long, 3 * SHORT_FLOWS_MIN, 2).is_short());
    }

    #[test]
    fn one_long_flow_among_short_ones_counts_by_its_messages_but_not_for_ever() {
        let short = after(History::default(), 1000, 2);
        let after_long = short.with(u64::MAX);
        assert!(!after_long.is_short());
        assert!(!after(after_long, 50, 2).is_short());
        assert!(after(after_long, 200, 2).is_short());
    }

    #[test]
    fn any_number_of_the_longest_flows_fits_the_word() {
        let longest = after(History::default(), 10_000, u64::MAX);
        assert_eq!(History::of(longest.word()), longest);
        assert!(!longest.is_short());
    }
}
