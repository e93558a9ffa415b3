//! What becomes of a request, decided without I/O: the message as the agent sees it, its route, its endpoint, its limits, and the
//! word by which its end is known. Pure: time and chance are handed in.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod flag;
pub mod limit;
pub mod message;
pub mod route;
pub mod session;
