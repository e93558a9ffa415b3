//! What becomes of an attempt that gave the client no response.

use crate::l7::cluster::{InFlight, Outcome};
use crate::l7::flag::Flag;
use crate::l7::route::edit::Cause;
use crate::proxy::exchange::UpstreamError;
use crate::proxy::exchange::retry::Retries;
use crate::proxy::pool::ConnectError;

/// What follows an attempt.
pub(super) enum Fate {
    /// Nothing: the client has a response, or is gone.
    Over,
    /// The agent answers.
    Answer(Refusal),
    /// Another attempt, which is admitted already.
    Again(InFlight),
    /// There is no response; another attempt may be made.
    Failed(Failure),
}

/// An answer of the agent's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub(super) cause: Cause,
    pub(super) flag: Flag,
    pub(super) why: &'static str,
}

/// Why there is no response.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Connect(ConnectError),
    Upstream(UpstreamError),
    TimedOut,
}

impl Failure {
    /// Returns what is answered if that was the last attempt.
    pub(super) fn refusal(&self) -> Refusal {
        use Flag::{
            Denied, DownstreamProtocol, Tls, UpstreamClosed, UpstreamConnectFailure,
            UpstreamProtocol, UpstreamReset, UpstreamTimeout,
        };
        let (cause, flag, why) = match self {
            Self::Connect(ConnectError::Denied) => {
                (Cause::Denied, Denied, "policy denies the connection")
            }
            Self::Connect(ConnectError::Tls(_)) => {
                (Cause::Connect, Tls, "TLS with the endpoint failed")
            }
            Self::Connect(ConnectError::Local(_)) => (
                Cause::Connect,
                UpstreamConnectFailure,
                "the node has no socket or port left to connect by",
            ),
            Self::Connect(ConnectError::Timeout | ConnectError::Refused(_)) => (
                Cause::Connect,
                UpstreamConnectFailure,
                "the endpoint could not be connected to",
            ),
            Self::Upstream(UpstreamError::Unsent | UpstreamError::Left | UpstreamError::Reset) => (
                Cause::Connect,
                UpstreamReset,
                "the endpoint reset the request",
            ),
            Self::Upstream(UpstreamError::Stale) => (
                Cause::Connect,
                UpstreamClosed,
                "the endpoint closed the connection",
            ),
            Self::Upstream(UpstreamError::Protocol) => {
                let why = "the endpoint does not keep to the protocol";
                (Cause::UpstreamProtocol, UpstreamProtocol, why)
            }
            Self::Upstream(UpstreamError::NoTunnel) => (
                Cause::UpstreamProtocol,
                UpstreamProtocol,
                "the endpoint takes no WebSocket by HTTP/2",
            ),
            Self::Upstream(UpstreamError::Unsayable) => (
                Cause::Malformed,
                DownstreamProtocol,
                "the target is none that HTTP/2 has",
            ),
            Self::Upstream(UpstreamError::Timeout) | Self::TimedOut => (
                Cause::Timeout,
                UpstreamTimeout,
                "the endpoint did not answer in time",
            ),
        };
        Refusal { cause, flag, why }
    }

    /// Returns how it counts for the endpoint.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Connect(error) => error.outcome(),
            Self::Upstream(UpstreamError::Timeout) | Self::TimedOut => Outcome::TimedOut,
            // It was never asked for what it does not have, or what nobody can ask; or takes it on another connection.
            Self::Upstream(
                UpstreamError::NoTunnel | UpstreamError::Unsayable | UpstreamError::Left,
            ) => Outcome::Cancelled,
            Self::Upstream(
                UpstreamError::Unsent
                | UpstreamError::Stale
                | UpstreamError::Reset
                | UpstreamError::Protocol,
            ) => Outcome::Reset,
        }
    }

    /// Returns whether the request is to move to another connection of the same endpoint, which has not looked at it.
    pub(super) fn moves(&self, retries: &Retries<'_>) -> bool {
        matches!(self, Self::Upstream(UpstreamError::Left)) && retries.may_move()
    }

    /// Returns whether there may be another attempt.
    pub(super) fn may(&self, retries: &Retries<'_>) -> bool {
        match self {
            // What the next one would do is not for an attempt to find out.
            Self::Connect(ConnectError::Denied) => false,
            // Other endpoints may have room, and this one is not at fault.
            Self::Connect(_) => retries.after_connect(),
            Self::Upstream(error) => retries.after_error(*error),
            Self::TimedOut => retries.after_error(UpstreamError::Timeout),
        }
    }
}
