//! Load shedding: what the agent as a whole refuses, rather than to answer everybody late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests in flight in one agent by default: Linkerd's number.
pub const REQUESTS_MAX: u64 = 100_000;

/// Bytes of bodies that wait in one agent by default: full windows of 256 KiB of 512 streams whose receivers do not read.
pub const BYTES_MAX: u64 = 128 << 20;

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Shed {
    /// Too many are in flight.
    #[error("{in_flight} requests are in flight in this agent, which takes {max}")]
    Requests {
        /// Requests in flight.
        in_flight: u64,
        /// The bound.
        max: u64,
    },
    /// Too many bytes wait.
    #[error("{waiting} bytes wait in this agent, which takes {max}")]
    Bytes {
        /// Bytes that wait.
        waiting: u64,
        /// The bound.
        max: u64,
    },
}

impl Shed {
    /// Returns the word of the reason, for labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Requests { .. } => "requests",
            Self::Bytes { .. } => "bytes",
        }
    }
}

/// What an agent has in flight, and how much it may.
#[derive(Debug)]
pub struct Shedder {
    requests_max: u64,
    bytes_max: u64,
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Shedder {
    fn default() -> Self {
        Self::new(REQUESTS_MAX, BYTES_MAX)
    }
}

/// A request in flight, with the bytes of its bodies that wait. Over when it is dropped.
#[derive(Debug)]
#[must_use = "the request counts as over when it is dropped"]
pub struct Load {
    shedder: Arc<Shedder>,
    bytes: u64,
}

impl Shedder {
    /// Begins with nothing in flight.
    pub fn new(requests_max: u64, bytes_max: u64) -> Self {
        Self {
            requests_max,
            bytes_max,
            requests: AtomicU64::default(),
            bytes: AtomicU64::default(),
        }
    }

    /// Takes in a request.
    ///
    /// # Errors
    ///
    /// Where too much is in flight already.
    pub fn enter(self: &Arc<Self>) -> Result<Load, Shed> {
        let waiting = self.bytes.load(Ordering::Acquire);
        if waiting >= self.bytes_max {
            let max = self.bytes_max;
            return Err(Shed::Bytes { waiting, max });
        }
        let in_flight = self.requests.fetch_add(1, Ordering::AcqRel);
        // Counts down again where it may not be.
        let load = Load {
            shedder: self.clone(),
            bytes: 0,
        };
        if in_flight >= self.requests_max {
            let max = self.requests_max;
            return Err(Shed::Requests { in_flight, max });
        }
        Ok(load)
    }
}

impl Load {
    /// Says how many bytes of the request and its response wait now. Never refused: they are here already.
    pub fn set_bytes(&mut self, bytes: u64) {
        let total = &self.shedder.bytes;
        if bytes > self.bytes {
            total.fetch_add(bytes - self.bytes, Ordering::AcqRel);
        } else if bytes < self.bytes {
            total.fetch_sub(self.bytes - bytes, Ordering::AcqRel);
        }
        self.bytes = bytes;
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.set_bytes(0);
        self.shedder.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_above_the_bound_are_refused_with_the_reason() {
        let shedder = Arc::new(Shedder::new(2, 100));
        let one = shedder.enter().unwrap();
        let two = shedder.enter().unwrap();
        let shed = shedder.enter().unwrap_err();
        assert_eq!(
            shed,
            Shed::Requests {
                in_flight: 2,
                max: 2
            }
        );
        assert_eq!(shed.word(), "requests");
        assert_eq!(
            shed.to_string(),
            "2 requests are in flight in this agent, which takes 2"
        );
        drop(one);
        drop(shedder.enter().unwrap());
        drop(two);
        assert_eq!(shedder.requests.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn bytes_that_wait_keep_new_requests_out() {
        let shedder = Arc::new(Shedder::new(10, 100));
        let mut one = shedder.enter().unwrap();
        let mut two = shedder.enter().unwrap();
        one.set_bytes(60);
        two.set_bytes(50);
        let shed = shedder.enter().unwrap_err();
        assert_eq!(
            shed,
            Shed::Bytes {
                waiting: 110,
                max: 100
            }
        );
        one.set_bytes(40);
        drop(shedder.enter().unwrap());
        drop((one, two));
        assert_eq!(shedder.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn threads_leave_nothing_in_flight() {
        let shedder = Arc::new(Shedder::new(3, 1000));
        std::thread::scope(|scope| {
            for bytes in 0..4 {
                let shedder = &shedder;
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        if let Ok(mut load) = shedder.enter() {
                            load.set_bytes(bytes * 100);
                        }
                    }
                });
            }
        });
        let left = [&shedder.requests, &shedder.bytes].map(|it| it.load(Ordering::Relaxed));
        assert_eq!(left, [0, 0]);
    }
}
