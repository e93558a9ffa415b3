//! When requests are due, and a clock that wakes its owner then.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// Requests at fixed distances.
///
/// The clock is the kernel's: what epoll itself waits for is whole milliseconds, in which dozens of requests are due.
#[derive(Debug)]
pub(super) struct Pace {
    timer: OwnedFd,
    start: Instant,
    distance: Duration,
    sent: u32,
}

impl Pace {
    /// Starts a pace of `per_second` requests.
    pub(super) fn start(per_second: f64) -> Result<Self> {
        ensure!(per_second >= 1.0, "less than a request a second is no load");
        let distance = Duration::from_secs_f64(1.0 / per_second);
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, flags).context("failed to make a timer")?;
        let spec = Timespec {
            tv_sec: i64::try_from(distance.as_secs()).context("too slow a pace")?,
            tv_nsec: distance.subsec_nanos().into(),
        };
        let both = Itimerspec {
            it_interval: spec,
            it_value: spec,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &both)
            .context("failed to start a timer")?;
        Ok(Self {
            timer,
            start: Instant::now(),
            distance,
            sent: 0,
        })
    }

    /// Returns when the next request was due, if that is not after `now`. Each is returned once.
    pub(super) fn next(&mut self, now: Instant) -> Option<Instant> {
        let due = self.start + self.distance * self.sent;
        (due <= now).then(|| {
            self.sent += 1;
            due
        })
    }

    /// Forgets that the timer has rung, so that it can again.
    pub(super) fn hush(&self) {
        let mut count = [0; 8];
        // Nothing to read means that it has not rung.
        rustix::io::read(&self.timer, &mut count).ok();
    }
}

impl AsFd for Pace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

impl AsRawFd for Pace {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_due_once_and_none_is_left_out() {
        let mut pace = Pace::start(1000.0).unwrap();
        let later = pace.start + Duration::from_millis(10);
        let due: Vec<_> = std::iter::from_fn(|| pace.next(later)).collect();
        assert_eq!(due.len(), 11);
        assert_eq!(due[0], pace.start);
        assert_eq!(due[10], later);
        assert_eq!(pace.next(later), None);
    }
}
