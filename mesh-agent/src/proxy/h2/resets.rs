//! How often a client may do what costs it less than us: a request that is opened and given up costs it two frames and us a request
//! upstream.

use std::time::Duration;

/// Requests that a client may give up at once, and within [`SPAN`]. A client library that loses patience with all its streams
/// stays below.
pub(super) const RESETS: u32 = 100;

/// The time after which as much may be done anew.
const SPAN: Duration = Duration::from_secs(10);

/// A leaky bucket. Of requests: one that ended well makes good for one that did not, since then a reset costs us no more than a
/// request; a busy client may give up one in two as long as it likes.
#[derive(Debug)]
pub(super) struct Bucket {
    /// What each adds, in nanoseconds until it has leaked out.
    each: u64,
    /// How full it is.
    level: u64,
    /// When that was so.
    at: u64,
}

impl Bucket {
    /// Returns one that so much may be put into at once.
    pub(super) fn new(most: u32) -> Self {
        Self {
            each: nanoseconds(SPAN) / u64::from(most.max(1)),
            level: 0,
            at: 0,
        }
    }

    /// Notes that it happened; returns whether that was once too often. `now` counts nanoseconds from anywhere.
    pub(super) fn add(&mut self, now: u64) -> bool {
        self.leak(now);
        self.level += self.each;
        self.level > nanoseconds(SPAN)
    }

    /// Notes that a stream ended well.
    pub(super) fn ended_well(&mut self) {
        self.level = self.level.saturating_sub(self.each);
    }

    fn leak(&mut self, now: u64) {
        self.level = self.level.saturating_sub(now.saturating_sub(self.at));
        self.at = self.at.max(now);
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_hundred_at_once_pass_and_one_more_does_not() {
        let mut resets = Bucket::new(RESETS);
        assert!((0..RESETS).all(|_| !resets.add(SECOND)));
        assert!(resets.add(SECOND));
    }

    #[test]
    fn the_rate_passes_for_ever() {
        let mut resets = Bucket::new(RESETS);
        assert!((0..10_000).all(|at| !resets.add(at * SECOND / 10)));
        assert!((0..1000).any(|at| resets.add(1000 * SECOND + at * SECOND / 12)));
    }

    #[test]
    fn streams_that_end_well_make_good() {
        let mut resets = Bucket::new(RESETS);
        for _ in 0..10_000 {
            assert!(!resets.add(SECOND));
            resets.ended_well();
        }
        // But they are no savings.
        assert!((0..RESETS).all(|_| !resets.add(SECOND)));
        assert!(resets.add(SECOND));
    }
}
