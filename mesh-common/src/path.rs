//! Which way a flow's bytes went.

use crate::enums::closed_enum;

closed_enum! {
    /// Which way a flow's bytes went.
    Path {
        /// All by TCP, through the network stack.
        Tcp = 0, "tcp", "TCP";
        /// All from socket to socket.
        Redirect = 1, "redirect", "redirect";
        /// Some by each.
        Mixed = 2, "mixed", "mixed";
    }
}

impl Path {
    /// Returns the path of a flow that carried these bytes by each way.
    #[inline(always)]
    pub const fn of(redirect_bytes: u64, tcp_bytes: u64) -> Self {
        match (redirect_bytes, tcp_bytes) {
            (0, _) => Self::Tcp,
            (_, 0) => Self::Redirect,
            _ => Self::Mixed,
        }
    }
}
