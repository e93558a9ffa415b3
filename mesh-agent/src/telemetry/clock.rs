//! From the kernel's monotonic nanoseconds to the time of day.

#![forbid(unsafe_code)]

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Both clocks at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// `CLOCK_MONOTONIC`, as the kernel programs stamp records (`bpf_ktime_get_ns`).
    pub monotonic_ns: u64,
    /// Time of day.
    pub wall: Timestamp,
}

impl Now {
    /// Reads both clocks.
    ///
    /// Read anew for every conversion and not once at start: the time of day may be stepped while the agent runs.
    pub fn read() -> Self {
        Self {
            monotonic_ns: monotonic_ns(),
            wall: Timestamp::now(),
        }
    }

    /// Returns the time of day at a monotonic moment; the bound of what a timestamp can say where it lies outside.
    pub fn wall_at(&self, monotonic_ns: u64) -> Timestamp {
        let gap = self.monotonic_ns.abs_diff(monotonic_ns);
        let gap = SignedDuration::from_nanos(i64::try_from(gap).unwrap_or(i64::MAX));
        let moment = if monotonic_ns <= self.monotonic_ns {
            self.wall.saturating_sub(gap)
        } else {
            self.wall.saturating_add(gap)
        };
        // Fails for spans of calendar units only, which a `SignedDuration` never is.
        moment.unwrap_or(self.wall)
    }
}

/// Returns `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is ever negative for this clock.
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_before_now_is_that_much_earlier() {
        let wall: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let now = Now {
            monotonic_ns: 10_000_000_000,
            wall,
        };
        let then = now.wall_at(8_500_000_000);
        assert_eq!(then.to_string(), "2026-01-02T03:04:03.5Z");
        assert!(now.wall_at(u64::MAX) > wall);
        assert!(now.wall_at(0) < wall);
    }
}
