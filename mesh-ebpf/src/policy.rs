//! Whether a workload may dial.

use mesh_common::addr::{Addr, PortBe};
use mesh_common::policy::Verdict;
use mesh_common::workload::NetnsEntry;

/// A connect, or a datagram of an unconnected socket, once it is known where it goes.
#[allow(dead_code, reason = "facts for policies, of which there are none yet")]
pub(crate) struct Dial {
    /// Cookie of the caller's network namespace.
    pub(crate) netns: u64,
    /// Cookie of its socket.
    pub(crate) cookie: u64,
    /// The address that the socket is bound to; unspecified where it is not.
    pub(crate) bound: Addr,
    /// The port that it is bound to, or 0.
    pub(crate) source_port: PortBe,
    /// Where it goes, after balancing.
    pub(crate) destination: Addr,
    /// The port there.
    pub(crate) port: PortBe,
    /// `service::TCP` or `service::UDP`.
    pub(crate) protocol: u8,
    /// Number of the service port that was dialled, or 0.
    pub(crate) service: u32,
}

/// Judges what the workload `_me` dials.
#[inline(always)]
pub(crate) fn judge(_me: &NetnsEntry, _dial: &Dial) -> Verdict {
    Verdict {
        allowed: true,
        would_deny: false,
        rule: 0,
    }
}
