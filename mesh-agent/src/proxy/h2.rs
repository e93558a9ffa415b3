//! HTTP/2 (RFC 9113) at both ends: streams of a client are served, requests go to an upstream by streams of a shared connection.
//!
//! The `h2` crate frames, compresses and keeps the windows. It also bounds, by itself: CONTINUATION frames of a head (about
//! 1.25 times what the list of fields may take), decoded size of a head (431 above the limit, the connection ends at four times of
//! it), streams that were reset before anybody looked at them (20), its own resets for errors of the peer (1024), empty DATA frames
//! that end nothing (100), the room that small DATA frames waste (half of the connection's window), answers to PING and SETTINGS
//! (one of each at a time: who sends more is read no further). What it does not bound is here: how many requests a client may give
//! up (`resets`), how long anything may take ([`Limits`]), what a valid head is (`head`).

mod body;
mod client;
mod fields;
pub mod grpc;
mod head;
mod io;
mod limits;
mod pool;
mod resets;
mod respond;
mod send;
mod serve;
#[cfg(test)]
mod tests;
mod upstream;

pub use body::Body;
pub use client::{Connection, connect};
pub use limits::{ClientLimits, Limits};
pub use pool::{Pool, PoolLimits};
pub use respond::Respond;
pub use serve::{Ended, serve};
pub use upstream::{Request, Response, Upstream};
