//! Who has to wait, and who is refused: rate limits, faults that are injected, and the bound on what the agent has in flight.
//!
//! All of it is local to the agent: a limit of 100 a second is 100 a second on each node.

pub mod bucket;
pub mod fault;
pub mod keyed;
pub mod shed;
pub mod window;

/// Nanoseconds of a clock that never goes back, since some fixed moment.
pub type Now = u64;

/// More than the limit allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("more requests than the rate limit allows; try again in {wait_ns} ns")]
pub struct Limited {
    /// After this time one would be allowed, if nobody else took it.
    pub wait_ns: u64,
}

/// What allows a request or does not.
pub trait Limit {
    /// Takes one request.
    ///
    /// # Errors
    ///
    /// Where it is one too many; it does not count then.
    fn take(&self, now: Now) -> Result<(), Limited>;
}
