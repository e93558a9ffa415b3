//! How a flow ended.

use crate::enums::closed_enum;

closed_enum! {
    /// How a flow ended, in terms of its source (who dialled) and destination.
    CloseReason {
        /// It is still open.
        Open = 0, "open", "open";
        /// The source closed first.
        SourceClosed = 1, "source_closed", "closed by source";
        /// The destination closed first.
        DestinationClosed = 2, "destination_closed", "closed by destination";
        /// The source reset it.
        SourceReset = 3, "source_reset", "reset by source";
        /// The destination reset it.
        DestinationReset = 4, "destination_reset", "reset by destination";
        /// The other end stopped answering.
        TimedOut = 5, "timed_out", "timed out";
        /// Never established: refused.
        Refused = 6, "refused", "connection refused";
        /// Never established: no answer.
        ConnectTimedOut = 7, "connect_timed_out", "no answer to connect";
        /// Never established: unreachable or any other error.
        ConnectFailed = 8, "connect_failed", "connect failed";
        /// Reset by the operator or the stall guard (`SOCK_DESTROY`).
        Destroyed = 9, "destroyed", "reset by the node";
        /// Never tried: a policy denies it.
        Denied = 10, "denied", "denied by policy";
        /// Never tried: the service that was dialled has no backend.
        NoBackend = 11, "no_backend", "no backend";
        /// Never tried: the service needs the agent, which is not there, and fails closed.
        AgentAway = 12, "agent_away", "the agent is away";
        /// Never tried: the service needs the agent, which has as many connections as it may.
        AgentBusy = 13, "agent_busy", "too many connections through the agent";
    }
}

impl CloseReason {
    /// Returns whether the connection was never established.
    pub const fn never_established(self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::ConnectTimedOut
                | Self::ConnectFailed
                | Self::Denied
                | Self::NoBackend
                | Self::AgentAway
                | Self::AgentBusy
        )
    }
}
