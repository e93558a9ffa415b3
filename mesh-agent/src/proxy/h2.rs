//! HTTP/2 (RFC 9113) at both ends: streams of a client are served, requests go to an upstream by streams of a shared connection.
//!
//! One task has a connection's socket (`link`): it reads frames and hands them to the `session`, which everybody who uses the
//! connection shares, and writes what the session has to send. `hpack` reads lists of fields straight into heads and writes them
//! straight from heads. What a client, or an upstream, may ask of us is bounded: streams ([`Limits`]), requests that are given up,
//! SETTINGS, empty and tiny DATA frames, faults (`resets`, `session`), heads and their frames (`link`, `hpack`), answers that nobody
//! reads (`serve`), and how long anything may take.

mod body;
mod client;
pub(crate) mod fields;
mod frame;
pub mod grpc;
mod head;
pub mod hpack;
mod limits;
mod link;
mod pool;
mod resets;
mod respond;
mod serve;
mod session;
#[cfg(test)]
mod tests;
mod upstream;

pub use body::Body;
pub use client::{Connection, connect};
pub use fields::Kind;
pub use limits::{ClientLimits, Limits};
pub use pool::Pool;
pub use respond::Respond;
pub use serve::{Ended, serve};
pub use upstream::{Request, Response, Upstream};
