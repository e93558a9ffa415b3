//! The data path: connections of workloads that need more than the kernel can decide.
//!
//! A connection comes from a workload to a listener in that workload's own network namespace (`listener`), with word of what was
//! dialled (`handover`), and goes on from a socket in the same namespace (`socket`): to networks and policies it is the workload's.
//! Requests and responses of every version of HTTP meet in the terms of [`exchange`]: a body that is pulled, a responder and an
//! upstream that are pushed to. What is needed of the kernel are traits, which `agent` wires.
#![forbid(unsafe_code)]

pub mod arrival;
mod connection;
mod crew;
pub mod detect;
pub mod exchange;
pub mod h1;
pub mod h2;
pub mod handover;
pub mod homes;
pub mod life;
pub mod listener;
pub mod pool;
pub use crate::telemetry::http::record;
pub mod shelf;
pub mod socket;
pub mod stream;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod timer;
pub mod tls;
pub mod worker;
