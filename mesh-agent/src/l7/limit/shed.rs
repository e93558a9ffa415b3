//! Load shedding: what the agent as a whole refuses, rather than to answer everybody late; and what it keeps of bodies.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests in flight in one agent by default: Linkerd's number.
pub const REQUESTS_MAX: u64 = 100_000;

/// Bytes of bodies that one agent keeps by default: of 2,048 requests that each keep as many as may be. What is more is not kept, and
/// so not sent again: a few services that hang are no reason to turn away the requests to all others.
pub const BYTES_MAX: u64 = 128 << 20;

/// Too many requests are in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the agent has too many requests in flight")]
pub struct Shed;

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
    /// Where too many are in flight already.
    pub fn enter(&self) -> Result<Load<'_>, Shed> {
        let before = self.requests.fetch_add(1, Ordering::Relaxed);
        // Counts down again where it may not be.
        let load = Load {
            shedder: self,
            bytes: AtomicU64::default(),
        };
        if before >= self.requests_max {
            return Err(Shed);
        }
        Ok(load)
    }
}

impl Load<'_> {
    /// Says how many bytes are kept of the request from now on. False where that is more than may be, all requests together; then
    /// nothing has changed.
    #[must_use = "what may not be kept is to be let go of"]
    pub fn set_bytes(&self, bytes: u64) -> bool {
        let before = self.bytes.load(Ordering::Relaxed);
        let total = &self.shedder.bytes;
        if bytes > before {
            let more = bytes - before;
            if total.fetch_add(more, Ordering::Relaxed) + more > self.shedder.bytes_max {
                total.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
        } else if bytes < before {
            total.fetch_sub(before - bytes, Ordering::Relaxed);
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        true
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        if bytes > 0 {
            self.shedder.bytes.fetch_sub(bytes, Ordering::Relaxed);
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
        assert_eq!(shedder.enter().unwrap_err(), Shed);
        drop(one);
        drop(shedder.enter().unwrap());
        drop(two);
        assert_eq!(shedder.requests.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn bytes_above_the_bound_are_not_kept_and_keep_nobody_out() {
        let shedder = Shedder::new(10, 100);
        let one = shedder.enter().unwrap();
        let two = shedder.enter().unwrap();
        assert!(one.set_bytes(60) && two.set_bytes(40));
        assert!(!two.set_bytes(41) && !one.set_bytes(100));
        drop(shedder.enter().unwrap());
        assert!(one.set_bytes(50) && two.set_bytes(50));
        drop(one);
        assert!(two.set_bytes(100));
        drop(two);
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
                            assert!(load.set_bytes(bytes * 100));
                        }
                    }
                });
            }
        });
        let left = [&shedder.requests, &shedder.bytes].map(|it| it.load(Ordering::Relaxed));
        assert_eq!(left, [0, 0]);
    }
}
