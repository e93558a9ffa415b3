//! HTTP/1.0 and 1.1, at both ends: `httparse` finds the parts of a head, and everything else is here (RFC 9112).
//!
//! Every message is made anew from what was understood of the one that came. What could be understood in two ways is refused.

mod body;
mod client;
mod decode;
mod kit;
mod limits;
mod names;
mod request;
mod respond;
mod response;
mod scan;
mod server;
mod sink;
mod websocket;
mod write;

pub use body::Body;
pub use client::{Connection, Request, Response};
pub use kit::Kit;
pub use limits::Limits;
pub use names::may_trail;
pub use request::Refusal;
pub use respond::Respond;
pub use server::serve;
#[cfg(test)]
pub(super) use websocket::accept as websocket_accept;
