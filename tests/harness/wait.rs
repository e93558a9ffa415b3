//! Waiting for a state: the only place where tests pause.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a step of the harness itself may take. Generous: shared machines stall for seconds.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a state is looked at: often enough not to be what a run waits for, seldom enough not to load a small machine.
const INTERVAL: Duration = Duration::from_millis(5);

/// Returns once `predicate` is true.
///
/// # Errors
/// When it is still false after `timeout`; the error says `what` was waited for.
pub fn wait_for(what: &str, timeout: Duration, mut predicate: impl FnMut() -> bool) -> Result<()> {
    wait_for_some(what, timeout, || predicate().then_some(()))
}

/// Returns the value of `look` once it has one.
///
/// # Errors
/// When it still has none after `timeout`; the error says `what` was waited for.
pub fn wait_for_some<T>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = look() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {timeout:?} in vain for {what}");
        }
        pause(INTERVAL);
    }
}

/// Lets `duration` pass: only for measuring over a stretch of time, never to wait for something.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that the ban sends everybody to"
)]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
