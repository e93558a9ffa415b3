//! What becomes of a request, decided without I/O: the message as the agent sees it, its route, its endpoint, its limits.
#![forbid(unsafe_code)]

pub mod message;
pub mod route;
