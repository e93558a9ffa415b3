//! Counters of the node as a whole: slots of one per-CPU array.

use crate::path::Path;
use crate::reason::{REASON_SLOTS, Reason};

/// Flow records that found no room in the ring buffer.
pub const RECORDS_LOST: u32 = 0;
/// Pair counters that went to the overflow row.
pub const PAIRS_OVERFLOWED: u32 = 1;
/// Sockets whose state could not be allocated.
pub const STATE_FAILED: u32 = 2;
/// Messages that `redirect` sent from socket to socket.
pub const MESSAGES_REDIRECTED: u32 = 3;
/// Times a flow went from redirect to TCP because too much was in flight.
pub const DEMOTIONS: u32 = 4;
/// Denied connections and datagrams that no record was made of, since their workload had many.
pub const DENIALS_UNRECORDED: u32 = 7;
/// Flows that the stall guard reset; written by the agent, by no program.
pub const STALLS: u32 = 5;
/// Blocking receive calls that failed with `EAGAIN` because their socket was in the socket map.
pub const SPURIOUS_EAGAIN: u32 = 6;
/// First slot of the flows ended by path and reason.
pub const FLOWS_ENDED: u32 = 8;
/// Number of slots.
pub const SLOTS: u32 = FLOWS_ENDED + 3 * REASON_SLOTS;

/// Returns the slot that counts the flows which ended on `path` for `reason`.
#[inline(always)]
pub const fn flows_ended(path: Path, reason: Reason) -> u32 {
    FLOWS_ENDED + path as u32 * REASON_SLOTS + reason as u32
}
