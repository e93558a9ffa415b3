//! Load shedding: what the agent as a whole refuses, rather than to answer everybody late.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests in flight in one agent by default: Linkerd's number.
pub const REQUESTS_MAX: u64 = 100_000;

/// Bytes of bodies that one agent keeps by default: of 2,048 requests that each keep as many as may be.
pub const BYTES_MAX: u64 = 128 << 20;

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Shed {
    /// Too many are in flight.
    #[error("the agent has too many requests in flight")]
    Requests,
    /// Too many bytes are kept.
    #[error("the agent keeps too much of the bodies of requests in flight")]
    Bytes,
}

/// What an agent has in flight, and how much it may.
#[derive(Debug)]
pub struct Shedder {
    requests_max: u64,
    bytes_max: u64,
    // Numbers, that nothing else is read by: no order among them is needed.
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// A request in flight, with what is kept of its body. Over when it is dropped.
#[derive(Debug)]
#[must_use = "the request counts as over when it is dropped"]
pub struct Load<'s> {
    shedder: &'s Shedder,
    /// One task has it: the atomic is for the compiler.
    bytes: AtomicU64,
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
    pub fn enter(&self) -> Result<Load<'_>, Shed> {
        if self.bytes.load(Ordering::Relaxed) >= self.bytes_max {
            return Err(Shed::Bytes);
        }
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        // Counts down again where it may not be.
        let load = Load {
            shedder: self,
            bytes: AtomicU64::default(),
        };
        if before >= self.requests_max {
            return Err(Shed::Requests);
        }
        Ok(load)
    }
}

impl Load<'_> {
    /// Says how many bytes are kept of the request now. Never refused: they are here already.
    pub fn set_bytes(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        let total = &self.shedder.bytes;
        if bytes > before {
            total.fetch_add(bytes - before, Ordering::Relaxed);
        } else if bytes < before {
            total.fetch_sub(before - bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        if *self.bytes.get_mut() > 0 {
            self.set_bytes(0);
        }
        self.shedder.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_above_the_bound_are_refused() {
        let shedder = Shedder::new(2, 100);
        let one = shedder.enter().unwrap();
        let two = shedder.enter().unwrap();
        assert_eq!(shedder.enter().unwrap_err(), Shed::Requests);
        drop(one);
        drop(shedder.enter().unwrap());
        drop(two);
        assert_eq!(shedder.requests.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn bytes_that_are_kept_keep_new_requests_out() {
        let shedder = Shedder::new(10, 100);
        let one = shedder.enter().unwrap();
        let two = shedder.enter().unwrap();
        one.set_bytes(60);
        two.set_bytes(50);
        assert_eq!(shedder.enter().unwrap_err(), Shed::Bytes);
        one.set_bytes(40);
        drop(shedder.enter().unwrap());
        drop((one, two));
        assert_eq!(shedder.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn threads_leave_nothing_in_flight() {
        let shedder = Shedder::new(3, 1000);
        std::thread::scope(|scope| {
            for bytes in 0..4 {
                let shedder = &shedder;
                scope.spawn(move || {
                    for _ in 0..10_000 {
                        if let Ok(load) = shedder.enter() {
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
