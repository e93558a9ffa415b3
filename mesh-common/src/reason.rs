//! Why a socket, or a message of it, is not redirected.

use crate::enums::closed_enum;

closed_enum! {
    /// Why a flow's bytes went by TCP. Closed and append-only: kernel programs write it, `status` and metrics show it.
    Reason {
        /// It was redirected, or nothing stood against it.
        None = 0, "none", "redirected";
        /// The other end is not a workload of this node.
        PeerElsewhere = 1, "peer_elsewhere", "the other end is not a workload on this node";
        /// The socket's own address is not one of its workload's.
        AddressNotOwned = 2, "address_not_owned", "the local address is not one of the workload's";
        /// Acceleration is off for one end.
        ModeOff = 3, "mode_off", "acceleration is off for a workload at one end";
        /// One end is in mode `observe`, or still in its observation window.
        Observing = 4, "observing", "a workload at one end is still being observed";
        /// One end was seen to do what redirect breaks on this kernel.
        Behaviour = 5, "behaviour", "a workload at one end does what redirect breaks on this kernel";
        /// The start-up probe found redirect unfit on this kernel.
        KernelLevel = 6, "kernel_level", "the kernel failed the start-up probe";
        /// The operator's kill switch is on.
        KillSwitch = 7, "kill_switch", "the kill switch is on";
        /// A socket option was set on this socket that redirect does not honour.
        SocketOption = 8, "socket_option", "a socket option is set that redirect does not honour";
        /// TCP Fast Open: data was sent before the connection was established.
        FastOpen = 9, "fast_open", "data was sent before the connection was established (TCP Fast Open)";
        /// Another live socket holds the same key.
        KeyTaken = 10, "key_taken", "another live socket holds the same key";
        /// The socket map is full.
        SocketMapFull = 11, "socket_map_full", "the socket map is full";
        /// The kernel does not take this kind of socket (MPTCP, another upper-layer protocol).
        NotSupported = 12, "not_supported", "the kernel does not take this kind of socket (such as MPTCP)";
        /// The kernel refused the insertion with another error.
        InsertFailed = 13, "insert_failed", "the kernel refused the socket";
        /// The flow table is full.
        FlowTableFull = 14, "flow_table_full", "the flow table is full";
        /// The other end's socket did not join, or had not joined when the first bytes were sent.
        PeerNotJoined = 15, "peer_not_joined", "the other end's socket did not join";
        /// Bytes that went by TCP were not yet read; redirected ones would overtake them.
        TcpOutstanding = 16, "tcp_outstanding", "bytes sent by TCP were not yet read by the other end";
        /// More bytes or messages were in flight than the bound allows.
        InFlightBound = 17, "in_flight_bound", "too much was in flight, so TCP held the sender back";
        /// The connection was not between workloads when it was established, or socket storage could not be had.
        NoState = 18, "no_state", "socket storage could not be allocated";
        /// One end has not sent anything yet, so no path was taken.
        Idle = 19, "idle", "nothing was sent yet";
        /// A stream of large messages, which TCP carries as fast, with exact backpressure.
        Bulk = 20, "bulk", "a stream of large messages, which TCP carries as fast";
        /// The last flows from this source to this destination carried too few messages for redirect to pay.
        Short = 21, "short", "flows between these two are too short to gain";
    }
}

/// Number of slots for a per-reason counter; above every reason's number.
pub const REASON_SLOTS: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_fit_their_slots() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(*reason as u8), Some(*reason));
            assert!((*reason as u32) < REASON_SLOTS);
        }
        assert_eq!(Reason::from_number(255), None);
    }
}
