//! How many requests a client may give up: a stream that is opened and reset costs it two frames and us a request upstream.

use std::time::Duration;

/// Requests that a client may give up at once, and within [`SPAN`]. A client library that loses patience with all its streams
/// stays below.
const MAX: u32 = 100;

/// The time after which that many may be given up anew.
const SPAN: Duration = Duration::from_secs(10);

/// A leaky bucket of streams that the client reset. One that ended well makes good for one that did not, since then a reset costs us
/// no more than a request: a busy client may give up one in two as long as it likes.
#[derive(Debug, Default)]
pub(super) struct Resets {
    /// How full it is, in nanoseconds until it has leaked out.
    level: u64,
    /// When that was so.
    at: u64,
}

impl Resets {
    /// Notes that the client reset a stream; returns whether that was one too many. `now` counts nanoseconds from anywhere.
    pub(super) fn reset(&mut self, now: u64) -> bool {
        self.leak(now);
        self.level += per_reset();
        self.level > nanoseconds(SPAN)
    }

    /// Notes that a stream ended well.
    pub(super) fn ended_well(&mut self) {
        self.level = self.level.saturating_sub(per_reset());
    }

    fn leak(&mut self, now: u64) {
        self.level = self.level.saturating_sub(now.saturating_sub(self.at));
        self.at = self.at.max(now);
    }
}

fn per_reset() -> u64 {
    nanoseconds(SPAN) / u64::from(MAX)
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
        let mut resets = Resets::default();
        assert!((0..MAX).all(|_| !resets.reset(SECOND)));
        assert!(resets.reset(SECOND));
    }

    #[test]
    fn the_rate_passes_for_ever() {
        let mut resets = Resets::default();
        assert!((0..10_000).all(|at| !resets.reset(at * SECOND / 10)));
        assert!((0..1000).any(|at| resets.reset(1000 * SECOND + at * SECOND / 12)));
    }

    #[test]
    fn streams_that_end_well_make_good() {
        let mut resets = Resets::default();
        for _ in 0..10_000 {
            assert!(!resets.reset(SECOND));
            resets.ended_well();
        }
        // But they are no savings.
        assert!((0..MAX).all(|_| !resets.reset(SECOND)));
        assert!(resets.reset(SECOND));
    }
}
