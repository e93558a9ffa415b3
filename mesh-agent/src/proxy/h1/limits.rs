//! What an HTTP/1 connection may ask of us.

use std::time::Duration;

/// Limits of a connection of HTTP/1.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a head, request line and all. Twice what nginx and Envoy allow by default.
    pub head_bytes: usize,
    /// Field lines of a head; as hyper, Envoy and Apache.
    pub fields: usize,
    /// Bytes of a request's target; as nginx and Apache.
    pub target_bytes: usize,
    /// From the first byte of a head to its last: against clients that send it a byte at a time.
    pub head_time: Duration,
    /// Without a request in progress. More than what clients keep connections for, so that they close first.
    pub idle_time: Duration,
    /// Until the connection is asked to close: after a change of backends or of the agent, old connections shall not stay.
    pub max_age: Duration,
    /// How long the rest of a request is read that was answered before its end, so that the answer arrives.
    pub linger_time: Duration,
    /// How much of it.
    pub linger_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            fields: MAX_FIELDS,
            target_bytes: 8 * 1024,
            head_time: Duration::from_secs(10),
            idle_time: Duration::from_secs(75),
            max_age: Duration::from_secs(3600),
            linger_time: Duration::from_secs(1),
            linger_bytes: 64 * 1024,
        }
    }
}

/// The most field lines that any head may have: they are parsed into an array on the stack.
pub(super) const MAX_FIELDS: usize = 100;
/// Room that a read has at least: enough for nearly all requests.
pub(super) const READ_LEAST: usize = 4 * 1024;
/// Room for a first read: more than nearly all requests, and small responses whole.
pub(super) const READ_FIRST: usize = 16 * 1024;
/// Room for a read of a long body: beyond this, more bytes to a call gain nothing measurable.
pub(super) const READ_MOST: usize = 64 * 1024;
/// Pieces up to this are copied behind what waits to be sent, which is cheaper than a second part of a vectored write.
pub(super) const COPY_MOST: usize = 4 * 1024;
/// What waits to be sent at most before it is, whether somebody flushes or not.
pub(super) const HOLD_MOST: usize = 16 * 1024;
